import gc
import multiprocessing
import os
import pickle
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stream_cycles
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from smile_synth.annotations import annotate
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.compositing import TextureVersion, composite, device_textures, num_texels
from smile_synth.core.clip import Clip, Flow, Labels, Tracks
from smile_synth.core.errors import UserError
from smile_synth.io.strict_yaml import parse
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene
from smile_synth.scene import StoredImage, Video
from smile_synth.sources import Sources
from smile_synth.streaming import (
    StepBatches,
    StreamBatch,
    StreamOptions,
    SyntheticClips,
    batch_indices,
    collate_clips,
    stream,
)

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
def sources(bank: ObjectBank, images: BackgroundFolder) -> Sources:
    return Sources(bank, images)


@pytest.fixture(scope="module")
def clips(sources: Sources) -> SyntheticClips:
    return SyntheticClips(RECIPE, sources, seed=3, num_clips=12)


def test_a_clip_has_the_frames_and_labels_of_its_index(clips: SyntheticClips, sources: Sources) -> None:
    scene = sample_scene(RECIPE, sources, seed=3, index=7)
    clip = clips[7]
    assert isinstance(clip, Clip) and clip.fps == 5.0
    np.testing.assert_array_equal(clip.frames, composite(scene, sources))
    expected = annotate(scene, sources)
    np.testing.assert_array_equal(clip.masks, expected.labels.modal_masks)
    np.testing.assert_array_equal(clip.boxes, expected.labels.modal_boxes_xyxy)
    np.testing.assert_array_equal(clip.visibility, expected.labels.visibility)
    np.testing.assert_array_equal(clip.flow(0, 2).flow_xy, expected.flow(0, 2).flow_xy)
    points = [[0, 3.0, 4.0], [2, 10.0, 9.0]]
    np.testing.assert_array_equal(clip.tracks(points).points_xy, expected.tracks(points).points_xy)


def test_indices_of_clips_follow_the_convention_of_python(clips: SyntheticClips) -> None:
    assert len(clips) == 12
    np.testing.assert_array_equal(clips[-5].frames, clips[7].frames)
    np.testing.assert_array_equal(clips[np.int64(-12)].frames, clips[0].frames)
    for index in (-13, 12):
        with pytest.raises(IndexError, match=rf"clip {index} is not in a dataset of 12 clips"):
            clips[index]


def test_clips_in_a_data_loader_are_collated_to_tensors(clips: SyntheticClips) -> None:
    loader = DataLoader(clips, batch_size=5, collate_fn=collate_clips)
    batches = list(loader)
    assert [batch["indices"].tolist() for batch in batches] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    frames, segmentation = batches[1]["frames"], batches[1]["segmentation"]
    assert frames.shape == (5, 3, 3, 20, 28) and frames.dtype == torch.uint8 and frames.is_contiguous()
    assert segmentation.shape == (5, 3, 20, 28) and segmentation.dtype == torch.int16
    np.testing.assert_array_equal(frames[2].permute(0, 2, 3, 1), clips[7].frames)
    np.testing.assert_array_equal(segmentation[2], clips[7].segmentation)
    np.testing.assert_array_equal(batches[1]["modal_boxes_xyxy"][2], clips[7].boxes)
    np.testing.assert_array_equal(batches[1]["visibility"][2], clips[7].visibility)


def test_collate_clips_returns_the_requested_labels(clips: SyntheticClips) -> None:
    batch = collate_clips([clips[1], clips[4]], labels=("class_names", "amodal_masks"))
    assert batch.keys() == {"indices", "frames", "class_names", "amodal_masks"}
    assert batch["class_names"] == [clips[1].labels.class_names, clips[4].labels.class_names]
    np.testing.assert_array_equal(batch["amodal_masks"][1], clips[4].labels.amodal_masks)
    with pytest.raises(
        ValueError, match="unknown label 'boxes', allowed are class_names, amodal_boxes_xyxy, "
    ):
        collate_clips([clips[1]], labels="boxes")


