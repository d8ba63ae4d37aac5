"""A folder of pictures as background textures."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from smile_synth.errors import UserError
from smile_synth.texture import Texture

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class ImageFolder:
    """Pictures of a folder, decoded when asked for and kept up to a memory bound.

    Attributes:
        path: the folder.
        files: the pictures, sorted by relative path.
        sizes_hw: their sizes after EXIF rotation.
        digest: sha256 over names and contents.
        unreadable: files that are no readable picture, with the reason.
    """

    def __init__(self, path: str | Path, *, cache_bytes: int = 256 * 2**20) -> None:
        """Index the folder, subfolders included.

        Raises:
            UserError: the folder is missing or holds no readable picture.
        """
        self.path = Path(path)
        if not self.path.is_dir():
            raise UserError(f"backgrounds '{path}': no such folder")
        self.files: list[Path] = []
        self.sizes_hw: list[tuple[int, int]] = []
        self.unreadable: list[tuple[Path, str]] = []
        digest = hashlib.sha256()
        for file in sorted(p for p in self.path.rglob("*") if p.suffix.lower() in SUFFIXES):
            try:
                with Image.open(file) as image:
                    width, height = ImageOps.exif_transpose(image).size
                content = hashlib.sha256(file.read_bytes()).hexdigest()
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                self.unreadable.append((file, str(error)))
                continue
            self.files.append(file)
            self.sizes_hw.append((height, width))
            digest.update(f"{file.relative_to(self.path).as_posix()}\0{content}\n".encode())
        if not self.files:
            found = f"{len(self.unreadable)} unreadable ones" if self.unreadable else "none"
            raise UserError(f"backgrounds '{path}': expected pictures ({', '.join(SUFFIXES)}), found {found}")
        self.digest = digest.hexdigest()
        self._cache: OrderedDict[int, Texture] = OrderedDict()
        self._cache_bytes = cache_bytes

    def __len__(self) -> int:
        return len(self.files)

    def texture(self, image_id: int) -> Texture:
        """Return a picture as an opaque mip-mapped texture.

        Raises:
            UserError: the file has gone or changed since it was indexed.
        """
        if image_id in self._cache:
            self._cache.move_to_end(image_id)
            return self._cache[image_id]
        file = self.files[image_id]
        try:
            with Image.open(file) as image:
                rgba = np.array(ImageOps.exif_transpose(image).convert("RGB").convert("RGBA"))
        except OSError as error:
            raise UserError(f"background '{file}': cannot be read: {error}") from None
        if rgba.shape[:2] != self.sizes_hw[image_id]:
            raise UserError(f"background '{file}': has changed since the folder was opened")
        texture = Texture.from_straight_rgba(rgba, pad="edge")
        self._cache[image_id] = texture
        while sum(t.texels.nbytes for t in self._cache.values()) > self._cache_bytes and len(self._cache) > 1:
            self._cache.popitem(last=False)
        return texture

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": OrderedDict()}  # workers fill their own cache
