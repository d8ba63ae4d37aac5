"""Write the tables of the docs from the committed results, so that no number is typed by hand.

uv run python benchmarks/tables.py          # rewrites the text between the markers
uv run python benchmarks/tables.py --check  # fails if that would change anything
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


# Of benchmarks/corpus_speed.py.
ENCODERS = "PyAV as it comes", "as corpora use it"


def _load(path: Path) -> Any:
    return json.loads(path.read_text())


def _where(result: dict[str, Any]) -> str:
    environment = result["environment"]
    machine = f"{environment['cpu']}, {environment['cores']} cores, no GPU"
    return f"{machine}, CPython {environment['python']}, commit {environment['commit']}"


def _percent(low: float, high: float, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{100 * low:{sign}.1f} .. {100 * high:{sign}.1f}"


def _by_seed(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{100 * row['accuracy']:.1f}" for row in rows)


def demo_results() -> str:
    """Return the probes of the demo's three seeds."""
    result = _load(RESULTS / "demo_seeds.json")
    runs = result["runs"]
    lines = [
        "| probe | features | accuracy %, mean | by seed | above random encoders: 95 % interval by seed |",
        "|---|---|---|---|---|",
    ]
    for task, classes in runs[0]["num_classes"].items():
        for features in dict.fromkeys(row["features"] for row in runs[0]["rows"]):
            rows = [
                next(r for r in run["rows"] if (r["task"], r["features"]) == (task, features)) for run in runs
            ]
            mean = sum(row["accuracy"] for row in rows) / len(rows)
            own = features == "encoder"
            margins = "; ".join(_percent(*row["margin"], signed=True) for row in rows if row["margin"])
            question = f"{task} ({classes} classes)" if own else ""
            name = "**the trained encoder**" if own else features
            lines.append(f"| {question} | {name} | {100 * mean:.1f} | {_by_seed(rows)} | {margins} |")
    seconds = sum(run["pretrain_seconds"] + run["probe_seconds"] for run in runs)
    lines += [
        "",
        f"{len(runs)} seeds of the demo's config in {seconds / 60:.1f} minutes; {runs[0]['num_train']} "
        f"training and {runs[0]['num_test']} test clips a probe, objects and backgrounds of the test clips "
        f"never seen in training. `benchmarks/demo_seeds.py`, {_where(result)}.",
    ]
    return "\n".join(lines)


