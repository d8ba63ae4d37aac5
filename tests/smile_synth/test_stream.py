from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from smile_synth.annotations import annotate
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.clip import Clip, Flow, Labels, Tracks
from smile_synth.compositing import composite
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.scene import sample_scene
from smile_synth.stream import StepBatches, SyntheticClips, batch_indices, stream
from smile_synth.strict_yaml import parse

RECIPE = parse(
    Recipe,
    """
size: [20, 28]
num_frames: 3
fps: 5
backgrounds: [{kind: noise}, {kind: image}]
objects: {count: [1, 2], side: [8, 12]}
motion: [{family: constant-velocity, speed: [1, 3]}]
""",
    name="recipe.yaml",
)


@pytest.fixture(scope="module")
def clips(bank: ObjectBank, pictures: BackgroundFolder) -> SyntheticClips:
    return SyntheticClips(RECIPE, bank, pictures, seed=3, num_clips=12)


def test_a_clip_is_that_of_its_index_with_its_labels(
    clips: SyntheticClips, bank: ObjectBank, pictures: BackgroundFolder
) -> None:
    scene = sample_scene(RECIPE, bank, pictures, seed=3, index=7)
    clip = clips[7]
    assert isinstance(clip, Clip) and clip.fps == 5.0
    np.testing.assert_array_equal(clip.frames, composite(scene, bank, pictures))
    expected = annotate(scene, bank, pictures)
    np.testing.assert_array_equal(clip.masks, expected.labels.modal_masks)
    np.testing.assert_array_equal(clip.boxes, expected.labels.modal_boxes_xyxy)
    np.testing.assert_array_equal(clip.visibility, expected.labels.visibility)
    np.testing.assert_array_equal(clip.flow(0, 2).flow_xy, expected.flow(0, 2).flow_xy)
    points = [[0, 3.0, 4.0], [2, 10.0, 9.0]]
    np.testing.assert_array_equal(clip.tracks(points).points_xy, expected.tracks(points).points_xy)


@pytest.mark.parametrize("index", [-1, 12])
def test_a_clip_outside_is_an_index_error(clips: SyntheticClips, index: int) -> None:
    with pytest.raises(IndexError, match=rf"clip {index} is outside 0\.\.11"):
        clips[index]
    assert len(clips) == 12


def test_the_processes_of_a_step_share_its_clips_without_overlap() -> None:
    # Index s * global + r * local + j.
    assert list(batch_indices(2, 3, rank=1, world_size=2)) == [15, 16, 17]
    for world_size in (1, 2, 4):
        drawn = [
            i
            for step in range(3)
            for rank in range(world_size)
            for i in batch_indices(step, 8 // world_size, rank=rank, world_size=world_size)
        ]
        assert drawn == list(range(24))


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"rank must be in 0\.\.1, got {rank}"):
        batch_indices(0, 3, rank=rank, world_size=2)


def test_steps_resume_where_they_stopped() -> None:
    whole = StepBatches(3, num_steps=5, rank=1, world_size=2)
    rest = StepBatches(3, num_steps=5, start_step=2, rank=1, world_size=2)
    assert len(whole) == 5 and len(rest) == 3
    assert list(whole)[2:] == list(rest)
    assert list(rest)[0] == [15, 16, 17]


def test_a_loader_gives_the_clips_of_a_step(clips: SyntheticClips) -> None:
    def frames_of(batch: list[Clip]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(clip.frames) for clip in batch])

    sampler: Any = StepBatches(2, num_steps=3, start_step=1)
    loader = torch.utils.data.DataLoader(clips, batch_sampler=sampler, collate_fn=frames_of)
    batches = list(loader)
    assert len(batches) == 2
    np.testing.assert_array_equal(batches[1][1], clips[5].frames)


def test_a_stream_is_channels_first_and_the_same_on_any_restart(
    clips: SyntheticClips, bank: ObjectBank, pictures: BackgroundFolder
) -> None:
    batches = list(islice(stream(RECIPE, bank, pictures, batch_size=2, seed=3), 3))
    assert batches[0].shape == (2, 3, 3, 20, 28) and batches[0].dtype == torch.uint8
    assert batches[0].is_contiguous()
    np.testing.assert_array_equal(batches[2][1].permute(0, 2, 3, 1), clips[5].frames)
    resumed = next(stream(RECIPE, bank, pictures, batch_size=2, seed=3, start_step=2))
    assert torch.equal(resumed, batches[2])
    halves = [
        next(stream(RECIPE, bank, pictures, batch_size=1, seed=3, rank=rank, world_size=2, start_step=2))
        for rank in range(2)
    ]
    assert torch.equal(torch.cat(halves), batches[2])


# --- containers check what they are given


def test_containers_refuse_arrays_of_another_shape(clips: SyntheticClips) -> None:
    labels = clips[0].labels
    values = {name: getattr(labels, name) for name in labels.__dataclass_fields__}
    with pytest.raises(ValueError, match=r"visibility: expected float64 \(\d, 3\), got float64 \(0, 3\)"):
        Labels(**{**values, "visibility": np.zeros((0, 3))})
    with pytest.raises(ValueError, match="segmentation: expected uint16"):
        Labels(**{**values, "segmentation": labels.segmentation.astype(np.uint8)})
    no = np.zeros((5, 7), bool)
    with pytest.raises(ValueError, match=r"flow_xy: expected float32 \(5, 7, 2\), got float64 \(5, 7, 2\)"):
        Flow(np.zeros((5, 7, 2)), no, no, no)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"points_xy: expected float64 \(5, 7, 2\), got float64 \(5, 3, 2\)"):
        Tracks(np.zeros((5, 3, 2)), no, np.zeros(5, np.int64))
    with pytest.raises(ValueError, match=r"frames: expected uint8 \[T, H, W, 3\], got uint8 \(3, 5, 7\)"):
        Clip(np.zeros((3, 5, 7), np.uint8), 8.0, clips[0].annotation)
