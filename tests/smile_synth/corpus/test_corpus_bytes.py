"""Hand-written files have the bytes of the standard writers; label files are plain JSON."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest

from smile_synth import ObjectBank, Recipe, annotate, sample_scene
from smile_synth.corpus import _tar, labels_bytes, npz_bytes
from smile_synth.io.strict_yaml import parse
from smile_synth.sources import Sources


def test_a_tar_has_the_bytes_of_tarfile() -> None:
    contents = {"000007.json": b"{}", "000007.mp4": bytes(range(256)) * 5, "000007.empty": b""}
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    written = b"".join(_tar.member(name, data) for name, data in contents.items())
    assert written + _tar.trailer(len(written)) == expected.getvalue()
    with pytest.raises(ValueError, match="name is too long"):
        _tar.member("x" * 101, b"")


def test_npz_members_have_the_bytes_of_numpy() -> None:
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.zeros((0, 4), np.int32),
        "c": np.array([True, False]),
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    expected, found = (zipfile.ZipFile(file) for file in (packed, io.BytesIO(npz_bytes(**arrays))))
    assert found.namelist() == expected.namelist()
    for name in expected.namelist():
        assert found.read(name) == expected.read(name)


def test_the_label_file_holds_the_labels(bank: ObjectBank, recipe: Recipe) -> None:
    hidden: list[bool] = []
    for index in range(8):
        annotation = annotate(sample_scene(recipe, Sources(bank), seed=0, index=index), Sources(bank))
        content = json.loads(labels_bytes(annotation))
        assert content["index"] == index and content["scene_digest"] == annotation.scene.digest
        exact = annotation.geometry
        for i, item in enumerate(content["objects"]):
            for name in (
                "modal_boxes_xyxy",
                "amodal_boxes_xyxy",
                "oriented_boxes_xy",
                "visibility",
                "in_frame",
            ):
                stored, values = np.array(item[name], np.float64), getattr(exact, name)[i]
                np.testing.assert_array_equal(stored, np.round(values, 4))
            assert item["occluded_by"] == exact.occluded_by[i].tolist()
        # Masks that are fully visible are encoded once.
        modal, amodal = annotation.coco()
        assert [mask["counts"] for item in content["objects"] for mask in item["modal_rle"]] == modal
        hidden += [one != whole for one, whole in zip(modal, amodal, strict=True)]
    assert 0 < sum(hidden) < len(hidden)


def test_numbers_that_do_not_exist_are_null(bank: ObjectBank, recipe_text: str) -> None:
    """The object leaves the frame: its boxes and its visibility have no value there."""
    text = recipe_text.replace("speed: [1.0, 3.0]", "speed: [40.0, 60.0]")
    scene = sample_scene(parse(Recipe, text, name="recipe"), Sources(bank), seed=0, index=0)
    annotation = annotate(scene, Sources(bank))
    absent = np.isnan(annotation.geometry.visibility)
    assert absent.any() and not absent.all()
    for item, row in zip(json.loads(labels_bytes(annotation))["objects"], absent, strict=True):
        assert [value is None for value in item["visibility"]] == row.tolist()