def render_results() -> str:
    """Return the rendering benchmark."""
    result = _load(RESULTS / "render_cpu.json")
    lines = [
        "| 16x224x224, two objects, one core | clips/s (median) | lowest | highest |",
        "|---|---|---|---|",
    ]
    for name, row in result["results"].items():
        lines.append(f"| {name} | {row['clips_per_second']} | {row['lowest']} | {row['highest']} |")
    lines += ["", f"{result['repeats']} repeats of {result['clips']} clips. {_where(result)}.", ""]
    lines += [
        "| objects | frames | side | ms a clip | megapixels of objects | of output | clips/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["scaling"]:
        values = (
            row[name]
            for name in (
                "objects",
                "frames",
                "side",
                "milliseconds",
                "object_megapixels",
                "output_megapixels",
            )  # fmt: skip
        )
        lines.append("| " + " | ".join(map(str, values)) + f" | {1000 / row['milliseconds']:.1f} |")
    return "\n".join(lines)


def corpus_results() -> str:
    """Return the benchmark of writing corpora."""
    result = _load(RESULTS / "corpus_speed.json")
    lines = []
    for recipe, rows in result["results"].items():
        lines += [
            f"| `{recipe}`, 16x224x224, two objects, one process | clips/s (median) | lowest | highest | "
            "of PyAV's | of its own encoder's |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in rows.items():
            shares = ["", ""]
            if name.startswith("corpus"):
                encoders = [rows[f"H.264, {encoder}"]["clips_per_second"] for encoder in ENCODERS]
                shares = [f"{row['clips_per_second'] / encoder:.2f}" for encoder in encoders]
            if "of_encoder" in row:
                pairs = [row["of_encoder"][encoder] for encoder in ENCODERS]
                shares = [f"{median(some):.2f} ({some[0]:.2f} to {some[-1]:.2f})" for some in pairs]
            values = " | ".join(str(row[key]) for key in ("clips_per_second", "lowest", "highest"))
            lines.append(f"| {name} | {values} | {' | '.join(shares)} |")
        frames = 16 * rows["render alone"]["clips_per_second"]
        lines += ["", f"Rendering alone, without encoding: {frames:.0f} frames/s on one core.", ""]
    names = " | ".join(f"`{name}`" for name in result["parts"])
    lines += [f"| a clip, ms of a core while all work | {names} |", f"|---|{'---|' * len(result['parts'])}"]
    columns = list(result["parts"].values())
    plain = [column.pop("H.264, PyAV as it comes") for column in columns]
    for part in columns[0]:
        lines.append(f"| {part} | {' | '.join(f'{column[part]:.2f}' for column in columns)} |")
    totals = [sum(column.values()) for column in columns]
    own = [column["H.264"] for column in columns]
    for name, values in (
        ("all but H.264", [total - encoder for total, encoder in zip(totals, own, strict=True)]),
        ("all", totals),
        ("H.264 alone, PyAV as it comes", plain),
        (
            "PyAV's share: that, of all",
            [encoder / total for encoder, total in zip(plain, totals, strict=True)],
        ),
        ("own encoder's share", [encoder / total for encoder, total in zip(own, totals, strict=True)]),
    ):
        lines.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |")
    lines.append("")
    lines += [
        "| tiny clips in shards | ms per clip | ms per clip, nothing to do | peak memory, MB |",
        "|---|---|---|---|",
    ]
    flat = _load(RESULTS / "corpus_flat.json")
    for row in flat["rows"]:
        lines.append(
            f"| {row['clips']} | {row['milliseconds_per_clip']} | {row['continue_milliseconds_per_clip']} | "
            f"{row['peak_memory_mb']} |"
        )
    lines += [
        "",
        f"{result['repeats']} repeats of {result['clips']} clips, on all cores {result['repeats'] + 1} of "
        f"480 for each, where encoder and corpus take turns and are compared pair by pair; {_where(result)}.",
        f"Tiny clips: {_where(flat)}.",
    ]
    return "\n".join(lines)


def kill_results() -> str:
    """Return the state of corpora whose writing was killed and continued."""
    result = _load(RESULTS / "kill_corpus.json")
    lines = [
        "| layout | killed at random times | clips complete then | continued: byte-identical | "
        "faults, `verify --deep` |",
        "|---|---|---|---|---|",
    ]
    for layout in ("folder", "shards"):
        kills = [kill for kill in result["kills"] if kill["layout"] == layout]
        complete = sorted(kill["clips_standing"] for kill in kills)
        lines.append(
            f"| {layout} | {sum(kill['killed'] for kill in kills)} of {len(kills)} runs | {complete[0]} to "
            f"{complete[-1]} of {result['clips']} | "
            f"{sum(kill['byte_identical'] for kill in kills)} of {len(kills)} | "
            f"{sum(kill['faults'] for kill in kills)} |"
        )
    lines += [
        "",
        "| full disk, then room for it | exit code | lines printed | names the reason | "
        "continued: byte-identical |",
        "|---|---|---|---|---|",
    ]
    for disk in result["full_disk"]:
        reason, same = ("yes" if disk[key] else "NO" for key in ("told_no_space", "byte_identical"))
        lines.append(f"| {disk['layout']} | {disk['exit_code']} | {disk['lines']} | {reason} | {same} |")
    lines += ["", f"{_where(result)}."]
    return "\n".join(lines)


def ray_results() -> str:
    """Return the state of corpora written on a Ray cluster whose node was killed."""
    result = _load(RESULTS / "ray_corpus.json")
    lines = [
        "| layout | clips | processes killed after a quarter | node killed after | nodes left | s | "
        "s, one process | byte-identical | faults |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["trials"]:
        lines.append(
            f"| {row['layout']} | {row['clips']} | {row['processes_killed']} | "
            f"{row['node_killed_after_clips']} clips | {row['nodes_left']} | {row['seconds']} | "
            f"{row['seconds_of_one_process']} | "
            f"{'yes' if row['byte_identical'] else 'NO'} | {row['faults']} |"
        )
    lines += ["", f"Ray {result['ray']}, both nodes on one machine. {_where(result)}."]
    return "\n".join(lines)


def teacher_results() -> str:
    """Return the accuracies of the tiny CLIP."""
    result = _load(ROOT / "assets" / "tiny-clip" / "result.json")
    lines = [
        "| zero-shot, held-out backgrounds | attribute | accuracy % | always the most frequent % | values |",
        "|---|---|---|---|---|",
    ]
    for name, facts in result["zero_shot"].items():
        for key, row in facts.items():
            accuracy, frequent = 100 * row["accuracy"], 100 * row["most_frequent"]
            lines.append(f"| {name} | {key} | {accuracy:.1f} | {frequent:.1f} | {row['num_values']} |")
    near = result["patch_neighbours"]
    lines += [
        "",
        "| nearest patch token in another image | % | by chance % |",
        "|---|---|---|",
        f"| an object's token finds a token on an object | {100 * near['object_finds_object']:.1f} | "
        f"{100 * near['share_of_object_tokens']:.1f} |",
        f"| ... on an object of its own class | {100 * near['object_finds_same_class']:.1f} | "
        f"{100 * near['same_class_by_chance']:.1f} |",
        "",
        f"{result['num_images']} images of one object each, {result['num_prompts']} prompts, "
        f"{near['num_object_tokens']} tokens on objects.",
    ]
    return "\n".join(lines)


def motion_results() -> str:
    """Return the largest difference of every quantity from the published motion."""
    result = _load(RESULTS / "motion_quantiles.json")
    lines = [
        "| preset | quantity | largest difference % | at percentile | published | ours |",
        "|---|---|---|---|---|---|",
    ]
    for preset, quantities in result["presets"].items():
        for quantity, rows in quantities.items():
            worst = max(rows, key=lambda row: abs(row["difference_percent"]))
            lines.append(
                f"| {preset} | {quantity} | {worst['difference_percent']:+.2f} | {worst['percentile']} | "
                f"{worst['reference']:.2f} | {worst['ours']:.2f} |"
            )
    lines += ["", f"{result['clips']} clips a preset. {_where(result)}."]
    return "\n".join(lines)


def bank_results() -> str:
    """Return what a bank costs to build, to open and to read."""
    result = _load(RESULTS / "bank.json")
    rows = result["rows"]
    columns: list[tuple[str, str, str]] = [
        ("built, objects per second of one core", "built_per_processor_second", ",.0f"),
        ("size, GB", "gigabytes", ".2f"),
        ("opened in, ms", "open_seconds", ",.0f"),
        ("the slowest time, ms", "slowest_open_seconds", ",.0f"),
        ("imports before that, ms", "import_seconds", ",.0f"),
        ("a worker's own memory, MB", "own_mb", ",.0f"),
        ("of it imports, MB", "imports_mb", ",.0f"),
        ("textures read, /s", "copies_per_s", ",.0f"),
        ("read, GB/s", "copied_gb_per_s", ".1f"),
        ("plain way: PIL opens, /s", "plain_opens_per_s", ",.0f"),
    ]
    lines = [
        "| | " + " | ".join(f"{row['objects']:,} objects" for row in rows) + " |",
        "|---|" + "---|" * len(rows),
    ]
    for title, key, form in columns:
        values = [row[key] * (1000 if title.endswith(", ms") else 1) for row in rows]
        lines.append(f"| {title} | " + " | ".join(format(value, form) for value in values) + " |")
    lines += [
        "",
        f"Objects of {result['max_side']} pixels from PNG files, {result['workers']} processes building; "
        f"medians of {result['repeats']} processes started anew that open and read, the files in the "
        f"system's cache. "
        f"`benchmarks/bank.py`, {_where(result)}.",
    ]
    return "\n".join(lines)


def sampling_results() -> str:
    """Return how fast scenes are sampled, and how the cost grows."""
    result = _load(RESULTS / "sampling.json")
    lines = ["| scenes, one core | clips/s (median) | lowest | highest |", "|---|---|---|---|"]
    for name, row in result["rates"].items():
        lines.append(
            f"| {name} | {row['clips_per_second']:.0f} | {row['lowest']:.0f} | {row['highest']:.0f} |"
        )
    for what, rows in result["curves"].items():
        lines += ["", f"| {what} | ms per clip | ms per clip and {what[:-1]} |", "|---|---|---|"]
        for row in rows:
            lines.append(
                f"| {row['value']} | {row['milliseconds']:.3f} | {row['milliseconds'] / row['value']:.4f} |"
            )
    lines += [
        "",
        f"{result['repeats']} repeats of {result['seconds']:g} s of processor time, batches of "
        f"{result['batch']}; log_scale of `smile-linear`. {_where(result)}.",
    ]
    return "\n".join(lines)


def motion_label_results() -> str:
    """Return the time of the labels of motion."""
    result = _load(RESULTS / "motion_labels.json")
    lines = [
        "| 16x224x224, two objects, tokens of 2x16x16, one core | ms a clip (median) | lowest | highest | "
        "clips/s | time / time of rendering |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["results"].items():
        lines.append(
            f"| {name} | {row['milliseconds']:.2f} | {row['lowest']:.2f} | {row['highest']:.2f} | "
            f"{1000 / row['milliseconds']:.0f} | {row['share_of_render']:.2f} |"
        )
    lines += [
        "",
        f"{result['repeats']} repeats of {result['clips']} clips, processor time. {_where(result)}.",
    ]
    return "\n".join(lines)


def stream_results() -> str:
    """Return how fast streams are on the CPU, and how soon they begin."""
    result = _load(RESULTS / "stream_cpu.json")
    lines = [
        "| 16x224x224, two objects | clips/s (median) | lowest | highest |",
        "|---|---|---|---|",
    ]
    for name, row in result["results"].items():
        lines.append(f"| {name} | {row['clips_per_second']} | {row['lowest']} | {row['highest']} |")
    lines += ["", "| first batch of 16, from opening the bank on | s (median) | highest |", "|---|---|---|"]
    for name, values in result["first_batch_seconds"].items():
        lines.append(f"| {name} | {median(values):.2f} | {max(values):.2f} |")
    lines += [
        "",
        f"{result['repeats']} repeats of {result['seconds']:g} s, batches of {result['batch']}. "
        f"{_where(result)}.",
    ]
    return "\n".join(lines)


def cycle_results() -> str:
    """Return what streams that were started and stopped leave behind."""
    result = _load(RESULTS / "stream_cycles.json")
    lines = ["| ended by | streams |", "|---|---|"]
    lines += [f"| {way} | {count} |" for way, count in sorted(result["ways"].items())]
    lines += ["", "| more after the last stream than after the first | |", "|---|---|"]
    lines += [f"| {name} | {result[name]} |" for name in result if " left" in name or name == "memory, MB"]
    lines += [
        "",
        f"{result['cycles']:,} streams of {result['workers']} workers, "
        f"{result['with batches from workers']} of them stopped after batches from workers; from start to "
        f"stop {result['seconds of a cycle, median']} s (median), {result['seconds of a cycle, highest']} s "
        f"at most. {_where(result)}.",
    ]
    return "\n".join(lines)


def digest_results() -> str:
    """Return the Python versions for which all scenes were equal."""
    result = _load(RESULTS / "preset_digests.json")
    return (
        f"The first {result['clips']} clips of all {len(result['presets'])} presets have the same scenes, "
        f"frames and labels on CPython {', '.join(result['pythons'])}. "
        f"`benchmarks/preset_digests.py`, {_where(result)}."
    )


def occlusion_results() -> str:
    """Return how often occlusion targets are reached."""
    result = _load(RESULTS / "occlusion_targets.json")
    lines = [
        "| preset | target | hits % | wrongly reported hits | tries (mean) | clips/s | reached by |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        by = ", ".join(f"{way} {count}" for way, count in row["by"].items())
        lines.append(
            f"| {row['preset']} | {row['target']} | {100 * row['hits'] / result['clips']:.1f} | "
            f"{row['claimed_but_not_so']} | {row['mean_tries']:.1f} | {row['clips_per_second']:.0f} | {by} |"
        )
    lines += [
        "",
        f"{result['clips']} clips each, judged by their labels. `benchmarks/occlusion_targets.py`, "
        f"{_where(result)}.",
    ]
    return "\n".join(lines)


def evaluate_results() -> str:
    """Return the run times of evaluation."""
    result = _load(RESULTS / "evaluate_cpu.json")
    lines = ["| one thread | seconds (median) | lowest | highest |", "|---|---|---|---|"]
    for name, seconds in result["seconds"].items():
        middle = sorted(seconds)[len(seconds) // 2]
        lines.append(f"| {name} | {middle} | {min(seconds)} | {max(seconds)} |")
    lines += ["", f"`benchmarks/evaluate_cpu.py`, {_where(result)}."]
    return "\n".join(lines)


def study_results(name: str) -> str:
    """Return the scores of a study's arms."""
    result = _load(RESULTS / f"study_{name}.json")
    settings = yaml.safe_load(result["settings"])
    lines = [
        "| probe | arm | accuracy %, mean | 95 % interval | by seed | random encoders | "
        "above the reference: 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        seeds = ", ".join(f"{100 * value:.1f}" for value in row["by_seed"])
        margin = "reference"
        if row["difference"] is not None:
            between = _percent(row["difference_low"], row["difference_high"], signed=True)
            margin = f"{100 * row['difference']:+.1f}: {between}"
        lines.append(
            f"| {row['task']} | {row['arm']} | {100 * row['mean']:.1f} | {_percent(row['low'], row['high'])} "
            f"| {seeds} | {100 * row['random']:.1f} | {margin} |"
        )
    lines += [
        "",
        f"Seeds {', '.join(map(str, result['seeds']))}; {settings['num_train']} training and "
        f"{settings['num_test']} test clips a probe; `{settings['base']}` with "
        f"`{', '.join(settings['overrides'])}`; {result['minutes']} minutes of the clock for all runs. "
        f"`benchmarks/study.py {result['study']}`, {_where(result)}.",
    ]
    return "\n".join(lines)


def encoder_results() -> str:
    """Return the scores of the shipped encoder, and of the same training with eight times the steps."""
    names = {"smile_tiny_motion": "smile-tiny-motion", "smile_tiny_motion_4000": "4,000 steps instead of 500"}
    results = {title: _load(RESULTS / f"{file}.json") for file, title in names.items()}
    columns = [("mean", "linear"), ("mean", "knn"), ("mean-max-min", "linear")]

    def percent(rows: list[dict[str, Any]], **wanted: str) -> str:
        (row,) = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
        return f"{100 * row['accuracy']:.1f} ({_percent(row['low'], row['high'])})"

    lines = [
        f"| real actions, % | {' | '.join(f'{pooling}, {protocol}' for pooling, protocol in columns)} |",
        "|---|---|---|---|",
    ]
    first = next(iter(results.values()))
    controls = [row["features"] for row in first["real"]["mean-max-min"][1:]]
    for title, result in [*results.items(), *((name, first) for name in controls)]:
        features = title if title in controls else "encoder"
        cells = [
            percent(result["real"][pooling], protocol=protocol, features=features)
            for pooling, protocol in columns
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    heads = " | ".join([*results, controls[0]])
    lines += ["", f"| synthetic motion, % | classes | {heads} |", "|---|---|---|---|---|"]
    for task, classes in first["num_classes"].items():
        cells = [percent(result["synthetic"], task=task, features="encoder") for result in results.values()]
        cells.append(percent(first["synthetic"], task=task, features=controls[0]))
        lines.append(f"| {task} | {classes} | {' | '.join(cells)} |")
    lines += [
        "",
        f"In brackets 95 % intervals. {first['videos']}; {first['num_train']} training and "
        f"{first['num_test']} test clips a probe. `benchmarks/shipped_encoder.py`, {_where(first)}.",
    ]
    return "\n".join(lines)


def report_results() -> str:
    """Return how long reports take, how large they are and how soon they open."""
    result = _load(RESULTS / "report_speed.json")
    lines = [
        "| clips | seconds | page, MB | clips that play | ms until loaded | ms until a clip moves |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        load, play = (
            f"{row[key]['median']} ({row[key]['lowest']} .. {row[key]['highest']})"
            for key in ("load_ms", "first_play_ms")
        )
        size = "x".join(map(str, row["frames_hw"]))
        lines.append(
            f"| {row['clips']:,} of {size} | {row['seconds']} | {row['page_mb']} | {row['videos']:,} "
            f"| {load} | {play} |"
        )
    lines += [
        "",
        f"{result['workers']} processes, the program's start included; medians (lowest .. highest) of "
        f"{result['openings']} openings in Chromium. All clips are in the grid (`--num-clips`; 500 "
        f"unless asked for). `benchmarks/report_speed.py`, {_where(result)}.",
    ]
    return "\n".join(lines)


def memory_results() -> str:
    """Return the memory that pretraining needs."""
    result = _load(RESULTS / "memory_plan.json")
    ways = list(next(iter(result["sizes"].values()))["kept_bytes"])
    lines = [
        f"| GiB, {result['clips']} clips | {' | '.join(ways)} | weights, gradients, AdamW |",
        "|---" * (len(ways) + 2) + "|",
    ]
    for size, row in result["sizes"].items():
        values = [*(row["kept_bytes"][way] for way in ways), row["state_bytes"]]
        lines.append(f"| {size} | " + " | ".join(f"{value / 2**30:.2f}" for value in values) + " |")
    lines += ["", f"Counted, not measured: `benchmarks/memory_plan.py`, {_where(result)}."]
    return "\n".join(lines)


def step_results() -> str:
    """Return the speed of a training step and of the published one."""
    result = _load(RESULTS / "step.json")
    settings = result["settings"]
    lines = [
        "| ViT-S, 8x112x112 | clips/s (median) | slowest | fastest | times the published |",
        "|---|---|---|---|---|",
    ]
    for batch, rows in result["by_batch"].items():
        for step, row in rows.items():
            values = (row[key] for key in ("clips_per_second", "slowest", "fastest", "times_published"))
            lines.append(f"| batch {batch}, {step} | " + " | ".join(map(str, values)) + " |")
    lines += [
        "",
        f"{settings['repeats']} repeats by turns, {settings['masks']} masks a clip, "
        f"{result['step_gflops_per_clip']} GFLOP a clip, processor time of one thread; with the same weights "
        f"the two predict the same to {result['largest_difference']:.0e}. {_where(result)}.",
    ]
    return "\n".join(lines)


def kernel_results() -> str:
    """Return the registers and instructions of the compiled variants of the Triton kernel without labels."""
    result = _load(RESULTS / "kernels.json")
    columns = "registers", "spills", "stack", "shared", "instructions", "float64", "conversions"
    lines = [f"| variant | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in result["rows"].items():
        if name.count(",") == 2:
            lines.append(f"| {name} | " + " | ".join(f"{row[column]}" for column in columns) + " |")
    versions = result["environment"]["versions"]
    count = f"All {len(result['rows'])} variants, also those with labels, are in the result file."
    lines += ["", f"Counted in machine code, not run. {count} Triton {versions['triton']}, {_where(result)}."]
    return "\n".join(lines)


def roofline_results() -> str:
    """Return the estimated limits of drawing on an H200."""
    result = _load(RESULTS / "roofline.json")
    limits = list(result["limits"])
    lines = [
        "| per output pixel | bytes written | bytes read, at most | instructions | float64 | conversions |",
        "|---|---|---|---|---|---|",
    ]
    columns = "bytes_written", "bytes_read", "instructions", "float64", "conversions"
    for name, path in result["paths"].items():
        lines.append(f"| {name} | " + " | ".join(f"{path[column]:g}" for column in columns) + " |")
    lines += [
        "",
        f"| clips/s at most, an estimate | {' | '.join(limits)} | bound by |",
        "|---" * (len(limits) + 2) + "|",
    ]
    for name, path in result["paths"].items():
        rates = path["clips_per_second"]
        cells = [f"{rates[limit]:,}" if limit in rates else "" for limit in limits]
        lines.append(f"| {name} | {' | '.join(cells)} | {path['bound_by']} |")
    lines += ["", f"Row `{result['row']}` of the table above, {result['clips']} clips. {_where(result)}."]
    return "\n".join(lines)


def host_results() -> str:
    """Return what a batch costs on the host."""
    result = _load(RESULTS / "host_cost.json")
    lines = [
        f"| ms per {result['batch']} clips | scenes | parameters | bytes per clip | clips/s and core "
        "| cores for 100,000 clips/s |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        spent = (row["milliseconds"][part]["median"] for part in ("scenes", "parameters"))
        lines.append(
            f"| {name} | {' | '.join(f'{value:.1f}' for value in spent)} | {row['bytes_per_clip']} | "
            f"{row['clips_per_second_and_core']} | {row['cores_for_100000_clips_per_second']} |"
        )
    lines += ["", f"Median processor time of {result['repeats']} batches, one thread. {_where(result)}."]
    return "\n".join(lines)


def learn_results() -> str:
    """Return the losses of tiny-cpu before and after training."""
    result = _load(RESULTS / "learn_cpu.json")
    lines = [
        f"| `tiny-cpu`, {result['test_clips']} clips of objects never seen in training | after "
        f"{result['steps']:,} steps | first weights |",
        "|---|---|---|",
    ]
    trained, untrained = result["trained"], result["untrained"]
    lines += [
        f"| loss | {trained['loss']} | {untrained['loss']} |",
        f"| loss of predicting each clip's mean | {trained['baseline_loss']} | "
        f"{untrained['baseline_loss']} |",
        f"| effective rank of the clips' features | {trained['effective_rank']} | "
        f"{untrained['effective_rank']} |",
        "",
        f"{result['steps']:,} steps in {result['seconds'] / 60:.1f} minutes of the clock, "
        f"{result['processor_seconds'] / 60:.1f} of the training process's processor time; "
        f"{result['clips']:,} clips. `benchmarks/learn_cpu.py`, {_where(result)}.",
    ]
    return "\n".join(lines)


def probe_share() -> str:
    """Return the time that probes take while a run trains."""
    result = _load(RESULTS / "probe_share.json")
    options = result["options"]
    return (
        f"With the default options ({' and '.join(options['tasks'])}, {options['num_train']} training and "
        f"{options['num_test']} test clips, every {options['every']} steps) a probe of `smile-tiny-motion` "
        f"takes {result['probe_seconds']:.1f} seconds, which is {100 * result['share']:.1f} % of the time of "
        f"the training; the first one, which renders the clips and also probes the first weights, takes "
        f"{result['first_probe_seconds']:.1f} seconds. A larger `every` lowers the share. "
        f"(`benchmarks/probe_share.py`, processor time of one thread, {_where(result)}.)"
    )


BLOCKS = {
    "probe-share": (ROOT / "docs" / "pretraining.md", probe_share),
    "memory-results": (ROOT / "docs" / "pretraining.md", memory_results),
    "learn-results": (ROOT / "docs" / "pretraining.md", learn_results),
    "step-results": (ROOT / "docs" / "performance.md", step_results),
    "encoder-results": (ROOT / "assets" / "encoders" / "smile-tiny-motion" / "README.md", encoder_results),
    "report-results": (ROOT / "docs" / "looking.md", report_results),
    "study-results": (ROOT / "docs" / "ablations.md", partial(study_results, "motion_pattern")),
    "motion-target-results": (ROOT / "docs" / "ablations.md", partial(study_results, "motion_target")),
    "evaluate-results": (ROOT / "docs" / "evaluate.md", evaluate_results),
    "bank": (ROOT / "docs" / "objects.md", bank_results),
    "sampling-results": (ROOT / "docs" / "performance.md", sampling_results),
    "motion-label-results": (ROOT / "docs" / "performance.md", motion_label_results),
    "stream-results": (ROOT / "docs" / "performance.md", stream_results),
    "kernel-results": (ROOT / "docs" / "performance.md", kernel_results),
    "roofline-results": (ROOT / "docs" / "performance.md", roofline_results),
    "host-results": (ROOT / "docs" / "performance.md", host_results),
    "cycle-results": (ROOT / "docs" / "performance.md", cycle_results),
    "digest-results": (ROOT / "docs" / "recipes.md", digest_results),
    "occlusion-results": (ROOT / "docs" / "recipes.md", occlusion_results),
    "corpus-results": (ROOT / "docs" / "performance.md", corpus_results),
    "kill-results": (ROOT / "docs" / "labels.md", kill_results),
    "ray-results": (ROOT / "docs" / "labels.md", ray_results),
    "motion-results": (ROOT / "docs" / "motion.md", motion_results),
    "demo-results": (ROOT / "docs" / "results.md", demo_results),
    "render-results": (ROOT / "docs" / "performance.md", render_results),
    "teacher-results": (ROOT / "assets" / "README.md", teacher_results),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, (path, make) in BLOCKS.items():
        start, end = f"<!-- {name}: benchmarks/tables.py -->", f"<!-- end {name} -->"
        text = path.read_text()
        before, rest = text.split(start)
        _, after = rest.split(end)
        new = f"{before}{start}\n{make()}\n{end}{after}"
        if new != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new)
    if check and stale:
        sys.exit(f"tables are not those of the committed results: {', '.join(stale)}")


if __name__ == "__main__":
    main()
