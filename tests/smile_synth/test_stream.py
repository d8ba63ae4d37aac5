import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smile_synth.annotations import annotate
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.compositing import Shown, composite, device_textures, num_texels
from smile_synth.core.clip import Clip, Flow, Labels, Tracks
from smile_synth.core.errors import UserError
from smile_synth.io.strict_yaml import parse
from smile_synth.objects import ObjectBank
from smile_synth.parallel.workers import SharedBuffer
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene
from smile_synth.scene import StoredImage, Video
from smile_synth.sources import Sources
from smile_synth.stream import StepBatches, StreamBatch, SyntheticClips, batch_indices, stream

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import stream_cycles

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
def clips(bank: ObjectBank, images: BackgroundFolder) -> SyntheticClips:
    return SyntheticClips(RECIPE, Sources(bank, images), seed=3, num_clips=12)


def test_a_clip_is_that_of_its_index_with_its_labels(
    clips: SyntheticClips, bank: ObjectBank, images: BackgroundFolder
) -> None:
    scene = sample_scene(RECIPE, Sources(bank, images), seed=3, index=7)
    clip = clips[7]
    assert isinstance(clip, Clip) and clip.fps == 5.0
    np.testing.assert_array_equal(clip.frames, composite(scene, Sources(bank, images)))
    expected = annotate(scene, Sources(bank, images))
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


# --- streams


def same(one: StreamBatch, other: StreamBatch) -> bool:
    """Return whether two batches are equal to the bit."""
    assert one.segmentation is not None and other.segmentation is not None
    assert one.coverage is not None and other.coverage is not None
    assert one.scenes is not None and other.scenes is not None
    return (
        one.indices == other.indices
        and [scene.digest for scene in one.scenes] == [scene.digest for scene in other.scenes]
        and torch.equal(one.frames, other.frames)
        and torch.equal(one.segmentation, other.segmentation)
        and torch.equal(one.coverage, other.coverage)
    )


def from_workers(batches: Iterator[StreamBatch]) -> Iterator[StreamBatch]:
    """Skip what is drawn before the workers have started."""
    began = SharedBuffer._count
    while SharedBuffer._count == began:
        time.sleep(0.05)
        next(batches)
    return batches


def test_a_stream_is_channels_first_and_the_same_on_any_restart(
    clips: SyntheticClips, bank: ObjectBank, images: BackgroundFolder
) -> None:
    here = partial(stream, RECIPE, bank, images, seed=3, workers=0)
    batches = list(islice(here(batch_size=2), 3))
    assert batches[0].frames.shape == (2, 3, 3, 20, 28) and batches[0].frames.dtype == torch.uint8
    assert batches[2].indices == range(4, 6)
    assert batches[0].segmentation is batches[0].coverage is batches[0].scenes is None
    np.testing.assert_array_equal(batches[2].frames[1].permute(0, 2, 3, 1), clips[5].frames)
    resumed = next(here(batch_size=2, start_step=2))
    assert torch.equal(resumed.frames, batches[2].frames)
    halves = [next(here(batch_size=1, rank=rank, world_size=2, start_step=2)).frames for rank in range(2)]
    assert torch.equal(torch.cat(halves), batches[2].frames)


def test_a_stream_gives_labels_beside_normalised_frames(
    clips: SyntheticClips, bank: ObjectBank, images: BackgroundFolder
) -> None:
    norm = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    for kind in ("float32", "float16", "bfloat16"):
        batch = next(
            stream(RECIPE, Sources(bank, images), batch_size=2, seed=3, workers=0, start_step=1, out_dtype=kind,
                   normalise=norm, segmentation=True, tokens=(3, 4))
        )  # fmt: skip
        clip = clips[3]
        plain = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).double() / 255
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in norm)
        expected = ((plain - mean) / deviation).to(getattr(torch, kind))
        assert batch.frames.dtype == expected.dtype
        # Rounded from float32, which may stand on the other side of a tie.
        step = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[kind]
        torch.testing.assert_close(batch.frames[1], expected, rtol=step, atol=1e-6)
        assert batch.segmentation is not None and batch.coverage is not None
        np.testing.assert_array_equal(batch.segmentation[1], clip.labels.segmentation)
        owned = clip.labels.segmentation > 0
        # Token (0, 2, 3): all three frames, rows 8..11, columns 12..15.
        assert batch.coverage[1, 2 * 7 + 3] == pytest.approx(owned[:, 8:12, 12:16].mean())


