"""Every export is read back by a reader that we did not write, and compared with the exact labels."""

from __future__ import annotations

import configparser
import contextlib
import copy
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from smile_synth import Annotation, ObjectBank, Recipe, UserError, annotate, build_bank, generate
from smile_synth.corpus import Corpus, verify
from smile_synth.exporters import EXPORT_FORMATS, EXPORTERS, ExportOptions, export, registry
from smile_synth.io.strict_yaml import parse
from smile_synth.io.videos import decode_video
from smile_synth.objects._item import ReadOptions
from smile_synth.objects.readers import list_items
from smile_synth.sources import Sources
from smile_train.data.video_lists import read_videos

RECIPE = """
size: [48, 64]
num_frames: 4
backgrounds: [{kind: noise, drift: [1.0, 2.0]}]
objects: {count: 3, side: [20, 56]}
motion:
  - {family: constant-velocity, speed: [3.0, 9.0], rotation: {rate: 8.0}}
"""
CLIPS, FRAMES, SIZE = 3, 4, (48, 64)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> ObjectBank:
    """Discs and rectangles of three classes."""
    folder = tmp_path_factory.mktemp("exported")
    build_bank(["drawn:24"], folder / "bank", val_fraction=0.0, test_fraction=0.0)
    return ObjectBank.open(folder / "bank")


@pytest.fixture(scope="module")
def corpus(bank: ObjectBank, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("exported") / "corpus"
    recipe = parse(Recipe, RECIPE, name="recipe")
    generate(
        recipe,
        Sources(bank),
        out=folder,
        num_clips=CLIPS,
        seed=3,
        media="ffv1",
        layout="shards",
        clips_per_shard=2,
    )
    return Corpus(folder)


@pytest.fixture(scope="module")
def exact(corpus: Corpus, bank: ObjectBank) -> list[Annotation]:
    return [annotate(corpus.scene(index), Sources(bank)) for index in corpus]


def test_there_is_something_to_see(exact: list[Annotation]) -> None:
    """What the other tests compare must hold occlusion, cropping and objects out of sight."""
    visibility = np.concatenate([a.labels.visibility.ravel() for a in exact])
    in_frame = np.concatenate([a.labels.in_frame.ravel() for a in exact])
    assert (visibility < 0.9).any() and (visibility == 1).any()
    assert (in_frame < 0.95).any()


def perfect(coco: COCO, kind: str) -> float:
    """Return the AP of the annotations themselves as predictions."""
    results = [
        {key: copy.deepcopy(a[key]) for key in ("image_id", "category_id", "bbox", "segmentation")}
        | {"score": 1.0}
        for a in coco.dataset["annotations"]
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def test_coco(corpus: Corpus, exact: list[Annotation], tmp_path: Path) -> None:
    export(corpus.path, "coco", tmp_path / "out", workers=2)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "out" / "annotations" / "instances.json"))
        assert perfect(coco, "segm") == perfect(coco, "bbox") == 1.0
    assert len(coco.imgs) == CLIPS * FRAMES and len(coco.dataset["videos"]) == CLIPS
    seen = 0
    for image in coco.imgs.values():
        index, t = image["video_id"] - 1, image["frame_id"]
        with Image.open(tmp_path / "out" / "images" / image["file_name"]) as image_file:
            assert np.array_equal(np.asarray(image_file), corpus.frames(index)[t])
        labels = exact[index].labels
        for annotation in coco.imgToAnns[image["id"]]:
            k = annotation["instance_id"] - 1
            assert np.array_equal(coco.annToMask(annotation), labels.modal_masks[k, t])
            x, y, width, height = annotation["bbox"]
            assert [x, y, x + width, y + height] == labels.modal_boxes_xyxy[k, t].tolist()
            assert coco.cats[annotation["category_id"]]["name"] == labels.class_names[k]
            assert annotation["area"] == labels.modal_masks[k, t].sum()
            seen += 1
    assert seen == sum(int(a.labels.modal_masks.any(axis=(2, 3)).sum()) for a in exact)


