"""smile-train embed, evaluate, compare and probe."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from smile_synth.cli import check_suffix, console, print_labelled, progress_bar
from smile_synth.core.errors import UserError
from smile_train.cli import _options as options
from smile_train.cli._output import (
    print_dense_probes,
    print_motion_probes,
    print_passed_over,
    print_skipped,
)

if TYPE_CHECKING:
    from smile_synth.sources import Sources
    from smile_train.data.video_lists import LabelledVideo
    from smile_train.data.video_splits import Split
    from smile_train.evaluate import VideoEvaluation

GROUP_HELP = "Regular expression on file names; its match is the group of a video, which is never split."


def embed_command(
    videos: Annotated[Path, Argument(metavar="VIDEOS", help="A video, or a folder of videos.")],
    view: Annotated[
        list[str] | None,
        Argument(metavar="[KEY=VALUE]...", help="How videos are read, for example stride_frames=4."),
    ] = None,
    *,
    checkpoint: options.Encoder,
    out: Annotated[Path, Option("--out", help="A .parquet or .npz file.")],
    layer: options.Layer = -1,
    per_frame: Annotated[bool, Option("--per-frame", help="Write the mean of each time.")] = False,
    num_frames: options.NumFrames = None,
    side: options.Side = None,
    device: options.Device = "auto",
    cache: options.Cache = None,
    workers: options.Decoders = 1,
    strict: options.Strict = False,
) -> None:
    """Write one feature per video: encoder tokens, averaged over tokens and clips."""
    from smile_synth.io.strict_yaml import parse
    from smile_train.data.video import ViewOptions
    from smile_train.distributed import join_world
    from smile_train.evaluate import Extractor, embed_videos, load_encoder

    read = parse(ViewOptions, "{}", name="view", overrides=view or [])
    with join_world(device) as world, progress_bar("embedding", "videos") as progress:
        report = embed_videos(
            videos,
            load_encoder(checkpoint, num_frames=num_frames, side=side, device=world.device),
            out,
            view=read,
            layer=layer,
            pooling="frames" if per_frame else "mean",
            extractor=Extractor(cache, workers, world, lambda _, done, total: progress(done, total)),
            strict=strict,
        )
    print_passed_over(videos)
    print_skipped(report.broken)
    console.print(
        f"{report.num_videos} videos ({report.num_windows} clips), {report.width} values each, in {out}; "
        f"{len(report.broken)} skipped"
    )


def evaluate_command(
    videos: options.VideoSource,
    overrides: Annotated[
        list[str] | None,
        Argument(metavar="[KEY=VALUE]...", help="Overrides, for example random_encoders=1."),
    ] = None,
    *,
    checkpoint: options.Encoder,
    test: Annotated[
        Path | None, Option("--test", help="Folder or list of the test videos; VIDEOS are for training.")
    ] = None,
    folds: Annotated[
        int | None, Option("--folds", min=2, help="Number of folds, if there is no test list; default 5.")
    ] = None,
    by_group: Annotated[
        bool, Option("--leave-one-group-out", help="Test one group at a time, instead of folds.")
    ] = False,
    classes: Annotated[
        str, Option("--classes", metavar="A,B", help="Use only these classes, if there is no test list.")
    ] = "",
    group: Annotated[str | None, Option("--group", help=GROUP_HELP)] = None,
    root: Annotated[Path | None, Option("--root", help="Folder that listed paths are relative to.")] = None,
    hmdb: Annotated[
        int | None,
        Option("--hmdb", min=1, max=3, help="Number of a split; VIDEOS is HMDB51's folder of split files."),
    ] = None,
    allow_missing: Annotated[
        bool, Option("--allow-missing", help="Skip listed files that are missing, and list them.")
    ] = False,
    num_frames: options.NumFrames = None,
    side: options.Side = None,
    device: options.Device = "auto",
    cache: options.Cache = None,
    workers: options.Decoders = 1,
    out: options.Scores = None,
    strict: options.Strict = False,
) -> None:
    """Score a frozen or fine-tuned encoder on labelled real videos, with its controls."""
    from smile_synth.io.strict_yaml import parse
    from smile_train.distributed import join_world
    from smile_train.evaluate import EvaluateOptions, Extractor, evaluate_videos, load_encoder

    if out is not None:
        check_suffix(out, ".json")
    loaded = parse(EvaluateOptions, "{}", name="settings", overrides=overrides or [])
    _check_split_options(test=test, folds=folds, by_group=by_group, hmdb=hmdb, classes=classes, root=root)
    found, splits = read_splits(
        videos, test=test, hmdb=hmdb, root=root, group=group, allow_missing=allow_missing, classes=classes,
        folds=None if by_group else folds or 5, seed=loaded.seed,
    )  # fmt: skip
    with join_world(device) as world, progress_bar("features", "") as progress:
        encoder = load_encoder(checkpoint, num_frames=num_frames, side=side, device=world.device)
        result = evaluate_videos(
            encoder, found, splits, loaded, strict=strict,
            extractor=Extractor(
                cache, workers, world, lambda what, done, total: progress(done, total, what=what)
            ),
        )  # fmt: skip
    print_passed_over(None if hmdb else videos, test)
    print_skipped(result.broken)
    for name, protocol, reason in result.left_out:
        print_labelled(f"left out of {protocol}", f"{name}: {reason}")
    _print_scores(result)
    if out is not None and world.is_main:
        result.save(out)


def _check_split_options(
    *, test: Path | None, folds: int | None, by_group: bool, hmdb: int | None, classes: str, root: Path | None
) -> None:
    """Refuse options that contradict each other.

    Raises:
        UserError: two ways to split, or an option without effect.
    """
    ways = {"--test": test, "--hmdb": hmdb, "--folds": folds, "--leave-one-group-out": by_group or None}
    chosen = [name for name, value in ways.items() if value is not None]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)}: choose one, each says how the videos are split")
    if classes and (test is not None or hmdb is not None):
        raise UserError(
            f"--classes: cannot be used with {chosen[0]}, whose lists say which classes there are"
        )
    if hmdb is not None and root is None:
        raise UserError("--hmdb: needs --root, the folder of the classes")


def read_splits(
    videos: Path,
    *,
    test: Path | None,
    hmdb: int | None,
    classes: str,
    folds: int | None,
    seed: int,
    **reading: Any,
) -> tuple[list[LabelledVideo], list[Split]]:
    """Return the videos and their splits; without lists and ``folds``, one split per group."""
    from smile_train.data.video_lists import read_videos, select_classes
    from smile_train.data.video_splits import k_fold, leave_one_group_out, read_hmdb, read_official

    if hmdb is not None:
        found, split = read_hmdb(videos, number=hmdb, **reading)
        return found, [split]
    if test is not None:
        found, split = read_official(videos, test, **reading)
        return found, [split]
    found = read_videos(videos, **reading)
    if classes:
        found = select_classes(found, classes.split(","))
    return found, leave_one_group_out(found) if folds is None else k_fold(found, folds, seed=seed)


def _print_scores(result: VideoEvaluation) -> None:
    """Print the scores and controls, one table per protocol, and the settings."""
    from smile_train.evaluate import format_interval

    for protocol in dict.fromkeys(row.protocol for row in result.rows):
        rows = [row for row in result.rows if row.protocol == protocol]
        table = Table(
            "features", "correct %", "95 % interval", "per class %", "above random",
            title=f"{protocol}: {rows[0].num_videos} videos in {rows[0].num_groups} groups",
            box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0),
        )  # fmt: skip
        for row in rows:
            table.add_row(
                Text("this encoder", "bold") if row.features == "encoder" else row.features,
                f"{100 * row.accuracy:.1f}",
                format_interval(row.low, row.high),
                f"{100 * row.per_class:.1f}",
                format_interval(row.margin.low, row.margin.high, signed=True) if row.margin else "",
            )
        console.print(table)
        remarks = []
        if rows[0].chance is not None:
            remarks.append(f"always the most frequent class: {100 * rows[0].chance:.1f}")
        if rows[0].margin:
            smallest = 100 * rows[0].margin.smallest
            remarks.append(f"differences to random encoders below {smallest:.1f} points are not significant")
        if remarks:
            console.print("; ".join(remarks))
    settings = ", ".join(f"{key}={value}" for key, value in _flat(result.settings) if key != "protocols")
    console.print(
        f"\n{result.encoder['name']}: {len(result.videos)} videos in {len(set(result.groups))} groups and "
        f"{len(set(result.labels))} classes, {len(result.splits)} split(s), {len(result.broken)} skipped\n"
        f"settings: {settings}",
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return settings by dotted key."""
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return pairs


