"""Encoders in the formats of other libraries, and back."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from smile_synth import ObjectBank
from smile_synth.core.errors import UserError, nearest
from smile_synth.corpus import CorpusHeader
from smile_synth.io.atomic import write_bytes
from smile_train.config import PretrainConfig
from smile_train.data.synthetic import IMAGENET_MEAN, IMAGENET_STD
from smile_train.models import Encoder, Student, StudentConfig
from smile_train.training.checkpoint import load_student

ONNX_TOLERANCE = 1e-3
OPSET = 18
OURS = "smile-video encoder"  # the architecture that a config.json of our own names
# Ours -> the names transformers' VideoMAE has on disk; the same in its releases 4 and 5.
_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_PATCH = "embeddings.patch_embeddings.projection"


@dataclass(frozen=True)
class ExportReport:
    """What `export_run` wrote.

    Attributes:
        folder: of the files.
        files: their names.
        checked: how it was read back; empty where there was nothing to read it back with.
    """

    folder: Path
    files: list[str]
    checked: str


def export_run(run: str | Path, out: str | Path, *, to: str) -> ExportReport:
    """Write a run's encoder in another library's format, with a model card.

    Args:
        run: a run's folder or its ``student.safetensors``.
        out: a new or empty folder.
        to: a name of `FORMATS`.

    Raises:
        UserError: no student there, unknown format, a folder in use, positions that the format has not.
    """
    if to not in FORMATS:
        raise UserError(f"format '{to}': there are {', '.join(FORMATS)}{nearest(to, FORMATS)}")
    student, folder = load_student(run), Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"out '{out}': exists and is not an empty folder")
    card = model_card(Path(run), student, to).encode()
    try:
        # Nothing stands in the folder before all of it is written and read back. One that is there stays the
        # one that it is: it may be where somebody works, or where a disk is mounted.
        beside = folder if folder.exists() else folder.parent
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=".export-") as partial:
            checked = FORMATS[to](student, Path(partial))
            write_bytes(Path(partial, "README.md"), card)
            folder.mkdir(exist_ok=True)
            for file in sorted(Path(partial).iterdir()):
                shutil.move(file, folder)
    except OSError as error:
        raise UserError(f"out '{out}': cannot be written: {error.strerror}") from None
    return ExportReport(folder, sorted(p.name for p in folder.iterdir()), checked)


def to_transformers(student: Student, folder: Path) -> str:
    """Write a folder that ``VideoMAEModel.from_pretrained`` reads: weights, config, image processor.

    Raises:
        UserError: separable positions; VideoMAE there has the joint table only.
    """
    form = student.config
    if form.positions != "joint":
        raise UserError("format 'transformers': its VideoMAE has joint positions, the student separable ones")
    if form.size_hw[0] != form.size_hw[1]:
        raise UserError(f"format 'transformers': takes square frames, the student {form.size_hw}")
    config = {
        "architectures": ["VideoMAEModel"],
        "model_type": "videomae",
        "image_size": form.size_hw[0],
        "patch_size": form.patch_size,
        "num_channels": 3,
        "num_frames": form.num_frames,
        "tubelet_size": form.tubelet_size,
        "hidden_size": form.width,
        "num_hidden_layers": form.depth,
        "num_attention_heads": form.heads,
        "intermediate_size": int(form.width * form.mlp_ratio),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_mean_pooling": False,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
    }
    processor = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": form.size_hw[0]},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": form.size_hw[0], "width": form.size_hw[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }
    tensors: dict[str, Tensor] = {}
    for name, tensor in student.encoder.state_dict().items():
        if name.startswith("patch_embed.proj."):
            tensors[name.replace("patch_embed.proj", _PATCH)] = tensor
        elif name.startswith("norm."):
            tensors["layernorm." + name.removeprefix("norm.")] = tensor
        else:
            _, number, inner = name.split(".", 2)
            layer = f"encoder.layer.{number}."
            if inner == "attn.qkv.weight":
                for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    tensors[f"{layer}attention.attention.{part}.weight"] = rows
            elif inner in ("attn.q_bias", "attn.v_bias"):
                tensors[f"{layer}attention.attention.{inner.removeprefix('attn.')}"] = tensor
            else:
                module, _, kind = inner.rpartition(".")
                tensors[f"{layer}{_BLOCK[module]}.{kind}"] = tensor
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", processor)
    # transformers refuses weights that do not say which framework wrote them
    _write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    back = from_transformers(folder)
    return f"read back by ourselves, largest difference {_difference(student, back):.1e}"


def from_transformers(folder: str | Path) -> Encoder:
    """Read the encoder of a transformers VideoMAE: its model, or that with a decoder or classifier on top.

    Its own library is not needed.

    Raises:
        UserError: another kind of model, missing files or tensors.
    """
    folder = Path(folder)
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "videomae":
        raise UserError(f"'{folder}': is a '{config.get('model_type')}', expected a VideoMAE of transformers")
    found = {n.removeprefix("videomae."): t for n, t in _read_weights(folder).items()}
    back = {new: old for old, new in _BLOCK.items()}
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if name.startswith(_PATCH):
            tensors["patch_embed.proj" + name.removeprefix(_PATCH)] = tensor
        elif match := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name):
            number, module, kind = match.groups()
            if module in back:
                tensors[f"blocks.{number}.{back[module]}.{kind}"] = tensor
            elif kind == "bias":  # how release 5 itself writes q_bias and v_bias
                letter = module.rpartition(".")[2][0]
                tensors[f"blocks.{number}.attn.{letter}_bias"] = tensor
        elif match := re.fullmatch(r"encoder\.layer\.(\d+)\.attention\.attention\.([qv])_bias", name):
            tensors[f"blocks.{match[1]}.attn.{match[2]}_bias"] = tensor
        elif name.startswith(("layernorm.", "fc_norm.")):
            tensors["norm." + name.rpartition(".")[2]] = tensor
    form = _form(folder, config)
    for k in range(form.depth):
        parts = [f"encoder.layer.{k}.attention.attention.{p}.weight" for p in ("query", "key", "value")]
        if all(part in found for part in parts):
            tensors[f"blocks.{k}.attn.qkv.weight"] = torch.cat([found[part] for part in parts])
    encoder = Encoder(form, generator=torch.Generator().manual_seed(0))
    if not any(name.startswith("norm.") for name in tensors):
        # The pretraining model of transformers keeps the encoder without its last norm, when it pools.
        raise UserError(f"'{folder}': has no norm after the encoder")
    _load(encoder, tensors, str(folder))
    return encoder.eval()


def to_timm(student: Student, folder: Path) -> str:
    """Write ``model.safetensors`` with timm's VisionTransformer names, and ``config.json``.

    ``attn.qkv.bias`` is (q, 0, v), ``pos_embed`` the fixed table, ``patch_embed.proj.weight`` has five
    dimensions: a VisionTransformer without class token whose ``embed_layer`` is a Conv3d takes it as it is.
    """
    tensors = dict(student.encoder.state_dict())
    for k in range(student.config.depth):
        q, v = (tensors.pop(f"blocks.{k}.attn.{letter}_bias") for letter in "qv")
        tensors[f"blocks.{k}.attn.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    tensors["pos_embed"] = student.encoder.position[None]
    _write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    _write_json(
        folder / "config.json", {"architecture": "vision_transformer", "student": asdict(student.config)}
    )
    back = from_timm(folder)
    return f"read back by ourselves, largest difference {_difference(student, back):.1e}"


def from_timm(folder: str | Path) -> Encoder:
    """Read back what `to_timm` wrote.

    Raises:
        UserError: no such files, or tensors that do not fit their config.
    """
    folder = Path(folder)
    form = _student_form(_read_json(folder / "config.json"), folder)
    tensors = _read_weights(folder)
    tensors.pop("pos_embed", None)
    for k in range(form.depth):
        bias = tensors.pop(f"blocks.{k}.attn.qkv.bias", None)
        if bias is not None:
            q, _, v = bias.clone().chunk(3)
            tensors |= {f"blocks.{k}.attn.q_bias": q, f"blocks.{k}.attn.v_bias": v}
    encoder = Encoder(form, generator=torch.Generator().manual_seed(0))
    _load(encoder, tensors, str(folder))
    return encoder.eval()


def to_safetensors(student: Student, folder: Path) -> str:
    """Write the encoder alone, under our names, its form in ``config.json``."""
    _write_tensors(folder / "model.safetensors", dict(student.encoder.state_dict()), {"format": "pt"})
    _write_json(folder / "config.json", {"architecture": OURS, "student": asdict(student.config)})
    back = from_safetensors(folder)
    return f"read back by ourselves, largest difference {_difference(student, back):.1e}"


def from_safetensors(folder: str | Path) -> Encoder:
    """Read back what `to_safetensors` wrote; errors as `from_timm`."""
    folder = Path(folder)
    form = _student_form(_read_json(folder / "config.json"), folder)
    encoder = Encoder(form, generator=torch.Generator().manual_seed(0))
    _load(encoder, _read_weights(folder), str(folder))
    return encoder.eval()


def from_folder(folder: str | Path) -> Encoder | None:
    """Read the encoder of a folder that `export_run` wrote, or of a VideoMAE of transformers.

    Returns None where its ``config.json`` is another model's.

    Raises:
        UserError: missing files, or tensors that do not fit.
    """
    config = _read_json(Path(folder) / "config.json")
    if not isinstance(config, dict):
        return None
    if config.get("model_type") == "videomae":
        return from_transformers(folder)
    if "student" not in config:
        return None
    return (from_safetensors if config.get("architecture") == OURS else from_timm)(folder)


def to_onnx(student: Student, folder: Path) -> str:
    """Write ``model.onnx``: normalised float32 clips ``[batch, T, 3, H, W]`` to tokens ``[batch, N, width]``.

    It is run with onnxruntime and held against the encoder.

    Raises:
        UserError: onnx, onnxscript or onnxruntime are not installed, or the outputs differ.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise UserError(f"format 'onnx': needs {error.name}; install smile-video[export]") from None
    clips = _example(student.config, 2)
    path = folder / "model.onnx"
    # verbose tells of its progress on the terminal
    torch.onnx.export(
        _Plain(student.encoder).eval(), (clips,), str(path), input_names=["clips"], output_names=["tokens"],
        dynamic_shapes={"clips": {0: torch.export.Dim("batch", min=1)}}, opset_version=OPSET, dynamo=True,
        external_data=False, verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    other = _example(student.config, 3)
    (tokens,) = session.run(None, {"clips": other.numpy()})
    with torch.no_grad():
        worst = float(np.abs(tokens - student.encoder(other).numpy()).max())
    if worst > ONNX_TOLERANCE:
        raise UserError(f"format 'onnx': onnxruntime's outputs differ by {worst:.1e}")
    return f"run by onnxruntime {onnxruntime.__version__}, largest difference {worst:.1e}"


class _Plain(nn.Module):
    """An encoder of all tokens, its patch embedding as one convolution, which leaves the batch free."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, clips: Tensor) -> Tensor:
        encoder = self.encoder
        patches: Tensor = nn.Conv3d.forward(encoder.patch_embed.proj, clips.transpose(1, 2))
        x = patches.flatten(2).transpose(1, 2) + encoder.position
        for block in encoder.blocks:
            x = block(x)
        out: Tensor = encoder.norm(x)
        return out


FORMATS: dict[str, Callable[[Student, Path], str]] = {
    "transformers": to_transformers,
    "timm": to_timm,
    "safetensors": to_safetensors,
    "onnx": to_onnx,
}


def model_card(run: Path, student: Student, to: str) -> str:
    """Return a model card: form, what it was trained on with licences, and scores.

    Scores are those of ``*.json`` files that ``smile-train evaluate`` or ``probe`` wrote into the run.
    """
    form, folder = student.config, run if run.is_dir() else run.parent
    if run.suffix == ".pt":  # one of a run's checkpoints
        folder = folder.parent
    lines = [
        "---",
        "library_name: " + {"transformers": "transformers", "timm": "timm"}.get(to, to),
        "tags: [video, self-supervised, videomae]",
        "---",
        "# Video encoder pretrained with smile-video",
        "",
        f"A ViT of {form.depth} blocks, {form.width} wide, {form.heads} heads; it reads {form.num_frames} "
        f"frames of {form.size_hw[0]}x{form.size_hw[1]} in tokens of {form.tubelet_size}x{form.patch_size}x"
        f"{form.patch_size}, normalised by ImageNet's mean and standard deviation. No class token; LayerNorm "
        f"eps 1e-6; {form.positions} sine-cosine positions. The decoder is not in this file.",
        "",
        "## Pretraining",
        "",
        *_training_lines(folder),
        "",
        "## Scores",
        "",
        *_score_lines(folder),
    ]
    return "\n".join(lines) + "\n"


def _training_lines(folder: Path) -> list[str]:
    path = folder / "config.yaml"
    if not path.is_file():
        return ["The run's config was not beside the weights."]
    config = PretrainConfig.load(path)
    lines = []
    for number, stage in enumerate(config.stages, 1):
        names = ", ".join(str(source.recipe or source.corpus) for source in stage.sources)
        lines.append(
            f"- stage {number}: {stage.steps} steps of {config.batch_size} clips from {names}; mask: "
            f"{stage.mask.kind}, ratio {stage.mask.ratio}"
        )
    lines.append(f"- seed {config.seed}; targets: {' and '.join(h.kind for h in config.target.heads)}")
    if any(head.kind == "teacher" for head in config.target.heads):
        teacher = config.teacher
        lines.append(
            f"- teacher: {teacher.model}" + (f", {teacher.pretrained}" if teacher.pretrained else "")
        )
    if config.start_from:
        lines.append(f"- began with the weights of {config.start_from}")
    sources = [source for stage in config.stages for source in stage.sources]
    for bank in dict.fromkeys(source.bank for source in sources if source.bank):
        lines.append(_objects_line(bank))
    for images in dict.fromkeys(source.backgrounds for source in sources if source.backgrounds):
        lines.append(f"- backgrounds: {Path(images).name}; licences are not recorded")
    for corpus in dict.fromkeys(source.corpus for source in sources if source.corpus):
        lines += _corpus_lines(corpus)
    return lines


def _objects_line(bank: str) -> str:
    try:
        opened = ObjectBank.open(bank)
    except UserError:
        return f"- objects: {Path(bank).name}; the bank is not here, their licences are not known"
    licences = Counter(opened.info(i).licence or "unknown" for i in range(len(opened)))
    return f"- objects: {len(opened)}, licences: {_counts(dict(licences.most_common()))}"


def _corpus_lines(corpus: str) -> list[str]:
    name = Path(corpus).name
    try:
        licences = CorpusHeader.read(Path(corpus)).licences
    except UserError:
        return [f"- corpus {name}: is not here, the licences of its sources are not known"]
    return [f"- {what} of corpus {name}: {_counts(counts)}" for what, counts in licences.items()]


def _counts(licences: dict[str, int]) -> str:
    return ", ".join(f"{licence} ({count})" for licence, count in licences.items())


def _score_lines(folder: Path) -> list[str]:
    lines: list[str] = []
    for path in sorted(folder.glob("*.json")):
        content = _read_json(path)
        rows = content.get("rows") if isinstance(content, dict) else None
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and {"features", "accuracy", "low", "high"} <= set(row):
                what = " ".join(str(row[key]) for key in ("task", "protocol") if row.get(key))
                score, low, high = (100 * float(row[key]) for key in ("accuracy", "low", "high"))
                lines.append(
                    f"| {path.stem} | {what} | {row['features']} | {score:.1f} | {low:.1f} .. {high:.1f} |"
                )
    if not lines:
        return ["None stand in the run's folder."]
    return ["| file | probe | features | accuracy % | 95 % interval |", "|---|---|---|---|---|", *lines]


def _form(folder: Path, config: dict[str, Any]) -> StudentConfig:
    try:
        side = int(config["image_size"])
        return StudentConfig(
            width=config["hidden_size"], depth=config["num_hidden_layers"],
            heads=config["num_attention_heads"], num_frames=config["num_frames"], size_hw=(side, side),
            patch_size=config["patch_size"], tubelet_size=config["tubelet_size"],
            decoder_width=8, decoder_depth=1, decoder_heads=1, target_dim=1,
            mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{folder / 'config.json'}': not the config of a VideoMAE: {error}") from None


def _student_form(config: dict[str, Any], folder: Path) -> StudentConfig:
    try:
        fields = dict(config["student"])
        return StudentConfig(**{**fields, "size_hw": tuple(fields["size_hw"])})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{folder / 'config.json'}': does not describe a student: {error}") from None


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"'{folder}': holds no model.safetensors")
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"'{path}': not a safetensors file: {error}") from None


def _load(encoder: Encoder, tensors: dict[str, Tensor], where: str) -> None:
    wanted = encoder.state_dict()
    wrong = [
        n
        for n in {**wanted, **tensors}
        if n not in wanted or n not in tensors or wanted[n].shape != tensors[n].shape
    ]
    if wrong:
        raise UserError(
            f"'{where}': {len(wrong)} tensors are missing or do not fit: {', '.join(sorted(wrong)[:3])}"
        )
    encoder.load_state_dict(tensors)


def _example(form: StudentConfig, batch: int) -> Tensor:
    shape = (batch, form.num_frames, 3, *form.size_hw)
    return torch.randn(shape, generator=torch.Generator().manual_seed(batch))


@torch.no_grad()
def _difference(student: Student, other: Encoder) -> float:
    clips = _example(student.config, 1)
    return float((student.encoder(clips) - other(clips)).abs().max())


def _write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    # chunks of one tensor share its memory, which safetensors refuses
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(own, metadata))


def _write_json(path: Path, content: object) -> None:
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}': cannot be read as JSON: {error}") from None
