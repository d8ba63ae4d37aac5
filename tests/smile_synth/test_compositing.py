from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from rendering import BACKENDS, DEVICE, device_of, draw

from smile_synth.annotations import annotate
from smile_synth.compositing import composite, draw_frames, render
from smile_synth.compositing._philox import philox_word
from smile_synth.core import geometry
from smile_synth.core.appearance import Appearance, Shadow
from smile_synth.core.errors import UserError
from smile_synth.core.texture import Texture
from smile_synth.objects import CutOutOptions, ObjectBank, build_bank
from smile_synth.scene import Noise, Scene, Solid
from smile_synth.sources import Sources

GROUND = Solid((40, 80, 120))

# Random123's known answers for philox4x32-10: counter, key, first word.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), 0x6627E8D5),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, 0x408F276D),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), 0xD16CFE09),
]


# --- noise


@pytest.mark.parametrize(("counter", "key", "word"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(
    counter: tuple[int, ...], key: tuple[int, int], word: int
) -> None:
    assert philox_word(*counter, *key) == word


WORD = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("redrawn", [False, True])
def test_noise_is_the_high_byte_of_philox_at_column_row_frame_channel(
    studio: Any, backend: str, redrawn: bool
) -> None:
    frames = draw(studio, studio.scene(studio.sheet(Noise((7, 2**32 - 1), redrawn))), backend)
    for t, row, column, channel in ((0, 0, 0, 0), (1, 4, 6, 2), (2, 3, 5, 1)):
        word = philox_word(column, row, t if redrawn else 0, channel, 7, 2**32 - 1)
        assert frames[t, row, column, channel] == word >> 24
    assert np.array_equal(frames[0], frames[2]) != redrawn


def test_noise_stays_in_recipe_pixels(studio: Any, backend: str) -> None:
    scene = studio.scene(studio.sheet(Noise((1, 2), True)))
    frames = draw(studio, scene, backend)
    doubled = draw(studio, scene.scaled_to((10, 14)), backend)
    np.testing.assert_array_equal(doubled, frames.repeat(2, axis=1).repeat(2, axis=2))


def test_noise_has_cells_left_of_and_above_its_origin(studio: Any, backend: str) -> None:
    scene = studio.scene(studio.sheet(Noise((3, 4), False), pose=geometry.translation([2, 1])))
    word = philox_word(2**32 - 2, 2**32 - 1, 0, 0, 3, 4)
    assert draw(studio, scene, backend)[0, 0, 0, 0] == word >> 24


# --- pixels by hand


def test_a_texel_on_a_pixel_shows_its_colour_over_the_ground(studio: Any, backend: str) -> None:
    scene = studio.scene(GROUND, studio.sheet(studio.object("tiny"), geometry.translation([2, 1])))
    frames = draw(studio, scene, backend)
    expected = np.full((5, 7, 3), GROUND.rgb, np.uint8)
    expected[1, 2:5] = [[10, 0, 255], [50, 255, 200], [90, 0, 100]]
    # The middle one has alpha 128: premultiplied it is 100, 50, 13; the ground shines through by 127 / 255.
    expected[2, 2:5] = [[130, 255, 50], [120, 90, 73], [250, 255, 0]]
    np.testing.assert_array_equal(frames, np.broadcast_to(expected, (3, 5, 7, 3)))


def test_between_texels_colour_is_bilinear_and_an_edge_is_soft(studio: Any, backend: str) -> None:
    scene = studio.scene(GROUND, studio.sheet(studio.object("tiny"), geometry.translation([2.25, 1.5])))
    red = draw(studio, scene, backend)[0, ..., 0]
    # Pixel (2, 3) lies at texture (1.25, 1): 1/4 of column 0, 3/4 of column 1, half of either row.
    color = (10 + 130) * 0.125 + (50 + 100) * 0.375
    alpha = (255 + 255) * 0.125 + (255 + 128) * 0.375
    assert red[2, 3] == int(color + 40 * (1 - alpha / 255) + 0.5)
    # Pixel (1, 2) lies at (.25, 0): only texel (0, 0) reaches it, with 3/4 x 1/2.
    assert red[1, 2] == int(10 * 0.375 + 40 * 0.625 + 0.5)
    # Pixel (3, 5) lies at (3.25, 2): texel (1, 2) reaches it with 1/4 x 1/2.
    assert red[3, 5] == int(250 * 0.125 + 40 * 0.875 + 0.5)
    assert red[3, 6] == red[0, 3] == 40


def test_opacity_mixes_with_what_lies_below(studio: Any, backend: str) -> None:
    sheet = studio.sheet(studio.object("tiny"), geometry.translation([2, 1]), opacity=[0.0, 0.5, 1.0])
    frames = draw(studio, studio.scene(GROUND, sheet), backend)
    assert frames[:, 1, 2].tolist() == [[40, 80, 120], [25, 40, 188], [10, 0, 255]]
    assert frames[1, 2, 3].tolist() == [80, 85, 96]  # 100/2 + 40 * (1 - 64/255), and so on


def test_the_nearer_layer_covers_the_farther_frame_by_frame(studio: Any, backend: str) -> None:
    pose = geometry.translation([2, 1])
    red, blue = (studio.sheet(studio.object("tiny"), pose, gain=gain) for gain in ((1, 0, 0), (0, 0, 1)))
    red.depth, blue.depth = [1.0, 2.0, 5.0], [2.0, 1.0, 5.0]
    frames = draw(studio, studio.scene(GROUND, red, blue), backend)
    # Equal depths: the later layer is in front.
    assert frames[:, 1, 2].tolist() == [[10, 0, 0], [0, 0, 255], [0, 0, 255]]


def test_gain_and_bias_act_on_premultiplied_colour_and_stay_within_alpha(studio: Any, backend: str) -> None:
    pose = geometry.translation([2, 1])
    sheet = studio.sheet(studio.object("tiny"), pose, gain=(1.5, 0, 1), bias=(0, 0.25, -0.5))
    frame = draw(studio, studio.scene(Solid((0, 0, 0)), sheet), backend)[0]
    # Alpha 128: 1.5 * 100 is cut at 128, 0 * 50 + .25 * 128 = 32, 13 - .5 * 128 is cut at 0.
    assert frame[2, 3].tolist() == [128, 32, 0]
    assert frame[1, 2].tolist() == [15, 64, 128]  # .25 * 255 = 63.75, 255 - 127.5 = 127.5


def test_the_last_step_rounds_half_up(studio: Any, backend: str) -> None:
    background = studio.sheet(Solid((1, 5, 255)), opacity=0.5)
    assert draw(studio, studio.scene(background), backend)[0, 0, 0].tolist() == [1, 3, 128]


def test_a_reflected_image_mirrors_at_its_edge(studio: Any, backend: str) -> None:
    image = np.array(studio.images.texture(0).level(0))[..., :3]
    whole = studio.sheet(studio.image(0), geometry.translation([1, 1]), border="reflect")
    expected = image[[0, 0, 1, 1, 0]][:, [0, 0, 1, 2, 2, 1, 0]]
    np.testing.assert_array_equal(draw(studio, studio.scene(whole), backend)[0], expected)
    half = studio.sheet(studio.image(0), geometry.translation([0.5, 0]), border="reflect")
    assert draw(studio, studio.scene(half), backend)[0, 0, :, 0].tolist() == [10, 30, 70, 90, 70, 30, 10]


def test_a_repeated_image_starts_again_at_its_edge(studio: Any, backend: str) -> None:
    image = np.array(studio.images.texture(0).level(0))[..., :3]
    whole = studio.sheet(studio.image(0), geometry.translation([1, 1]), border="repeat")
    expected = image[[1, 0, 1, 0, 1]][:, [2, 0, 1, 2, 0, 1, 2]]
    np.testing.assert_array_equal(draw(studio, studio.scene(whole), backend)[0], expected)
    half = studio.sheet(studio.image(0), geometry.translation([0.5, 0]), border="repeat")
    assert draw(studio, studio.scene(half), backend)[0, 0, :, 0].tolist() == [50, 30, 70, 50, 30, 70, 50]


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_exact(studio: Any, backend: str, quarters: int) -> None:
    card = studio.object("card")
    texels = studio.bank.texture(card.texture_id).level(0).astype(np.float64)
    over = texels[..., :3] + np.array(GROUND.rgb) * (1 - texels[..., 3:] / 255)
    turned = np.rot90(np.floor(over + 0.5), -quarters)
    height, width = turned.shape[:2]
    pose = studio.placed("card", [width / 2 + 3, height / 2 + 2], degrees=90.0 * quarters)
    scene = studio.scene(GROUND, studio.sheet(card, pose), size_hw=(height + 5, width + 7), frames=1)
    np.testing.assert_array_equal(draw(studio, scene, backend)[0, 2:-3, 3:-4], turned)


def test_an_object_at_half_its_size_shows_its_first_mip_level(studio: Any, backend: str) -> None:
    board = studio.object("board")
    level = studio.bank.texture(board.texture_id).level(1).astype(np.float64)
    over = np.floor(level[..., :3] + np.array(GROUND.rgb) * (1 - level[..., 3:] / 255) + 0.5)
    scene = studio.scene(GROUND, studio.sheet(board, studio.placed("board", [3, 2], 0.5)))
    np.testing.assert_array_equal(draw(studio, scene, backend)[0, 0:4, 1:5], over)


def test_between_two_mip_levels_both_are_mixed(studio: Any, backend: str) -> None:
    board = studio.object("board")
    scene = studio.scene(Solid((0, 0, 0)), studio.sheet(board, studio.placed("board", [3, 2], 0.5)))
    levels = scene.level.copy()
    levels[1] = 1.25
    texture: Texture = studio.bank.texture(board.texture_id)
    # Pixel (1, 2), texel (1, 1) of level 1, lies at (.75, .75) of level 2's texels.
    weights = np.outer([0.75, 0.25], [0.75, 0.25])[..., None]
    expected = 0.75 * texture.level(1)[1, 1] + 0.25 * (texture.level(2) * weights).sum(axis=(0, 1))
    pixel = draw(studio, replace(scene, level=levels), backend)[0, 1, 2]
    np.testing.assert_array_equal(pixel, np.floor(expected[:3] + 0.5))


def test_a_moving_background_is_rendered_in_every_frame(studio: Any, backend: str) -> None:
    poses = geometry.translation([[0, 0], [1, 0], [1, 0]])
    frames = draw(studio, studio.scene(studio.sheet(studio.image(1), poses, border="reflect")), backend)
    np.testing.assert_array_equal(frames[1, :, 1:], frames[0, :, :-1])
    np.testing.assert_array_equal(frames[2], frames[1])


# --- minification


def sharp(scene: Scene) -> Scene:
    """Return the scene without any filtering for minification."""
    return replace(scene, level=np.zeros_like(scene.level))


@pytest.mark.parametrize("degrees", [0.0, 30.0])
@pytest.mark.parametrize("scale", [0.45, 0.2, 0.1, 0.05])
@pytest.mark.parametrize("name", ["card", "tall"])
def test_minified_noise_is_close_to_its_area_average(
    studio: Any, name: str, scale: float, degrees: float
) -> None:
    sheet = studio.sheet(studio.object(name), studio.placed(name, [7.3, 6.2], scale, degrees))
    scene = studio.scene(GROUND, sheet, size_hw=(13, 15), frames=1)
    fine = draw(studio, sharp(scene.scaled_to((13 * 16, 15 * 16))), "oracle")
    averaged = fine.reshape(13, 16, 15, 16, 3).mean(axis=(1, 3))
    touched = (np.abs(averaged - GROUND.rgb) > 1).any(axis=-1)

    def error(frames: np.ndarray) -> float:
        return float(np.sqrt(np.square(frames[0] - averaged)[touched].mean()))

    filtered, aliased = error(draw(studio, scene, "oracle")), error(draw(studio, sharp(scene), "oracle"))
    assert filtered < 11
    assert filtered < 0.5 * aliased


@pytest.mark.parametrize("scale", [0.45, 0.2, 0.1])
def test_minified_noise_does_not_shimmer_as_it_moves(studio: Any, scale: float) -> None:
    steps = np.linspace(0, 1, 9)
    poses = studio.placed("card", np.stack([15.3 + steps, 10.7 + steps / 3], axis=-1), scale)
    sheet = studio.sheet(studio.object("card"), poses)
    scene = studio.scene(Solid((0, 0, 0)), sheet, size_hw=(22, 33), frames=9)

    def swing(frames: np.ndarray) -> float:
        light = frames.astype(float).sum(axis=(1, 2, 3))
        return float(np.ptp(light) / light.mean())

    assert swing(draw(studio, scene, "oracle")) < 0.03
    assert swing(draw(studio, sharp(scene), "oracle")) > 0.04


@pytest.fixture(scope="module")
def squares(studio: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A studio whose only object is a checkerboard of 512 pixels with squares of 16."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "in" / "squares").mkdir(parents=True)
    y, x = np.mgrid[:512, :512] // 16
    board = np.full((512, 512, 4), 255, np.uint8)
    board[..., :3] = 255 * ((x + y) % 2)[..., None]
    Image.fromarray(board).save(folder / "in" / "squares" / "0.png")
    build_bank([folder / "in"], folder / "bank", cut=CutOutOptions(max_side=512))
    return type(studio)(ObjectBank.open(folder / "bank"), studio.images)


def shrinking(squares: Any, scale: np.ndarray) -> Scene:
    """Return a scene of 32x32 pixels in which the checkerboard has a scale in every frame."""
    poses = squares.placed("squares", np.tile([16.2, 16.3], (len(scale), 1)), scale[:, None])
    board = squares.sheet(squares.object("squares"), poses)
    scene: Scene = squares.scene(GROUND, board, size_hw=(32, 32), frames=len(scale))
    return scene


def test_a_shrinking_checkerboard_changes_as_much_as_if_it_were_supersampled(squares: Any) -> None:
    """From .6 to .08 of its size, through four changes of level, down to squares of 1.3 pixels."""
    scene = shrinking(squares, np.geomspace(0.6, 0.08, 64))
    assert scene.level[1].min() < 1 and scene.level[1].max() > 3
    fine = sharp(scene.scaled_to((32 * 16, 32 * 16)))
    averaged = np.concatenate(
        [
            composite(fine, squares.sources, frames=range(t, t + 4))
            .reshape(4, 32, 16, 32, 16, 3)
            .mean(axis=(2, 4))
            for t in range(0, 64, 4)
        ]
    )

    def energy(frames: np.ndarray) -> float:
        return float(np.square(np.diff(frames.astype(float), axis=0)).mean())

    expected = energy(averaged)
    for backend in ("cpu", "oracle"):
        assert energy(draw(squares, scene, backend)) == pytest.approx(expected, rel=0.1)
    assert energy(draw(squares, sharp(scene), "cpu")) > 2 * expected


@pytest.mark.parametrize("level", [1.0, 1.5, 2.0, 2.5, 3.0])
def test_nothing_jumps_where_levels_change(squares: Any, level: float) -> None:
    """At whole levels, where another pair is mixed, and between, where the nearest one changes."""
    scene = shrinking(squares, 0.5**level * np.array([1.0001, 0.9999]))
    assert scene.level[1, 0] < level < scene.level[1, 1]
    for backend, step in (("oracle", 1), ("cpu", 3)):  # the latter may stand one aside in either frame
        before, after = draw(squares, scene, backend).astype(int)
        assert np.abs(after - before).max() <= step


# --- batches


@pytest.fixture(scope="module")
def batch(studio: Any) -> list[Scene]:
    """Three clips with no, one and three objects, over three kinds of ground."""
    size = {"size_hw": (16, 24), "frames": 2}
    moved = studio.placed("disc", [[9, 8], [12.5, 9]], 0.9, 10.0)
    disc = studio.sheet(studio.object("disc"), moved)
    card = studio.sheet(studio.object("card"), studio.placed("card", [14, 9], 0.3), opacity=0.5, depth=2.0)
    hidden = studio.sheet(studio.object("tall"), studio.placed("tall", [18, 3], 0.3), labelled=False)
    pan = geometry.translation(np.stack([-np.arange(2.0), -np.arange(2.0)], axis=-1))
    return [
        studio.scene(studio.sheet(Noise((5, 6), True)), **size),
        studio.scene(GROUND, disc, **size),
        studio.scene(studio.sheet(studio.image(2), pan, border="reflect"), card, disc, hidden, **size),
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_its_clips_with_channels_first(studio: Any, batch: list[Scene], backend: str) -> None:
    frames = render(batch, studio.sources, backend=backend, device=device_of(backend)).frames
    expected = np.stack([draw(studio, scene, backend) for scene in batch])
    np.testing.assert_array_equal(frames.permute(0, 1, 3, 4, 2).cpu().numpy(), expected)
    assert frames.is_contiguous()


def test_labels_are_returned_only_on_request(studio: Any, batch: list[Scene]) -> None:
    rendered = render(batch, studio.sources)
    assert rendered.segmentation is None and rendered.coverage is None
    assert repr(rendered) == "Rendered(frames=torch.uint8 [3, 2, 3, 16, 24])"


@pytest.mark.parametrize("out_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_float_frames_are_normalised(studio: Any, batch: list[Scene], backend: str, out_dtype: Any) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    options: Any = {"backend": backend, "device": device_of(backend)}
    frames = render(batch, studio.sources, out_dtype=out_dtype, mean=mean, std=std, **options).frames
    pixels = render(batch, studio.sources, **options).frames.double().cpu()
    expected = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert frames.dtype == getattr(torch, out_dtype) and frames.shape == (3, 2, 3, 16, 24)
    error = (frames.double().cpu() - expected).abs().max()
    assert error <= {"float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}[out_dtype]


def test_bfloat16_is_the_nearest_to_float32(studio: Any, batch: list[Scene]) -> None:
    options: Any = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    fine, coarse = (
        render(batch, studio.sources, out_dtype=kind, **options).frames for kind in ("float32", "bfloat16")
    )
    assert torch.equal(coarse, fine.to(torch.bfloat16))


@pytest.mark.parametrize("backend", BACKENDS)
def test_owners_and_coverage_are_those_of_the_labels(studio: Any, batch: list[Scene], backend: str) -> None:
    rendered = render(
        batch, studio.sources, backend=backend, device=device_of(backend), segmentation=True, tokens=(2, 8)
    )
    expected = np.stack([annotate(s, studio.sources).segmentation for s in batch])
    assert rendered.segmentation is not None and rendered.coverage is not None
    assert rendered.segmentation.dtype == torch.int16
    np.testing.assert_array_equal(rendered.segmentation.cpu().numpy(), expected)
    shares = (expected > 0).reshape(3, 1, 2, 2, 8, 3, 8).mean(axis=(2, 4, 6)).reshape(3, -1)
    np.testing.assert_allclose(rendered.coverage.cpu().numpy(), shares, atol=1e-6)
    assert shares.max() > 0 and shares.shape == (3, 6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_front_layer_of_at_least_half_opacity_owns_a_pixel(studio: Any, backend: str) -> None:
    """By hand; the first clip moves through an open shutter, of which the middle counts."""
    pose = geometry.translation([[2, 1], [3, 1], [4, 1]])
    tiny, half, faint = (studio.sheet(studio.object("tiny"), pose, opacity=value) for value in (1, 0.5, 0.49))
    moved = replace(studio.scene(GROUND, tiny, half), appearance=Appearance(shutter=0.9, shutter_samples=3))
    shadow = studio.scene(GROUND, tiny, faint)
    layer = replace(shadow.layers[1], shadow=Shadow(1.0, (0.0, 2.0), 0.0))
    shadow = replace(shadow, layers=(shadow.layers[0], layer, shadow.layers[2]))
    owners = render(
        [moved, shadow], studio.sources, backend=backend, device=device_of(backend), segmentation=True
    ).segmentation
    assert owners is not None
    expected = np.zeros((2, 3, 5, 7), np.int16)
    for t in range(3):
        expected[0, t, 1:3, 2 + t : 5 + t] = [[2, 2, 2], [2, 1, 2]]  # the texel in the middle has alpha 128
        expected[1, t, 1:3, 2 + t : 5 + t] = 1
    np.testing.assert_array_equal(owners.cpu().numpy(), expected)


@pytest.mark.parametrize("size_hw", [(16, 24), (17, 601)])
def test_arrays_of_both_layouts_are_filled(studio: Any, batch: list[Scene], size_hw: tuple[int, int]) -> None:
    card = studio.sheet(studio.object("card"), studio.placed("card", [14, 9], [0.3, 2.0]))
    scene = studio.scene(GROUND, card, size_hw=size_hw, frames=2)
    last, first = np.empty((1, 2, *size_hw, 3), np.uint8), np.empty((1, 2, 3, *size_hw), np.uint8)
    draw_frames([scene], studio.sources, last)
    draw_frames([scene], studio.sources, first)
    np.testing.assert_array_equal(last[0], draw(studio, scene, "cpu"))
    np.testing.assert_array_equal(first.transpose(0, 1, 3, 4, 2), last)


def test_a_range_of_frames_is_that_part_of_the_clip(studio: Any, batch: list[Scene], backend: str) -> None:
    scene = replace(batch[2], appearance=Appearance(shutter=0.5, shutter_samples=3))
    part = composite(scene, studio.sources, backend=backend, device=DEVICE, frames=range(1, 2))
    np.testing.assert_array_equal(part, draw(studio, scene, backend)[1:])


def test_a_clip_is_the_same_beside_clips_with_effects(studio: Any, batch: list[Scene]) -> None:
    scene = studio.scene(
        studio.sheet(studio.image(2), geometry.translation([-3.3, -7.7]), border="reflect"),
        studio.sheet(
            studio.object("card"), studio.placed("card", [14, 9], 0.3), opacity=0.5, gain=(0.7, 1, 1)
        ),
        size_hw=(16, 24),
        frames=2,
    )
    grainy = replace(batch[1], appearance=Appearance(grain=0.1, grain_key=(1, 2)))
    together = render([grainy, scene], studio.sources).frames[1]
    np.testing.assert_array_equal(together.permute(0, 2, 3, 1).numpy(), draw(studio, scene, "cpu"))


# --- refusals


def test_an_unknown_backend_is_refused(studio: Any) -> None:
    with pytest.raises(ValueError, match="unknown backend 'gpu', allowed are cpu, oracle, torch, triton"):
        draw(studio, studio.scene(GROUND), "gpu")


def test_sources_other_than_the_scenes_own_are_refused(studio: Any) -> None:
    scene = replace(studio.scene(GROUND), bank_digest="0" * 64)
    with pytest.raises(UserError, match="is not the bank of this scene"):
        composite(scene, studio.sources)
    with pytest.raises(UserError, match="are not the backgrounds of this scene"):
        composite(studio.scene(GROUND), Sources(studio.bank))


def test_batches_that_do_not_fit_are_refused(studio: Any, batch: list[Scene]) -> None:
    sources = studio.sources
    with pytest.raises(ValueError, match=r"expected \(16, 24\) and 2 frames, got \(5, 7\) and 3"):
        render([batch[0], studio.scene(GROUND)], sources)
    with pytest.raises(ValueError, match="scenes: expected at least one"):
        render([], sources)
    with pytest.raises(ValueError, match=r"tokens \(3, 8\) do not divide 2 frames of \(16, 24\)"):
        render(batch, sources, backend="torch", tokens=(3, 8))
    with pytest.raises(
        ValueError, match="backend cpu draws on the device cpu, not on meta; use torch or triton"
    ):
        render(batch, sources, device="meta")
    with pytest.raises(
        ValueError, match=r"out: expected \[3, 2, 3, 16, 24\], .* got uint8 \[3, 2, 16, 3, 24\]"
    ):
        draw_frames(batch, sources, np.empty((3, 2, 16, 3, 24), np.uint8))
    with pytest.raises(ValueError, match=r"out: expected .* got int32 \[3, 2, 3, 16, 24\]"):
        draw_frames(batch, sources, np.empty((3, 2, 3, 16, 24), np.int32))
    with pytest.raises(ValueError, match=r"out: expected .* got float32 \[3, 2, 16, 24, 3\]"):
        draw_frames(batch, sources, np.empty((3, 2, 16, 24, 3), np.float32))
    with pytest.raises(ValueError, match="unknown out_dtype 'int8', allowed are uint8, float32"):
        render(batch, sources, out_dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"frames range\(1, 3\): expected a range within 0..2 with step 1"):
        composite(batch[0], sources, frames=range(1, 3))