def test_workers_draw_what_would_be_drawn_here_and_a_killed_one_is_told(
    bank: ObjectBank, images: BackgroundFolder
) -> None:
    options: dict[str, Any] = {"batch_size": 3, "seed": 3}
    options |= {"segmentation": True, "tokens": (1, 4), "scenes": True}
    batches = from_workers(stream(RECIPE, Sources(bank, images), workers=2, **options))
    kept = list(islice(batches, 6))  # more than are made ahead: none may be drawn over
    here = stream(RECIPE, Sources(bank, images), workers=0, start_step=kept[0].indices[0] // 3, **options)
    assert all(same(one, other) for one, other in zip(kept, here, strict=False))
    with pytest.raises(UserError, match="a worker process was killed by SIGKILL, perhaps because memory ran out"):
        for batch in batches:
            if batch.indices[0] // 3 == 12 + kept[0].indices[0] // 3:
                os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    assert multiprocessing.active_children() == []
    assert kept[-1].frames.sum() > 0


def test_a_device_is_sent_scenes_and_decoded_images(
    bank: ObjectBank, images: BackgroundFolder, tmp_path: Path
) -> None:
    (tmp_path / "1.png").write_bytes(images.files[1].read_bytes())
    (tmp_path / "2.png").write_bytes(images.files[2].read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), np.uint8)
    first, *rest = (Image.fromarray(frame) for frame in noise)
    first.save(tmp_path / "3.gif", save_all=True, append_images=rest)
    folder = BackgroundFolder(tmp_path)
    kinds = "backgrounds=[{kind: image}, {kind: video}, {kind: dead-leaves}, {kind: noise}]"
    recipe = parse(Recipe, RECIPE.to_yaml(), name="recipe.yaml", overrides=[kinds])
    options: dict[str, Any] = {"batch_size": 4, "seed": 3}
    options |= {"segmentation": True, "tokens": (1, 4), "scenes": True}
    for bound in (0, 2**20):
        own = stream(recipe, Sources(bank, folder), backend="torch", workers=1, cache_bytes=bound, **options)
        with closing(own):
            for batch in islice(from_workers(own), 4):
                (expected,) = islice(
                    stream(
                        recipe, Sources(bank, folder), workers=0, start_step=batch.indices[0] // 4, **options
                    ),
                    1,
                )
                difference = (batch.frames.int() - expected.frames.int()).abs()
                assert difference.max() <= 3 and (difference > 1).float().mean() <= 1e-3
                assert batch.segmentation is not None and expected.segmentation is not None
                assert (batch.segmentation != expected.segmentation).float().mean() < 1e-3
                assert batch.coverage is not None and expected.coverage is not None
                torch.testing.assert_close(batch.coverage, expected.coverage, atol=0.07, rtol=0)
                assert batch.scenes is not None and expected.scenes is not None
                assert [scene.digest for scene in batch.scenes] == [scene.digest for scene in expected.scenes]
    assert multiprocessing.active_children() == []


def test_textures_are_kept_on_a_device_up_to_a_bound() -> None:
    kept = device_textures("cpu", 4 * 100)
    shown = [Shown(StoredImage("backgrounds", number, 5, 7)) for number in range(4)]
    each = num_texels(shown[0])
    assert each == 35 + 12 + 4 + 1 and 100 // each == 1
    first, second = kept.send(shown[:2], np.arange(2 * each, dtype=np.uint32))
    assert first.tolist() == list(range(each)) and second[0] == each
    assert kept.get(shown[0]) is None and torch.equal(kept.get(shown[1]), second)  # type: ignore[arg-type]
    frame = Shown(Video(0, (0, 1), 2, 2), 1)
    kept.send([frame], np.zeros(5, np.uint32))
    assert kept.get(frame) is None and kept.get(shown[1]) is not None


def test_streams_that_stop_leave_nothing(bank: ObjectBank, images: BackgroundFolder) -> None:
    found = stream_cycles.run(RECIPE, bank, images, cycles=4, full_every=4)
    assert found["processes left"] == found["shared memory left"] == found["descriptors left"] == 0
    assert found["ways"] == {"closed": 1, "an exception": 1, "Ctrl-C": 1, "a worker killed": 1}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"ahead": 0}, "ahead must be at least 1, got 0"),
        ({"rank": 1}, r"rank must be in 0\.\.0, got 1"),
        ({"out_dtype": "int8"}, "unknown out_dtype 'int8', allowed are uint8, float32, float16, bfloat16"),
        ({"tokens": (2, 4)}, r"tokens \(2, 4\) do not divide 3 frames of \(20, 28\)"),
        ({"backend": "oracle"}, "backend oracle does not draw batches on cpu"),
    ],
)
def test_options_outside_are_refused_before_anything_starts(
    bank: ObjectBank, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        stream(RECIPE, Sources(bank), **{"batch_size": 2, "seed": 0, **options})


# --- loaders


def probe(clips: list[Clip]) -> tuple[int, torch.Tensor]:
    """Return the private bytes of this process's map of the bank, and the frames."""
    private, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith("texels.bin")
        elif inside and line.startswith("Private_Dirty"):
            private += int(line.split()[1]) * 1024
    return private, torch.stack([torch.from_numpy(clip.frames) for clip in clips])


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_a_loaders_workers_share_the_bank(clips: SyntheticClips, method: str, workers: int) -> None:
    assert len(pickle.dumps(clips)) < 10_000
    loader = torch.utils.data.DataLoader(
        clips, batch_size=4, num_workers=workers, multiprocessing_context=method, collate_fn=probe
    )
    private, frames = zip(*loader, strict=True)
    assert private == (0, 0, 0)
    np.testing.assert_array_equal(torch.cat(frames)[9], clips[9].frames)


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
