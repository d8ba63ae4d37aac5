"""A teacher's tokens on disk, for clips that are looked at more than once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from smile_synth.core.errors import UserError

TOKENS = "tokens"


class TokenCache:
    """Keeps one file per clip, found by the digest of its frames under the digest of its teacher.

    It pays where clips come back unchanged (a written corpus, no random crops) and the teacher costs more
    than reading a file. Several processes may share a folder: files appear whole.
    """

    def __init__(self, folder: str | Path, teacher_digest: str) -> None:
        """Use ``folder``, which is made when the first tokens are kept."""
        self.folder = Path(folder) / teacher_digest[:16]

    def __call__(self, frames: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the tokens ``[B, N, C]`` of uint8 clips ``[B, T, 3, H, W]``.

        ``compute`` makes those that it lacks, from clips of the same form.

        Raises:
            UserError: a file of the cache is damaged, or the folder cannot be written.
        """
        paths = [self._path(clip) for clip in frames.cpu()]
        missing = [i for i, path in enumerate(paths) if not path.is_file()]
        kept: dict[int, Tensor] = {}
        if missing:
            made = compute(frames[torch.tensor(missing, device=frames.device)])
            kept = dict(zip(missing, made, strict=True))
            for i in missing:
                _write(paths[i], kept[i])
        tokens = [kept[i] if i in kept else _read(path).to(frames.device) for i, path in enumerate(paths)]
        return torch.stack(tokens)

    def _path(self, clip: Tensor) -> Path:
        digest = hashlib.sha256(clip.contiguous().numpy().tobytes()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"


def _read(path: Path) -> Tensor:
    try:
        return safetensors.torch.load_file(path)[TOKENS]
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise UserError(f"teacher.cache: '{path}' is damaged: {error}; delete it") from None


def _write(path: Path, tokens: Tensor) -> None:
    partial = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file({TOKENS: tokens.cpu().contiguous()}, partial)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"teacher.cache: '{path.parent}' cannot be written: {error.strerror}") from None
