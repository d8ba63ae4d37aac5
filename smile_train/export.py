"""Encoders and classifiers in the formats of other libraries, with a model card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from smile_synth import ObjectBank
from smile_synth.core.errors import UserError, nearest
from smile_synth.corpus import CorpusHeader
from smile_synth.io.atomic import write_bytes
from smile_train.batch import IMAGENET_MEAN, IMAGENET_STD
from smile_train.config import FinetuneConfig, PretrainConfig
from smile_train.models import (
    Encoder,
    Student,
    VideoClassifier,
    load_model,
    load_student_weights,
    to_transformers_config,
    to_transformers_names,
)

CONFIG = "config.yaml"
NO_CONFIG = "The run's config is not beside the weights."
ONNX_TOLERANCE = 1e-3
OPSET = 18


@dataclass(frozen=True)
class ExportReport:
    """The result of `export_run`.

    Attributes:
        folder: of the files.
        files: their names.
        checked: how the files were checked.
    """

    folder: Path
    files: list[str]
    checked: str


def export_run(run: str | Path, out: str | Path, *, to: str) -> ExportReport:
    """Write a run's encoder or fine-tuned classifier in another library's format, with a model card.

    Args:
        run: a run's folder, or a model file that smile-train wrote.
        out: a new or empty folder.
        to: a name of `FORMATS`.

    Raises:
        UserError: no model there, unknown format, a folder that is not empty, or a model that the format
            cannot hold.
    """
    if to not in FORMATS:
        raise UserError(f"format '{to}': expected one of {', '.join(FORMATS)}{nearest(to, FORMATS)}")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"out '{out}': exists and is not an empty folder")
    model = load_model(run)
    card = model_card(Path(run), model, to).encode()
    try:
        # Files are written beside the folder and moved when all are complete. An existing folder is kept: it
        # may be a mount point or a working directory.
        beside = folder if folder.exists() else folder.parent
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=".export-") as partial:
            checked = FORMATS[to](exported_part(model), Path(partial))
            write_bytes(Path(partial, "README.md"), card)
            folder.mkdir(exist_ok=True)
            for file in sorted(Path(partial).iterdir()):
                shutil.move(file, folder)
    except OSError as error:
        raise UserError(f"out '{out}': cannot be written: {error.strerror}") from None
    return ExportReport(folder, sorted(p.name for p in folder.iterdir()), checked)


def exported_part(model: Student | VideoClassifier) -> Encoder | VideoClassifier:
    """Return the exported part of a model: a student's encoder, or the whole classifier."""
    return model.encoder if isinstance(model, Student) else model


