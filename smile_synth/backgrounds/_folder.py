"""A folder or list of images and videos as background textures."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from smile_synth.backgrounds._index import index_files
from smile_synth.core.errors import UserError
from smile_synth.core.texture import Texture
from smile_synth.io import images, videos
from smile_synth.io.files import REPEATED_LINK, other_suffixes, walk
from smile_synth.io.images import Reject, UInt8, load_rgb, read_bytes
from smile_synth.io.lists import listed_files, read_rows
from smile_synth.io.videos import VideoInfo, read_frames

SUFFIXES = (*images.SUFFIXES, *videos.SUFFIXES)
_Key = int | tuple[int, tuple[int, ...]]


class BackgroundFolder:
    """Images and videos of a folder or a list, decoded on demand and cached up to a memory limit.

    Folders are equal if they have the same digest.

    Attributes:
        path: the folder or the list.
        files: the images, sorted by relative path, or in the order of the list.
        sizes_hw: their sizes after EXIF rotation.
        video_files: the videos, in the same order.
        videos: their properties.
        digest: sha256 of names and contents.
        unreadable: unusable files, with the reason.
        cut_short: videos that are damaged and used up to the damage, with the reason.
        passed_over: numbers of files with other suffixes in the folder, for example "2 .txt".
        scaled: images of more than 8 bits, and how they were scaled.

    Example:
        >>> len(BackgroundFolder("photos").files)
        3
    """

    def __init__(
        self,
        path: str | Path,
        *,
        cache_bytes: int = 256 * 2**20,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Index a folder, subfolders included, or a text file that lists one path per line.

        The paths of a list are relative to the list's folder; labels after the paths are ignored, as in a
        list for training. Files with absolute paths of another machine are found by the end of their names,
        and a notice says so. The properties of a file are cached in the user's cache directory (SMILE_CACHE,
        else smile-video in XDG_CACHE_HOME or ~/.cache) until its size or time changes.

        Args:
            path: the folder or the list.
            cache_bytes: limit for decoded images and frames; the last one is always kept.
            progress: called with (files inspected, files to inspect).

        Raises:
            UserError: no such path, or it contains no readable image or video.
        """
        self.path = Path(path)
        self.files: list[Path] = []
        self.sizes_hw: list[tuple[int, int]] = []
        self.video_files: list[Path] = []
        self.videos: list[VideoInfo] = []
        self.unreadable: list[tuple[Path, str]] = []
        self.cut_short: list[tuple[Path, str]] = []
        self.passed_over = ""
        self.scaled: list[tuple[Path, str]] = []
        if self.path.is_dir():
            root, names = self.path, self._walk()
        elif self.path.is_file():
            root = self.path.parent
            listed = [row.path for row in read_rows(self.path, SUFFIXES, "backgrounds")]
            names = listed_files(self.path, root, listed, SUFFIXES)
        else:
            raise UserError(f"backgrounds '{path}': no such folder or list")
        digest = hashlib.sha256()
        for name, entry in zip(names, index_files(self.path, root, names, progress), strict=True):
            file = root / name
            if entry.problem:
                self.unreadable.append((file, entry.problem))
                continue
            if entry.video is not None:
                self.video_files.append(file)
                self.videos.append(entry.video)
                if entry.video.cut_short:
                    self.cut_short.append((file, entry.video.cut_short))
            elif entry.size_hw is not None:
                self.files.append(file)
                self.sizes_hw.append(entry.size_hw)
                if entry.scaled:
                    self.scaled.append((file, entry.scaled))
            digest.update(os.fsencode(name) + f"\0{entry.sha256}\n".encode())
        if not self.files and not self.videos:
            found = "none"
            if self.unreadable:
                file, reason = self.unreadable[0]
                found = f"{len(self.unreadable)} unreadable ones; the first, '{file}': {reason}"
            raise UserError(
                f"backgrounds '{path}': expected images or videos ({', '.join(SUFFIXES)}), found {found}"
            )
        self.digest = digest.hexdigest()
        self._cache: OrderedDict[_Key, Texture | UInt8] = OrderedDict()
        self._cache_bytes = cache_bytes

    def __len__(self) -> int:
        """Return the number of images and videos."""
        return len(self.files) + len(self.videos)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BackgroundFolder) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"BackgroundFolder('{self.path}', {len(self.files)} images, {len(self.videos)} videos)"

    def texture(self, image_id: int) -> Texture:
        """Return an image as an opaque mip-mapped texture.

        Raises:
            UserError: the file was removed or changed after it was indexed.
        """
        cached = self._cached(image_id, lambda: Texture.opaque(self._load(image_id)))
        assert isinstance(cached, Texture)
        return cached

    def frames(self, video_id: int, numbers: tuple[int, ...]) -> UInt8:
        """Return frames of a video by number, ``[K, H, W, 3]`` uint8 RGB, in the given order.

        Frames of one call are decoded together and cached together.

        Raises:
            UserError: the file was removed or changed after it was indexed.
        """
        cached = self._cached((video_id, numbers), lambda: self._decode(video_id, numbers))
        assert isinstance(cached, np.ndarray)
        return cached

    def _load(self, image_id: int) -> UInt8:
        file = self.files[image_id]
        try:
            rgb = load_rgb(read_bytes(file))
        except Reject as error:
            raise _unreadable(file, error) from None
        if rgb.shape[:2] != self.sizes_hw[image_id]:
            raise UserError(f"background '{file}': has changed since the folder was opened")
        return rgb

    def _decode(self, video_id: int, numbers: tuple[int, ...]) -> UInt8:
        file = self.video_files[video_id]
        try:
            return read_frames(file, self.videos[video_id], numbers)
        except (OSError, Reject) as error:
            raise _unreadable(file, error) from None

    def _cached(self, key: _Key, decode: Callable[[], Texture | UInt8]) -> Texture | UInt8:
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        item = self._cache[key] = decode()
        while sum(map(_num_bytes, self._cache.values())) > self._cache_bytes and len(self._cache) > 1:
            self._cache.popitem(last=False)
        return item

    def _walk(self) -> list[str]:
        """Return the names of all files with a known suffix; links are followed, to every folder once."""
        files, links = walk(self.path)
        self.passed_over = other_suffixes(files, SUFFIXES)
        self.unreadable += [(link, f"is {REPEATED_LINK}") for link in links]
        known = (path.relative_to(self.path) for path in files if path.name.lower().endswith(SUFFIXES))
        return [path.as_posix() for path in sorted(known)]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": OrderedDict()}  # every worker process fills its own cache


def _num_bytes(item: Texture | UInt8) -> int:
    return item.texels.nbytes if isinstance(item, Texture) else item.nbytes


def _unreadable(file: Path, error: Exception) -> UserError:
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return UserError(f"background '{file}': can no longer be read: {reason}")
