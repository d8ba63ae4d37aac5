"""What clips turned out to be: measured one by one, summed up, and held against their recipe."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from smile_synth.core import geometry
from smile_synth.core.clip import Labels
from smile_synth.recipe import Recipe, SideDistribution
from smile_synth.scene import GeneratedImage, Noise, Scene, Solid, StoredImage, Video
from smile_synth.visualize._source import Fault, Sample

Float = NDArray[np.float64]
# An object counts as covered in a frame where less than this share of its extent can be seen.
COVERED = 0.5
SPECTRUM_SIDE = 128
# A clip is still if no value of any frame differs from the first frame's by more, of 255.
STILL = 16
HEAT_CELLS = 16
_HASH_FRAMES = 3
_COLOR_FRAMES = 4


@dataclass(frozen=True)
class ObjectMeasure:
    """One labelled object of a clip; lengths in pixels of the clip's own frames.

    Attributes:
        family: of its motion; "" where the labels do not say.
        class_name: its class.
        speed: mean length of the centre's step, pixels per frame.
        displacement: of the centre from the first frame to the last, pixels.
        size: square root of the cut-out's area (as a rectangle) in the first frame, pixels; NaN: no scene.
        rotation: degrees per frame, clockwise, mean over the clip; NaN: no scene.
        visibility: ``[T]``, NaN where the object is outside the frame.
        longest_covered: most frames in a row with visibility below `COVERED`.
        ever_visible: it owns a pixel in some frame.
        centers: ``[T, 2]`` in shares of the frame's width and height; NaN: none.
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
    longest_covered: int
    ever_visible: bool
    centers: Float
    object_id: int
    factors: dict[str, Any]


@dataclass(frozen=True)
class ClipMeasure:
    """One clip.

    Attributes:
        index: of the clip.
        num_frames, size_hw: 0 where neither labels nor media can be read.
        objects: labelled ones; empty without labels.
        factors: of the clip as a whole.
        background: kind of the background; "" without a scene.
        labelled: its labels could be read.
        clipped: share of values at 0 or 255 in up to four frames, of the objects' pixels or, unless its
            background is one colour, of all pixels, whichever is larger; NaN without frames.
        still: all frames are equal, but for what an encoder does to them; False without frames.
        spectrum: ``[SPECTRUM_SIDE / 2]`` mean log10 power by spatial frequency 1, 2, ... of the grey middle
            frame at `SPECTRUM_SIDE` pixels; None without frames.
        exponent: amplitude falls as 1 / frequency^exponent, by least squares; NaN without frames.
        digest: of all pixels; "" without frames.
        look: ``[24]`` bytes, which of neighbouring grey fields is brighter, in three frames; None: no frames.
        num_bytes: of the media.
        faults: what could not be read.
    """

    index: int
    num_frames: int
    size_hw: tuple[int, int]
    objects: tuple[ObjectMeasure, ...] = ()
    factors: dict[str, Any] = field(default_factory=dict)
    background: str = ""
    labelled: bool = False
    clipped: float = math.nan
    still: bool = False
    spectrum: Float | None = None
    exponent: float = math.nan
    digest: str = ""
    look: NDArray[np.uint8] | None = None
    num_bytes: int = 0
    faults: tuple[Fault, ...] = ()


def measure(sample: Sample) -> ClipMeasure:
    """Measure a clip, as far as it can be read."""
    values: dict[str, Any] = {
        "index": sample.index, "num_frames": 0, "size_hw": (0, 0), "num_bytes": sample.num_bytes,
        "faults": sample.faults,
    }  # fmt: skip
    scene = sample.scene
    if scene is not None:
        values["background"] = _background_kind(scene)
    if sample.stored is not None and sample.labels is not None:
        stored, labels = sample.stored, sample.labels
        values["labelled"] = True
        values["num_frames"], values["size_hw"] = stored["num_frames"], tuple(stored["size_hw"])
        values["factors"] = stored["factors"]
        values["objects"] = _objects(stored, labels, scene)
    if sample.frames is not None:
        values["num_frames"], values["size_hw"] = len(sample.frames), sample.frames.shape[1:3]
        values |= _pixels(sample)
    return ClipMeasure(**values)


def _background_kind(scene: Scene) -> str:
    surface = scene.layers[0].surface
    if isinstance(surface, GeneratedImage):
        return surface.pattern
    return {Solid: "solid", Noise: "noise", StoredImage: "image", Video: "video"}[type(surface)]


