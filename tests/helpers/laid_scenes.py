"""Scenes that several test modules lay by hand."""

from typing import Any

from smile_synth.scene import Scene, Solid

GROUND = Solid((40, 80, 120))


def crossing(studio: Any, *, front_labelled: bool = True, opacity: Any = 1.0) -> Scene:
    """Two squares of 4 x 4 pixels over one another by half; which is in front changes after frame 0."""
    block = studio.object("block")
    poses = [studio.placed("block", center) for center in ([2, 2], [4, 2])]
    left = studio.sheet(block, poses[0], depth=[1.0, 2.0, 2.0])
    right = studio.sheet(block, poses[1], depth=[2.0, 1.0, 1.0], labelled=front_labelled, opacity=opacity)
    return studio.scene(GROUND, left, right)
