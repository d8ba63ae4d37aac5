"""Sources as tools write them: every layout is read as what it is, and no annotation is ignored in silence."""

import base64
import io
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cutting import cut_all
from PIL import Image
from pycocotools import mask as coco_mask

from smile_synth.core.errors import UserError
from smile_synth.objects._item import CutOut, ReadOptions
from smile_synth.objects.readers import list_items

HEIGHT, WIDTH = 9, 12
RING = [2, 1, 9, 1, 9, 6, 2, 6]  # columns 2..8, rows 1..5
POINTS = [[2, 1], [9, 1], [9, 6], [2, 6]]
INSIDE = np.zeros((HEIGHT, WIDTH), np.uint8)
INSIDE[1:6, 2:9] = 1
RLE = {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(np.asfortranarray(INSIDE))["counts"].decode()}
YOLO_LINE = "{} " + " ".join(str(v / (WIDTH, HEIGHT)[n % 2]) for n, v in enumerate(RING))
BOX_LINE = "0 0.5 0.5 0.4 0.4"


def image(path: Path, *, alpha: bool = False, seed: int = 0) -> Path:
    """Write an image of random colours, different for every name."""
    seed += sum(path.name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if alpha else pixels[..., :3]).save(path)
    return path


def mask(path: Path, values: Any = None, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = Image.fromarray(INSIDE if values is None else np.asarray(values, np.uint8))
    if palette:
        written.putpalette(list(range(256)) * 3)
    written.save(path)


def text(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


def coco(*names: str, **more: Any) -> dict[str, Any]:
    """A document with one object per image, of the classes cat and dog in turn."""
    images = [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(names)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1 + n % 2, "segmentation": [RING], "iscrowd": 0}
        for n in range(len(names))
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories} | more


def labelme(file: str, *shapes: dict[str, Any], **more: Any) -> dict[str, Any]:
    shapes = shapes or ({"label": "cat", "points": POINTS, "shape_type": "polygon"},)
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "5.4", "shapes": list(shapes), "imagePath": file, "imageData": None, **size, **more}


def sa1b(file: str) -> dict[str, Any]:
    return {
        "image": {"file_name": file},
        "annotations": [{"id": 5, "segmentation": RLE, "bbox": [2, 1, 7, 5]}],
    }


def youtube_vis(*files: str) -> dict[str, Any]:
    video = {"id": 7, "file_names": list(files), "height": HEIGHT, "width": WIDTH, "length": len(files)}
    track = {"id": 1, "video_id": 7, "category_id": 1, "segmentations": [RLE, None, RLE][: len(files)]}
    return {"videos": [video], "annotations": [track], "categories": [{"id": 1, "name": "cat"}]}


def read(
    source: Path, format_name: str | None = None, **options: Any
) -> tuple[str, list[CutOut], dict[str, str]]:
    """Return the format, the objects, and the reason of everything that was rejected."""
    name, items = list_items(str(source), format_name, ReadOptions(**options))
    return name, *cut_all(items)


# --- layouts that are read: a function that writes one, the format, and the classes


def roboflow(top: Path) -> None:
    for split in ("train", "valid", "test"):
        image(top / split / "0_jpg.rf.1a.jpg", seed=len(split))
        text(top / split / "_annotations.coco.json", coco("0_jpg.rf.1a.jpg"))
    text(top / "README.roboflow.txt", "Exported")


def split_without_labels(top: Path) -> None:
    image(top / "train" / "0.png")
    text(top / "train" / "_annotations.coco.json", coco("0.png"))
    image(top / "test" / "0.png")


def cvat_coco(top: Path) -> None:
    image(top / "images" / "0.png")
    text(top / "annotations" / "instances_default.json", coco("0.png"))


def unpacked_twice(top: Path) -> None:
    cvat_coco(top / "export" / "data")
    text(top / "export" / "README.txt", "from the archive")


def voc(*names: str, name_file: str = "", lines: str = "", colour: bool = False) -> Callable[[Path], None]:
    def write(top: Path) -> None:
        for number, name in enumerate(names, 1):
            image(top / "JPEGImages" / f"{name}.jpg")
            values = INSIDE[..., None] * [0, 128 * number % 256, 7] if colour else INSIDE * number
            mask(top / "SegmentationClass" / f"{name}.png", values, palette=not colour)
            mask(
                top / "SegmentationObject" / f"{name}.png",
                INSIDE[..., None] * [9, 1, 1] if colour else INSIDE,
            )
        if name_file:
            text(top / name_file, lines)

    return write


