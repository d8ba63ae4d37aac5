"""The public names of smile_synth, which the package imports at their first use."""

from smile_synth.annotations import Annotation, annotate, query_points
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.compositing import composite, render
from smile_synth.core.clip import Clip, Flow, Labels, Tracks
from smile_synth.core.errors import UserError
from smile_synth.corpus import Corpus, generate, repair, verify
from smile_synth.exporters import ExportOptions, export
from smile_synth.objects import ObjectBank, build_bank
from smile_synth.recipe import Recipe, presets
from smile_synth.sampling import sample_scene, sample_scenes
from smile_synth.scene import Scene
from smile_synth.sources import Sources
from smile_synth.streaming import StreamOptions, SyntheticClips, collate_clips, stream

__all__ = [
    "Annotation",
    "BackgroundFolder",
    "Clip",
    "Corpus",
    "ExportOptions",
    "Flow",
    "Labels",
    "ObjectBank",
    "Recipe",
    "Scene",
    "Sources",
    "StreamOptions",
    "SyntheticClips",
    "Tracks",
    "UserError",
    "annotate",
    "build_bank",
    "collate_clips",
    "composite",
    "export",
    "generate",
    "presets",
    "query_points",
    "render",
    "repair",
    "sample_scene",
    "sample_scenes",
    "stream",
    "verify",
]


def _show_in_notebooks(kind: type, function: str) -> None:
    """Let notebooks show a class with a function of `smile_synth.visualize`, which takes long to import."""

    def html(self: object) -> str:
        from smile_synth import visualize

        return str(getattr(visualize, function)(self))

    setattr(kind, "_repr_html_", html)  # noqa: B010 - the classes do not declare the attribute


_show_in_notebooks(Clip, "clip_html")
_show_in_notebooks(Scene, "scene_html")
_show_in_notebooks(ObjectBank, "bank_html")
_show_in_notebooks(Recipe, "recipe_html")
