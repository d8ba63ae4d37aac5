import importlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smile_synth.compositing import build_parameters, composite
from smile_synth.compositing._device import is_plain
from smile_synth.core import geometry
from smile_synth.core.appearance import Appearance
from smile_synth.scene import Noise, Solid

GROUND = Solid((40, 80, 120))
KERNEL_TABLE = Path(__file__).parents[2] / "benchmarks" / "kernel_table.py"


def test_a_row_that_is_worse_than_the_table_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.syspath_prepend(KERNEL_TABLE.parent)
    worse = importlib.import_module("kernel_table").worse
    known = {"registers": 90, "spills": 0, "stack": 0, "shared": 2048, "narrow": 0, "instructions": 1000}
    known["float64"] = 40
    assert worse("row", known | {"registers": 98, "instructions": 1030}, known) == []
    assert worse("row", known | {"registers": 99, "spills": 1, "instructions": 1031}, known) == [
        "row: instructions 1031, the table has 1000",
        "row: spills 1, the table has 0",
        "row: registers 99, the table has 90",
    ]


@pytest.mark.slow
def test_the_triton_kernel_is_compiled_for_gpus_as_well_as_the_table_says() -> None:
    """The interpreter ignores types; only the compiler finds what a GPU would refuse."""
    triton = pytest.importorskip("triton")
    table = json.loads((KERNEL_TABLE.parent / "results" / "kernels.json").read_text())
    made_by = table["environment"]["versions"]["triton"]
    if triton.__version__ != made_by:
        pytest.skip(f"the table is of Triton {made_by}, installed is {triton.__version__}")
    rows = ["plain, bfloat16, sm_90", "plain, uint8, both labels, sm_90"]
    command = [sys.executable, str(KERNEL_TABLE), "--check", *rows]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("clips", "size_hw"), [(4096, (224, 224)), (64, (1080, 1921)), (100_000, (16, 33))])
def test_a_launch_is_within_the_limits_of_hardware(clips: int, size_hw: tuple[int, int]) -> None:
    """Of CUDA: 2^31 - 1 programs along x, 65,535 along y and z; batches here have 16 frames a clip."""
    launch = pytest.importorskip("smile_synth.compositing._triton").launch_grid
    grid = (*launch(16 * clips, size_hw), 1, 1)[:3]
    tiles = -(-size_hw[0] // 16) * -(-size_hw[1] // 32)
    assert math.prod(grid) == 16 * clips * tiles
    assert grid[0] < 2**31 and grid[1] < 65536 and grid[2] < 65536


def test_a_launch_of_too_many_frames_is_refused() -> None:
    launch = pytest.importorskip("smile_synth.compositing._triton").launch_grid
    with pytest.raises(ValueError, match=r"2147483647 frames of \(17, 32\): expected at most 1073741823 in"):
        launch(2**31 - 1, (17, 32))


def test_only_plain_batches_take_the_small_kernel(studio: Any) -> None:
    def plain(*sheets: Any, **changes: Any) -> bool:
        scene = replace(studio.scene(GROUND, *sheets), **changes)
        return is_plain(build_parameters([scene], studio.bank, range(1)))

    tiny, pose = studio.object("tiny"), geometry.translation([2, 1])
    tilted = pose @ np.array([[1, 0, 0], [0, 1, 0], [0.1, 0, 1]])
    assert plain(studio.sheet(tiny, pose, opacity=0.5), studio.sheet(Noise((1, 2), False)))
    assert plain(studio.sheet(studio.image(2), geometry.translation([-3, -1]), border="reflect"))
    assert not plain(studio.sheet(studio.image(2), geometry.translation([1, 0]), border="reflect"))
    assert not plain(studio.sheet(tiny, tilted))
    assert not plain(studio.sheet(Noise((1, 2), False), tilted))
    assert not plain(studio.sheet(tiny, pose, bias=(0, 0.1, 0)))
    assert not plain(studio.sheet(tiny, pose), gamma=np.full((2, 3), 2.0))
    assert not plain(studio.sheet(tiny, pose), appearance=Appearance(noise_key=(1, 2)))
    assert not plain(studio.sheet(tiny, pose), appearance=Appearance(grain=0.1, grain_key=(1, 2)))


def test_more_layers_than_bits_of_a_word_are_drawn_in_order(studio: Any) -> None:
    """The kernel finds the layers of a tile 32 at a time."""
    pytest.importorskip("triton")
    sheets = [
        studio.sheet(studio.object("tiny"), geometry.translation([k % 9 * 4.0, k % 5]), depth=40.0 - k)
        for k in range(37)
    ]
    scene = studio.scene(GROUND, *sheets, size_hw=(6, 40), frames=1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    drawn = composite(scene, studio.sources, backend="triton", device=device)
    np.testing.assert_array_equal(drawn, composite(scene, studio.sources, backend="oracle"))