def test_youtube_vis(corpus: Corpus, exact: list[Annotation], tmp_path: Path) -> None:
    export(corpus.path, "youtube-vis", tmp_path / "out")
    document = json.loads((tmp_path / "out" / "instances.json").read_text())
    # A video's frames one above the other are an image, on which pycocotools measures the IoU of a video.
    stacked: dict[str, Any] = {
        "info": {},
        "images": [
            {"id": v["id"], "height": v["height"] * v["length"], "width": v["width"]}
            for v in document["videos"]
        ],
        "categories": document["categories"],
        "annotations": [],
    }
    for annotation in document["annotations"]:
        labels = exact[annotation["video_id"] - 1].labels
        empty = np.zeros(SIZE, np.uint8)
        masks = [empty if s is None else coco_mask.decode(s) for s in annotation["segmentations"]]
        assert any(np.array_equal(np.stack(masks), m) for m in labels.modal_masks)
        for mask, box, area in zip(masks, annotation["bboxes"], annotation["areas"], strict=True):
            assert (box is None) == (not mask.any())
            if box:
                assert coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask))).tolist() == box
                assert area == mask.sum()
        rle = coco_mask.encode(np.asfortranarray(np.concatenate(masks)))
        stacked["annotations"].append(
            {
                "id": annotation["id"], "image_id": annotation["video_id"], "iscrowd": 0,
                "category_id": annotation["category_id"], "segmentation": rle,
                "area": float(coco_mask.area(rle)), "bbox": coco_mask.toBbox(rle).tolist(),
            }
        )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = stacked
        coco.createIndex()
        assert perfect(coco, "segm") == 1.0
    first = document["videos"][0]["file_names"]
    assert len(first) == FRAMES and all((tmp_path / "out" / "JPEGImages" / name).is_file() for name in first)


def test_yolo(corpus: Corpus, exact: list[Annotation], tmp_path: Path) -> None:
    export(corpus.path, "yolo", tmp_path / "out")
    names = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"]
    assert names == dict(enumerate(corpus.header.classes))
    whole = 0
    for index, annotation in zip(corpus, exact, strict=True):
        labels = annotation.labels
        for t in range(FRAMES):
            file = tmp_path / "out" / "labels" / f"{index:06d}" / f"{t:05d}.txt"
            lines = iter(file.read_text().splitlines())
            for number, mask in enumerate(labels.modal_masks[:, t]):
                if not mask.any():
                    continue
                category, *coordinates = next(lines).split()
                assert names[int(category)] == labels.class_names[number]
                # As Ultralytics draws it.
                points = np.array(coordinates, float).reshape(-1, 2) * (SIZE[1], SIZE[0])
                drawn = cv2.fillPoly(np.zeros(SIZE, np.uint8), [points.astype(np.int32)], 1)
                parts, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                filled = cv2.drawContours(np.zeros(SIZE, np.uint8), parts, -1, 1, cv2.FILLED)
                assert not ((drawn == 0) & (filled == 1)).any()
                whole += len(parts) == 1
                assert len(parts) > 1 or (drawn == filled).all()
            assert next(lines, None) is None
    assert whole > 9
    assert list_items(str(tmp_path / "out"), None, ReadOptions())[0] == "yolo"


