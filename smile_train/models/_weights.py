"""Files of weights: save and load our models, read published checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_synth.io.resources import shipped
from smile_train.models._classifier import VideoClassifier
from smile_train.models._config import STUDENT_SIZES, ClassifierConfig, EncoderConfig, Size, StudentConfig
from smile_train.models._encoder import Encoder
from smile_train.models._student import Student
from smile_train.models._tensors import INDEX, check_fit, read_tensors, without_prefix, without_wrappers
from smile_train.models._transformers import from_transformers_config, from_transformers_names

# Files in a run's folder.
STUDENT = "student.safetensors"
STUDENT_AVERAGE = "student_ema.safetensors"
STUDENT_BEST = "student_best.safetensors"
STUDENT_BEST_PROBE = "student_best_probe.safetensors"
CLASSIFIER = "classifier.safetensors"
CLASSIFIER_BEST = "classifier_best.safetensors"
CLASSIFIER_AVERAGE = "classifier_ema.safetensors"
CHECKPOINTS = "checkpoints"
SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pyth", ".tar", ".pkl")
_PATCH_EMBED = "patch_embed.proj.weight"
# Published encoders with other than 64 channels per head: ViT-g and ViT-G of VideoMAE V2.
_HEADS_OF_WIDTH = {1408: 16, 1664: 16}
# Other model families by a part of a tensor's name.
_FAMILIES = {
    "videomae.": "transformers VideoMAE",
    "visual.": "CLIP",
    "vision_model.": "transformers image-text model",
    "temporal_attn": "TimeSformer",
    "time_embed": "TimeSformer",
    "timesformer.": "transformers TimeSformer",
    "vivit.": "transformers ViViT",
    "pathway0_": "SlowFast",
    "relative_position_bias_table": "Swin",
    "rel_pos_h": "MViT",
    "predictor_blocks.": "V-JEPA predictor",
    "layer1.0.conv1.": "ResNet",
}

Config = StudentConfig | ClassifierConfig


def find_encoder(source: str | Path) -> Path:
    """Return the folder of an encoder that ships with the project, for its name; else the given path."""
    path = Path(source)
    folder = shipped("assets") / "encoders" / path
    return folder if len(path.parts) == 1 and not path.exists() and folder.is_dir() else path


# --- our own files ---


def save_model(
    path: str | Path,
    model: Student | VideoClassifier,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    steps: int | None = None,
) -> None:
    """Write a model as safetensors, with its kind and configuration as JSON in the metadata.

    Args:
        path: the file. It appears whole or not at all.
        model: a student or a classifier.
        tensors: other weights of the model, e.g. averaged ones; by default its own.
        steps: training steps of the weights, for `steps_of`.
    """
    tensors = model.state_dict() if tensors is None else tensors
    kind = "student" if isinstance(model, Student) else "classifier"
    metadata = {"kind": kind, "config": json.dumps(asdict(model.config))}
    metadata |= {} if steps is None else {"steps": str(steps)}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(Path(path), safetensors.torch.save(contiguous, metadata=metadata))


def load_model(path: str | Path) -> Student | VideoClassifier:
    """Load a model in evaluation mode.

    Args:
        path: the name of a shipped encoder; a file of `save_model`; a run's folder (its best student by
            probe, else its last student, else its best, else its last classifier); or a checkpoint
            ``RUN/checkpoints/<steps>.pt``, with the configuration of the run's model.

    Raises:
        UserError: no such file, or a file that smile-train did not write.
    """
    file, tensors, config = _read(path)
    if config is None:
        raise UserError(
            f"checkpoint '{file}': has no model configuration; expected a file that smile-train wrote"
        )
    generator = torch.Generator()  # its values are overwritten
    model: Student | VideoClassifier = (
        Student(config, generator=generator)
        if isinstance(config, StudentConfig)
        else VideoClassifier(config, generator=generator)
    )
    check_fit(file, tensors, model.state_dict())
    model.load_state_dict(tensors)
    return model.eval()


def load_student(path: str | Path) -> Student:
    """Load a student as `load_model`.

    Raises:
        UserError: as `load_model`, or the file holds a classifier.
    """
    model = load_model(path)
    if not isinstance(model, Student):
        raise UserError(f"checkpoint '{path}': holds a fine-tuned classifier, expected a pretrained student")
    return model


def steps_of(path: str | Path) -> int | None:
    """Return the number of training steps of a run's folder, model file or checkpoint; None if unknown."""
    given = Path(path)
    if given.suffix == ".pt":
        return int(given.stem) if given.stem.isdecimal() else None
    with suppress(UserError):
        stored = _metadata_of(_file_in(given)).get("steps")
        if stored is not None:
            return int(stored)
    folder = given if given.is_dir() else given.parent
    steps = [int(file.stem) for file in (folder / CHECKPOINTS).glob("*.pt") if file.stem.isdecimal()]
    return max(steps, default=None)


