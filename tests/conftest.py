"""Shared sources and scenes: a real bank of tiny cut-outs, a folder of tiny images, scenes laid by hand."""

import fcntl
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from chromium import Browser, chromium, find_chromium
from hypothesis import settings
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from smile_synth.annotations import annotate
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.compositing import composite
from smile_synth.core import geometry
from smile_synth.core.cache import cache_folder
from smile_synth.core.coverage import Border, level_of_detail
from smile_synth.objects import CutOutOptions, ObjectBank, build_bank
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene
from smile_synth.scene import Layer, Scene, Solid, StoredImage, Surface, Textured
from smile_synth.sources import Sources

if shutil.which("nvidia-smi") is None:
    # Kernels are tested in Triton's interpreter; read when Triton is first imported, by whichever library.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Tests run in several processes; threads of each on top of that would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Worker processes use the compiled kernels of this process, although tests change the cache directory below.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "kernels"))

# The same examples on every machine and in every run; no time limit, the first example compiles kernels.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

UInt8 = NDArray[np.uint8]
Float = NDArray[np.float64]


def _tiny() -> UInt8:
    """2x3, one texel of half alpha, colours that tell the texels apart."""
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., 0] = [[10, 50, 90], [130, 200, 250]]
    rgba[..., 1] = [[0, 255, 0], [255, 100, 255]]
    rgba[..., 2] = [[255, 200, 100], [50, 25, 0]]
    rgba[..., 3] = [[255, 255, 255], [255, 128, 255]]
    return rgba


def _noisy(height: int, width: int, low_alpha: int) -> UInt8:
    rng = np.random.default_rng(height * 100 + width)
    rgba = rng.integers(0, 256, (height, width, 4), np.uint8)
    rgba[..., 3] = np.maximum(rgba[..., 3], low_alpha)
    rgba[0, 0, 3] = 255
    return rgba


def _disc(side: int) -> UInt8:
    y, x = np.mgrid[:side, :side] + 0.5
    rgba = np.full((side, side, 4), (220, 60, 30, 0), np.uint8)
    distance = np.hypot(x - side / 2, y - side / 2)
    rgba[..., 3] = np.clip((side / 2 - distance) * 255, 1, 255)
    return rgba


def waves(height: int, width: int, *, period: float = 24.0) -> UInt8:
    """Draw an opaque smooth image ``[height, width, 4]`` whose every channel has slopes everywhere."""
    y, x = np.mgrid[:height, :width] + 0.5
    phases = [2 * np.pi * (x * a + y * b) / period for a, b in ((1.0, 0.3), (-0.4, 1.0), (0.7, 0.7))]
    channels = [127.5 + 100 * np.sin(phase) for phase in phases]
    return np.stack([*channels, np.full((height, width), 255.0)], axis=-1).round().astype(np.uint8)


