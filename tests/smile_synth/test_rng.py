import hashlib

import numpy as np
import pytest

from smile_synth.core.rng import MAX_SEED, RandomStream, RandomStreams, counter_block


def first(seed: int, index: int, purpose: str) -> tuple[float, ...]:
    return tuple(RandomStream(seed, index, purpose).randoms(4).tolist())


def test_every_address_has_a_stream_of_its_own() -> None:
    addresses = [
        (s, i, p) for s in (0, 1, MAX_SEED) for i in (0, 1, MAX_SEED) for p in ("", "a", "b", "motion 1")
    ]
    assert len({first(*address) for address in addresses}) == len(addresses)


def test_swapping_seed_and_index_changes_the_stream() -> None:
    assert first(0, 1, "a") != first(1, 0, "a")


def test_a_stream_depends_only_on_its_address() -> None:
    expected = first(3, 5, "a")
    np.random.seed(1)
    RandomStream(3, 5, "b").randoms(1000)
    assert first(3, 5, "a") == expected


def philox_4x64(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """Ten rounds of Salmon et al. (SC 2011), in unbounded integers."""
    word = 2**64
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, word)
        high1, low1 = divmod(0xCA5A826395121157 * c2, word)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % word, (k1 + 0xBB67AE8584CAA73B) % word
    return [c0, c1, c2, c3]


@pytest.mark.parametrize("parts", [(9,), (3, 6), (1, 1, 4, 3), (0, 9)])
def test_a_stream_is_philox_keyed_by_seed_and_index_in_the_block_of_its_purpose(
    parts: tuple[int, ...],
) -> None:
    block = int.from_bytes(hashlib.sha256(b"scene").digest()[:8], "little")
    words = [word for n in (1, 2, 3) for word in philox_4x64((n, 0, 0, block), (MAX_SEED, 22))]
    stream = RandomStream(MAX_SEED, 22, "scene")
    drawn = [number for count in parts for number in stream.randoms(count).tolist()]
    assert drawn == [(word >> 11) / 2**53 for word in words[:9]]


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (2**63, 0)])
def test_a_seed_outside_its_range_is_refused(seed: int, index: int) -> None:
    with pytest.raises(ValueError, match=rf"seed must be in 0\.\.2\^63-1, got {seed}"):
        RandomStream(seed, index, "a")


@pytest.mark.parametrize("index", [-1, 2**63])
def test_an_index_outside_its_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=r"index must be in 0\.\.2\^63-1, got"):
        RandomStreams(0, [3, index], "a")


def test_rows_do_not_depend_on_one_another() -> None:
    indices, purposes = np.array([0, 7, 2**40, 3, 7]), ["path 0", "path 1", "object", "path 0", "object"]
    rows = RandomStreams(9, indices, purposes)
    got = [
        rows.integers(7), rows.integers(1), rows.integers(3_000_000_000), rows.random(3), rows.uniform(-2, 5, 2),
        rows.choice([0.5, 0.3, 0.2]), rows.sign(), rows.permutations(6), rows.random(), rows.normal(2),
        rows.integers(480, 2),
    ]  # fmt: skip
    for row, (index, purpose) in enumerate(zip(indices.tolist(), purposes, strict=True)):
        one = RandomStream(9, index, purpose)
        expected = [
            one.integer(7), one.integer(1), one.integer(3_000_000_000), one.randoms(3), one.uniforms(-2, 5, 2),
            one.choice([0.5, 0.3, 0.2]), 2 * one.integer(2) - 1, one.permutation(6), one.random(), one.normals(2),
            one.integers(480, 2),
        ]  # fmt: skip
        for together, alone in zip(got, expected, strict=True):
            np.testing.assert_array_equal(together[row], alone)


def test_limits_may_differ_by_row() -> None:
    limits = np.array([1, 2, 1000])
    drawn = np.stack([RandomStreams(0, [i] * 3, "x").integers(limits) for i in range(200)])
    assert (drawn >= 0).all() and (drawn < limits).all()
    assert drawn[:, 0].max() == 0 and drawn[:, 1].max() == 1 and drawn[:, 2].max() > 900
    lengths = [len(p) for p in RandomStreams(0, range(4), "x").permutations([0, 1, 5, 3])]
    assert lengths == [0, 1, 5, 3]


def test_distributions() -> None:
    rows = RandomStreams(0, np.arange(2000), "x")
    normal = rows.normal(5)
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03 and np.isfinite(normal).all()
    counts = np.bincount(rows.choice([1.0, 0.0, 3.0], 10).ravel(), minlength=3)
    assert counts[1] == 0 and abs(counts[0] / counts.sum() - 0.25) < 0.01
    first_of_five = np.bincount([p[0] for p in rows.permutations(5)], minlength=5)
    last_of_five = np.bincount([p[4] for p in rows.permutations(5)], minlength=5)
    # Each of five with 400 expected: five standard deviations are 89.
    assert abs(first_of_five - 400).max() < 89 and abs(last_of_five - 400).max() < 89
    assert all(sorted(p) == list(range(5)) for p in rows.permutations(5))


def test_the_numbers_of_a_stream_never_change() -> None:
    stream = RandomStream(7, 11, "pinned")
    assert [stream.integer(1000) for _ in range(4)] == PINNED_INTEGERS
    assert stream.permutation(7).tolist() == PINNED_PERMUTATION
    assert stream.choice([1, 2, 3]) == PINNED_CHOICE


PINNED_INTEGERS, PINNED_PERMUTATION, PINNED_CHOICE = [934, 72, 449, 208], [6, 2, 4, 3, 5, 1, 0], 1


def test_float32_numbers_are_the_halves_of_the_words_of_the_stream() -> None:
    words = [w for block in (1, 2) for w in philox_4x64((block, 0, 0, counter_block("mask")), (5, 7))]
    expected = [(half >> 8) / 2**24 for word in words for half in (word % 2**32, word >> 32)][:9]
    drawn = RandomStreams(5, [3, 7], "mask").random_float32(9)
    assert drawn.dtype == np.float32 and drawn[1].tolist() == expected
    # A second call starts with a new word: 9 numbers took 5 words.
    streams = RandomStreams(5, [7], "mask")
    streams.random_float32(3, 3)
    assert streams.random_float32(1)[0, 0] == np.float32((words[5] % 2**32 >> 8) / 2**24)