def test_every_process_has_its_own_clips_of_a_step() -> None:
    # Index s * global + r * local + j.
    assert list(batch_indices(2, 3, rank=1, world_size=2)) == [15, 16, 17]
    for world_size in (1, 2, 4):
        indices = [
            i
            for step in range(3)
            for rank in range(world_size)
            for i in batch_indices(step, 8 // world_size, rank=rank, world_size=world_size)
        ]
        assert indices == list(range(24))


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_of_the_world_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"rank must be in 0\.\.1, got {rank}"):
        batch_indices(0, 3, rank=rank, world_size=2)


def test_step_batches_resume_at_a_step() -> None:
    whole = StepBatches(3, num_steps=5, rank=1, world_size=2)
    rest = StepBatches(3, num_steps=5, start_step=2, rank=1, world_size=2)
    assert len(whole) == 5 and len(rest) == 3
    assert list(whole)[2:] == list(rest)
    assert list(rest)[0] == [15, 16, 17]


def test_a_data_loader_reads_the_batches_of_steps(clips: SyntheticClips) -> None:
    sampler: Any = StepBatches(2, num_steps=3, start_step=1)
    batches = list(DataLoader(clips, batch_sampler=sampler, collate_fn=collate_clips))
    assert [batch["indices"].tolist() for batch in batches] == [[2, 3], [4, 5]]


# --- streams

ALL_LABELS: dict[str, Any] = {
    "labels": ("segmentation", "coverage", "motion"), "token_size": (1, 4), "motion_offsets": (1,)
}  # fmt: skip


def assert_equal(one: StreamBatch, other: StreamBatch) -> None:
    assert one.indices == other.indices
    assert torch.equal(one.frames, other.frames)
    assert one.labels.keys() == other.labels.keys()
    for name, label in one.labels.items():
        assert torch.equal(label, other.labels[name]), name


def test_a_stream_is_the_same_after_any_restart(clips: SyntheticClips, sources: Sources) -> None:
    clip_stream = stream(RECIPE, sources, batch_size=2, seed=3, workers=0)
    batches = list(islice(clip_stream, 3))
    assert batches[0].frames.shape == (2, 3, 3, 20, 28) and batches[0].frames.dtype == torch.uint8
    assert batches[0].frames.is_contiguous()
    assert batches[2].indices == range(4, 6) and batches[2].labels == {}
    np.testing.assert_array_equal(batches[2].frames[1].permute(0, 2, 3, 1), clips[5].frames)
    assert_equal(next(iter(clip_stream)), batches[0])
    resumed = next(iter(stream(RECIPE, sources, batch_size=2, seed=3, workers=0, start_step=2)))
    assert_equal(resumed, batches[2])
    halves = [
        next(
            iter(
                stream(
                    RECIPE, sources, batch_size=1, seed=3, workers=0, rank=rank, world_size=2, start_step=2
                )
            )
        )
        for rank in range(2)
    ]
    assert torch.equal(torch.cat([half.frames for half in halves]), batches[2].frames)


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_a_stream_gives_labels_beside_normalised_frames(
    clips: SyntheticClips, sources: Sources, kind: Any
) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    batch = next(
        iter(
            stream(
                RECIPE, sources, batch_size=2, seed=3, workers=0, start_step=1, out_dtype=kind, mean=mean,
                std=std, labels=("coverage", "segmentation"), token_size=(3, 4),
            )
        )
    )  # fmt: skip
    clip = clips[3]
    pixels = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).double() / 255
    expected = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    # The renderer rounds float32 values, the test rounds float64 values.
    tolerance = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[kind]
    expected = expected.to(getattr(torch, kind))
    torch.testing.assert_close(batch.frames[1], expected, rtol=tolerance, atol=1e-6)
    assert batch.frames.is_contiguous() and list(batch.labels) == ["coverage", "segmentation"]
    assert batch.labels["segmentation"].dtype == torch.int16
    np.testing.assert_array_equal(batch.labels["segmentation"][1], clip.segmentation)
    # Token (0, 2, 3): all three frames, rows 8..11, columns 12..15.
    owned = (clip.segmentation > 0)[:, 8:12, 12:16]
    assert batch.labels["coverage"][1, 2 * 7 + 3] == pytest.approx(owned.mean())


