"""Tensors in checkpoint files of any origin: reading, names and checks."""

from __future__ import annotations

import argparse
import importlib
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from smile_synth.core.errors import UserError

# Keys under which checkpoints keep their weights beside other values.
CONTAINERS = (
    "model", "module", "state_dict", "model_state", "model_state_dict", "teacher", "model_ema", "ema",
    "state_dict_ema", "ema_state_dict", "student", "network", "net", "params", "weights", "state",
    "target_encoder", "encoder",
)  # fmt: skip
INDEX = ".index.json"  # end of the name of a file that says which file of a model in parts has a tensor
_SHOWN_MISFITS = 3
# Parts of names that DDP, torch.compile, FSDP and activation checkpointing add.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file, or of a pickle that holds plain values only.

    Plain values include NumPy's scalars and arrays. A file ``*.index.json`` names the files of a model in
    parts. Values beside the tensors are left out.

    Raises:
        UserError: the file is missing or damaged, needs code to be read, or holds no table of tensors at the
            top or under one of `CONTAINERS`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    if path.name.endswith(INDEX):
        return _read_parts(path)
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path)
        else:
            # Published checkpoints contain the Namespace of their command line, which holds plain values.
            with torch.serialization.safe_globals([argparse.Namespace, *_numpy_classes()]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises errors of any type
        reason = why_unreadable(error)
        raise UserError(f"{path}: not a checkpoint of plain tensors: {reason}") from error
    tensors = _table(content)
    if not tensors:
        names = "' or '".join(CONTAINERS)
        raise UserError(f"{path}: no table of tensors at the top or under '{names}'")
    return tensors


def _table(content: object) -> dict[str, Tensor]:
    """Return the tensors under the first of `CONTAINERS` that holds any, else those at the top."""
    if not isinstance(content, dict):
        return {}
    for name in CONTAINERS:
        found = _table(content.get(name))
        if found:
            return found
    arrays = {name: value for name, value in content.items() if isinstance(value, Tensor | np.ndarray)}
    return {str(name): torch.as_tensor(value).detach() for name, value in arrays.items()}


def _read_parts(index: Path) -> dict[str, Tensor]:
    """Return the tensors of all files that an index names."""
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: no index of a model in parts: {error!r}") from None
    return {name: tensor for file in files for name, tensor in read_tensors(index.parent / file).items()}


def _numpy_classes() -> list[Any]:
    """Return what pickles of NumPy's scalars and arrays refer to, by the names of all releases."""
    functions = importlib.import_module("numpy._core.multiarray")
    named = [
        (getattr(functions, name), f"numpy.{folder}.multiarray.{name}")
        for folder in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ]
    return [np.dtype, np.ndarray, *(getattr(np.dtypes, name) for name in np.dtypes.__all__), *named]


def why_unreadable(error: Exception) -> str:
    """Return the reason in one line why a file of weights could not be read."""
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's text advises to run the code in the file
        return "damaged, or it holds more than plain values; code in files is not run"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the parts of names that DDP, FSDP and torch.compile add."""
    return {".".join(p for p in name.split(".") if p not in _WRAPPERS): t for name, t in tensors.items()}


def without_prefix(tensors: Mapping[str, Tensor], expected: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors below a prefix of their names, such as ``backbone.``, without it.

    The prefix with the most of the expected names is chosen. Among equal ones none is preferred, then that
    of a teacher; that of a momentum encoder comes last. Tensors outside of the prefix are left out.
    """
    prefixes = {
        name.removesuffix(end)
        for end in expected[:4]
        for name in tensors
        if name == end or name.endswith(f".{end}")
    }

    def preference(prefix: str) -> tuple[int, bool, bool, bool]:
        hits = sum(prefix + name in tensors for name in expected)
        return hits, not prefix, "teacher" in prefix, "momentum" not in prefix

    best = max(sorted({"", *prefixes}), key=preference)
    return {name.removeprefix(best): t for name, t in tensors.items() if name.startswith(best)}


def check_fit(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare names and shapes of a file's tensors with those of a model, and check that values are finite.

    Raises:
        UserError: they differ; the line names the first few. Or values are NaN or infinite.
    """

    def shape(tensors: Mapping[str, Tensor], name: str) -> str:
        return str(list(tensors[name].shape)) if name in tensors else "nothing"

    names = [*expected, *(name for name in found if name not in expected)]
    lines = [
        f"{name} (file {shape(found, name)}, model {shape(expected, name)})"
        for name in names
        if shape(found, name) != shape(expected, name)
    ]
    if lines:
        more = f" and {len(lines) - _SHOWN_MISFITS} more" if len(lines) > _SHOWN_MISFITS else ""
        count = f"{len(lines)} tensors do" if len(lines) > 1 else "1 tensor does"
        shown = ", ".join(lines[:_SHOWN_MISFITS])
        raise UserError(f"{path}: {count} not fit the model: {shown}{more}")
    check_finite(f"{path}", found)


def check_finite(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Check that weights are finite.

    Raises:
        UserError: tensors hold NaN or infinite values, as after a training that diverged.
    """
    broken = [n for n, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if broken:
        raise UserError(
            f"{name}: {len(broken)} of {len(tensors)} tensors hold NaN or infinite values, the first is "
            f"{broken[0]}; its training diverged"
        )
