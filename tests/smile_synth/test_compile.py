import runpy
from contextlib import closing
from pathlib import Path

import pytest

from smile_synth.parallel.workers import Workers

KERNELS = """
from constants import VALUE
from smile_synth.core.compile import kernel

@kernel
def value():
    return VALUE

printed = value()
"""


def run_kernels(context: object, folder: Path, environment: dict[str, str]) -> int:
    """Run kernels.py in this worker process with a cache of its own."""
    import numba

    numba.config.CACHE_DIR = ""  # set for all tests
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.syspath_prepend(folder)
        return int(runpy.run_path(str(folder / "kernels.py"))["printed"])


def result_in_a_new_process(folder: Path, value: int, **environment: Path) -> int:
    (folder / "constants.py").write_text(f"VALUE = {value}\n")
    strings = {name: str(path) for name, path in environment.items()}
    with closing(Workers(1)) as process:
        return process.result(process.submit(run_kernels, folder, strings))


def test_a_kernel_follows_a_constant_of_another_file(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(KERNELS)
    for value in (3, 5):
        assert result_in_a_new_process(tmp_path, value, SMILE_CACHE=tmp_path / "cache") == value
    assert list((tmp_path / "cache").rglob("*.nbc"))


def test_without_a_folder_that_can_be_written_kernels_are_compiled_anew(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(KERNELS)
    for name in ("cache", "home"):
        (tmp_path / name).write_text("a file where the folder should be")
    cache, home = tmp_path / "cache", tmp_path / "home"
    assert result_in_a_new_process(tmp_path, 7, SMILE_CACHE=cache, HOME=home) == 7