def test_a_batch_has_its_scenes_and_a_short_repr(sources: Sources) -> None:
    batch = next(
        iter(stream(RECIPE, sources, batch_size=2, seed=3, workers=0, start_step=2, labels=["segmentation"]))
    )
    assert batch.scenes == [sample_scene(RECIPE, sources, seed=3, index=index) for index in (4, 5)]
    assert repr(batch) == (
        "StreamBatch(range(4, 6), frames=[2, 3, 3, 20, 28] torch.uint8, "
        "segmentation=[2, 3, 20, 28] torch.int16)"
    )
    assert batch == batch and hash(batch) == hash(batch)
    moved = batch.to("meta")
    assert moved.frames.device.type == moved.labels["segmentation"].device.type == "meta"
    assert moved.indices == batch.indices


def test_a_stream_is_an_iterable_dataset_of_unknown_length(sources: Sources) -> None:
    clip_stream = stream(RECIPE, sources, batch_size=2, seed=3, workers=0)
    assert isinstance(clip_stream, IterableDataset)
    with pytest.raises(TypeError, match="len"):
        len(clip_stream)  # type: ignore[arg-type]
    loaded = DataLoader(clip_stream, batch_size=None)
    with pytest.raises(TypeError, match="len"):
        len(loaded)
    for batch, expected in zip(islice(loaded, 3), clip_stream, strict=False):
        assert_equal(batch, expected)


@pytest.mark.slow
def test_workers_of_a_data_loader_share_the_steps(sources: Sources) -> None:
    clip_stream = stream(RECIPE, sources, batch_size=2, seed=3, workers=0, start_step=1)
    loader = DataLoader(clip_stream, batch_size=None, num_workers=2, multiprocessing_context="forkserver")
    for batch, expected in zip(islice(loader, 5), clip_stream, strict=False):
        assert_equal(batch, expected)


def test_worker_processes_draw_the_same_batches(sources: Sources) -> None:
    options: dict[str, Any] = {"batch_size": 3, "seed": 3, **ALL_LABELS}
    with stream(RECIPE, sources, workers=2, **options) as clip_stream:
        batches = stream_cycles.from_workers(iter(clip_stream))
        kept = list(islice(batches, 6))  # more than are made ahead: none may be overwritten
        first_step = kept[0].indices.start // 3
        here = stream(RECIPE, sources, workers=0, start_step=first_step, **options)
        for batch, expected in zip(kept, here, strict=False):
            assert_equal(batch, expected)
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_killed_worker_is_one_clear_error(sources: Sources) -> None:
    batches = stream_cycles.from_workers(iter(stream(RECIPE, sources, batch_size=3, seed=3, workers=2)))
    kept = next(batches)
    expected = kept.frames.clone()
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(
        UserError, match="a worker process was killed by SIGKILL, perhaps because memory ran out"
    ):
        for _ in zip(range(100), batches, strict=False):
            pass
    assert multiprocessing.active_children() == []
    assert torch.equal(kept.frames, expected)


