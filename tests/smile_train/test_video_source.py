"""Natural videos as a source of training clips."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from smile_synth import UserError
from smile_synth.io.videos import write_mp4
from smile_train.config import AugmentationOptions, CropOptions, SamplingOptions
from smile_train.data.video_lists import LabelledVideo
from smile_train.data.video_source import VideoSource

CENTER = AugmentationOptions(crop=CropOptions(kind="center"))
SHORT = SamplingOptions(num_frames=2, stride_frames=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledVideo]:
    """Seven videos; the frames of video k have the grey value 30 k + 10 + t."""
    root = tmp_path_factory.mktemp("videos")
    made = []
    for k in range(7):
        frames = (
            np.full((6, 16, 24, 3), 30 * k + 10, np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]
        )
        write_mp4(root / f"{k}.mp4", frames, 10)
        made.append(LabelledVideo(root / f"{k}.mp4", f"{k}.mp4", "even" if k % 2 == 0 else "odd", str(k)))
    return made


def source(videos: list[LabelledVideo], **options: object) -> VideoSource:
    settings = {"sampling": SHORT, "augmentation": CENTER, "side": 16, "seed": 3, **options}
    return VideoSource(videos, **settings)  # type: ignore[arg-type]


def shown(source: VideoSource, indices: range) -> list[int]:
    """Return the number of the video of each clip."""
    return [round((clip.frames.mean() - 13) / 30) for clip in source.clips(indices)]


def test_an_epoch_has_every_video_once_in_an_order_of_its_own(videos: list[LabelledVideo]) -> None:
    made = source(videos)
    assert len(made) == 7 and (made.size_hw, made.num_frames) == ((16, 16), 2)
    epochs = [shown(made, range(7 * e, 7 * e + 7)) for e in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert shown(source(videos, seed=4), range(7)) != epochs[0]
    clip = made.clips([9])[0]
    assert clip.frames.shape == (2, 16, 16, 3) and clip.labels == {} and clip.unreadable == ()


@pytest.mark.parametrize("repeats", [2, 3])
def test_copies_of_a_video_are_apart(videos: list[LabelledVideo], repeats: int) -> None:
    found = shown(source(videos[:6], repeats=repeats), range(6 * repeats))
    assert sorted(found) == sorted([*range(6)] * repeats)
    assert all(a != b for a, b in zip(found[::2], found[1::2], strict=True))
    for size in (4, 6, 12):  # Mixup combines a batch with its reverse
        for start in range(0, len(found) - size + 1, size):
            batch = found[start : start + size]
            assert all(a != b for a, b in zip(batch, batch[::-1], strict=True))
    copies = [i for i in range(6 * repeats) if found[i] == found[0]]
    assert copies == [0, 2, 4][:repeats]


def test_a_clip_depends_on_seed_and_index_alone(videos: list[LabelledVideo]) -> None:
    options = AugmentationOptions(crop=CropOptions(kind="multi_scale"), flip=True, erasing=0.5)
    made = source(videos, augmentation=options)
    clips = [clip.frames for clip in made.clips(range(10))]
    sent = pickle.loads(pickle.dumps(source(videos, augmentation=options)))
    for index in (9, 4, 0):
        np.testing.assert_array_equal(sent.clips([index])[0].frames, clips[index])


def test_labels_are_class_numbers(videos: list[LabelledVideo]) -> None:
    made = source(videos, classes=["odd", "even"])
    clips = made.clips(range(7))
    for clip, number in zip(clips, shown(made, range(7)), strict=True):
        assert clip.labels["class"] == (number + 1) % 2 and clip.labels["class"].dtype == np.int64
    with pytest.raises(
        UserError, match="video '0.mp4': class 'even' is not one of the 2 classes; did you mean 'evn'"
    ):
        source(videos, classes=["odd", "evn"])


def test_a_video_that_cannot_be_read_is_replaced_by_the_next(
    videos: list[LabelledVideo], tmp_path: Path
) -> None:
    order = shown(source(videos), range(14))
    damaged = list(videos)
    for number, content in ((order[2], b"no video"), (order[3], b"")):
        (tmp_path / f"{number}.mp4").write_bytes(content)
        damaged[number] = LabelledVideo(tmp_path / f"{number}.mp4", "x", "even", "x")
    made = source(damaged)
    expected = [order[4] if n in (order[2], order[3]) else n for n in order[:7]]
    assert shown(made, range(7)) == expected
    clip = made.clips([2])[0]
    assert clip.unreadable == (
        (str(tmp_path / f"{order[2]}.mp4"), "cannot be decoded: Invalid data found when processing input"),
        (str(tmp_path / f"{order[3]}.mp4"), "is empty"),
    )
    gone = [LabelledVideo(tmp_path / f"gone{k}.mp4", "x", "even", "x") for k in range(9)]
    with pytest.raises(
        UserError, match="5 videos in a row cannot be read; the first, '.*gone.*': cannot be decoded: No"
    ):
        source(gone).clips([0])


def test_the_digest_follows_everything_that_clips_depend_on(videos: list[LabelledVideo]) -> None:
    changes: list[dict[str, object]] = [
        {}, {"side": 8}, {"repeats": 2}, {"classes": ["even", "odd"]}, {"files_digest": "x"},
        {"sampling": SamplingOptions(num_frames=2, stride_frames=2)}, {"augmentation": AugmentationOptions()},
    ]  # fmt: skip
    digests = {source(videos, **change).digest for change in changes} | {source(videos[:6]).digest}
    assert len(digests) == 8 and source(videos).digest in digests