def compare_command(
    first: Annotated[Path, Argument(metavar="A.json", help="Scores of smile-train evaluate --out.")],
    second: Annotated[Path, Argument(metavar="B.json", help="Scores of another encoder on the same videos.")],
) -> None:
    """Compare two encoders, paired by video, with the smallest significant difference."""
    from smile_train.evaluate import compare_evaluations, format_interval

    table = Table("protocol", "A %", "B %", "A - B", "95 % interval", "smallest significant", "groups")
    for protocol, a, b, difference in compare_evaluations(first, second):
        table.add_row(
            protocol, f"{100 * a:.1f}", f"{100 * b:.1f}", f"{100 * difference.mean:+.1f}",
            format_interval(difference.low, difference.high, signed=True), f"{100 * difference.smallest:.1f}",
            str(difference.num_groups),
        )  # fmt: skip
    console.print(table)


def probe_command(
    checkpoint: options.Encoder,
    bank: options.ProbeBank,
    train_backgrounds: options.TrainBackgrounds = None,
    test_backgrounds: options.TestBackgrounds = None,
    seed: options.ProbeSeed = 0,
    num_train: options.NumTrain = 1200,
    num_test: options.NumTest = 800,
    out: options.Scores = None,
    factors: Annotated[bool, Option("--factors", help="Probe motion family and occlusion as well.")] = False,
    appearance_free: Annotated[
        bool,
        Option("--appearance-free", help="Show noise instead of all colours; only motion reveals objects."),
    ] = False,
    teacher: Annotated[
        str, Option("--teacher", help="Image model whose frame features are a control; '' for none.")
    ] = "clip:tiny-clip",
    num_frames: options.NumFrames = None,
    side: options.Side = None,
    device: options.Device = "auto",
) -> None:
    """Probe a frozen encoder on synthetic motion, with its controls on the same clips."""
    from smile_synth.io.atomic import write_bytes
    from smile_train.distributed import choose_device
    from smile_train.evaluate import (
        DEMO_TASKS,
        MOTION_TASKS,
        MotionProbeOptions,
        load_encoder,
        motion_controls,
        probe_motion,
    )
    from smile_train.models import steps_of

    if out is not None:
        check_suffix(out, ".json")
    chosen = choose_device(device)
    encoder = load_encoder(checkpoint, num_frames=num_frames, side=side, device=chosen)
    train, test = _open_sources(bank, train_backgrounds, test_backgrounds)
    probes = MotionProbeOptions(
        tasks=MOTION_TASKS if factors else DEMO_TASKS, controls=motion_controls(teacher or None, chosen),
        num_train=num_train, num_test=num_test, seed=seed, appearance_free=appearance_free,
    )  # fmt: skip
    with progress_bar("probing", "probes") as progress:
        result = probe_motion(encoder, train, test, probes, progress=progress)
    print_motion_probes(result)
    if out is not None:
        scores = {"step": steps_of(checkpoint), "appearance_free": appearance_free, **asdict(result)}
        write_bytes(out, (json.dumps(scores, indent=1) + "\n").encode())