def _objects(stored: dict[str, Any], labels: Labels, scene: Scene | None) -> tuple[ObjectMeasure, ...]:
    rows = [k for k, layer in enumerate(scene.layers) if layer.labelled] if scene else []
    height, width = stored["size_hw"]
    out = []
    for i, item in enumerate(stored["objects"]):
        boxes = labels.amodal_boxes_xyxy[i]
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        size = rotation = math.nan
        object_id = -1
        if scene is not None:
            surface: Any = scene.layers[rows[i]].surface
            poses = scene.object_to_frame[rows[i]]
            middle = np.array([surface.width / 2, surface.height / 2])
            centers = geometry.apply(poses, middle[None])[:, 0]
            jacobian = _jacobian(poses, middle)
            size = float(np.sqrt(abs(np.linalg.det(jacobian[0])) * surface.width * surface.height))
            angle = np.unwrap(np.arctan2(jacobian[:, 1, 0], jacobian[:, 0, 0]))
            rotation = float(np.rad2deg(angle[-1] - angle[0]) / max(len(angle) - 1, 1))
            object_id = surface.texture_id
        known = centers[np.isfinite(centers).all(axis=1)]
        steps = np.hypot(*np.diff(known, axis=0).T) if len(known) > 1 else np.zeros(1)
        visibility = labels.visibility[i]
        out.append(
            ObjectMeasure(
                family=str(item["factors"].get("family", "")),
                class_name=item["class_name"],
                speed=float(steps.mean()),
                displacement=float(np.hypot(*(known[-1] - known[0]))) if len(known) else 0.0,
                size=size,
                rotation=rotation,
                visibility=visibility,
                longest_covered=longest_run(visibility < COVERED),
                ever_visible=bool(labels.modal_masks[i].any()),
                centers=centers / [width, height],
                object_id=object_id,
                factors=item["factors"],
            )
        )
    return tuple(out)


def _jacobian(poses: Float, point: Float) -> Float:
    """Return the derivative ``[T, 2, 2]`` of transforms ``[T, 3, 3]`` at a point."""
    homogeneous = np.append(point, 1.0)
    mapped = poses @ homogeneous
    w = mapped[:, 2, None, None]
    return np.asarray((poses[:, :2, :2] * w - mapped[:, :2, None] * poses[:, 2:, :2]) / w**2)


def longest_run(flags: NDArray[np.bool_]) -> int:
    """Return the length of the longest run of True in ``[T]``."""
    best = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        best = max(best, run)
    return best