def to_transformers(model: Encoder | VideoClassifier, folder: Path) -> str:
    """Write a folder for ``from_pretrained``: weights, config and image processor.

    An encoder becomes a ``VideoMAEModel``, a classifier a ``VideoMAEForVideoClassification``. The latter
    computes its last norm with eps 1e-5 instead of 1e-6, so its scores differ slightly.

    Raises:
        UserError: separable positions, or frames that are not square.
    """
    classifies = isinstance(model, VideoClassifier)
    encoder = model.encoder_config
    config: dict[str, Any] = {
        "architectures": ["VideoMAEForVideoClassification" if classifies else "VideoMAEModel"],
        **to_transformers_config(encoder),
        "use_mean_pooling": classifies,
    }
    tensors = to_transformers_names(model.state_dict())
    if isinstance(model, VideoClassifier):
        names = model.config.class_names or [f"class {i}" for i in range(model.config.num_classes)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
        top = ("fc_norm.", "classifier.")
        tensors = {n if n.startswith(top) else f"videomae.{n}": t for n, t in tensors.items()}
    side = encoder.size_hw[0]
    processor = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", processor)
    # safetensors refuses tensors that share memory, as the parts of qkv do.
    own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    write_bytes(folder / "model.safetensors", safetensors.torch.save(own, {"format": "pt"}))
    generator = torch.Generator()
    back = (
        VideoClassifier(model.config, generator=generator)
        if isinstance(model, VideoClassifier)
        else Encoder(model.config, generator=generator)
    )
    load_student_weights(back, folder)
    clips = _example(model, 1)
    with torch.no_grad():
        worst = float((model(clips) - back.eval()(clips)).abs().max())
    return f"read back, largest difference {worst:.1e}"


def to_onnx(model: Encoder | VideoClassifier, folder: Path) -> str:
    """Write ``model.onnx``: normalised float32 clips ``[batch, T, 3, H, W]`` to tokens or scores.

    The file is run with onnxruntime and compared with the model.

    Raises:
        UserError: onnx, onnxscript or onnxruntime are not installed, or the outputs differ.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise UserError(f"format 'onnx': needs {error.name}; install smile-video[export]") from None
    path = folder / "model.onnx"
    output = "scores" if isinstance(model, VideoClassifier) else "tokens"
    torch.onnx.export(
        _OneConvolution(model).eval(), (_example(model, 2),), str(path), input_names=["clips"],
        output_names=[output], dynamic_shapes={"clips": {0: torch.export.Dim("batch", min=1)}},
        opset_version=OPSET, dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    clips = _example(model, 3)
    (found,) = session.run(None, {"clips": clips.numpy()})
    with torch.no_grad():
        worst = float(np.abs(found - model(clips).numpy()).max())
    if worst > ONNX_TOLERANCE:
        raise UserError(f"format 'onnx': onnxruntime's outputs differ by {worst:.1e}")
    return f"run by onnxruntime {onnxruntime.__version__}, largest difference {worst:.1e}"


class _OneConvolution(nn.Module):
    """The model with its patch embedding as one convolution, which keeps the batch size free in ONNX."""

    def __init__(self, model: Encoder | VideoClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        model = self.model
        x: Tensor = model.patch_embed.proj(clips.transpose(1, 2)).flatten(2).transpose(1, 2) + model.position
        for block in model.blocks:
            x = block(x)
        return model.forward_head(x)


FORMATS: dict[str, Callable[[Encoder | VideoClassifier, Path], str]] = {
    "transformers": to_transformers,
    "onnx": to_onnx,
}


def model_card(run: Path, model: Student | VideoClassifier, to: str) -> str:
    """Return a model card: architecture, training with licences, and scores.

    Scores come from ``*.json`` files of ``smile-train evaluate``, ``probe`` and ``finetune`` in the run's
    folder.
    """
    encoder = model.config.encoder
    folder = run if run.is_dir() else run.parent
    if run.suffix == ".pt":  # RUN/checkpoints/<steps>.pt
        folder = folder.parent
    if isinstance(model, VideoClassifier):
        title, rest = "classifier fine-tuned", f"It gives scores for {model.config.num_classes} classes."
    else:
        title, rest = "encoder pretrained", "The decoder is not included."
    lines = [
        "---",
        f"library_name: {to}",
        "tags: [video, self-supervised, videomae]",
        "---",
        f"# Video {title} with smile-video",
        "",
        f"A ViT with {encoder.depth} blocks, width {encoder.width} and {encoder.heads} heads. Input: "
        f"{encoder.num_frames} frames of {encoder.size_hw[0]}x{encoder.size_hw[1]}, normalised by ImageNet's "
        f"mean and standard deviation, in tokens of {encoder.tubelet_size}x{encoder.patch_size}x"
        f"{encoder.patch_size}. No class token; LayerNorm eps 1e-6; {encoder.positions} sine-cosine "
        f"positions. {rest}",
        "",
        "## Training",
        "",
        *(_finetuning_lines if isinstance(model, VideoClassifier) else _pretraining_lines)(folder),
        "",
        "## Scores",
        "",
        *_score_lines(folder),
    ]
    return "\n".join(lines) + "\n"


def _finetuning_lines(folder: Path) -> Iterator[str]:
    if not (folder / CONFIG).is_file():
        yield NO_CONFIG
        return
    config = FinetuneConfig.load(folder / CONFIG)
    videos = config.videos
    yield (
        f"- fine-tuning: {config.epochs:g} epochs in steps of {config.batch_size} clips on "
        f"{videos.train or videos.hmdb_splits}; seed {config.seed}; licences of the videos are not recorded"
    )
    yield f"- initial weights: {config.start_from or 'random'}"


def _pretraining_lines(folder: Path) -> Iterator[str]:
    if not (folder / CONFIG).is_file():
        yield NO_CONFIG
        return
    config = PretrainConfig.load(folder / CONFIG)
    stages = config.resolved_stages
    for number, stage in enumerate(stages, 1):
        names = ", ".join(_source_name(source) for source in stage.sources)
        yield (
            f"- stage {number}: {stage.steps} steps of {config.batch_size} clips from {names}; mask: "
            f"{stage.mask.summary}"
        )
    yield f"- seed {config.seed}; targets: {' and '.join(target.kind for target in config.targets)}"
    if any(target.kind == "teacher" for target in config.targets):
        weights = f", {config.teacher.pretrained}" if config.teacher.pretrained else ""
        yield f"- teacher: {config.teacher.model}{weights}"
    if config.start_from:
        yield f"- initial weights: {config.start_from}"
    sources = [source for stage in stages for source in stage.sources]
    for bank in dict.fromkeys(source.bank for source in sources if source.bank):
        yield _objects_line(bank)
    for images in dict.fromkeys(source.backgrounds for source in sources if source.backgrounds):
        yield f"- backgrounds: {Path(images).name}; licences are not recorded"
    for corpus in dict.fromkeys(source.corpus for source in sources if source.corpus):
        yield from _corpus_lines(corpus)


def _source_name(source: Any) -> str:
    return str(source.recipe or source.corpus or f"videos of {source.video.path}")


def _objects_line(bank: str) -> str:
    try:
        opened = ObjectBank.open(bank)
    except UserError:
        return f"- objects: {Path(bank).name}; the bank is missing, so their licences are unknown"
    licences = Counter(opened.info(i).licence or "unknown" for i in range(len(opened)))
    return f"- objects: {len(opened)}, licences: {_counts(dict(licences.most_common()))}"


def _corpus_lines(corpus: str) -> list[str]:
    name = Path(corpus).name
    try:
        licences = CorpusHeader.read(Path(corpus)).licences
    except UserError:
        return [f"- corpus {name}: is missing, so the licences of its sources are unknown"]
    return [f"- {what} of corpus {name}: {_counts(counts)}" for what, counts in licences.items()]


def _counts(licences: dict[str, int]) -> str:
    return ", ".join(f"{licence} ({count})" for licence, count in licences.items())


def _score_lines(folder: Path) -> list[str]:
    lines: list[str] = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"'{path}': cannot be read as JSON: {error}") from None
        content = content if isinstance(content, dict) else {}
        if isinstance(content.get("top1"), float):  # test.json of a fine-tuning
            lines.append(f"| {path.stem} | fine-tuning | classifier | {100 * content['top1']:.1f} | |")
        rows = content.get("rows")
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and {"features", "accuracy", "low", "high"} <= set(row):
                what = " ".join(str(row[key]) for key in ("task", "protocol") if row.get(key))
                score, low, high = (100 * float(row[key]) for key in ("accuracy", "low", "high"))
                lines.append(
                    f"| {path.stem} | {what} | {row['features']} | {score:.1f} | {low:.1f} .. {high:.1f} |"
                )
    if not lines:
        return ["No scores in the run's folder."]
    return ["| file | probe | features | accuracy % | 95 % interval |", "|---|---|---|---|---|", *lines]


def _example(model: Encoder | VideoClassifier, batch: int) -> Tensor:
    encoder = model.encoder_config
    shape = (batch, encoder.num_frames, 3, *encoder.size_hw)
    return torch.randn(shape, generator=torch.Generator().manual_seed(batch))


def _write_json(path: Path, content: object) -> None:
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())
