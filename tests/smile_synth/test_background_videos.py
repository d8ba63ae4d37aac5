"""Natural video: exact frames by number, odd files, damaged files, and clips over it."""

import pickle
import shutil
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from smile_synth.annotations import annotate
from smile_synth.backgrounds import BackgroundFolder, _folder
from smile_synth.compositing import composite
from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStreams
from smile_synth.io import videos as _videos
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene
from smile_synth.sampling._background import draw_frame_numbers
from smile_synth.scene import Scene, Video, texture_of
from smile_synth.sources import Sources

REAL = Path(__file__).parents[2] / "../shared/data/videos"
STEP = 6  # grey levels from one frame of a test video to the next


def write_video(
    path: Path, count: int, *, pts: Sequence[int] | None = None, size_hw: tuple[int, int] = (24, 32),
    bframes: int = 2, options: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """Write a video whose frame k is grey of level k x STEP, its left half darker by half."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = size_hw
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 20, bframes
        stream.options = {"crf": "4", "preset": "veryfast", "threads": "1", "sc_threshold": "0"}
        for k in range(count):
            rgb = np.full((*size_hw, 3), k * STEP, np.uint8)
            rgb[:, : size_hw[1] // 2] //= 2
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = pts[k] if pts else k * 40, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def numbers_seen(frames: NDArray[np.uint8]) -> list[int]:
    """Read from the grey of the right half which frames these are."""
    right = frames[:, 4:-4, -8:-4].astype(float).mean(axis=(1, 2, 3))
    return [round(v) for v in (right / STEP).tolist()]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> BackgroundFolder:
    """Forty frames with two key frames and B-frames; 40 at a variable rate; 7; an image."""
    folder = tmp_path_factory.mktemp("vidéos with spaces")
    write_video(folder / "a forty.mp4", 40)
    pts = np.cumsum([13 + 90 * (k % 3 == 0) for k in range(40)]).tolist()
    write_video(folder / "b variable.mkv", 40, pts=pts)
    write_video(folder / "c seven.mp4", 7)
    Image.new("RGB", (40, 30), (9, 9, 9)).save(folder / "d.png")
    return BackgroundFolder(folder)


# --- reading


def test_videos_are_indexed_with_size_and_number_of_frames(videos: BackgroundFolder) -> None:
    assert [file.name for file in videos.video_files] == ["a forty.mp4", "b variable.mkv", "c seven.mp4"]
    assert [(v.height, v.width, v.num_frames) for v in videos.videos] == [
        (24, 32, 40), (24, 32, 40), (24, 32, 7),
    ]  # fmt: skip
    assert [number for number, _ in videos.videos[0].entries] == [0, 20]
    assert (len(videos), len(videos.files), videos.unreadable, videos.cut_short) == (4, 1, [], [])


@pytest.mark.parametrize("video_id", [0, 1])
def test_frames_are_exact_in_any_order(videos: BackgroundFolder, video_id: int) -> None:
    for numbers in ((0,), (39,), (19, 20, 21), (38, 3, 38), (25, 29, 33), (17, 0), tuple(range(40))):
        assert numbers_seen(videos.frames(video_id, numbers)) == list(numbers)


def test_decoding_starts_at_the_nearest_key_frame(
    videos: BackgroundFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    original = _videos._frames_from

    def counted(*arguments: object) -> object:
        for number, frame in original(*arguments):  # type: ignore[arg-type]
            decoded.append(number)
            yield number, frame

    monkeypatch.setattr(_videos, "_frames_from", counted)
    _videos.read_frames(videos.video_files[0], videos.videos[0], (23, 27))
    assert decoded == list(range(20, 28))


def test_a_container_without_exact_seeking_is_decoded_from_its_start(videos: BackgroundFolder) -> None:
    wrong = replace(videos.videos[0], entries=((0, 0), (20, 805)))  # no frame has this time
    assert numbers_seen(_videos.read_frames(videos.video_files[0], wrong, (22, 24))) == [22, 24]


def test_a_gif_is_a_video(tmp_path: Path) -> None:
    shades = [Image.new("RGB", (12, 10), (k * 20, 255 - k * 20, 0)) for k in range(5)]
    shades[0].save(
        tmp_path / "a.gif", save_all=True, append_images=shades[1:], duration=[20, 300, 20, 70, 20]
    )
    folder = BackgroundFolder(tmp_path)
    assert folder.videos[0].num_frames == 5 and not folder.cut_short
    frames = folder.frames(0, (3, 1))
    assert frames[:, 5, 5].tolist() == [[60, 195, 0], [20, 235, 0]]


def test_a_turned_phone_video_is_upright(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 3)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    assert data[matrix : matrix + 4] == b"\x00\x01\x00\x00"
    quarter_clockwise = [0, 0x10000, 0, 0x100000000 - 0x10000, 0]
    for k, value in enumerate(quarter_clockwise):
        data[matrix + 4 * k : matrix + 4 * k + 4] = value.to_bytes(4, "big")
    (tmp_path / "a.mp4").write_bytes(data)
    folder = BackgroundFolder(tmp_path)
    assert (folder.videos[0].height, folder.videos[0].width) == (32, 24)
    frame = folder.frames(0, (2,))[0].astype(int)
    # The darker left half comes to the top.
    assert frame[4:12].mean() < frame[20:28].mean() - 3


# --- damaged files


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    write_video(tmp_path / "a.mp4", 40, options={"movflags": "+faststart"}, bframes=0, size_hw=(64, 64))
    write_video(tmp_path / "late.mp4", 40)
    for name in ("a.mp4", "late.mp4"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) * 3 // 4])
    shades = [Image.effect_noise((40, 30), 90 + k) for k in range(6)]
    shades[0].save(tmp_path / "b.gif", save_all=True, append_images=shades[1:])
    data = (tmp_path / "b.gif").read_bytes()
    (tmp_path / "b.gif").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.webm").write_text("no video")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    return tmp_path


def test_a_cut_video_is_used_up_to_the_cut_and_listed(damaged: Path) -> None:
    folder = BackgroundFolder(damaged)
    told = {file.name: reason for file, reason in folder.cut_short}
    assert set(told) == {"a.mp4", "b.gif"}
    for file, video in zip(folder.video_files, folder.videos, strict=True):
        assert f"after {video.num_frames} frames" in told[file.name]
    count = folder.videos[0].num_frames
    assert 10 < count < 40
    assert numbers_seen(folder.frames(0, (count - 2, 0))) == [count - 2, 0]
    assert len(folder.frames(1, (folder.videos[1].num_frames - 1,))) == 1


def test_a_video_without_readable_frames_is_listed(damaged: Path) -> None:
    told = {file.name: reason for file, reason in BackgroundFolder(damaged).unreadable}
    assert told == {
        "empty.mp4": "is empty",
        "late.mp4": "holds no video that can be decoded",
        "sound.mp4": "holds no image, only sound or data",
        "text.webm": "is no video: Invalid data found when processing input",
    }


def test_a_video_that_changed_or_was_removed_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 9)
    folder = BackgroundFolder(tmp_path)
    write_video(tmp_path / "a.mp4", 5)
    with pytest.raises(UserError, match=r"a\.mp4': can no longer be read: has changed since"):
        folder.frames(0, (7,))
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(UserError, match=r"a\.mp4': can no longer be read: No such file"):
        folder.frames(0, (0,))


# --- memory


def test_decoded_frames_are_cached_up_to_a_limit(
    videos: BackgroundFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_bytes = 2 * 24 * 32 * 3
    folder = BackgroundFolder(videos.path, cache_bytes=2 * clip_bytes)
    decoded: list[tuple[int, ...]] = []
    original = _folder.read_frames
    monkeypatch.setattr(
        _folder, "read_frames", lambda file, info, n: decoded.append(n) or original(file, info, n)
    )
    for numbers in ((0, 1), (2, 3), (0, 1), (4, 5), (0, 1), (2, 3)):
        folder.frames(0, numbers)
    assert decoded == [(0, 1), (2, 3), (4, 5), (2, 3)]


def test_a_copy_for_a_worker_is_small(videos: BackgroundFolder) -> None:
    size = len(pickle.dumps(BackgroundFolder(videos.path)))
    videos.frames(0, tuple(range(16)))
    assert len(pickle.dumps(videos)) == size < 4000
    copy = pickle.loads(pickle.dumps(videos))
    np.testing.assert_array_equal(copy.frames(1, (30,)), videos.frames(1, (30,)))


# --- clips


def recipe(*overrides: str, stride: str = "4", frames: int = 5) -> Recipe:
    return Recipe.load(
        "smile-gaussian-video",
        [f"num_frames={frames}", "size=[20,28]", "objects.side=[9]", "motion.0.extent=[4,9]",
         f"backgrounds.0.stride={stride}", *overrides],
    )  # fmt: skip


def draw(bank: ObjectBank, videos: BackgroundFolder, index: int = 0, **changes: object) -> Scene:
    return sample_scene(recipe(**changes), Sources(bank, videos), seed=3, index=index)  # type: ignore[arg-type]


def test_start_and_stride_are_drawn_inside_the_video(bank: ObjectBank, videos: BackgroundFolder) -> None:
    starts, strides = set(), set()
    for index in range(60):
        surface = draw(bank, videos, index, stride="[1,3]").layers[0].surface
        assert isinstance(surface, Video)
        if surface.video_id < 2:
            steps = np.diff(surface.numbers)
            assert (steps == steps[0]).all() and surface.numbers[0] >= 0 and surface.numbers[-1] < 40
            starts.add(surface.numbers[0])
            strides.add(int(steps[0]))
    assert strides == {1, 2, 3} and len(starts) > 15


def frame_numbers(available: int, num_frames: int, stride: int) -> set[tuple[int, ...]]:
    """Return the frames of 200 clips of one video."""
    rng = RandomStreams(0, np.arange(200), "frames")
    each = np.full(200, available), num_frames, np.full(200, stride)
    return set(draw_frame_numbers(*each, rng=rng))


def test_every_start_that_fits_can_be_drawn() -> None:
    assert frame_numbers(7, 3, 2) == {(0, 2, 4), (1, 3, 5), (2, 4, 6)}


def test_a_short_video_is_played_forward_and_backward() -> None:
    assert frame_numbers(3, 6, 1) == {(0, 1, 2, 1, 0, 1), (1, 2, 1, 0, 1, 2), (2, 1, 0, 1, 2, 1)}
    assert (1, 0, 1, 2, 3, 4) in frame_numbers(5, 6, 7)
    assert frame_numbers(1, 4, 3) == {(0, 0, 0, 0)}


def test_a_scene_with_video_is_read_back_as_written(bank: ObjectBank, videos: BackgroundFolder) -> None:
    scene = draw(bank, videos)
    again = Scene.from_bytes(scene.to_bytes())
    assert again.layers == scene.layers and again.to_bytes() == scene.to_bytes()
    assert scene.background_digest == videos.digest


@pytest.mark.parametrize("index", range(3))
def test_backends_agree_on_video(bank: ObjectBank, videos: BackgroundFolder, index: int) -> None:
    scene = draw(bank, videos, index)
    cpu, oracle = (composite(scene, Sources(bank, videos), backend=b).astype(int) for b in ("cpu", "oracle"))
    difference = np.abs(cpu - oracle).max(axis=-1)
    assert difference.max() <= 3 and (difference > 1).mean() <= 0.001
    assert len({frame.tobytes() for frame in cpu}) > 1


def test_each_frame_of_a_clip_shows_its_frame_of_the_video(
    bank: ObjectBank, videos: BackgroundFolder
) -> None:
    scene = draw(bank, videos, frames=19, stride="2")  # more frames than are decoded together
    surface = scene.layers[0].surface
    assert isinstance(surface, Video)
    shown = np.stack([texture_of(surface, Sources(bank, videos), t).level(0)[..., :3] for t in range(19)])
    assert numbers_seen(shown) == list(surface.numbers)


def test_natural_video_has_no_flow_and_no_tracks(bank: ObjectBank, videos: BackgroundFolder) -> None:
    labels = annotate(draw(bank, videos), Sources(bank, videos))
    behind = labels.segmentation[0] == 0
    assert behind.any()
    assert not labels.flow(0, 1).valid[behind].any() and labels.flow(0, 0).valid.all()
    y, x = np.argwhere(behind)[0]
    tracks = labels.tracks([[0, x + 0.5, y + 0.5]])
    assert (
        tracks.visible[0, 0] and not tracks.visible[0, 1:].any() and np.isnan(tracks.points_xy[0, 1:]).all()
    )


def test_a_recipe_without_its_videos_is_refused(
    bank: ObjectBank, videos: BackgroundFolder, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"'video' backgrounds: give a folder of videos"):
        sample_scene(recipe(), Sources(bank), seed=0, index=0)
    shutil.copy(videos.path / "d.png", tmp_path)
    with pytest.raises(UserError, match=r"'video' backgrounds: '.*' holds no readable videos"):
        sample_scene(recipe(), Sources(bank, BackgroundFolder(tmp_path)), seed=0, index=0)


def test_real_videos_are_exact_from_anywhere() -> None:
    if not REAL.is_dir():
        pytest.skip("no folder of real videos beside the checkout")
    for name in (
        "imageio-binaries__realshort.mp4",
        "imageio-binaries__newtonscradle.gif",
        "torchcodec__nasa_13013.mp4",
    ):
        info = _videos.inspect_video(REAL / name)
        every = _videos.read_frames(REAL / name, info, range(info.num_frames))
        with av.open(str(REAL / name)) as container:
            assert sum(1 for _ in container.decode(video=0)) == info.num_frames
        for number in range(1, info.num_frames, 31):
            np.testing.assert_array_equal(_videos.read_frames(REAL / name, info, (number,))[0], every[number])
