"""A gallery: one page of recipes as playing clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from smile_synth.core.errors import UserError
from smile_synth.parallel.workers import map_in_order
from smile_synth.recipe import Recipe, check_classes
from smile_synth.sources import Sources
from smile_synth.visualize._media import fitted, mp4_uri, resized
from smile_synth.visualize._page import page_environment
from smile_synth.visualize._source import RecipeSource

LONGEST_SIDE = 128  # of a video, pixels
MOST_FRAMES = 32


def make_gallery(
    recipes: Mapping[str, str],
    sources: Sources,
    *,
    num_clips: int = 2,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, dict[str, str]]:
    """Render the first clips of every recipe and show them on a page that needs no network.

    Args:
        recipes: preset or file of each recipe -> its description.
        sources: objects and backgrounds.
        num_clips: of each recipe; the first `MOST_FRAMES` frames of a clip are shown.
        seed: of the clips.
        workers: number of processes.
        progress: called with (recipes done, recipes in all).

    Returns:
        The page; and for each recipe that could not be rendered, its name and the reason.
    """
    videos: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    work = partial(_render, sources=sources, num_clips=num_clips, seed=seed)
    results = map_in_order(work, list(recipes), workers=workers)
    for done, (name, result) in enumerate(zip(recipes, results, strict=True), 1):
        if isinstance(result, str):
            missing[name] = result
        else:
            videos[name] = result
        if progress:
            progress(done, len(recipes))
    cards = [{"name": name, "description": recipes[name], "videos": uris} for name, uris in videos.items()]
    template = page_environment().get_template("gallery.html")
    return template.render(title="Recipes as clips", cards=cards, missing=missing, seed=seed), missing


def _render(name: str, *, sources: Sources, num_clips: int, seed: int) -> list[str] | str:
    """Return videos of a recipe as data URIs, or the reason why it cannot be rendered."""
    try:
        recipe = Recipe.load(name)
        check_classes(recipe, sources.objects, name)
        source = RecipeSource(name, recipe, sources, seed, num_clips)
        small = replace(source, size_hw=_small_size(recipe.size))
        clips = [small.read(index).frames for index in small.indices]
    except UserError as error:
        return str(error).splitlines()[0]
    size_hw = fitted(recipe.size, LONGEST_SIDE)
    return [mp4_uri(resized(f[:MOST_FRAMES], size_hw), recipe.fps, crf=27) for f in clips if f is not None]


def _small_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest whole fraction of a size that is at least `LONGEST_SIDE`; the aspect is exact."""
    height, width = size_hw
    for divisor in range(max(height, width) // LONGEST_SIDE, 1, -1):
        if height % divisor == 0 and width % divisor == 0:
            return height // divisor, width // divisor
    return size_hw