def _pixels(sample: Sample) -> dict[str, Any]:
    frames = sample.frames
    assert frames is not None
    few = np.unique(np.linspace(0, len(frames) - 1, _COLOR_FRAMES).round().astype(int))
    extreme = ((frames[few] == 0) | (frames[few] == 255)).mean(axis=-1)
    shares = [0.0]
    plain = sample.scene is not None and isinstance(sample.scene.layers[0].surface, Solid)
    if not plain:
        shares.append(float(extreme.mean()))
    if sample.labels is not None:
        objects = sample.labels.segmentation[few] > 0
        if objects.any():
            shares.append(float(extreme[objects].mean()))
    middle = cv2.cvtColor(frames[len(frames) // 2], cv2.COLOR_RGB2GRAY)
    spectrum = power_spectrum(middle.astype(np.float64))
    return {
        "clipped": max(shares),
        # An encoder may write a frame that repeats the one before as a slightly better copy.
        "still": bool(np.abs(frames.astype(np.int16) - frames[0]).max() <= STILL),
        "spectrum": spectrum,
        "exponent": spectrum_exponent(spectrum),
        "digest": hashlib.sha256(frames.tobytes()).hexdigest(),
        "look": _look(frames),
    }


def power_spectrum(gray: Float) -> Float:
    """Return log10 of the mean power at spatial frequencies 1 .. SPECTRUM_SIDE / 2 cycles per frame.

    The image ``[H, W]`` is first resized to `SPECTRUM_SIDE` pixels either way, its mean taken off and a
    Hann window laid over it, for frames do not wrap round.
    """
    side = SPECTRUM_SIDE
    small = cv2.resize(
        gray, (side, side), interpolation=cv2.INTER_AREA if len(gray) > side else cv2.INTER_LINEAR
    )
    window = np.hanning(side)
    power = np.abs(np.fft.fft2((small - small.mean()) * np.outer(window, window))) ** 2
    y, x = np.meshgrid(*(np.fft.fftfreq(side, 1 / side),) * 2, indexing="ij")
    ring = np.round(np.hypot(y, x)).astype(int).ravel()
    total = np.bincount(ring, power.ravel())[1 : side // 2 + 1]
    count = np.bincount(ring)[1 : side // 2 + 1]
    return np.asarray(np.log10(total / count + 1e-3))


def spectrum_exponent(spectrum: Float) -> float:
    """Return e where amplitude falls as 1 / frequency^e, by least squares from 2 to a quarter of the side.

    Power falls twice as fast as amplitude: e is minus half the slope of log power over log frequency.
    """
    used = slice(1, SPECTRUM_SIDE // 4)
    frequency = np.log10(np.arange(1, len(spectrum) + 1))[used]
    return float(-np.polyfit(frequency, spectrum[used], 1)[0] / 2)


def _look(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the difference hash of the first, the middle and the last frame, 64 bits each."""
    chosen = np.linspace(0, len(frames) - 1, _HASH_FRAMES).round().astype(int)
    grays = [
        cv2.resize(cv2.cvtColor(frames[t], cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
        for t in chosen
    ]
    return np.packbits(np.concatenate([(gray[:, 1:] > gray[:, :-1]).ravel() for gray in grays]))


# Quantities of an object that have a distribution worth drawing: title, unit, how to read it.
QUANTITIES: dict[str, tuple[str, str]] = {
    "speed": ("Speed", "px/frame"),
    "displacement": ("Displacement, first to last frame", "px"),
    "size": ("Size in the first frame", "px"),
    "rotation": ("Rotation", "degrees/frame"),
    "longest_covered": ("Longest time covered (visibility below ½)", "frames"),
    "visibility": ("Visibility, over objects and frames", "share"),
}


@dataclass(frozen=True)
class Statistics:
    """Clips summed up.

    Attributes:
        num_clips, num_objects: that could be measured.
        values: by quantity of `QUANTITIES`, every finite value.
        families, classes, backgrounds, counts: how many objects (clips, for the last two) of each.
        licences: of the objects, one count per appearance; empty without a bank.
        heat: ``[HEAT_CELLS, HEAT_CELLS]`` share of all centres in each field of the frame, rows downwards.
        outside: share of all centres outside the frame.
        spectrum: mean log10 power by frequency; None without frames.
        exponents: of every clip.
    """

    num_clips: int
    num_objects: int
    values: dict[str, Float]
    families: Counter[str]
    classes: Counter[str]
    backgrounds: Counter[str]
    counts: Counter[int]
    licences: Counter[str]
    heat: Float
    outside: float
    spectrum: Float | None
    exponents: Float


def summarise(clips: Sequence[ClipMeasure], licences: Sequence[str] | None = None) -> Statistics:
    """Sum clips up; ``licences`` are those of the bank's objects, by their id."""
    objects = [item for clip in clips for item in clip.objects]

    def column(name: str) -> Float:
        parts = [np.atleast_1d(np.asarray(getattr(item, name), np.float64)) for item in objects]
        values = np.concatenate(parts) if parts else np.zeros(0)
        return np.asarray(values[np.isfinite(values)])

    centers = np.concatenate([item.centers for item in objects]) if objects else np.zeros((0, 2))
    centers = centers[np.isfinite(centers).all(axis=1)]
    heat, _, _ = np.histogram2d(centers[:, 1], centers[:, 0], bins=HEAT_CELLS, range=[[0, 1], [0, 1]])
    spectra = [clip.spectrum for clip in clips if clip.spectrum is not None]
    exponents = np.array([clip.exponent for clip in clips])
    return Statistics(
        num_clips=len(clips),
        num_objects=len(objects),
        values={name: column(name) for name in QUANTITIES},
        families=Counter(item.family for item in objects if item.family),
        classes=Counter(item.class_name for item in objects),
        backgrounds=Counter(clip.background for clip in clips if clip.background),
        counts=Counter(len(clip.objects) for clip in clips if clip.labelled),
        licences=Counter(
            licences[item.object_id] or "not recorded" for item in objects if licences and item.object_id >= 0
        ),
        heat=heat / max(len(centers), 1),
        outside=float(1 - heat.sum() / len(centers)) if len(centers) else 0.0,
        spectrum=np.mean(spectra, axis=0) if spectra else None,
        exponents=exponents[np.isfinite(exponents)],
    )


@dataclass(frozen=True)
class Intent:
    """One thing that a recipe asks for, beside what came of it.

    A range holds drawn values; a share is how often something is chosen.

    Attributes:
        key: in the recipe.
        low, high: of the wanted range; for a share both are the wanted share.
        measured: ``[N]`` the values; for a share, one value.
        inside: share of values within the range; for a share, 1 where it is within four standard errors.
        is_share: which of the two it is.
        count: how many draws stand behind it.
    """

    key: str
    low: float
    high: float
    measured: Float
    inside: float
    is_share: bool
    count: int


def intentions(recipe: Recipe, clips: Sequence[ClipMeasure]) -> list[Intent]:
    """Hold what was drawn against the recipe's own ranges and weights.

    Drawn values are the factors that every scene and label file carries, in the recipe's pixels. A mixture is
    compared by its weights alone: which range holds for a clip is its entry's affair.
    """
    labelled = [clip for clip in clips if clip.labelled]
    if recipe.mixture:
        wanted = {
            str(k): np.mean([entry.weight_at(c.index) for c in labelled] or [0])
            for k, entry in enumerate(recipe.mixture)
        }
        found = Counter(
            f"{clip.factors['mixture_entry']:.0f}" for clip in labelled if "mixture_entry" in clip.factors
        )
        return _shares("mixture.{}.weight", {k: float(v) for k, v in wanted.items()}, found)
    objects = [(clip, item) for clip in labelled for item in clip.objects]
    out = [_range("objects.count", recipe.objects.count, [len(clip.objects) for clip in labelled])]
    side, jitter = recipe.objects.side, math.exp(recipe.objects.side_jitter)
    ends = side.range if isinstance(side, SideDistribution) else (min(side), max(side))
    sizes = [item.size / clip.size_hw[0] * recipe.size[0] for clip, item in objects]
    if not recipe.camera:
        name = "objects.side" if jitter == 1 else "objects.side and side_jitter"
        out.append(_range(name, (ends[0] / jitter, ends[1] * jitter), sizes))
    kinds: Counter[str] = Counter()
    for background in recipe.backgrounds:
        kinds[background.kind] += background.weight  # type: ignore[assignment]
    out += _shares("backgrounds: {}", dict(kinds), Counter(c.background for c in clips if c.background))
    weights: Counter[str] = Counter()
    ranges: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for entry in recipe.motion:
        family = str(entry.family)  # type: ignore[attr-defined]
        weights[family] += entry.weight  # type: ignore[assignment]
        for name, value in entry:
            if (
                isinstance(value, tuple)
                and len(value) == 2
                and all(isinstance(v, int | float) for v in value)
            ):
                ranges.setdefault((family, name), []).append(value)
        for name, unit in (("rotation", "rotation_degrees_per_frame"), ("log_scale", "log_scale_per_frame")):
            rate = getattr(getattr(entry, name), "rate", None)
            if rate is not None:
                ranges.setdefault((family, unit), []).append((-rate, rate))
    found = Counter(item.family for _, item in objects if item.family in weights)
    out += _shares("motion: {}", dict(weights), found)
    for (family, name), wanted_ranges in ranges.items():
        own = [item.factors for _, item in objects if item.family == family]
        values = [v for factors in own if (v := _drawn(factors, name)) is not None]
        if values:
            low, high = min(r[0] for r in wanted_ranges), max(r[1] for r in wanted_ranges)
            key = {
                "rotation_degrees_per_frame": "rotation.rate",
                "log_scale_per_frame": "log_scale.rate",
            }.get(name, name)
            out.append(_range(f"{family}: {key}", (low, high), values))
    reached = [float(c.factors["occlusion.reached"]) for c in labelled if "occlusion.reached" in c.factors]
    if reached:
        share = float(np.mean(reached))
        out.append(
            Intent(
                "occlusion: targets reached",
                1.0,
                1.0,
                np.array([share]),
                float(share == 1),
                True,
                len(reached),
            )
        )
    return [intent for intent in out if intent.count]


def _drawn(factors: dict[str, Any], name: str) -> float | None:
    """Return the factor of a recipe's key: ``path.<key>`` with whatever unit it ends in."""
    if name in factors:
        return float(factors[name])
    own = [
        key
        for key in factors
        if key == f"path.{name}"
        or key.startswith(
            (f"path.{name}_px", f"path.{name}_frames", f"path.{name}_degrees", f"path.{name}_ratio")
        )
    ]
    return float(factors[own[0]]) if own else None


def _range(key: str, wanted: tuple[float, float], values: Sequence[float]) -> Intent:
    measured = np.asarray(values, np.float64)
    measured = measured[np.isfinite(measured)]
    low, high = float(wanted[0]), float(wanted[1])
    if low >= 0:
        measured = np.abs(measured)  # such a range is a size; its sign is drawn apart
    slack = 1e-6 * max(abs(low), abs(high), 1.0)
    inside = (
        float(((measured >= low - slack) & (measured <= high + slack)).mean()) if len(measured) else math.nan
    )
    return Intent(key, low, high, measured, inside, False, len(measured))


def _shares(key: str, weights: dict[str, float], found: Counter[str]) -> list[Intent]:
    total, count = sum(weights.values()), found.total()
    out = []
    for name, weight in weights.items():
        wanted, share = weight / total if total else 0.0, found[name] / max(count, 1)
        error = math.sqrt(max(wanted * (1 - wanted), 1e-12) / max(count, 1))
        inside = float(abs(share - wanted) <= 4 * error + 1e-9)
        out.append(Intent(key.format(name), wanted, wanted, np.array([share]), inside, True, count))
    return out