def _read(path: str | Path) -> tuple[Path, dict[str, Tensor], Config | None]:
    """Return a checkpoint's file and tensors, and the configuration of its model if it was written here."""
    file = _file_in(find_encoder(path))
    in_run = file.suffix == ".pt" and file.parent.name == CHECKPOINTS
    tensors = read_tensors(file)
    return file, tensors, _config_of(_file_in(file.parent.parent) if in_run else file)


def _file_in(path: Path) -> Path:
    """Return the model file of a run's folder; paths of files unchanged."""
    if path.is_file() or path.suffix in SUFFIXES:
        return path
    names = (STUDENT_BEST_PROBE, STUDENT, CLASSIFIER_BEST, CLASSIFIER)
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        raise UserError(f"checkpoint '{path}': no {STUDENT} there")
    return found[0]


def _metadata_of(file: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty for other and for missing files."""
    if file.suffix != ".safetensors" or not file.is_file():
        return {}
    with safetensors.safe_open(file, "pt") as opened:
        return dict(opened.metadata() or {})


def _config_of(file: Path) -> Config | None:
    """Return the configuration in the metadata of a file of `save_model`; None for other files."""
    metadata = _metadata_of(file)
    if "kind" not in metadata:
        return None
    loaded = json.loads(metadata["config"])
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in loaded.items()}
    size_hw = tuple(loaded["encoder"]["size_hw"])
    fields["encoder"] = EncoderConfig(**{**loaded["encoder"], "size_hw": size_hw})
    return StudentConfig(**fields) if metadata["kind"] == "student" else ClassifierConfig(**fields)


# --- weights from any source ---


@dataclass(frozen=True)
class Weights:
    """Tensors of a checkpoint under the published names.

    Attributes:
        path: the file.
        kind: "pretraining" (``encoder.*`` and a decoder), "fine-tuning" (``fc_norm``, ``head``), "encoder"
            (``norm``), or the name of another model family.
        tensors: by name.
        config: of the encoder, if the file or its folder says it.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    config: EncoderConfig | None


def read_weights(source: str | Path) -> Weights:
    """Read the weights of a student, encoder or classifier.

    Args:
        source: the name of a shipped encoder; a run's folder; a folder of a transformers VideoMAE; a
            ``.safetensors`` file; or a pickle of plain tensors, with the weights at the top or under a key of
            `CONTAINERS` in `_tensors.py`, as published. Names may have a prefix, such as ``module.`` or
            ``backbone.``.

    Raises:
        UserError: the file is missing or unreadable.
    """
    path = find_encoder(source)
    if (path / "config.json").is_file():
        return _read_transformers(path)
    file, tensors, config = _read(path)
    if config is None:
        tensors = _published_names(tensors)
    kind = kind_of(tensors)
    if kind == "transformers VideoMAE" and (file.parent / "config.json").is_file():
        return _read_transformers(file.parent)
    return Weights(file, kind, tensors, config.encoder if config else None)


def _published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a VideoMAE under the published names; other models nearly unchanged."""
    tensors = without_wrappers(tensors)
    encoder = "encoder."
    is_pretraining = any(name.startswith("decoder.") or ".decoder." in name for name in tensors)
    if is_pretraining and any(name.endswith(f"{encoder}{_PATCH_EMBED}") for name in tensors):
        return without_prefix(tensors, [f"{encoder}{_PATCH_EMBED}"])
    return without_prefix(tensors, [_PATCH_EMBED])


def load_student_weights(model: Student | Encoder | VideoClassifier, source: str | Path) -> None:
    """Load the weights of a source of `read_weights` into a model.

    A `Student` needs a pretraining checkpoint. An `Encoder` takes every kind; from a fine-tuning checkpoint
    its norm is ``fc_norm``. A `VideoClassifier` takes every kind; ``fc_norm`` and ``head`` keep their
    initial values unless the checkpoint is a fine-tuning checkpoint.

    Raises:
        UserError: the source is missing, unreadable or of another kind, or its tensors do not fit the model.
    """
    weights = read_weights(source)
    allowed = ("pretraining",) if isinstance(model, Student) else ("pretraining", "fine-tuning", "encoder")
    if weights.kind not in allowed:
        kinds = " or ".join(allowed[:2])
        raise UserError(
            f"{weights.path}: holds a {weights.kind} checkpoint; {type(model).__name__} needs a {kinds} one"
        )
    found, expected = weights.tensors, model.state_dict()
    if not isinstance(model, Student):
        found = _encoder_tensors(weights)
    if isinstance(model, Encoder):
        found = {n.replace("fc_norm.", "norm."): v for n, v in found.items() if not n.startswith("head.")}
    elif isinstance(model, VideoClassifier) and weights.kind != "fine-tuning":
        # The pretraining norm acts on each token. Fine-tuning replaces it by a norm of the mean token.
        found = {n: v for n, v in found.items() if not n.startswith(("norm.", "head."))}
        expected = {n: v for n, v in expected.items() if not n.startswith(("fc_norm.", "head."))}
    check_fit(weights.path, found, expected)
    model.load_state_dict(found, strict=False)


def build_encoder(
    source: str | Path, *, num_frames: int | None = None, size_hw: Size | None = None
) -> Encoder:
    """Build an encoder in evaluation mode from a source of `read_weights`.

    Args:
        source: the weights.
        num_frames, size_hw: of the clips, if the source does not say them; 16 and (224, 224) by default.

    Raises:
        UserError: as `load_student_weights`, or no shape of an encoder can be read from the tensors.
    """
    config = _encoder_config(read_weights(source), num_frames or 16, size_hw or (224, 224))
    encoder = Encoder(config, generator=torch.Generator())
    load_student_weights(encoder, source)
    return encoder.eval()


def build_classifier(
    source: str | Path,
    *,
    num_classes: int,
    generator: torch.Generator,
    class_names: tuple[str, ...] = (),
    head_init_scale: float = 1e-3,
    **encoder_fields: Any,
) -> VideoClassifier:
    """Build a classifier for fine-tuning, with the encoder of a source of `read_weights` and a new head.

    Args:
        source: the weights.
        num_classes, class_names, head_init_scale: see `ClassifierConfig`.
        generator: CPU generator of the head's initial weights.
        encoder_fields: attributes of `EncoderConfig` to change, e.g. ``drop_path``.

    Raises:
        UserError: as `build_encoder`.
        ValueError: as `ClassifierConfig`.
    """
    weights = read_weights(source)
    given = {name: encoder_fields.get(name) for name in ("num_frames", "size_hw")}
    config = _encoder_config(weights, given["num_frames"] or 16, given["size_hw"] or (224, 224))
    model = VideoClassifier(
        ClassifierConfig(
            encoder=replace(config, **encoder_fields), num_classes=num_classes,
            head_init_scale=head_init_scale, class_names=class_names,
        ),
        generator=generator,
    )  # fmt: skip
    names = ("patch_embed.", "blocks.")
    found = {n: v for n, v in _encoder_tensors(weights).items() if n.startswith(names)}
    check_fit(weights.path, found, {n: v for n, v in model.state_dict().items() if n.startswith(names)})
    model.load_state_dict(found, strict=False)
    return model


def _encoder_tensors(weights: Weights) -> dict[str, Tensor]:
    """Return the tensors without the prefix and the decoder of a pretraining checkpoint."""
    if weights.kind != "pretraining":
        return weights.tensors
    prefix = "encoder."
    return {n.removeprefix(prefix): v for n, v in weights.tensors.items() if n.startswith(prefix)}


def _encoder_config(weights: Weights, num_frames: int, size_hw: Size) -> EncoderConfig:
    """Return the encoder's configuration, from the file or from the shapes of its tensors."""
    if weights.config is not None:
        return weights.config
    tensors = _encoder_tensors(weights)
    kernel = list(tensors["patch_embed.proj.weight"].shape) if "patch_embed.proj.weight" in tensors else []
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    if len(kernel) != 5 or not depth:
        raise UserError(
            f"checkpoint '{weights.path}': holds no video encoder (no patch_embed.proj of five dimensions "
            f"and blocks); it is a {weights.kind} checkpoint"
        )
    width, _, tubelet_size, patch_size, _ = kernel
    # Heads leave no trace in the tensors: take those of a known width, else the published 64 channels each.
    known = {size.width: size.heads for size in STUDENT_SIZES.values()} | _HEADS_OF_WIDTH
    try:
        return EncoderConfig(
            width=width, depth=depth, heads=known.get(width, max(width // 64, 1)), num_frames=num_frames,
            size_hw=size_hw, patch_size=patch_size, tubelet_size=tubelet_size,
            mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        )  # fmt: skip
    except (ValueError, KeyError) as error:
        raise UserError(f"checkpoint '{weights.path}': {error}") from None


def _read_transformers(folder: Path) -> Weights:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}': cannot be read as JSON: {error}") from None
    if not isinstance(config, dict) or config.get("model_type") != "videomae":
        kind = config.get("model_type") if isinstance(config, dict) else None
        raise UserError(f"'{folder}': is a '{kind}', expected a VideoMAE of transformers")
    names = [name + end for name in ("model.safetensors", "pytorch_model.bin") for end in ("", INDEX)]
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        raise UserError(f"'{folder}': expected one of {', '.join(names)} beside config.json, found none")
    tensors = from_transformers_names(without_wrappers(read_tensors(files[0])))
    # VideoMAEForPreTraining has no norm after the encoder if its config sets use_mean_pooling, the default.
    has_norm = "norm.weight" in tensors or "fc_norm.weight" in tensors
    encoder = replace(from_transformers_config(path, config), final_norm=has_norm)
    return Weights(files[0], kind_of(tensors), tensors, encoder)


def kind_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the kind of a checkpoint by its names: one of `Weights`, or another model family."""
    if f"encoder.{_PATCH_EMBED}" in tensors:
        return "pretraining"
    is_video = _PATCH_EMBED in tensors and tensors[_PATCH_EMBED].ndim == 5
    if is_video and "blocks.0.attn.qkv.bias" in tensors:
        return "video ViT with key biases (as of V-JEPA)"
    if "cls_token" in tensors or "pos_embed" in tensors:
        return "plain ViT"
    if _PATCH_EMBED in tensors and "blocks.0.attn.q_bias" in tensors:
        return "fine-tuning" if "fc_norm.weight" in tensors else "encoder"
    named = [kind for part, kind in _FAMILIES.items() if any(f".{part}" in f".{name}" for name in tensors)]
    return named[0] if named else "non-VideoMAE"
