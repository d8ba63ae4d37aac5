"""Measure one clip: its objects from the labels, its colours and spectrum from the frames."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from smile_synth.core import geometry
from smile_synth.core.clip import Labels
from smile_synth.scene import GeneratedImage, Noise, Scene, Solid, StoredImage, Video
from smile_synth.visualize._source import Factors, Fault, Sample

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
# An object is occluded in a frame where its visibility is below this.
OCCLUDED = 0.5
SPECTRUM_SIDE = 128
# A clip is still if no value of any frame differs from the first frame's by more, of 255: an encoder may
# write a frame that repeats the one before as a slightly better copy.
_STILL = 16
_HASH_FRAMES = 3
_COLOR_FRAMES = 4


@dataclass(frozen=True)
class ObjectMeasure:
    """Measures of one labelled object; lengths in pixels of the clip's own frames.

    Attributes:
        family: of its motion; "": not in the labels.
        class_name: its class.
        speed: mean length of the centre's step, pixels per frame.
        displacement: of the centre from the first frame to the last, pixels.
        size: square root of the cut-out's area (as a rectangle) in the first frame, pixels; NaN: no scene.
        rotation: mean over the clip, degrees per frame, clockwise; NaN: no scene.
        visibility: ``[T]``, NaN where the object is outside the frame or not present.
        longest_occluded: largest number of frames in a row with visibility below `OCCLUDED`.
        ever_visible: it owns a pixel in some frame.
        centers: ``[T, 2]`` as shares of the frame's width and height; NaN: none.
        object_id: in the bank; -1: no scene.
        factors: drawn values, as in the scene.
    """

    family: str
    class_name: str
    speed: float
    displacement: float
    size: float
    rotation: float
    visibility: Float
    longest_occluded: int
    ever_visible: bool
    centers: Float
    object_id: int
    factors: Factors


@dataclass(frozen=True)
class ClipMeasure:
    """Measures of one clip.

    Attributes:
        index: of the clip.
        num_frames, size_hw: 0 where both labels and media are unreadable.
        objects: labelled objects; empty without labels.
        factors: drawn values of the clip as a whole.
        background: kind of the background; "": no scene.
        labelled: its labels are readable.
        clipped: share of values at 0 or 255 in up to four frames, of the objects' pixels or, unless its
            background is one colour, of all pixels, whichever is larger; NaN: no frames.
        still: all frames are equal within the encoder's error; False without frames.
        spectrum: ``[SPECTRUM_SIDE / 2]`` mean log10 power by spatial frequency 1, 2, ... of the grey middle
            frame at `SPECTRUM_SIDE` pixels; None: no frames.
        exponent: amplitude is proportional to 1 / frequency^exponent, by least squares; NaN: no frames.
        digest: of all pixels; "": no frames.
        difference_hash: ``[24]`` bytes, which of two neighbouring grey cells is brighter, in three frames;
            None: no frames.
        num_bytes: of the media.
        faults: what is unreadable.
    """

    index: int
    num_frames: int = 0
    size_hw: tuple[int, int] = (0, 0)
    objects: tuple[ObjectMeasure, ...] = ()
    factors: Factors = field(default_factory=dict)
    background: str = ""
    labelled: bool = False
    clipped: float = math.nan
    still: bool = False
    spectrum: Float | None = None
    exponent: float = math.nan
    digest: str = ""
    difference_hash: UInt8 | None = None
    num_bytes: int = 0
    faults: tuple[Fault, ...] = ()


def measure(sample: Sample) -> ClipMeasure:
    """Measure a clip, as far as it is readable."""
    values: dict[str, Any] = {
        "index": sample.index, "num_bytes": sample.num_bytes, "faults": sample.faults,
        "factors": sample.factors,
    }  # fmt: skip
    if sample.scene is not None:
        values["background"] = _background_kind(sample.scene)
    if sample.labels is not None:
        values["labelled"] = True
        values["num_frames"], *values["size_hw"] = sample.labels.segmentation.shape
        values["objects"] = tuple(
            _object(sample, sample.labels, i) for i in range(len(sample.object_factors))
        )
    if sample.frames is not None:
        values["num_frames"], *values["size_hw"] = sample.frames.shape[:3]
        values |= _pixel_measures(sample, sample.frames)
    return ClipMeasure(**{**values, "size_hw": tuple(values.get("size_hw", (0, 0)))})


def _background_kind(scene: Scene) -> str:
    surface = scene.layers[0].surface
    if isinstance(surface, GeneratedImage):
        return surface.pattern
    return {Solid: "solid", Noise: "noise", StoredImage: "image", Video: "video"}[type(surface)]


def _object(sample: Sample, labels: Labels, i: int) -> ObjectMeasure:
    boxes, visibility = labels.amodal_boxes_xyxy[i], labels.visibility[i]
    centers, size, rotation, object_id = (boxes[:, :2] + boxes[:, 2:]) / 2, math.nan, math.nan, -1
    if sample.scene is not None:
        layer = [k for k, layer in enumerate(sample.scene.layers) if layer.labelled][i]
        centers, sizes, degrees = layer_motion(sample.scene, layer)
        centers = np.where(sample.scene.opacity[layer, :, None] > 0, centers, np.nan)
        size, rotation = float(sizes[0]), float(degrees[-1] - degrees[0]) / max(len(degrees) - 1, 1)
        object_id = sample.scene.layers[layer].surface.texture_id  # type: ignore[union-attr]
    finite = centers[np.isfinite(centers).all(axis=1)]
    steps = np.hypot(*np.diff(finite, axis=0).T) if len(finite) > 1 else np.zeros(1)
    factors = sample.object_factors[i]
    height, width = labels.segmentation.shape[1:]
    return ObjectMeasure(
        family=str(factors.get("family", "")),
        class_name=labels.class_names[i],
        speed=float(steps.mean()),
        displacement=float(np.hypot(*(finite[-1] - finite[0]))) if len(finite) else 0.0,
        size=size,
        rotation=rotation,
        visibility=visibility,
        longest_occluded=longest_run(visibility < OCCLUDED),
        ever_visible=bool(labels.modal_masks[i].any()),
        centers=centers / [width, height],
        object_id=object_id,
        factors=factors,
    )


def layer_motion(scene: Scene, layer: int) -> tuple[Float, Float, Float]:
    """Return how the cut-out of a layer moves in the frame, camera included.

    Returns:
        Its centre ``[T, 2]`` in pixels, the square root ``[T]`` of its area as a rectangle in pixels, and its
        rotation ``[T]`` in degrees, clockwise, without jumps of 360.
    """
    surface: Any = scene.layers[layer].surface
    poses, middle = scene.object_to_frame[layer], np.array([surface.width / 2, surface.height / 2])
    mapped = poses @ np.append(middle, 1.0)
    w = mapped[:, 2, None, None]
    # Derivative of the projective map at the middle, by the quotient rule.
    jacobian = (poses[:, :2, :2] * w - mapped[:, :2, None] * poses[:, 2:, :2]) / w**2
    areas = np.abs(np.linalg.det(jacobian)) * surface.width * surface.height
    angles = np.unwrap(np.arctan2(jacobian[:, 1, 0], jacobian[:, 0, 0]))
    return geometry.apply(poses, middle[None])[:, 0], np.sqrt(areas), np.rad2deg(angles)


def longest_run(flags: Bool) -> int:
    """Return the length of the longest run of True in ``[T]``."""
    return max((sum(1 for _ in run) for flag, run in groupby(flags) if flag), default=0)


def _pixel_measures(sample: Sample, frames: UInt8) -> dict[str, Any]:
    some = np.unique(np.linspace(0, len(frames) - 1, _COLOR_FRAMES).round().astype(int))
    extreme = ((frames[some] == 0) | (frames[some] == 255)).mean(axis=-1)
    shares = [0.0]
    if sample.scene is None or not isinstance(sample.scene.layers[0].surface, Solid):
        shares.append(float(extreme.mean()))
    if sample.labels is not None:
        objects = sample.labels.segmentation[some] > 0
        if objects.any():
            shares.append(float(extreme[objects].mean()))
    middle = cv2.cvtColor(frames[len(frames) // 2], cv2.COLOR_RGB2GRAY)
    spectrum = power_spectrum(middle.astype(np.float64))
    return {
        "clipped": max(shares),
        "still": bool(np.abs(frames.astype(np.int16) - frames[0]).max() <= _STILL),
        "spectrum": spectrum,
        "exponent": spectrum_exponent(spectrum),
        "digest": hashlib.sha256(frames.tobytes()).hexdigest(),
        "difference_hash": _difference_hash(frames),
    }


def power_spectrum(gray: Float) -> Float:
    """Return log10 of the mean power at spatial frequencies 1 .. SPECTRUM_SIDE / 2 cycles per frame.

    The image ``[H, W]`` is resized to `SPECTRUM_SIDE` pixels on both sides, its mean is subtracted, and a
    Hann window is applied, because frames are not periodic.
    """
    side = SPECTRUM_SIDE
    interpolation = cv2.INTER_AREA if len(gray) > side else cv2.INTER_LINEAR
    small = cv2.resize(gray, (side, side), interpolation=interpolation)
    window = np.hanning(side)
    power = np.abs(np.fft.fft2((small - small.mean()) * np.outer(window, window))) ** 2
    y, x = np.meshgrid(*(np.fft.fftfreq(side, 1 / side),) * 2, indexing="ij")
    ring = np.round(np.hypot(y, x)).astype(int).ravel()
    total = np.bincount(ring, power.ravel())[1 : side // 2 + 1]
    count = np.bincount(ring)[1 : side // 2 + 1]
    return np.asarray(np.log10(total / count + 1e-3))


def spectrum_exponent(spectrum: Float) -> float:
    """Return e where amplitude is proportional to 1 / frequency^e, by least squares.

    The fit uses the frequencies from 2 to a quarter of the side. Power is amplitude squared: e is minus half
    the slope of log power over log frequency.
    """
    used = slice(1, SPECTRUM_SIDE // 4)
    frequency = np.log10(np.arange(1, len(spectrum) + 1))[used]
    return float(-np.polyfit(frequency, spectrum[used], 1)[0] / 2)


def _difference_hash(frames: UInt8) -> UInt8:
    """Return the difference hash of the first, the middle and the last frame, 64 bits each."""
    chosen = np.linspace(0, len(frames) - 1, _HASH_FRAMES).round().astype(int)
    grays = [
        cv2.resize(cv2.cvtColor(frames[t], cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
        for t in chosen
    ]
    return np.packbits(np.concatenate([(gray[:, 1:] > gray[:, :-1]).ravel() for gray in grays]))