def test_deleting_or_closing_a_stream_ends_its_workers(sources: Sources) -> None:
    clip_stream = stream(RECIPE, sources, batch_size=3, seed=3, workers=1)
    iterator = iter(clip_stream)
    next(iterator)
    assert len(multiprocessing.active_children()) == 1
    clip_stream.close()
    assert multiprocessing.active_children() == []
    assert next(iterator, None) is None
    for _ in clip_stream:  # an iteration after `close` begins anew
        assert len(multiprocessing.active_children()) == 1
        break
    gc.collect()
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_device_draws_the_same_batches(sources: Sources, images: BackgroundFolder, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(images.files[1].read_bytes())
    (tmp_path / "2.png").write_bytes(images.files[2].read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), np.uint8)
    first, *rest = (Image.fromarray(frame) for frame in noise)
    first.save(tmp_path / "3.gif", save_all=True, append_images=rest)
    own = Sources(sources.objects, BackgroundFolder(tmp_path))
    kinds = "backgrounds=[{kind: image}, {kind: video}, {kind: dead-leaves}, {kind: noise}]"
    recipe = parse(Recipe, RECIPE.to_yaml(), name="recipe.yaml", overrides=[kinds])
    for cache_bytes in (0, 2**20):
        options = StreamOptions(backend="torch", cache_bytes=cache_bytes)
        with stream(recipe, own, batch_size=4, seed=3, workers=1, options=options, **ALL_LABELS) as drawn:
            batches = list(islice(stream_cycles.from_workers(iter(drawn)), 4))
        step = batches[0].indices.start // 4
        for batch, expected in zip(
            batches,
            stream(recipe, own, batch_size=4, seed=3, workers=0, start_step=step, **ALL_LABELS),
            strict=False,
        ):
            assert batch.indices == expected.indices and batch.frames.is_contiguous()
            difference = (batch.frames.int() - expected.frames.int()).abs()
            assert difference.max() <= 3 and (difference > 1).float().mean() <= 1e-3
            segmentation, coverage = expected.labels["segmentation"], expected.labels["coverage"]
            assert batch.labels["segmentation"].dtype == segmentation.dtype == torch.int16
            assert (batch.labels["segmentation"] != segmentation).float().mean() < 1e-3
            torch.testing.assert_close(batch.labels["coverage"], coverage, atol=0.07, rtol=0)
            motion = {name for name in expected.labels if name.startswith("motion_")}
            assert len(motion) == 9 and motion == batch.labels.keys() - {"segmentation", "coverage"}
            assert all(torch.equal(batch.labels[name], expected.labels[name]) for name in motion)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_a_stream_gives_the_exact_motion_of_tokens(sources: Sources, backend: str) -> None:
    options = StreamOptions(backend=backend)
    with stream(
        RECIPE, sources, batch_size=2, seed=3, workers=0, start_step=2, labels=["coverage", "motion"],
        token_size=(1, 4), motion_offsets=(1, -2), options=options,
    ) as clip_stream:  # fmt: skip
        batch = next(iter(clip_stream))
    assert len(batch.labels) == 10 and batch.labels["coverage"].shape == (2, 105)
    motion = annotate(batch.scenes[1], sources).token_motion((1, 4), (1, -2))
    for name, attribute in {
        "displacement": "displacement_xy", "spread": "spread_xy", "linear": "linear", "camera": "camera_xy",
        "visibility": "visible", "valid": "valid", "object": "object", "share": "share", "depth": "depth",
    }.items():  # fmt: skip
        label, expected = batch.labels[f"motion_{name}"][1], getattr(motion, attribute)
        assert np.array_equal(label.numpy(), expected) and label.numpy().dtype == expected.dtype, name
    assert batch.labels["motion_displacement"].abs().max() > 1


def test_textures_are_kept_on_a_device_up_to_a_bound() -> None:
    kept = device_textures("cpu", 4 * 100)
    shown = [TextureVersion(StoredImage("backgrounds", number, 5, 7)) for number in range(4)]
    each = num_texels(shown[0])
    assert each == 35 + 12 + 4 + 1 and 100 // each == 1
    first, second = kept.send(shown[:2], np.arange(2 * each, dtype=np.uint32))
    assert first.tolist() == list(range(each)) and second[0] == each
    assert kept.get(shown[0]) is None and torch.equal(kept.get(shown[1]), second)  # type: ignore[arg-type]
    frame = TextureVersion(Video(0, (0, 1), 2, 2), 1)
    kept.send([frame], np.zeros(5, np.uint32))
    assert kept.get(frame) is None and kept.get(shown[1]) is not None