CVAT_LINES = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nscratch:0,128,7::\ndent:0,0,7::\n"


def sequence(*levels: str, meta: bool = False, masks: str = "Annotations") -> Callable[[Path], None]:
    def write(top: Path) -> None:
        for frame in ("00000", "00005"):
            image(Path(top, "JPEGImages", *levels, "ab12", f"{frame}.jpg"))
            mask(Path(top, masks, *levels, "ab12", f"{frame}.png"), palette=True)
        if meta:
            text(top / "meta.json", {"videos": {"ab12": {"objects": {"1": {"category": "penguin"}}}}})

    return write


def pairs(
    images: str, masks: str, name: str = "0", mask_name: str = "0", values: Any = None
) -> Callable[[Path], None]:
    def write(top: Path) -> None:
        image(top / images / f"{name}.jpg")
        mask(top / masks / f"{mask_name}.png", values)

    return write


SEMANTIC = INSIDE.copy()
SEMANTIC[1:6, 5:9], SEMANTIC[7:] = 2, 255
MANY = np.full((HEIGHT, WIDTH), 255, np.uint8)
MANY[:3] = 1
MANY[3:6] = 2


def many_classes(top: Path) -> None:
    values = np.kron(np.arange(1, 26, dtype=np.uint8).reshape(5, 5), np.ones((9, 9), np.uint8))
    values = np.pad(values, 4, constant_values=255)
    (top / "images").mkdir(parents=True)
    Image.fromarray(np.dstack([values] * 3)).save(top / "images" / "0.png")
    mask(top / "masks" / "0.png", values)


def yolo(images: str, labels: str, more: dict[str, Any] | None = None) -> Callable[[Path], None]:
    def write(top: Path) -> None:
        for split in ("train", "val"):
            image(top / images.format(split) / f"{split}0.jpg")
            text(
                top / labels.format(split) / f"{split}0.txt",
                f"{YOLO_LINE.format(0)}\n{YOLO_LINE.format(1)}\n",
            )
        for name, content in (more or {}).items():
            text(top / name, content)

    return write


def labelme_folder(top: Path) -> None:
    image(top / "a" / "0.jpg")
    text(top / "a" / "0.json", labelme("0.jpg"))


def labelme_elsewhere(path: str) -> Callable[[Path], None]:
    def write(top: Path) -> None:
        image(top / "shots" / "Zoë 1.jpg")
        text(top / "json" / "other name.json", labelme(path))

    return write


def labelme_inside(top: Path) -> None:
    data = base64.b64encode(image(top / "0.png").read_bytes()).decode()
    (top / "0.png").unlink()
    text(top / "0.json", labelme("C:\\data\\0.png", imageData=data))


def labelme_shapes(top: Path) -> None:
    image(top / "0.jpg")
    file = io.BytesIO()
    Image.fromarray(INSIDE[1:6, 2:9].astype(bool)).save(file, "PNG")
    bits = base64.b64encode(file.getvalue()).decode()
    shapes = (
        {"label": "circle", "points": [[5, 4], [5, 7]], "shape_type": "circle"},
        {"label": "mask", "points": [[2, 1], [8, 5]], "shape_type": "mask", "mask": bits},
        {"label": "two parts", "points": [[0, 0], [2, 0], [2, 2]], "group_id": 3},
        {"label": "two parts", "points": [[4, 4], [6, 4], [6, 6]], "group_id": 3, "shape_type": "polygon"},
        {"label": "box", "points": [[0, 0], [2, 2]], "shape_type": "rectangle"},
        {"label": "broken", "points": [[0, 0]], "shape_type": "circle"},
    )
    text(top / "0.json", labelme("0.jpg", *shapes))


def supervisely_names(top: Path) -> None:
    image(top / "img" / "0.jpg")
    text(top / "ann" / "0.jpg.json", labelme("0.jpg"))


def sa1b_folder(top: Path) -> None:
    image(top / "sa_0.jpg")
    text(top / "sa_0.json", sa1b("sa_0.jpg"))


