"""What macOS lacks is removed from Python; then clips are written, verified, exported and streamed."""

import builtins
import fcntl
import io
import mmap
import os
import pickle
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smile_synth import ObjectBank, Recipe, Sources, build_bank, export, generate, stream, verify
from smile_synth.corpus import Corpus
from smile_synth.io.strict_yaml import parse
from smile_synth.parallel.shared_memory import SharedArrays
from smile_synth.parallel.workers import available_cores

# Names by module, from the notes on availability in Python's documentation. A name ending in _ is a prefix.
LINUX_ONLY: dict[Any, tuple[str, ...]] = {
    os: (
        "sched_", "memfd_create", "posix_fadvise", "posix_fallocate", "eventfd", "splice", "copy_file_range",
        "getrandom", "pidfd_open", "fdatasync", "getxattr", "setxattr", "listxattr", "setns", "unshare", "pipe2",
        "getresuid", "O_DIRECT", "O_PATH", "O_TMPFILE", "O_NOATIME", "MFD_", "POSIX_FADV_", "EFD_", "SCHED_",
    ),
    fcntl: ("F_OFD_", "F_SETPIPE_SZ", "F_GETPIPE_SZ", "F_ADD_SEALS", "F_SETLEASE", "F_NOTIFY"),
    mmap: ("MAP_POPULATE", "MADV_HUGEPAGE", "MADV_DONTFORK", "MAP_STACK"),
    signal: ("sigwaitinfo", "sigtimedwait", "pidfd_send_signal", "SIGRTMIN", "SIGRTMAX", "SIGPWR"),
}  # fmt: skip
RECIPE = """
size: [24, 32]
num_frames: 4
backgrounds: [{kind: noise}]
objects: {count: 2, side: [8, 16]}
motion: [{family: smile-gaussian}]
"""


def without_system_folders(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that opens a file, unless it is in a folder that only Linux has."""

    def opened(file: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(file, int) and os.fsdecode(file).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", file)
        return function(file, *arguments, **options)

    return opened


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in LINUX_ONLY.items():
        for name in dir(module):
            if name in names or any(name.startswith(prefix) for prefix in names if prefix.endswith("_")):
                monkeypatch.delattr(module, name)
    for module, name in ((builtins, "open"), (io, "open"), (os, "open")):
        monkeypatch.setattr(module, name, without_system_folders(getattr(module, name)))


@pytest.mark.usefixtures("macos")
def test_clips_are_written_exported_and_streamed(tmp_path: Path) -> None:
    assert not hasattr(os, "sched_getaffinity") and available_cores() == os.cpu_count()
    build_bank(["drawn:4"], tmp_path / "bank", val_fraction=0.0, test_fraction=0.0, workers=1)
    sources, recipe = Sources(ObjectBank.open(tmp_path / "bank")), parse(Recipe, RECIPE, name="recipe")
    generate(recipe, sources, out=tmp_path / "corpus", num_clips=3, seed=5, layout="shards", workers=1)
    assert verify(tmp_path / "corpus", deep=True) == []
    export(tmp_path / "corpus", "coco", tmp_path / "coco")
    with stream(recipe, sources, batch_size=3, seed=5, workers=0, labels=("segmentation",)) as batches:
        batch = next(iter(batches))
    segmentation = batch.labels["segmentation"][1].numpy()
    modal = Corpus(tmp_path / "corpus").labels(1)["objects"][0]["modal_boxes_xyxy"]
    first = np.argwhere(segmentation[0] == 1)
    assert modal[0] == [*first.min(axis=0)[::-1], *(first.max(axis=0)[::-1] + 1)]


@pytest.mark.usefixtures("macos")
def test_memory_is_shared_by_files_that_do_not_remain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory = SharedArrays()
    array, shared = memory.allocate((3, 5), np.int16)
    opened = pickle.loads(pickle.dumps(shared)).open()
    opened[:] = np.arange(15).reshape(3, 5)
    assert array[2, 1] == 11 and len(list(tmp_path.iterdir())) == 1
    del array
    again, second = memory.allocate((2, 5), np.int16)
    assert second.open()[1, 0] == 5  # the memory is used again
    del memory, again
    assert not list(tmp_path.iterdir())