def test_ended_streams_leave_no_processes_and_no_memory(sources: Sources) -> None:
    found = stream_cycles.run(RECIPE, sources, cycles=4, full_every=4)
    assert found["processes left"] == found["shared memory left"] == found["descriptors left"] == 0
    assert found["ways"] == {"closed": 1, "an exception": 1, "Ctrl-C": 1, "a worker killed": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"options": StreamOptions(batches_ahead=0)}, "batches_ahead must be at least 1, got 0"),
        ({"rank": 1}, r"rank must be in 0\.\.0, got 1"),
        ({"out_dtype": "int8"}, "unknown out_dtype 'int8', allowed are uint8, float32, float16, bfloat16"),
        ({"labels": ("flow",)}, "unknown label 'flow', allowed are segmentation, coverage, motion"),
        ({"labels": "flow"}, "unknown label 'flow', allowed are segmentation, coverage, motion"),
        ({"labels": ("coverage",)}, r"coverage needs token_size=\(tubelet_size, patch_size\)"),
        ({"labels": "motion"}, r"motion needs token_size=\(tubelet_size, patch_size\)"),
        ({"labels": "motion", "token_size": (1, 4)}, "offsets: give at least one"),
        (
            {"labels": "motion", "token_size": (1, 4), "motion_offsets": (3,)},
            "offsets: 3 is outside of the clip's 3 tubelets",
        ),
        ({"token_size": (2, 4)}, r"\(2, 4\) .* 3 frames of \(20, 28\)"),
        ({"options": StreamOptions(backend="oracle")}, "backend oracle cannot render batches on cpu"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(
    sources: Sources, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stream(RECIPE, sources, **{"batch_size": 2, "seed": 0, **options})


# --- loaders


def private_bytes_and_batch(clips: list[Clip]) -> tuple[int, dict[str, Any]]:
    """Return the private bytes of this process's map of the bank, and the batch."""
    private, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith("texels.bin")
        elif inside and line.startswith("Private_Dirty"):
            private += int(line.split()[1]) * 1024
    return private, collate_clips(clips)


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("forkserver", 1)])
def test_workers_of_a_data_loader_share_the_bank(clips: SyntheticClips, method: str, workers: int) -> None:
    assert len(pickle.dumps(clips)) < 10_000
    loader = DataLoader(
        clips,
        batch_size=4,
        num_workers=workers,
        multiprocessing_context=method,
        collate_fn=private_bytes_and_batch,
    )
    private, batches = zip(*loader, strict=True)
    assert private == (0, 0, 0)
    np.testing.assert_array_equal(batches[2]["frames"][1].permute(0, 2, 3, 1), clips[9].frames)
    np.testing.assert_array_equal(batches[2]["visibility"][1], clips[9].visibility)


# --- containers check what they are given


def test_containers_refuse_arrays_of_another_shape(clips: SyntheticClips) -> None:
    labels = clips[0].labels
    values = {name: getattr(labels, name) for name in labels.__dataclass_fields__}
    with pytest.raises(ValueError, match=r"visibility: expected float64 \(\d, 3\), got float64 \(0, 3\)"):
        Labels(**{**values, "visibility": np.zeros((0, 3))})
    with pytest.raises(ValueError, match="segmentation: expected int16"):
        Labels(**{**values, "segmentation": labels.segmentation.astype(np.uint8)})
    no = np.zeros((5, 7), bool)
    with pytest.raises(ValueError, match=r"flow_xy: expected float32 \(5, 7, 2\), got float64 \(5, 7, 2\)"):
        Flow(np.zeros((5, 7, 2)), no, no, no)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"points_xy: expected float64 \(5, 7, 2\), got float64 \(5, 3, 2\)"):
        Tracks(np.zeros((5, 3, 2)), no, np.zeros(5, np.int64))
    with pytest.raises(ValueError, match=r"frames: expected uint8 \[T, H, W, 3\], got uint8 \(3, 5, 7\)"):
        Clip(np.zeros((3, 5, 7), np.uint8), 8.0, clips[0].annotation)
