"""smile_synth: segmented objects and images become procedurally animated, labelled clips."""

from smile_synth.annotations import Annotation, annotate
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.compositing import composite
from smile_synth.core.clip import Clip, Flow, Labels, Tracks
from smile_synth.core.errors import UserError
from smile_synth.corpus import generate
from smile_synth.objects import ObjectBank, build_bank
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene, sample_scenes
from smile_synth.scene import Scene
from smile_synth.sources import Sources
from smile_synth.stream import SyntheticClips, stream

__version__ = "0.1.0"


def _show_in_notebooks(kind: type, name: str) -> None:
    """Give a class its ``_repr_html_``; images stand below it, and are loaded when they are asked for."""

    def show(self: object) -> str:
        from smile_synth import visualize

        return str(getattr(visualize, name)(self))

    setattr(kind, "_repr_html_", show)  # noqa: B010 - mypy knows no such attribute


for _kind, _name in (
    (Clip, "clip_html"),
    (Scene, "scene_html"),
    (ObjectBank, "bank_html"),
    (Recipe, "recipe_html"),
):
    _show_in_notebooks(_kind, _name)

__all__ = [
    "Annotation",
    "BackgroundFolder",
    "Clip",
    "Flow",
    "Labels",
    "ObjectBank",
    "Recipe",
    "Scene",
    "Sources",
    "SyntheticClips",
    "Tracks",
    "UserError",
    "annotate",
    "build_bank",
    "composite",
    "generate",
    "sample_scene",
    "sample_scenes",
    "stream",
]
