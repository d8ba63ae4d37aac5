"""A small bank and a small training configuration for the training tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smile_synth import build_bank
from smile_synth.backgrounds import write_images
from smile_synth.io.videos import write_mp4
from smile_train.ablate import Study

MOVES = {"down": (2, 0), "left": (0, -2), "right": (0, 2), "up": (-2, 0)}
NUM_FRAMES, SIZE_HW, SQUARE = 8, (32, 40), 8
RECIPE = """
size: [32, 32]
num_frames: 4
backgrounds: [{kind: noise}]
objects: {count: 1, side: [12, 16]}
motion: [{family: constant-velocity, speed: [1.0, 3.0]}]
"""
CONFIG = """
bank: BANK
seed: 0
stages:
  - steps: 6
    sources: [{recipe: RECIPE}]
    mask: {kind: trajectory, ratio: 0.75}
    optimiser: {base_lr: 0.064, warmup_steps: 2, clip_norm: 1.0}
batch_size: 4
student: {size: tiny, patch_size: 8, tubelet_size: 2}
targets: [{kind: pixels}]
run: {workers: 0, threads: 1, device: cpu, checkpoint_every: 2}
"""


@pytest.fixture(scope="session")
def train_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train_bank")
    rng = np.random.default_rng(3)
    for k in range(24):
        rgba = np.full((20, 18 + k % 3, 4), 255, np.uint8)
        rgba[..., :3] = rng.integers(0, 256, 3)
        (folder / "rgba" / f"class{k % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgba).save(folder / "rgba" / f"class{k % 2}" / f"{k}.png")
    build_bank([folder / "rgba"], folder / "bank", val_fraction=0.2, test_fraction=0.4)
    return folder / "bank"


def write_config(folder: Path, bank: Path) -> Path:
    """Write the small recipe and configuration into a folder."""
    (folder / "recipe.yaml").write_text(RECIPE)
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("RECIPE", str(folder / "recipe.yaml")).replace("BANK", str(bank)))
    return path


@pytest.fixture
def config_file(train_bank: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path, train_bank)


@pytest.fixture(scope="module")
def shared_config_file(train_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config"), train_bank)


@pytest.fixture
def study(config_file: Path, train_bank: Path, tmp_path: Path) -> Study:
    """Two arms, two seeds and one probe, each as small as allowed."""
    torch.set_num_threads(1)
    for seed, name in enumerate(("train", "test")):
        write_images(tmp_path / name, count=2, seed=seed, size=32)
    text = f"""
about: Does anything move?
base: {config_file}
overrides: [stages.0.steps=2, stages.0.optimiser.warmup_steps=1]
arms:
  still: {{stages.0.sources.0.overrides: ["motion=[{{family: still}}]"]}}
  as it is: {{}}
seeds: [0, 3]
tasks: [direction]
num_train: 60
num_test: 50
bank: {train_bank}
train_backgrounds: {tmp_path / "train"}
test_backgrounds: {tmp_path / "test"}
"""
    (tmp_path / "study.yaml").write_text(text)
    return Study.load(tmp_path / "study.yaml")


def write_moving_squares(folder: Path, *, count: int, seed: int) -> None:
    """Write ``count`` videos of every class, of 5 groups p<seed><n>, into ``folder/class``."""
    rng = np.random.default_rng(seed)
    for name, (dy, dx) in MOVES.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            frames = np.full((NUM_FRAMES, *SIZE_HW, 3), rng.integers(20, 80), np.uint8)
            colour = rng.integers(140, 256, 3)
            travel = NUM_FRAMES - 1
            y, x = (
                rng.integers(max(0, -d * travel), side - SQUARE - max(0, d * travel) + 1)
                for d, side in zip((dy, dx), SIZE_HW, strict=True)
            )
            for t, frame in enumerate(frames):
                frame[y + dy * t :, x + dx * t :][:SQUARE, :SQUARE] = colour
            write_mp4(folder / name / f"p{seed}{number % 5}_{number}.mp4", frames, fps=8)


@pytest.fixture(scope="session")
def moving_squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/class/*.mp4 and test/class/*.mp4, 10 and 5 videos for each of 4 directions."""
    folder = tmp_path_factory.mktemp("moving_squares")
    for name, count, seed in (("train", 10, 0), ("test", 5, 1)):
        write_moving_squares(folder / name, count=count, seed=seed)
    return folder