def _cut_outs() -> dict[str, UInt8]:
    smooth = waves(40, 64)
    smooth[0, 0, 3] = 254  # not a hard edge, which a bank would soften
    block = np.full((4, 4, 4), (90, 200, 30, 255), np.uint8)
    block[3, 3, 3] = 254
    return {
        "bar": _noisy(1, 9, 200),
        "block": block,
        "board": _noisy(8, 8, 0),
        "card": _noisy(40, 64, 0),
        "disc": _disc(17),
        "dot": np.array([[[200, 100, 50, 255]]], np.uint8),
        "pole": _noisy(13, 1, 140),
        "smooth": smooth,
        "tall": _noisy(64, 40, 90),
        "tiny": _tiny(),
    }


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _build_bank(folder: Path) -> ObjectBank:
    for name, rgba in _cut_outs().items():
        (folder / "in" / name).mkdir(parents=True)
        Image.fromarray(rgba).save(folder / "in" / name / "0.png")
    tiny = CutOutOptions(min_side=1, min_thickness=0.0, min_largest_part=0.0)
    build_bank([folder / "in"], folder / "bank", cut=tiny, val_fraction=0.0, test_fraction=0.0)
    return ObjectBank.open(folder / "bank")


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> ObjectBank:
    """A bank with one object per class, from 1x1 to 64x40."""
    return _build_bank(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="session", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile the kernels once for all processes of pytest-xdist.

    Each process begins with another half, and reads the half that another process compiled from the cache.
    """
    process = os.environ.get("PYTEST_XDIST_WORKER")
    if process is None:
        return
    sources = Sources(_build_bank(tmp_path_factory.mktemp("kernels")))
    recipe = Recipe.load("smile-gaussian", ["num_frames=2", "size=[20, 28]"])
    scene = sample_scene(recipe, sources, seed=0, index=0)
    halves: list[Callable[[], object]] = [
        lambda: composite(scene, sources),
        lambda: (annotate(scene, sources).coco(), annotate(scene, sources).flow(0, 1)),
    ]
    for number in (0, 1) if int(process[2:]) % 2 == 0 else (1, 0):
        with (tmp_path_factory.getbasetemp().parent / f"kernels {number}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            halves[number]()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> BackgroundFolder:
    """Three images: 0 is 2x3, 1 is 17x31 noise, 2 is 90x120 and smooth."""
    folder = tmp_path_factory.mktemp("images")
    for name, rgba in {"0": _tiny(), "1": _noisy(17, 31, 0), "2": waves(90, 120, period=30.0)}.items():
        Image.fromarray(rgba[..., :3]).save(folder / f"{name}.png")
    return BackgroundFolder(folder)


@dataclass
class Sheet:
    """One layer of a scene laid by hand; single poses and values stand for all frames."""

    surface: Surface
    pose: ArrayLike = field(default_factory=lambda: np.eye(3))
    opacity: ArrayLike = 1.0
    depth: ArrayLike = 1.0
    gain: ArrayLike = (1.0, 1.0, 1.0)
    bias: ArrayLike = (0.0, 0.0, 0.0)
    border: Border = "transparent"
    labelled: bool = True


class Studio:
    """Lays scenes by hand from the session's bank and images."""

    def __init__(self, bank: ObjectBank, images: BackgroundFolder) -> None:
        self.bank, self.images, self.sources = bank, images, Sources(bank, images)

    def object(self, name: str) -> StoredImage:
        """Return the surface of the object of a class."""
        object_id = int(np.flatnonzero(self.bank.class_ids == self.bank.class_names.index(name))[0])
        height, width = int(self.bank.heights[object_id]), int(self.bank.widths[object_id])
        return StoredImage("objects", object_id, height, width)

    def image(self, image_id: int) -> StoredImage:
        """Return the surface of a background image."""
        return StoredImage("backgrounds", image_id, *self.images.sizes_hw[image_id])

    def placed(
        self, name: str, center_xy: ArrayLike, scale: ArrayLike = 1.0, degrees: ArrayLike = 0.0
    ) -> Float:
        """Return poses ``[..., 3, 3]`` of an object with its middle at ``center_xy``, scaled, then turned."""
        surface = self.object(name)
        factors = np.broadcast_to(scale, (*np.shape(center_xy)[:-1], 2))
        return geometry.compose(
            geometry.translation(center_xy),
            geometry.rotation(degrees),
            geometry.scaling(factors),
            geometry.translation([-surface.width / 2, -surface.height / 2]),
        )

    def scene(
        self, background: Sheet | Solid, *sheets: Sheet, size_hw: tuple[int, int] = (5, 7), frames: int = 3
    ) -> Scene:
        """Return a scene of the background and the sheets, the last one in front where depths are equal."""
        if isinstance(background, Solid):
            background = Sheet(background)
        stack: Sequence[Sheet] = (background, *sheets)

        def spread(name: str, *trailing: int) -> Float:
            arrays = [np.broadcast_to(getattr(sheet, name), (frames, *trailing)) for sheet in stack]
            return np.array(arrays, np.float64)

        poses = spread("pose", 3, 3)
        levels = np.zeros(poses.shape[:2])
        for k, sheet in enumerate(stack):
            if isinstance(sheet.surface, Textured):
                levels[k] = level_of_detail(poses[k], sheet.surface.height, sheet.surface.width)
        layers = [
            Layer(sheet.surface, sheet.border, k > 0 and sheet.labelled, f"class {k}" if k else "")
            for k, sheet in enumerate(stack)
        ]
        return Scene(
            size_hw=size_hw,
            recipe_size_hw=size_hw,
            fps=8.0,
            seed=0,
            index=0,
            recipe_digest="",
            bank_digest=self.bank.digest,
            background_digest=self.images.digest,
            layers=tuple(layers),
            object_to_frame=poses,
            opacity=spread("opacity"),
            depth=spread("depth"),
            gain=spread("gain", 3),
            bias=spread("bias", 3),
            level=levels,
        )

    sheet = Sheet


class Told(NamedTuple):
    """What a command line printed."""

    stdout: str
    stderr: str


def call(main: Callable[[], None], *arguments: object, expect: int = 0) -> Told:
    """Run a command line in this process; one of its own takes seconds to start."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        patch.setattr(sys, "argv", [main.__module__, *map(str, arguments)])
        main()
    assert left.value.code == expect, out.getvalue() + err.getvalue()
    return Told(out.getvalue(), err.getvalue())


Call = Callable[..., Told]


@pytest.fixture(scope="session")
def command_line() -> Call:
    """Runs `main(...)` of a command line with arguments, and returns what it printed."""
    return call


@pytest.fixture(scope="session")
def studio(bank: ObjectBank, images: BackgroundFolder) -> Studio:
    """Where scenes are laid by hand."""
    return Studio(bank, images)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of published numbers beside the checkout; tests that need it are skipped without it."""
    folder = Path(__file__).parents[1] / "../shared/reference"
    if not folder.is_dir():
        pytest.skip("no folder of reference numbers beside the checkout")
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, where it is installed; tests that need it are skipped without it."""
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    with chromium() as started:
        yield started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that share a Ray cluster first, so that one process runs them all."""
    items.sort(key=lambda item: "ray" not in getattr(item, "fixturenames", ()))
