"""What we write by hand for speed is, byte for byte, what the standard writers write."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest

from smile_synth import ObjectBank, Recipe, annotate, sample_scene
from smile_synth.corpus import _tar, labels_to_json, npz_bytes
from smile_synth.corpus._decimals import decimals
from smile_synth.corpus._labels import labels_bytes, listed_labels
from smile_synth.sources import Sources


def rounded(values: np.ndarray) -> list[str]:
    plain = np.round(values, 4).astype(object)
    plain[np.isnan(values)] = None
    return [json.dumps(item) for item in plain.tolist()]


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4), (2, 3, 4, 2), (0, 3, 4), (2, 0), (1, 2000)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3, 1e10, 1e20])
def test_decimals_are_those_of_json(shape: tuple[int, ...], scale: float) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=shape) * scale
    for special in (np.nan, -0.0, -3e-6, 3.5, 0.00005, 120.0):
        values[rng.random(shape) < 0.05] = special
    assert decimals(values) == rounded(values)


def test_a_tar_is_that_of_tarfile() -> None:
    contents = {"000007.json": b"{}", "000007.mp4": bytes(range(256)) * 5, "000007.empty": b""}
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    written = b"".join(_tar.member(name, data) for name, data in contents.items())
    assert written + _tar.trailer(len(written)) == expected.getvalue()
    with pytest.raises(ValueError, match="does not fit in a tar"):
        _tar.member("x" * 101, b"")


def test_arrays_are_packed_as_numpy_packs_them() -> None:
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


def test_the_label_file_is_plain_json_in_order(bank: ObjectBank, recipe: Recipe) -> None:
    hidden: list[bool] = []
    for index in range(8):
        annotation = annotate(sample_scene(recipe, Sources(bank), seed=0, index=index), Sources(bank))
        labels = labels_to_json(annotation)
        digest = annotation.scene.digest
        assert labels_bytes(annotation, digest) == (json.dumps(labels, sort_keys=True) + "\n").encode()
        listed = listed_labels(annotation, digest)
        for item, whole in zip(listed.pop("objects"), labels["objects"], strict=True):
            assert item == {key: whole[key] for key in item}
        assert listed == {key: labels[key] for key in listed}
        # Masks of which nothing is hidden are encoded once.
        modal, amodal = annotation.modal_runs.coco(), annotation.amodal_runs.coco()
        assert annotation.coco() == (modal, amodal)
        hidden += [one != whole for one, whole in zip(modal, amodal, strict=True)]
    assert 0 < sum(hidden) < len(hidden)