def vis_split(top: Path) -> None:
    for n in range(3):
        image(top / "train" / "JPEGImages" / "v" / f"{n}.jpg")
    text(top / "train" / "instances.json", youtube_vis("v/0.jpg", "v/1.jpg", "v/2.jpg"))


def vis_beside(top: Path) -> None:
    for n in range(3):
        image(top / "train" / "JPEGImages" / "v" / f"{n}.jpg")
    text(top / "train.json", youtube_vis("v/0.jpg", "v/1.jpg", "v/2.jpg"))


def cut_outs(top: Path) -> None:
    for name in ("cat/0", "cat/.ipynb_checkpoints/0-checkpoint", "__MACOSX/cat/._0", "dog/0", ".trash/1"):
        image(top / f"{name}.png", alpha=True)
    for name in ("cat/Thumbs.db", ".DS_Store", "dog/desktop.ini", "@eaDir/cat/x.png"):
        text(top / name, "system")


def split_cut_outs(top: Path) -> None:
    for name in ("train/cat/0", "test/cat/1", "val/dog/2"):
        image(top / f"{name}.png", alpha=True)


READ: dict[str, tuple[Callable[[Path], None], str, dict[str, int]]] = {
    "Roboflow COCO": (roboflow, "coco", {"cat": 3}),
    "a split without labels": (split_without_labels, "coco", {"cat": 1}),
    "CVAT COCO": (cvat_coco, "coco", {"cat": 1}),
    "an archive in its folder": (unpacked_twice, "coco", {"cat": 1}),
    "CVAT VOC": (voc("f0", "f1", name_file="labelmap.txt", lines=CVAT_LINES), "voc", {"scratch": 1, "dent": 1}),
    "CVAT VOC in colour": (
        voc("f0", "f1", name_file="labelmap.txt", lines=CVAT_LINES, colour=True), "voc", {"scratch": 1, "dent": 1}
    ),
    "labelme2voc": (
        voc("f0", name_file="class_names.txt", lines="__ignore__\n_background_\nscratch\n"), "voc", {"scratch": 1}
    ),
    "VOC, names without background": (voc("f0", name_file="labels.txt", lines="scratch\n"), "voc", {"scratch": 1}),
    "VOC without names": (voc("f0", "f1"), "voc", {"class 1": 1, "class 2": 1}),
    "VOC's own": (voc("2007_000001", "2007_000002"), "voc", {"aeroplane": 1, "bicycle": 1}),
    "DAVIS": (sequence("480p"), "davis", {"ab12": 2}),
    "DAVIS unsupervised": (sequence("480p", masks="Annotations_unsupervised"), "davis", {"ab12": 2}),
    "MOSE": (sequence(), "davis", {"ab12": 2}),
    "YouTube-VOS": (sequence(meta=True), "davis", {"penguin": 2}),
    "YouTube-VOS, split": (lambda top: sequence(meta=True)(top / "train"), "davis", {"penguin": 2}),
    "images and masks": (pairs("images", "masks"), "pairs", {"source": 1}),
    "masks of another suffix": (pairs("Images", "Masks", mask_name="0_mask"), "pairs", {"source": 1}),
    "split pairs": (pairs("train/images", "train/masks"), "pairs", {"source": 1}),
    "pairs of splits": (pairs("images/train", "masks/train"), "pairs", {"source": 1}),
    "pairs of splits and classes": (pairs("images/train/cat", "masks/train/cat"), "pairs", {"cat": 1}),
    "MMSegmentation": (pairs("img_dir/val", "ann_dir/val", values=SEMANTIC), "pairs", {"source": 2}),
    "semantic, void 255": (pairs("images", "annotations", values=SEMANTIC), "pairs", {"source": 2}),
    "semantic, void inside": (pairs("images", "masks", values=MANY), "pairs", {"source": 2}),
    "semantic, 25 classes and void": (many_classes, "pairs", {"source": 25}),
    "VOC, class masks alone": (
        pairs("JPEGImages", "SegmentationClass", values=SEMANTIC), "pairs", {"source": 2}
    ),
    "YOLO": (
        yolo("images/{}", "labels/{}", {"data.yaml": "names: [cat, dog]\n"}), "yolo", {"cat": 2, "dog": 2}
    ),
    "YOLO of Roboflow": (
        yolo("{}/images", "{}/labels", {"data.yaml": "names:\n  0: cat\n  1: dog\n"}), "yolo", {"cat": 2, "dog": 2}
    ),
    "YOLO without names": (yolo("images/{}", "labels/{}"), "yolo", {"class 0": 2, "class 1": 2}),
    "YOLO of Label Studio": (
        yolo("images", "labels", {"classes.txt": "cat\ndog\n"}), "yolo", {"cat": 2, "dog": 2}
    ),
    "YOLO, Darknet": (
        yolo("data", "data", {"obj.names": "cat\ndog\n", "train.txt": "data/train0.jpg\n"}),
        "yolo", {"cat": 2, "dog": 2},
    ),
    "LabelMe": (labelme_folder, "labelme", {"cat": 1}),
    "LabelMe, images elsewhere": (labelme_elsewhere("../shots/Zoë 1.jpg"), "labelme", {"cat": 1}),
    "LabelMe of Windows": (labelme_elsewhere("..\\shots\\Zoë 1.jpg"), "labelme", {"cat": 1}),
    "LabelMe of another machine": (labelme_elsewhere("D:\\shots\\Zoe\u0308 1.jpg"), "labelme", {"cat": 1}),
    "LabelMe, image inside": (labelme_inside, "labelme", {"cat": 1}),
    "LabelMe, all shapes": (labelme_shapes, "labelme", {"circle": 1, "mask": 1, "two parts": 1}),
    "LabelMe, named as the image": (supervisely_names, "labelme", {"cat": 1}),
    "Segment Anything": (sa1b_folder, "sa1b", {"source": 1}),
    "YouTube-VIS": (vis_split, "youtube-vis", {"cat": 2}),
    "YouTube-VIS, json outside": (vis_beside, "youtube-vis", {"cat": 2}),
    "cut-outs beside system files": (cut_outs, "rgba", {"cat": 1, "dog": 1}),
    "cut-outs in splits": (split_cut_outs, "rgba", {"cat": 2, "dog": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_layouts_of_tools_are_read(tmp_path: Path, name: str) -> None:
    write, format_name, classes = READ[name]
    top = tmp_path / "source"
    write(top)
    found, objects, _ = read(top)
    assert (found, Counter(item.class_name for item in objects)) == (format_name, classes)
    assert len({item.source for item in objects}) == len(objects)
    # The same with a link to the folder, as to another disk, and with the format given.
    (tmp_path / "other").mkdir()
    os.symlink(top, tmp_path / "other" / "source")
    found, again, _ = read(tmp_path / "other" / "source", format_name)
    assert [item.source for item in again] == [item.source for item in objects]


@pytest.mark.parametrize("name", ["YOLO", "LabelMe", "Segment Anything", "YouTube-VIS", "CVAT COCO"])
def test_outlines_of_all_formats_give_the_same_alpha(tmp_path: Path, name: str) -> None:
    READ[name][0](tmp_path)
    alpha = read(tmp_path)[1][0].rgba[..., 3]
    np.testing.assert_array_equal(alpha, np.full((5, 7), 255, np.uint8))


def test_shapes_that_are_no_outlines_are_rejected(tmp_path: Path) -> None:
    labelme_shapes(tmp_path)
    _, objects, rejected = read(tmp_path)
    assert rejected == {
        "0.jpg#4": "not an outline: shape of type rectangle",
        "0.jpg#5": "bad shape: circle: not enough values to unpack (expected 2, got 1)",
    }
    masked = next(item for item in objects if item.class_name == "mask")
    np.testing.assert_array_equal(masked.rgba[..., 3], np.full((5, 7), 255, np.uint8))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (BOX_LINE, "not an outline: a box of YOLO detection"),
        (BOX_LINE + " 0.9", "not an outline: a box of YOLO detection"),
        ("0 0.1 0.1 0.5 0.1 0.5", "not an outline: a box of YOLO detection"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.2", "bad polygon: an odd number of coordinates, 7"),
        ("cat 0.1 0.1 0.5 0.1 0.5 0.5", "damaged line: expected a class and coordinates"),
        ("0 0.1 0.1 nan 0.1 0.5 0.5", "bad polygon: a coordinate is not a finite number"),
        ("0 3.1 3.1 3.5 3.1 3.5 3.5", "outside the image: the whole polygon"),
    ],
)
def test_unusable_lines_of_yolo_are_rejected(tmp_path: Path, lines: str, reason: str) -> None:
    image(tmp_path / "images" / "0.jpg")
    text(tmp_path / "labels" / "0.txt", f"{YOLO_LINE.format(0)}\n{lines}\n")
    _, objects, rejected = read(tmp_path)
    assert len(objects) == 1 and rejected["images/0.jpg#1"].startswith(reason)


def test_files_of_labels_without_use_are_reported(tmp_path: Path) -> None:
    yolo("images/{}", "labels/{}")(tmp_path)
    for name in ("alone", "empty", "latin"):
        image(tmp_path / "images" / f"{name}.jpg")
    text(tmp_path / "labels" / "empty.txt", "")
    (tmp_path / "labels" / "latin.txt").write_bytes(b"\xff")
    text(tmp_path / "labels" / "lost.txt", YOLO_LINE.format(0))
    assert read(tmp_path)[2] == {
        "images/alone.jpg": "no labels: no .txt file for this image",
        "labels/empty.txt": "no objects: the text file is empty",
        "labels/latin.txt": "unusable labels: the text file is not UTF-8",
        "labels/lost.txt": "no image: a text file without an image of its name",
    }


# --- annotations that would be ignored


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "VIA": ({"via.json": {"0.jpg": {"regions": [{"shape_attributes": {}}]}}}, "it is VGG Image Annotator json"),
    "Label Studio": ({"export.json": [{"from_name": "x", "to_name": "y"}]}, "it is Label Studio json"),
    "Supervisely": ({"ann/0.jpg.json": {"objects": [{"classTitle": "cat"}]}}, "it is Supervisely json"),
    "Cityscapes": ({"0.json": {"imgHeight": 9, "objects": [{"polygon": []}]}}, "it is Cityscapes json"),
    "BDD100K": ({"labels.json": [{"labels": [{"poly2d": []}]}]}, "it is BDD100K json"),
    "Labelbox": ({"export.ndjson": '{"data_row": {}}'}, "it is Labelbox json"),
    "CVAT xml": (
        {"annotations.xml": '<annotations><image name="0.jpg"><polygon points="1,1"/></image></annotations>'},
        "it is CVAT xml: export it as COCO",
    ),
    "VOC boxes": (
        {"0.xml": "<annotation><object><bndbox/></object></annotation>"},
        "it is Pascal VOC xml: it has boxes only",
    ),
    "COCO elsewhere": ({"deep/er/a.json": coco("0.jpg")}, "it is COCO json: pass this file"),
    "results": (
        {"results.json": [{"image_id": 1, "category_id": 1, "score": 1.0}]}, "it is COCO results json"
    ),
    "unknown json": ({"x.json": {"polygons": []}}, "1 annotation file beside its images .* first 'x.json'"),
    "json of an image": ({"0.json": {"a": 1}}, "first '0.json'"),
    "text of an image": ({"0.txt": "a cat on a mat"}, "first '0.txt'"),
    "text in labels/": ({"labels/0.txt": "cat"}, "first 'labels/0.txt'"),
    "table": ({"annotations.csv": "file,x0,y0"}, "first 'annotations.csv'"),
    "arrays": ({"masks/0.npy": "x"}, "first 'masks/0.npy'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_annotations_are_never_ignored_in_silence(tmp_path: Path, name: str) -> None:
    files, message = REFUSED[name]
    image(tmp_path / "0.jpg")
    image(tmp_path / "1.jpg")
    for file, content in files.items():
        text(tmp_path / file, content)
    with pytest.raises(UserError, match=message) as error:
        list_items(str(tmp_path), None, ReadOptions())
    assert "pass format='images'" in str(error.value) and "\n" not in str(error.value)
    name, items = list_items(str(tmp_path), "images", ReadOptions())
    assert name == "images" and len(items) >= 2


@pytest.mark.parametrize(
    "files", [("0.jpg", "0_mask.png"), ("a/0.jpg", "GT/0.png"), ("DUTS-Image/0.jpg", "DUTS-Mask/0.png")]
)
def test_masks_are_not_read_as_images(tmp_path: Path, files: tuple[str, str]) -> None:
    image(tmp_path / files[0])
    mask(tmp_path / files[1])
    with pytest.raises(UserError, match=f"1 mask beside its images would be ignored, first '{files[1]}'"):
        list_items(str(tmp_path), None, ReadOptions())


@pytest.mark.parametrize("file", ["README.txt", "licence.txt", "metadata.json", ".labels.json", "notes.md"])
def test_other_files_beside_images_are_no_annotations(tmp_path: Path, file: str) -> None:
    image(tmp_path / "0.jpg")
    text(tmp_path / file, '{"author": "me"}')
    assert list_items(str(tmp_path), None, ReadOptions())[0] == "images"


def test_labels_of_opaque_images_with_alpha_are_not_ignored(tmp_path: Path) -> None:
    image(tmp_path / "0.png", alpha=True)
    text(tmp_path / "via.json", {"regions": [{"shape_attributes": 1}]})
    with pytest.raises(UserError, match="pass format='rgba'"):
        list_items(str(tmp_path), None, ReadOptions())


def test_splits_of_several_formats_are_refused(tmp_path: Path) -> None:
    split_without_labels(tmp_path)
    pairs("test/images", "test/masks")(tmp_path)
    with pytest.raises(UserError, match="several formats, pass one folder of test/ pairs, train/ coco"):
        list_items(str(tmp_path), None, ReadOptions())


def test_annotations_of_a_second_format_are_named(tmp_path: Path) -> None:
    split_without_labels(tmp_path)
    text(tmp_path / "test" / "0.txt", YOLO_LINE.format(0))
    options = ReadOptions()
    assert list_items(str(tmp_path), None, options)[0] == "yolo"
    json_file = tmp_path / "train" / "_annotations.coco.json"
    assert options.notes == [f"{json_file}: not used (it is COCO json: pass format='coco')"]


def test_a_split_without_labels_is_named(tmp_path: Path) -> None:
    split_without_labels(tmp_path)
    options = ReadOptions()
    assert len(list_items(str(tmp_path), None, options)[1]) == 1
    assert options.notes == [f"{tmp_path / 'test'}: no annotations in it, not used"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.json", {"annotations": [{"segments_info": []}]}, "it is COCO panoptic json: convert it"),
        ("a.json", coco("0.jpg", annotations=[{"image_id": 1, "caption": "x"}]), "it is COCO captions json"),
        ("a.json", coco("0.jpg", annotations=[{"image_id": 1, "keypoints": []}]), "it is COCO keypoints json"),
        ("a.json", [{"image_id": 1, "category_id": 1, "score": 0.5}], "it is COCO results json: it is a model's"),
        ("a.json", coco("0.jpg", annotations=[]), r"no annotated image in it \(read as coco\)"),
        ("a.json", coco("0.jpg", images=[]), "none is usable|no annotated image|unknown image"),
        ("a.json", youtube_vis(), r"no annotated image in it \(read as youtube-vis\)"),
        ("a.json", {"videos": [{}], "annotations": [{"segmentations": 1}], "categories": []}, "lacks 'file_names'"),
        ("a.yaml", "names: [", "cannot be read as YAML"),
        ("a.zip", "PK", "unknown format; expected a folder, or an annotation .json or .yaml file$"),
        ("a.xml", "<annotations><image name='x' points=''/>", "unknown format; .*; it is CVAT xml: export it"),
    ],
)  # fmt: skip
def test_files_of_other_kinds_are_named(tmp_path: Path, file: str, content: Any, message: str) -> None:
    text(tmp_path / file, content)
    image(tmp_path / "0.jpg")
    if content == coco("0.jpg", images=[]):
        assert read(tmp_path / file)[2] == {"annotations[0]": "unknown image: annotation 0 has image_id 0"}
        return
    with pytest.raises(UserError, match=message):
        list_items(str(tmp_path / file), None, ReadOptions())


def test_a_file_can_be_the_source(tmp_path: Path) -> None:
    labelme_folder(tmp_path / "l")
    sa1b_folder(tmp_path / "s")
    yolo("images/{}", "labels/{}", {"data.yaml": "names: [cat, dog]\npath: ."})(tmp_path / "y")
    vis_beside(tmp_path / "v")
    found = {}
    for file in ("l/a/0.json", "s/sa_0.json", "y/data.yaml", "v/train.json"):
        found[file] = (read(tmp_path / file)[0], len(read(tmp_path / file)[1]))
    assert found == {
        "l/a/0.json": ("labelme", 1),
        "s/sa_0.json": ("sa1b", 1),
        "y/data.yaml": ("yolo", 4),
        "v/train.json": ("youtube-vis", 2),
    }
