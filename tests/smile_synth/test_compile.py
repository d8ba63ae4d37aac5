import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = """
from constants import VALUE
from smile_synth.core.compile import kernel

@kernel
def value():
    return VALUE

print(value())
"""


@pytest.mark.slow
def test_a_kernel_follows_a_constant_of_another_file(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(KERNELS)
    printed = []
    for number in (3, 5):
        (tmp_path / "constants.py").write_text(f"VALUE = {number}\n")
        done = subprocess.run(
            [sys.executable, "-B", "kernels.py"], cwd=tmp_path, check=True, capture_output=True, text=True,
            env={**os.environ, "NUMBA_CACHE_DIR": "", "SMILE_CACHE": str(tmp_path / "cache")},
        )  # fmt: skip
        printed.append(int(done.stdout))
    assert printed == [3, 5]


def test_without_a_folder_that_can_be_written_kernels_are_compiled_anew(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    (tmp_path / "kernels.py").write_text(KERNELS)
    (tmp_path / "constants.py").write_text("VALUE = 7\n")
    home = tmp_path / "home"
    home.write_text("no folder either")
    done = subprocess.run(
        [sys.executable, "-B", "kernels.py"], cwd=tmp_path, check=True, capture_output=True, text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": "", "SMILE_CACHE": str(tmp_path / "cache"), "HOME": str(home)},
    )  # fmt: skip
    assert done.stdout == "7\n"