def probe_dense_command(
    checkpoint: options.Encoder,
    bank: options.ProbeBank,
    train_backgrounds: options.TrainBackgrounds = None,
    test_backgrounds: options.TestBackgrounds = None,
    videos: Annotated[
        Path | None, Option("--videos", help="A video or a folder of videos, compared with DIS optical flow.")
    ] = None,
    layer: options.Layer = -1,
    window: Annotated[
        float | None,
        Option("--window", min=0.5, help="Tracks: search within so many tokens of the last position."),
    ] = None,
    test_recipe: Annotated[
        str, Option("--test-recipe", help="Preset or YAML file of the test clips.")
    ] = "probe-flow",
    seed: options.ProbeSeed = 0,
    num_train: options.NumTrain = 400,
    num_test: options.NumTest = 200,
    out: options.Scores = None,
    num_frames: options.NumFrames = None,
    side: options.Side = None,
    device: options.Device = "auto",
) -> None:
    """Read flow and point tracks from the tokens of a frozen encoder, with controls."""
    from smile_synth.io.atomic import write_bytes
    from smile_train.data.video_lists import find_videos
    from smile_train.distributed import choose_device
    from smile_train.evaluate import DenseOptions, load_encoder, probe_dense
    from smile_train.models import steps_of

    if out is not None:
        check_suffix(out, ".json")
    encoder = load_encoder(checkpoint, num_frames=num_frames, side=side, device=choose_device(device))
    probes = DenseOptions(
        test_recipe=test_recipe, num_train=num_train, num_test=num_test, layer=layer, window=window, seed=seed
    )
    train, test = _open_sources(bank, train_backgrounds, test_backgrounds)
    with progress_bar("reading out", "encoders") as progress:
        result = probe_dense(
            encoder, train, test, probes, videos=find_videos(videos) if videos else (), progress=progress
        )
    print_passed_over(videos)
    print_skipped(result.broken)
    print_dense_probes(result)
    if out is not None:
        scores = {"step": steps_of(checkpoint), **asdict(result)}
        write_bytes(out, (json.dumps(scores, indent=1) + "\n").encode())


def _open_sources(
    bank: Path, train_backgrounds: Path | None, test_backgrounds: Path | None
) -> tuple[Sources, Sources]:
    """Open the sources of the training and of the test clips of a probe."""
    from smile_synth.backgrounds import BackgroundFolder
    from smile_synth.sources import Sources

    train = Sources.open(bank, train_backgrounds)
    return train, replace(train, backgrounds=BackgroundFolder(test_backgrounds) if test_backgrounds else None)
