"""A gallery: one page of recipes as playing clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from smile_synth.core.errors import UserError
from smile_synth.parallel.workers import in_order
from smile_synth.recipe import Recipe, check_classes
from smile_synth.sources import Sources
from smile_synth.visualize._media import fitted, mp4_uri, resized
from smile_synth.visualize._page import page_environment
from smile_synth.visualize._source import RecipeSource

LONGEST = 128  # side of a film, pixels
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
    """Draw the first clips of every recipe and lay them out on a page without network.

    Args:
        recipes: what each one is, by its name or file.
        sources: what they are drawn from.
        num_clips: of each recipe; a clip's first `MOST_FRAMES` frames play.
        seed: of the clips.
        workers: processes.
        progress: called with (recipes done, recipes in all).

    Returns:
        The page, and why the recipes that are not on it could not be drawn, by name.
    """
    films: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    draw = partial(_films, sources=sources, num_clips=num_clips, seed=seed)
    results = in_order(draw, list(recipes), workers=workers)
    for done, (name, result) in enumerate(zip(recipes, results, strict=True), 1):
        if isinstance(result, str):
            missing[name] = result
        else:
            films[name] = result
        if progress:
            progress(done, len(recipes))
    cards: list[dict[str, Any]] = [
        {"name": name, "told": recipes[name], "films": uris} for name, uris in films.items()
    ]
    page = (
        page_environment()
        .get_template("gallery.html")
        .render(title="Recipes as clips", cards=cards, missing=missing, seed=seed)
    )
    return page, missing


def _films(name: str, *, sources: Sources, num_clips: int, seed: int) -> list[str] | str:
    """Return films of a recipe as data URIs, or why there are none."""
    try:
        recipe = Recipe.load(name)
        check_classes(recipe, sources.objects, name)
        source = RecipeSource(name, recipe, sources, seed, num_clips)
        small = replace(source, size_hw=_small(recipe.size))
        frames = [small.read(index).frames for index in small.indices]
    except UserError as error:
        return str(error).splitlines()[0]
    size_hw = fitted(recipe.size, LONGEST)
    return [mp4_uri(resized(f[:MOST_FRAMES], size_hw), recipe.fps, crf=27) for f in frames if f is not None]


def _small(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest whole fraction of a size that is not below `LONGEST`: the same aspect, exactly."""
    height, width = size_hw
    for part in range(max(height, width) // LONGEST, 1, -1):
        if height % part == 0 and width % part == 0:
            return height // part, width // part
    return size_hw
