"""Every backend against the oracle."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rendering import draw

from smile_synth.compositing import build_parameters
from smile_synth.compositing._cpu_common import is_common
from smile_synth.core import geometry
from smile_synth.core.appearance import Appearance, Shadow
from smile_synth.scene import Noise, Scene, Solid

GROUND = Solid((40, 80, 120))


WORD = st.integers(0, 2**32 - 1)


@st.composite
def poses(
    draw: st.DrawFn, height: int, width: int, frames: int, size_hw: tuple[int, int], *, affine: bool = False
) -> np.ndarray:
    """Draw affine and projective poses of a texture: 1/20 to 8 times its size, in the frame or out of it."""
    frame_h, frame_w = size_hw
    scale = [2.0 ** draw(st.floats(-np.log2(20), 3)) for _ in range(2)]
    center = [draw(st.floats(-0.5, 1.5)) * frame_w, draw(st.floats(-0.5, 1.5)) * frame_h]
    step = [draw(st.floats(-1.5, 1.5)) for _ in range(2)]
    degrees, turn = draw(st.floats(-180, 180)), draw(st.floats(-20, 20))
    shear, tilt = np.eye(3), np.eye(3)
    shear[0, 1] = draw(st.floats(-1, 1))
    if not affine:  # up to a horizon inside the texture, seen from its middle
        tilt[2, 0] = draw(st.sampled_from([0.0, 0.0, 0.5, -1.2, 3.0])) / width
        tilt[2, 1] = draw(st.sampled_from([0.0, 0.0, -0.5, 1.2])) / height
    return np.stack(
        [
            geometry.compose(
                geometry.translation(np.array(center) + np.array(step) * t),
                geometry.rotation(degrees + turn * t),
                shear,
                geometry.scaling(scale),
                tilt,
                geometry.translation([-width / 2, -height / 2]),
            )
            for t in range(frames)
        ]
    )


@st.composite
def scenes(draw: st.DrawFn, studio: Any, *, common: bool = False) -> Scene:
    """Draw scenes; of common ones the objects are only moved, scaled, turned, sheared and faded."""
    size_hw = draw(st.integers(5, 24)), draw(st.integers(7, 31))
    frames = draw(st.integers(1, 2))

    def colors(plain: bool = False) -> dict[str, Any]:
        if plain or draw(st.booleans()):
            return {}
        return {
            "gain": [draw(st.floats(0, 2)) for _ in range(3)],
            "bias": [draw(st.floats(-0.5, 0.5)) for _ in range(3)],
        }

    kind = draw(st.sampled_from(["solid", "noise", "image"]))
    if kind == "solid":
        background = studio.sheet(Solid(tuple(draw(st.integers(0, 255)) for _ in range(3))), **colors())
    elif kind == "noise":
        background = studio.sheet(Noise((draw(WORD), draw(WORD)), draw(st.booleans())), **colors())
    else:
        image = studio.image(draw(st.integers(0, 2)))
        pose = draw(poses(image.height, image.width, frames, size_hw))
        # Towards a horizon an image without end has no limit: what is seen there is up to the last bit.
        edge = np.concatenate([geometry.corners(size_hw[1], size_hw[0]), np.ones((4, 1))], axis=1)
        assume((edge @ geometry.invert(pose)[:, 2].T > 0.02).all())
        background = studio.sheet(
            image, pose, border=draw(st.sampled_from(["reflect", "repeat"])), **colors()
        )
    sheets = []
    for _ in range(draw(st.integers(1, 4))):
        surface = studio.object(draw(st.sampled_from(studio.bank.class_names)))
        sheets.append(
            studio.sheet(
                surface,
                draw(poses(surface.height, surface.width, frames, size_hw, affine=common)),
                opacity=draw(st.sampled_from([0.0, 1.0, 0.3, 0.5, 0.77])),
                depth=draw(st.sampled_from([1.0, 2.0, 3.0])),
                **colors(plain=common),
            )
        )
    return studio.scene(background, *sheets, size_hw=size_hw, frames=frames)


@st.composite
def scenes_with_effects(draw: st.DrawFn, studio: Any) -> Scene:
    """Draw scenes with soft edges, shadows, gamma and camera effects."""
    scene = draw(scenes(studio))
    layers = [scene.layers[0]]
    for layer in scene.layers[1:]:
        feather = draw(st.sampled_from([0.0, 0.4, 1.7, 6.0]))
        shadow = None
        if draw(st.booleans()):
            offset = draw(st.floats(-4, 4)), draw(st.floats(-4, 4))
            shadow = Shadow(draw(st.floats(0.1, 1)), offset, draw(st.sampled_from([0.0, 2.5, 7.0])))
        layers.append(replace(layer, feather=feather, shadow=shadow))
    appearance = Appearance(
        shutter=draw(st.sampled_from([0.0, 0.4, 1.0])),
        shutter_samples=draw(st.sampled_from([1, 3, 5])),
        linear_light=draw(st.booleans()),
        grain=draw(st.sampled_from([0.0, 0.03])),
        grain_key=(draw(WORD), draw(WORD)),
    )
    gamma = None
    if draw(st.booleans()):
        gamma = np.array([[draw(st.sampled_from([0.4, 1.0, 2.3]))] * scene.num_frames for _ in layers])
    return replace(scene, layers=tuple(layers), appearance=appearance, gamma=gamma)


def differences(studio: Any, backend: str, strategy: st.SearchStrategy[Scene], examples: int) -> np.ndarray:
    """Return the difference between a backend and the oracle at every pixel of drawn scenes."""
    found: list[np.ndarray] = []

    @settings(max_examples=examples)
    @given(strategy)
    def collect(scene: Scene) -> None:
        frames = draw(studio, scene, backend).astype(int)
        worst = np.abs(frames - draw(studio, scene, "oracle")).max(axis=-1)
        found.append(worst.ravel())
        assert worst.max() <= 3

    collect()
    return np.concatenate(found)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "examples"), [("cpu", 60), ("torch", 40), ("triton", 8)])
def test_drawn_scenes_with_effects_are_those_of_the_oracle(studio: Any, backend: str, examples: int) -> None:
    assert (differences(studio, backend, scenes_with_effects(studio), examples) > 1).mean() <= 0.001


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "examples", "common"),
    [("cpu", 200, False), ("cpu", 200, True), ("torch", 60, False), ("triton", 15, False)],
)
def test_drawn_scenes_are_those_of_the_oracle(studio: Any, backend: str, examples: int, common: bool) -> None:
    """At most 3/255 on any pixel, at most 1/255 on all but a thousandth."""
    found = differences(studio, backend, scenes(studio, common=common), examples)
    assert (found > 1).mean() <= 0.001


@pytest.mark.parametrize("backend", ["cpu", "torch", "triton"])
@pytest.mark.parametrize("scale", [[0.05, 0.05], [8.0, 8.0], [0.05, 8.0]])
def test_the_smallest_and_the_largest_are_those_of_the_oracle(
    studio: Any, backend: str, scale: list[float]
) -> None:
    """Few drawn scenes go that far, and the slower backends see few."""
    places = np.array([[11.3, 8.6], [11.9, 8.2]])
    sheets = [
        studio.sheet(studio.object(name), studio.placed(name, places + offset, scale, [31.0, 32.5]))
        for name, offset in (("card", 0), ("pole", 2.2), ("disc", -40))
    ]
    scene = studio.scene(GROUND, *sheets, size_hw=(19, 26), frames=2)
    difference = draw(studio, scene, backend).astype(int) - draw(studio, scene, "oracle")
    assert np.abs(difference).max() <= 1


def test_only_plain_affine_objects_take_the_fast_path(studio: Any) -> None:
    pose = geometry.translation([2, 1])
    tilted = geometry.translation([2, 1]) @ np.array([[1, 0, 0], [0, 1, 0], [0.1, 0, 1]])
    sheets = [
        studio.sheet(studio.object("tiny"), pose, opacity=0.5),
        studio.sheet(studio.object("tiny"), pose, gain=(1, 1, 0.5)),
        studio.sheet(studio.object("tiny"), pose, bias=(0, 0.1, 0)),
        studio.sheet(studio.object("tiny"), tilted),
    ]
    scene = studio.scene(studio.sheet(studio.image(0), border="repeat"), *sheets)
    entries = build_parameters([scene], studio.bank, range(1)).entries
    assert [bool(is_common(entries, e, e + 1)) for e in range(5)] == [False, True, False, False, False]
    assert is_common(entries, 1, 2) and not is_common(entries, 1, 3) and is_common(entries, 2, 2)
    with_gamma = replace(scene, gamma=np.full((5, 3), 2.0))
    assert not is_common(build_parameters([with_gamma], studio.bank, range(1)).entries, 1, 2)


@pytest.mark.parametrize("backend", ["cpu", "torch", "triton"])
@pytest.mark.parametrize("degrees", [0.0, 33.0, 90.0])
def test_a_row_of_many_segments_is_that_of_the_oracle(studio: Any, backend: str, degrees: float) -> None:
    card = studio.sheet(studio.object("card"), studio.placed("card", [290, 3], [12.0, 3.0], degrees))
    ground = studio.sheet(studio.image(2), geometry.scaling([6.0, 0.3]), border="reflect")
    scene = studio.scene(ground, card, size_hw=(5, 601), frames=1)
    difference = draw(studio, scene, backend).astype(int) - draw(studio, scene, "oracle")
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("backend", ["cpu", "torch", "triton"])
def test_an_image_is_mirrored_at_its_own_edge_at_coarse_levels(studio: Any, backend: str) -> None:
    # 17 rows are 4.25 texels at the second level, which has 5.
    pose = geometry.translation([-15.5, -1.6]) @ geometry.rotation(2.0) @ geometry.scaling([1.0, 0.125])
    scene = studio.scene(studio.sheet(studio.image(1), pose, border="reflect"), size_hw=(5, 10), frames=1)
    assert scene.level.max() == pytest.approx(1.5, abs=0.01)
    difference = draw(studio, scene, backend).astype(int) - draw(studio, scene, "oracle")
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("backend", ["cpu", "torch", "triton"])
@pytest.mark.parametrize("border", ["reflect", "repeat"])
def test_an_image_turned_beyond_its_edge_is_that_of_the_oracle(
    studio: Any, backend: str, border: str
) -> None:
    pose = geometry.translation([-31, 5]) @ geometry.rotation(20.0) @ geometry.scaling([0.3, 0.4])
    scene = studio.scene(studio.sheet(studio.image(2), pose, border=border), size_hw=(19, 40), frames=1)
    difference = draw(studio, scene, backend).astype(int) - draw(studio, scene, "oracle")
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("backend", ["cpu", "torch", "triton"])
def test_an_object_squashed_to_nothing_far_away_leaves_the_ground(studio: Any, backend: str) -> None:
    """Its map overflows fixed point, and its texels pass by too fast to be counted."""
    pose = geometry.translation([3, 2]) @ geometry.scaling([1e-12, 40.0])
    scene = studio.scene(GROUND, studio.sheet(studio.object("tiny"), pose))
    assert np.abs(draw(studio, scene, backend).astype(int) - draw(studio, scene, "oracle")).max() <= 1