def test_davis(corpus: Corpus, exact: list[Annotation], tmp_path: Path) -> None:
    export(corpus.path, "davis", tmp_path / "out")
    names = (tmp_path / "out" / "ImageSets" / "2017" / "train.txt").read_text().split()
    assert names == ["000000", "000001", "000002"]
    for index, name in enumerate(names):
        for t in range(FRAMES):
            with Image.open(tmp_path / "out" / "Annotations" / "480p" / name / f"{t:05d}.png") as mask:
                assert mask.mode == "P"
                assert mask.getpalette()[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
                assert np.array_equal(np.asarray(mask), exact[index].segmentation[t])
            image_read = cv2.imread(str(tmp_path / "out" / "JPEGImages" / "480p" / name / f"{t:05d}.jpg"))
            assert image_read.shape == (*SIZE, 3)
    report = build_bank([tmp_path / "out"], tmp_path / "again", format="davis")
    assert report.num_objects > 0


@pytest.mark.filterwarnings("ignore:Operation with tuple")  # of the reader
def test_mot(corpus: Corpus, exact: list[Annotation], tmp_path: Path) -> None:
    import motmetrics  # takes long to load

    export(corpus.path, "mot", tmp_path / "out")
    for index, annotation in enumerate(exact):
        folder, labels = tmp_path / "out" / "train" / f"{index:06d}", annotation.labels
        table = motmetrics.io.loadtxt(folder / "gt" / "gt.txt", fmt=motmetrics.io.Format.MOT16)
        assert len(table) == (labels.in_frame > 0).sum()
        for (frame, number), row in table.iterrows():
            k, t = number - 1, frame - 1
            box = labels.amodal_boxes_xyxy[k, t]
            # motmetrics takes the 1 off that MOT's first pixel has.
            assert box[:2].tolist() == [row.X, row.Y]
            assert [row.X + row.Width, row.Y + row.Height] == box[2:].tolist()
            whole = labels.visibility[k, t] * labels.in_frame[k, t]
            assert row.Visibility == pytest.approx(whole, abs=2e-4)
            assert corpus.header.classes[int(row.ClassId) - 1] == labels.class_names[k]
        about = configparser.ConfigParser()
        about.read(folder / "seqinfo.ini")
        assert about.getint("Sequence", "seqLength") == FRAMES == len(list((folder / "img1").glob("*.jpg")))
        assert (folder / "img1" / "000001.jpg").is_file()


def test_mots(corpus: Corpus, exact: list[Annotation], tmp_path: Path) -> None:
    export(corpus.path, "mots", tmp_path / "out")
    for index, annotation in enumerate(exact):
        labels = annotation.labels
        found = np.zeros_like(labels.modal_masks)
        for line in (tmp_path / "out" / "train" / f"{index:06d}" / "gt" / "gt.txt").read_text().splitlines():
            frame, number, category, height, width, counts = line.split(" ")
            assert int(number) // 1000 == int(category)
            k = int(number) % 1000 - 1
            assert corpus.header.classes[int(category) - 1] == labels.class_names[k]
            found[k, int(frame) - 1] = coco_mask.decode({"size": [int(height), int(width)], "counts": counts})
        assert np.array_equal(found, labels.modal_masks)


def test_tapvid(corpus: Corpus, exact: list[Annotation], bank: ObjectBank, tmp_path: Path) -> None:
    export(corpus.path, "tapvid", tmp_path / "out", sources=Sources(bank), options=ExportOptions(points=40))
    examples = pickle.loads((tmp_path / "out" / "0000_of_0001.pkl").read_bytes())
    assert list(examples) == ["000000", "000001", "000002"]
    for index, example in enumerate(examples.values()):
        assert np.array_equal(example["video"], corpus.frames(index))
        points, occluded = example["points"], example["occluded"]
        assert points.shape == (*occluded.shape, 2) and points.dtype == np.float32 and occluded.dtype == bool
        assert points.min() >= 0 and points.max() <= 1 and len(points) > 20
        assert (~occluded).any(axis=1).all()
        # Where a point is seen, tracking it from there gives the same track.
        for row, hidden in zip(points, occluded, strict=True):
            t = int(np.flatnonzero(~hidden)[0])
            x, y = row[t].astype(np.float64) * SIZE[::-1]
            (track,) = exact[index].tracks([[t, x, y]]).points_xy
            inside = ((track > 0) & (track < SIZE[::-1])).all(axis=1)
            np.testing.assert_allclose(row[inside] * SIZE[::-1], track[inside], atol=0.01)


def test_tapvid_kubric(corpus: Corpus, exact: list[Annotation], bank: ObjectBank, tmp_path: Path) -> None:
    export(
        corpus.path,
        "tapvid-kubric",
        tmp_path / "out",
        sources=Sources(bank),
        options=ExportOptions(points=20),
    )
    with np.load(tmp_path / "out" / "000001.npz") as sample:
        video, queries = sample["video"], sample["query_points"]
        target, occluded = sample["target_points"], sample["occluded"]
    assert video.dtype == np.float32 and video.min() >= -1 and video.max() <= 1
    assert np.array_equal(np.round((video + 1) * 127.5), corpus.frames(1))
    tracks = exact[1].tracks(queries[:, [0, 2, 1]])
    np.testing.assert_allclose(target, np.nan_to_num(tracks.points_xy), atol=0.02)
    at = np.arange(len(queries)), queries[:, 0].astype(int)
    assert not occluded[at].any()
    np.testing.assert_allclose(target[at], queries[:, [2, 1]], atol=1e-5)
    # Kubric tests the four pixels around a point, within one pixel of the point itself.
    owners, (height, width) = exact[1].owner_layers, SIZE
    for p, t in np.ndindex(occluded.shape):
        x, y = tracks.points_xy[p, t]
        rows = np.abs(np.arange(height) + 0.5 - np.clip(y, 0.5, height - 0.5)) < 1
        columns = np.abs(np.arange(width) + 0.5 - np.clip(x, 0.5, width - 0.5)) < 1
        inside = 0 <= x <= width and 0 <= y <= height
        assert occluded[p, t] == (not inside or tracks.layer[p] not in owners[t][np.ix_(rows, columns)])
    assert (occluded != ~tracks.visible).any()


def test_tapvid_exports_state_their_rule_of_visibility(
    corpus: Corpus, bank: ObjectBank, tmp_path: Path
) -> None:
    for format, rule in (("tapvid", "covers the point itself"), ("tapvid-kubric", "none of the four pixels")):
        export(corpus.path, format, tmp_path / format, sources=Sources(bank), options=ExportOptions(points=2))
        text = (tmp_path / format / "visibility.txt").read_text()
        assert "- the point is outside the frame" in text and rule in text


@pytest.mark.parametrize("media", ["h264", "npz"])
def test_list_of_videos_and_labels(bank: ObjectBank, tmp_path: Path, media: str) -> None:
    recipe = parse(Recipe, RECIPE.replace("count: 3", "count: [1, 2]"), name="recipe")
    folder = tmp_path / "corpus"
    generate(recipe, Sources(bank), out=folder, num_clips=5, seed=1, media=media)
    corpus = Corpus(folder)
    names = [sorted({item["class_name"] for item in corpus.labels(index)["objects"]}) for index in corpus]
    counts = [str(len(corpus.labels(index)["objects"])) for index in corpus]
    suffix = {"h264": "mp4", "npz": "mkv"}[media]
    for label, expected in (
        ("class", ["+".join(several) for several in names]),
        ("num_objects", counts),
        ("family", ["constant-velocity"] * 5),
    ):
        out = tmp_path / label
        export(folder, "list", out, options=ExportOptions(label=label), workers=1)
        classes = (out / "classes.txt").read_text().splitlines()
        lines = [line.split(" ") for line in (out / "train.csv").read_text().splitlines()]
        assert [(path, classes[int(number)]) for path, number in lines] == [
            (f"videos/{index:06d}.{suffix}", name) for index, name in enumerate(expected)
        ]
        assert classes == sorted({*expected, *(corpus.header.classes if label == "class" else ())})
        read = read_videos(out / "train.csv")
        assert [(v.path, v.label) for v in read] == [(out / path, number) for path, number in lines]
    assert len(set(counts)) == 2
    frames = decode_video((tmp_path / "class" / "videos" / f"000003.{suffix}").read_bytes())
    assert np.array_equal(frames, corpus.frames(3))


@pytest.mark.parametrize("step", [1, -2])
def test_flo(corpus: Corpus, exact: list[Annotation], bank: ObjectBank, tmp_path: Path, step: int) -> None:
    from torchvision.datasets import Sintel  # takes long to load

    export(corpus.path, "flo", tmp_path / "Sintel", sources=Sources(bank), options=ExportOptions(step=step))
    root = tmp_path / "Sintel" / "training"
    for index, annotation in enumerate(exact):
        for t in range(FRAMES):
            name = f"{index:06d}/frame_{t + 1:04d}"
            if not 0 <= t + step < FRAMES:
                assert not (root / "flow" / f"{name}.flo").exists()
                continue
            flow = annotation.flow(t, t + step)
            read = cv2.readOpticalFlow(str(root / "flow" / f"{name}.flo"))
            assert np.array_equal(read[flow.valid], flow.flow_xy[flow.valid])
            assert (np.abs(read[~flow.valid]) > 1e9).all()
            for folder, mask in (
                ("occlusions", flow.occluded),
                ("outofframe", flow.leaves),
                ("invalid", ~flow.valid),
            ):
                image_read = cv2.imread(str(root / folder / f"{name}.png"), cv2.IMREAD_UNCHANGED)
                assert np.array_equal(image_read == 255, mask)
    if step == 1:
        read_by_torchvision = Sintel(str(tmp_path), split="train", pass_name="clean")
        assert len(read_by_torchvision) == CLIPS * (FRAMES - 1)
        first, second, flow_chw = read_by_torchvision[1]
        assert np.array_equal(np.asarray(first), corpus.frames(0)[1])
        assert np.array_equal(np.asarray(second), corpus.frames(0)[2])
        assert np.array_equal(flow_chw.transpose(1, 2, 0), exact[0].flow(1, 2).flow_xy)


def test_kitti_flow(corpus: Corpus, exact: list[Annotation], bank: ObjectBank, tmp_path: Path) -> None:
    from torchvision.datasets import KittiFlow

    export(corpus.path, "kitti-flow", tmp_path / "KittiFlow", sources=Sources(bank))
    root = tmp_path / "KittiFlow" / "training"
    read_by_torchvision = KittiFlow(str(tmp_path), split="train")
    assert len(read_by_torchvision) == CLIPS * (FRAMES - 1)
    for index, annotation in enumerate(exact):
        for t in range(FRAMES - 1):
            number, flow = index * (FRAMES - 1) + t, annotation.flow(t, t + 1)
            seen = flow.valid & ~flow.occluded & ~flow.leaves
            for folder, valid in (("flow_occ", flow.valid), ("flow_noc", seen)):
                bgr = cv2.imread(
                    str(root / folder / f"{number:06d}_10.png"), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR
                )
                assert np.array_equal(bgr[..., 0] == 1, valid)
                read = (bgr[..., 2:0:-1].astype(float) - 2**15) / 64
                assert np.abs(read - flow.flow_xy)[valid].max() <= 1 / 128
            for subframe, suffix in ((t, "10"), (t + 1, "11")):
                image_read = cv2.imread(str(root / "image_2" / f"{number:06d}_{suffix}.png"))
                assert np.array_equal(image_read[..., ::-1], corpus.frames(index)[subframe])


def test_flow_npz_frames_and_native(
    corpus: Corpus, exact: list[Annotation], bank: ObjectBank, tmp_path: Path
) -> None:
    export(corpus.path, "flow-npz", tmp_path / "flow", sources=Sources(bank), options=ExportOptions(step=2))
    with np.load(tmp_path / "flow" / "000002" / "00001_00003.npz") as read:
        assert np.array_equal(read["flow_xy"], exact[2].flow(1, 3).flow_xy)
    assert len(list(tmp_path.glob("flow/*/*.npz"))) == CLIPS * (FRAMES - 2)
    export(corpus.path, "frames", tmp_path / "frames")
    with Image.open(tmp_path / "frames" / "000002" / "00003.png") as image_file:
        assert np.array_equal(np.asarray(image_file), corpus.frames(2)[3])
    export(corpus.path, "native", tmp_path / "native")
    native = Corpus(tmp_path / "native")
    assert (tmp_path / "native" / "clips" / "000001.mkv").read_bytes() == corpus.read(1, "mkv")
    assert native.header.layout == "folder"
    assert verify(native.path, deep=True, sources=Sources(bank)) == []


PRESENCE = """
size: [48, 64]
num_frames: 6
backgrounds: [{kind: noise, drift: [1.0, 2.0]}]
objects: {count: 7, side: [8, 60], presence: [0.5, 0.7]}
motion: [{family: constant-velocity, speed: [2.0, 6.0]}]
"""


@pytest.fixture(scope="module")
def absent(bank: ObjectBank, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two clips with objects that are absent in some frames, and some that are present but fully hidden."""
    folder = tmp_path_factory.mktemp("absent") / "corpus"
    recipe = parse(Recipe, PRESENCE, name="recipe")
    generate(recipe, Sources(bank), out=folder, num_clips=2, seed=3, media="ffv1")
    return Corpus(folder)


Instances = set[tuple[int, int, int]]


def instances(corpus: Corpus, bank: ObjectBank) -> tuple[Instances, Instances, Instances]:
    """Return (clip, object, frame), numbers from 0, of absent, of hidden and of visible instances."""
    out: tuple[Instances, Instances, Instances] = (set(), set(), set())
    for index in corpus:
        annotation = annotate(corpus.scene(index), Sources(bank))
        owned = annotation.labels.modal_masks.any(axis=(2, 3))
        for k, t in np.ndindex(owned.shape):
            group = 0 if annotation.scene.opacity[k + 1, t] == 0 else 2 if owned[k, t] else 1
            out[group].add((index, k, t))
    assert all(out)
    return out


def test_absent_instances_have_no_mot_row_and_hidden_ones_visibility_0(
    absent: Corpus, bank: ObjectBank, tmp_path: Path
) -> None:
    gone, hidden, visible = instances(absent, bank)
    export(absent.path, "mot", tmp_path / "out")
    shares = {}
    for index in absent:
        text = (tmp_path / "out" / "train" / f"{index:06d}" / "gt" / "gt.txt").read_text()
        for line in text.splitlines():
            frame, number, *_, share = line.split(",")
            shares[index, int(number) - 1, int(frame) - 1] = float(share)
    assert not gone & shares.keys()
    assert hidden | visible == shares.keys()
    assert all((shares[key] == 0) == (key in hidden) for key in shares)


def test_mask_exports_have_visible_instances_only(absent: Corpus, bank: ObjectBank, tmp_path: Path) -> None:
    _, _, visible = instances(absent, bank)
    for format in ("coco", "youtube-vis", "davis", "mots"):
        export(absent.path, format, tmp_path / format)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "coco" / "annotations" / "instances.json"))
    assert visible == {
        (a["video_id"] - 1, a["instance_id"] - 1, coco.imgs[a["image_id"]]["frame_id"])
        for a in coco.dataset["annotations"]
    }
    vis = json.loads((tmp_path / "youtube-vis" / "instances.json").read_text())
    lengths = [sum(box is not None for box in a["bboxes"]) for a in vis["annotations"]]
    assert sum(lengths) == len(visible)
    davis, mots = set(), set()
    for index in absent:
        masks = sorted((tmp_path / "davis" / "Annotations" / "480p" / f"{index:06d}").iterdir())
        for t, path in enumerate(masks):
            with Image.open(path) as mask:
                davis |= {(index, k - 1, t) for k in np.unique(np.asarray(mask)).tolist() if k}
        text = (tmp_path / "mots" / "train" / f"{index:06d}" / "gt" / "gt.txt").read_text()
        rows = [line.split(" ") for line in text.splitlines()]
        mots |= {(index, int(number) % 1000 - 1, int(frame) - 1) for frame, number, *_ in rows}
    assert visible == davis == mots


def test_points_and_flow_of_absent_instances_are_not_visible(
    absent: Corpus, bank: ObjectBank, tmp_path: Path
) -> None:
    for format in ("flow-npz", "tapvid"):
        export(
            absent.path, format, tmp_path / format, sources=Sources(bank), options=ExportOptions(points=200)
        )
    examples = pickle.loads((tmp_path / "tapvid" / "0000_of_0001.pkl").read_bytes())
    pixels = 0
    for index in absent:
        scene = absent.scene(index)
        annotation = annotate(scene, Sources(bank))
        example = examples[f"{index:06d}"]
        size_wh = np.array(scene.size_hw[::-1])
        for points, occluded in zip(example["points"], example["occluded"], strict=True):
            for t in np.flatnonzero(~occluded):
                x, y = np.minimum(points[t] * size_wh, size_wh - 1).astype(int)
                owner = annotation.segmentation[t, y, x]
                assert owner == 0 or scene.opacity[owner, t] > 0
        for t in range(scene.num_frames - 1):
            with np.load(tmp_path / "flow-npz" / f"{index:06d}" / f"{t:05d}_{t + 1:05d}.npz") as flow:
                vanishing = scene.opacity[annotation.segmentation[t], t + 1] == 0
                assert not (flow["valid"] & ~flow["occluded"] & ~flow["leaves"])[vanishing].any()
                pixels += int(vanishing.sum())
    assert pixels > 100


def test_two_formats_of_one_name_raise() -> None:
    with pytest.raises(ValueError, match="export format 'coco' is registered twice"):
        registry([EXPORTERS["coco"], EXPORTERS["mot"], EXPORTERS["coco"]])


@pytest.mark.parametrize(
    ("format", "settings", "message"),
    [
        ("coc", {}, r"format 'coc': allowed are .*; did you mean 'coco'\?"),
        ("flo", {}, r"format 'flo': is computed from the scenes; give the sources"),
        ("list", {"label": "famly"}, r"label 'famly': allowed are .*num_objects.*; did you mean 'family'\?"),
        (
            "list",
            {"label": "net_displacement_px"},
            r"label 'net_displacement_px': is .* in clip 0; a class is a text or a whole",
        ),
        ("flo", {"sources": True, "step": 4}, r"step 4: expected 1 to 3, or -1 and below"),
        ("flo", {"sources": True, "step": 0}, r"step 0: expected"),
        ("tapvid", {"sources": True, "points": 0}, r"points must be at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line(
    corpus: Corpus, bank: ObjectBank, tmp_path: Path, format: str, settings: dict[str, Any], message: str
) -> None:
    settings = dict(settings)
    sources = Sources(bank) if settings.pop("sources", False) else None
    with pytest.raises(UserError, match=message):
        export(corpus.path, format, tmp_path / "out", sources=sources, options=ExportOptions(**settings))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(corpus: Corpus, tmp_path: Path) -> None:
    for format in EXPORT_FORMATS:
        with pytest.raises(UserError, match="exists; choose another folder"):
            export(corpus.path, format, tmp_path)


def test_a_failing_export_leaves_nothing(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="00000.png': cannot be written: No space left on device"):
        export(corpus.path, "frames", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_os_error_of_other_code_stays_a_traceback(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(frame: object, suffix: str) -> bytes:
        raise FileNotFoundError(2, "a bug")

    monkeypatch.setattr("smile_synth.exporters._base.image_bytes", bug)
    with pytest.raises(FileNotFoundError, match="a bug"):
        export(corpus.path, "frames", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mkv", "json"])
def test_an_altered_file_stops_the_export_with_one_line(corpus: Corpus, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(corpus.path, tmp_path / "corpus"))
    member = next(member for member in corpus.row(1)["members"] if member["name"] == name)
    with (folder / member["file"]).open("r+b") as shard:
        shard.seek(member["offset"])
        shard.write(bytes(member["bytes"]))
    with pytest.raises(UserError, match=rf"000000\.tar': {name} of clip 1 is altered; repair the corpus"):
        export(folder, "coco", tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["corpus"]
