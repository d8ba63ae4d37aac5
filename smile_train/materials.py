"""Objects and backgrounds that need no download: what the demo and the tiny CLIP are made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from smile_synth import BackgroundFolder, ObjectBank, Sources, build_bank
from smile_synth.backgrounds import write_images
from smile_synth.objects import CutOutOptions

NUM_TRAIN, NUM_HELDOUT = 48, 24


@dataclass(frozen=True)
class Materials:
    """A bank with a train/val/test split, and two folders of images that share none.

    Attributes:
        bank: drawn shapes and cut-outs of scikit-image's bundled photographs.
        train_backgrounds, heldout_backgrounds: drawn images from different seeds.
    """

    bank: ObjectBank
    train_backgrounds: BackgroundFolder
    heldout_backgrounds: BackgroundFolder

    @property
    def train(self) -> Sources:
        """The objects over the training backgrounds."""
        return Sources(self.bank, self.train_backgrounds)

    @property
    def heldout(self) -> Sources:
        """The objects over the held-out backgrounds."""
        return Sources(self.bank, self.heldout_backgrounds)


def build_materials(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> Materials:
    """Build the materials below a folder, or open them where they stand already."""
    bank_path, images = folder / "objects.bank", folder / "backgrounds"
    if not bank_path.exists():
        build_bank(
            ["builtin:shapes", "builtin:photos"], bank_path, cut=CutOutOptions(max_side=96),
            val_fraction=0.1, test_fraction=0.2, progress=progress,
        )  # fmt: skip
    for seed, (name, count) in enumerate((("train", NUM_TRAIN), ("heldout", NUM_HELDOUT))):
        if len(list((images / name).glob("*.png"))) != count:
            rmtree(images / name, ignore_errors=True)  # half written by a run that was killed
            write_images(images / name, count=count, seed=seed)
    return Materials(
        ObjectBank.open(bank_path),
        BackgroundFolder(images / "train"),
        BackgroundFolder(images / "heldout"),
    )
