"""Labels of scenes whose values can be told by hand."""

from typing import Any

import numpy as np
import pytest
from laid_scenes import GROUND, crossing

from smile_synth.annotations import annotate
from smile_synth.scene import Solid


def test_an_object_partly_outside_is_partly_in_frame(studio: Any) -> None:
    # The board covers [-4, 4) x [1, 9) of a frame of 5 x 7.
    sheet = studio.sheet(studio.object("smooth"), studio.placed("smooth", [0, 5], [8 / 64, 8 / 40]))
    labels = annotate(studio.scene(GROUND, sheet), studio.sources).labels
    assert labels.amodal_boxes_xyxy[0, 0].tolist() == [-4, 1, 4, 9]
    assert labels.modal_boxes_xyxy[0, 0].tolist() == [0, 1, 4, 5]
    assert labels.in_frame[0].tolist() == [0.25] * 3
    assert labels.visibility[0].tolist() == [1.0] * 3


def test_an_object_outside_has_no_visibility_but_a_box(studio: Any) -> None:
    sheet = studio.sheet(studio.object("smooth"), studio.placed("smooth", [-20, 5], [8 / 64, 8 / 40]))
    labels = annotate(studio.scene(GROUND, sheet), studio.sources).labels
    assert labels.amodal_boxes_xyxy[0, 2].tolist() == [-24, 1, -16, 9]
    assert np.isnan(labels.modal_boxes_xyxy).all()
    assert np.isnan(labels.visibility).all()
    assert labels.in_frame.tolist() == [[0.0] * 3]


def test_depth_is_per_frame(studio: Any) -> None:
    labels = annotate(crossing(studio), studio.sources).labels
    assert labels.depth_order.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert labels.segmentation[0, 0].tolist() == [1, 1, 1, 1, 2, 2, 0]
    assert labels.segmentation[1, 0].tolist() == [1, 1, 2, 2, 2, 2, 0]
    assert labels.visibility.tolist() == [[1.0, 0.5, 0.5], [0.5, 1.0, 1.0]]
    assert labels.occluded_by[0, 1].tolist() == [0, 8, 8]
    assert labels.occluded_by[1, 0].tolist() == [8, 0, 0]
    assert labels.occluded_by[0, 0].tolist() == [0, 0, 0]


def test_an_unlabelled_layer_occludes_and_is_exported_as_background(studio: Any) -> None:
    labels = annotate(crossing(studio, front_labelled=False), studio.sources).labels
    assert labels.class_names == ("class 1",)
    assert labels.segmentation[1, 0].tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert labels.visibility.tolist() == [[1.0, 0.5, 0.5]]


def test_below_half_opacity_a_layer_owns_nothing_but_keeps_its_extent(studio: Any) -> None:
    labels = annotate(crossing(studio, opacity=[1.0, 0.49, 0.51]), studio.sources).labels
    assert labels.segmentation[1, 0].tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert labels.segmentation[2, 0].tolist() == [1, 1, 2, 2, 2, 2, 0]
    assert labels.amodal_masks[1, 1].sum() == 16
    assert labels.visibility[1].tolist() == [0.5, 0.0, 1.0]
    assert np.isnan(labels.modal_boxes_xyxy[1, 1]).all()


def test_an_object_of_opacity_0_has_no_labels(studio: Any) -> None:
    annotation = annotate(crossing(studio, opacity=[1.0, 0.0, 0.4]), studio.sources)
    labels = annotation.labels
    assert labels.amodal_masks[1].sum(axis=(1, 2)).tolist() == [16, 0, 16]
    assert labels.modal_masks[1].sum(axis=(1, 2)).tolist() == [8, 0, 0]
    for boxes in (labels.amodal_boxes_xyxy, labels.oriented_boxes_xy):
        assert np.isnan(boxes[1]).reshape(3, -1).all(axis=1).tolist() == [False, True, False]
    np.testing.assert_array_equal(labels.visibility[1], [0.5, np.nan, 0.0])
    np.testing.assert_array_equal(labels.in_frame[1], [1.0, np.nan, 1.0])
    assert labels.depth_order.tolist() == [[0, 0, 1], [1, -1, 0]]
    assert labels.occluded_by[1, 0].tolist() == [8, 0, 8]
    modal, amodal = annotation.coco()
    assert modal[4] == amodal[4] == modal[5] != amodal[5]  # empty masks


def test_half_opacity_owns_every_pixel_of_an_opaque_texture(studio: Any) -> None:
    # Turned and magnified over the whole frame; its first texel, the only one of alpha 254, lies outside.
    pose = studio.placed("smooth", [15.3, 12.2], 1.3, 33.0)
    sheet = studio.sheet(studio.object("smooth"), pose, opacity=0.5)
    labels = annotate(studio.scene(GROUND, sheet, size_hw=(24, 31)), studio.sources).labels
    assert labels.modal_masks.all()


def test_a_scene_without_objects_has_empty_labels(studio: Any) -> None:
    annotation = annotate(studio.scene(GROUND), studio.sources)
    labels = annotation.labels
    assert labels.modal_masks.shape == (0, 3, 5, 7)
    assert labels.amodal_boxes_xyxy.shape == (0, 3, 4)
    assert not labels.segmentation.any()
    flow = annotation.flow(0, 2)
    assert flow.valid.all() and not flow.flow_xy.any() and not flow.occluded.any()


@pytest.mark.parametrize("surface", ["solid", "repeat"])
def test_labels_of_anything_but_cut_outs_in_front_are_refused(studio: Any, surface: str) -> None:
    front = studio.sheet(Solid((1, 2, 3)))
    if surface == "repeat":
        front = studio.sheet(studio.object("board"), border="repeat")
    annotation = annotate(studio.scene(GROUND, front), studio.sources)
    with pytest.raises(ValueError, match="layer 1: labels need cut-outs in front of the background"):
        _ = annotation.labels
