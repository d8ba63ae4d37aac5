import hashlib

import numpy as np
import pytest

from smile_synth.rng import MAX_SEED, Draws, Generators, generator


def first(seed: int, index: int, purpose: str) -> tuple[int, ...]:
    return tuple(generator(seed, index, purpose).integers(0, 2**63, 4).tolist())


def test_every_address_has_a_stream_of_its_own() -> None:
    addresses = [
        (s, i, p) for s in (0, 1, MAX_SEED) for i in (0, 1, MAX_SEED) for p in ("", "a", "b", "motion 1")
    ]
    assert len({first(*address) for address in addresses}) == len(addresses)


def test_seed_and_index_do_not_trade_places() -> None:
    assert first(0, 1, "a") != first(1, 0, "a")


def test_a_stream_depends_on_nothing_but_its_address() -> None:
    expected = first(3, 5, "a")
    np.random.seed(1)
    generator(3, 5, "b").random(1000)
    assert first(3, 5, "a") == expected


def philox_4x64(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """Ten rounds of Salmon et al. (SC 2011), in whole numbers without end."""
    word = 2**64
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, word)
        high1, low1 = divmod(0xCA5A826395121157 * c2, word)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % word, (k1 + 0xBB67AE8584CAA73B) % word
    return [c0, c1, c2, c3]


def test_a_stream_is_philox_keyed_by_seed_and_index_in_the_block_of_its_purpose() -> None:
    block = int.from_bytes(hashlib.sha256(b"scene").digest()[:8], "little")
    words = generator(11, 22, "scene").bit_generator.random_raw(8).tolist()
    # The counter is raised before its first use.
    assert words[:4] == philox_4x64((1, 0, 0, block), (11, 22))
    assert words[4:] == philox_4x64((2, 0, 0, block), (11, 22))


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (2**63, 0)])
def test_a_seed_outside_its_range_is_refused(seed: int, index: int) -> None:
    with pytest.raises(ValueError, match=rf"seed must be in 0\.\.2\^63-1, got {seed}"):
        generator(seed, index, "a")


@pytest.mark.parametrize("index", [-1, 2**63])
def test_an_index_outside_its_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=rf"index must be in 0\.\.2\^63-1, got {index}"):
        generator(0, index, "a")


def test_draws_are_those_of_every_rows_generator() -> None:
    indices = np.array([0, 7, 2**40, 3, 7])
    purposes = ["path 0", "path 1", "look", "path 0", "look"]
    draws = Draws(9, indices, purposes)
    got = [
        draws.below(7), draws.below(1), draws.below(3_000_000_000), draws.random(3), draws.below(480),
        draws.uniform(-2, 5, 2), draws.pick([0.5, 0.3, 0.2]), draws.sign(), draws.permutations(6), draws.random(),
    ]  # fmt: skip
    kept = Generators(9)
    for row, (index, purpose) in enumerate(zip(indices.tolist(), purposes, strict=True)):
        for rng in (generator(9, index, purpose), kept(index, purpose)):
            expected = [
                rng.integers(7), rng.integers(1), rng.integers(3_000_000_000), rng.random(3), rng.integers(480),
                rng.uniform(-2, 5, 2), rng.choice(3, p=[0.5, 0.3, 0.2]), rng.choice([-1.0, 1.0]), rng.permutation(6),
                rng.random(),
            ]  # fmt: skip
            for mine, numpys in zip(got, expected, strict=True):
                np.testing.assert_array_equal(mine[row], numpys)


def test_normal_draws_are_normal() -> None:
    values = Draws(0, np.arange(2000), "x").normal(5)
    assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.03 and np.isfinite(values).all()


def test_addresses_of_draws_are_checked() -> None:
    with pytest.raises(ValueError, match="index must be in"):
        Draws(0, [3, -1], "x")
    with pytest.raises(ValueError, match="seed must be in"):
        Draws(-1, [0], "x")
    with pytest.raises(ValueError, match="index must be in"):
        Generators(0)(-1, "x")
