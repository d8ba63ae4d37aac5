"""smile-synth preview and recipes ..."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from typer import Argument, Option

from smile_synth.cli import _options as options
from smile_synth.cli._options import open_sources
from smile_synth.cli._output import check_suffix, console, print_labelled, print_missed_targets, save_png
from smile_synth.cli._progress import progress_bar
from smile_synth.core.errors import counted

recipes_app = typer.Typer(help="List, show, compare and check recipes.", no_args_is_help=True)


def preview_command(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    *,
    bank: options.Bank,
    out: options.PngFile,
    backgrounds: options.Backgrounds = None,
    strict: options.Strict = False,
    num_clips: Annotated[int, Option(min=1, help="Number of clips.")] = 6,
    seed: options.Seed = 0,
    labels: Annotated[
        bool, Option("--labels/--no-labels", help="Draw masks, boxes and tracks on enlarged frames.")
    ] = True,
    curves: Annotated[Path | None, Option(help="A .png file of paths, speeds, sizes ... over time.")] = None,
    animation: Annotated[Path | None, Option(help="A .gif or .mp4 file of all clips.")] = None,
) -> None:
    """Draw a recipe's first clips as a contact sheet, curves over time, and an animation."""
    import numpy as np

    from smile_synth.recipe import Recipe
    from smile_synth.sampling import sample_scenes
    from smile_synth.streaming import SyntheticClips
    from smile_synth.visualize import contact_sheet, frame_strip, motion_curves, overlay, save_clip

    check_suffix(out, ".png")
    if curves is not None:
        check_suffix(curves, ".png", option="curves")
    if animation is not None:
        check_suffix(animation, ".gif", ".mp4", option="animation")
    loaded = Recipe.load(recipe, overrides or [])
    sources = open_sources(bank, backgrounds, strict)
    scenes = sample_scenes(loaded, sources, seed=seed, indices=range(num_clips))
    dataset = SyntheticClips(loaded, sources, seed=seed, num_clips=num_clips)
    clips = [dataset[i] for i in range(num_clips)]
    frames = [overlay(clip) if labels else clip.frames for clip in clips]
    save_png(out, contact_sheet([frame_strip(each) for each in frames], columns=1, gap=0))
    written = [out]
    if curves is not None:
        save_png(curves, motion_curves(scenes, clips))
        written.append(curves)
    if animation is not None:
        columns = -(-num_clips // (1 if num_clips < 3 else 2))
        sheets = [contact_sheet([each[t] for each in frames], columns=columns) for t in range(len(frames[0]))]
        height, width = (side - side % 2 for side in sheets[0].shape[:2])  # an mp4 needs even sides
        save_clip(animation, np.stack(sheets)[:, :height, :width], loaded.fps)
        written.append(animation)
    console.print(f"{counted(num_clips, 'clip')} in {', '.join(map(str, written))}")
    print_missed_targets(scenes)


@recipes_app.command("list")
def recipes_list() -> None:
    """List the presets with their descriptions."""
    from smile_synth.recipe import presets

    table = Table("preset", "description", box=None, pad_edge=False)
    for name, description in presets().items():
        table.add_row(name, description)
    console.print(table)


@recipes_app.command("gallery")
def recipes_gallery(
    *,
    bank: options.Bank,
    out: options.PageFile = Path("gallery.html"),
    backgrounds: options.Backgrounds = None,
    strict: options.Strict = False,
    num_clips: Annotated[int, Option(min=1, help="Number of clips of each preset.")] = 2,
    seed: options.Seed = 0,
    workers: options.Workers,
) -> None:
    """Write one page that plays clips of every preset."""
    from smile_synth.io.atomic import write_bytes
    from smile_synth.recipe import presets
    from smile_synth.visualize import make_gallery

    check_suffix(out, ".html")
    sources = open_sources(bank, backgrounds, strict)
    with progress_bar("gallery", "presets") as progress:
        page, missing = make_gallery(
            presets(), sources, num_clips=num_clips, seed=seed, workers=workers, progress=progress
        )
    write_bytes(out, page.encode())
    for name, reason in missing.items():
        print_labelled("not drawn", f"{name}: {reason}")
    console.print(f"{len(presets()) - len(missing)} presets in {out} ({len(page) / 1e6:.1f} MB)")


@recipes_app.command("show")
def recipes_show(recipe: options.Recipe, overrides: options.Overrides = None) -> None:
    """Print a recipe with every value written out."""
    from smile_synth.recipe import Recipe

    console.print(Recipe.load(recipe, overrides or []).to_yaml(), end="", highlight=False)


@recipes_app.command("diff")
def recipes_diff(
    first: Annotated[str, Argument(metavar="A", help="Name of a preset or path of a YAML file.")],
    second: Annotated[str, Argument(metavar="B", help="Name of a preset or path of a YAML file.")],
) -> None:
    """Print every key in which two recipes differ."""
    from smile_synth.recipe import Recipe, differences

    found = differences(Recipe.load(first), Recipe.load(second))
    if not found:
        console.print("no difference")
        return
    table = Table("key", first, second)
    for row in found:
        table.add_row(*row)
    console.print(table)


@recipes_app.command("check")
def recipes_check(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    *,
    bank: options.OptionalBank = None,
    backgrounds: options.Backgrounds = None,
    strict: options.Strict = False,
    num_clips: Annotated[int, Option(min=1, help="Number of scenes drawn from --bank.")] = 100,
) -> None:
    """Report a recipe's mistakes with file, line and key; with --bank also missed occlusion targets."""
    from smile_synth.recipe import Recipe, check_classes
    from smile_synth.sampling import sample_scenes

    loaded = Recipe.load(recipe, overrides or [])
    if bank is not None:
        sources = open_sources(bank, backgrounds, strict)
        check_classes(loaded, sources.objects, recipe)
        print_missed_targets(sample_scenes(loaded, sources, seed=0, indices=range(num_clips)))
    console.print(f"{recipe} is valid, digest {loaded.digest[:16]}")


@recipes_app.command("schema")
def recipes_schema(
    out: Annotated[Path | None, Option("--out", help="The .json file to write; printed by default.")] = None,
) -> None:
    """Write the JSON schema of recipes, with which editors complete and check YAML files."""
    from smile_synth.io.atomic import write_bytes
    from smile_synth.recipe import recipe_schema

    text = json.dumps(recipe_schema(), indent=1) + "\n"
    if out is None:
        console.print(text, end="", highlight=False)
    else:
        write_bytes(out, text.encode())
        console.print(f"schema in {out}")
