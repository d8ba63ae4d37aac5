"""Recipe: typed config of a YAML recipe; unknown keys are errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from smile_synth.core.errors import UserError
from smile_synth.io.config_types import (
    Count,
    NonNegative,
    NonNegativeRange,
    Positive,
    PositiveRange,
    Range,
    RangeOf,
    ShareRange,
)
from smile_synth.io.resources import find_config, shipped
from smile_synth.io.strict_yaml import StrictModel, dump, line_of, load
from smile_synth.motion import AnyMotion, AnyRelation, CameraEntry, KeyTimesParameters
from smile_synth.objects import ObjectBank

Byte = Annotated[int, Field(ge=0, le=255)]
CountOrZero = Annotated[int, Field(ge=0)]
Degrees = Annotated[float, Field(ge=0, le=360)]
Zoom = Annotated[float, Field(ge=1)]
Split = Literal["train", "val", "test"]
ClassNames = Annotated[list[str], Field(min_length=1)]

BACKGROUND_MOTION_KEYS = ("drift", "zoom_rate", "roll_rate")


class BackgroundParameters(StrictModel):
    """Keys of every kind of background.

    Attributes:
        weight: relative frequency of this entry.
        brightness: [low, high] 0..1; multiplies the background's colours; sampled once per clip.
    """

    weight: Positive = 1.0
    brightness: ShareRange = (1.0, 1.0)


class SolidBackground(BackgroundParameters):
    """One colour over the whole clip.

    Attributes:
        color: RGB 0..255; None: one colour is sampled per clip, uniformly.
    """

    kind: Literal["solid"]
    color: tuple[Byte, Byte, Byte] | None = None


class MovingBackground(BackgroundParameters):
    """Keys of the backgrounds that can move; None means no motion of that kind.

    Attributes:
        drift: [low, high] pixels per frame, in a direction drawn uniformly.
        zoom_rate: [low, high] change of log-size per frame about the frame's centre; above 0 enlarges.
        roll_rate: [low, high] degrees per frame about the frame's centre; above 0 turns clockwise.
    """

    drift: NonNegativeRange | None = None
    zoom_rate: Range | None = None
    roll_rate: Range | None = None


class NoiseBackground(MovingBackground):
    """White noise, uniform 0..255 per pixel and channel.

    Attributes:
        redrawn: new noise in every frame (flow is invalid on it) instead of one still image.
    """

    kind: Literal["noise"]
    redrawn: bool = False


class CroppedBackground(BackgroundParameters):
    """A crop of an image or a video.

    Attributes:
        zoom: [low, high], at least 1. 1: the largest crop with the frame's aspect; 2: a crop with half its
            height and width.
    """

    zoom: RangeOf[Zoom] = (1.0, 1.5)


class ImageBackground(CroppedBackground, MovingBackground):
    """A crop of an image from the backgrounds folder, still or moving."""

    kind: Literal["image"]


class VideoBackground(CroppedBackground):
    """A still crop of a video from the backgrounds folder. Flow is invalid on it.

    Attributes:
        stride: [low, high] frames of the video between two frames of the clip.
    """

    kind: Literal["video"]
    stride: RangeOf[Count] = (1, 1)


class OneOverFBackground(MovingBackground):
    """Coloured 1/f noise of unlimited extent. Every clip has another noise image.

    Attributes:
        exponent: [low, high]; amplitudes fall as 1 / frequency^exponent.
    """

    kind: Literal["one-over-f"]
    exponent: NonNegativeRange = (1.0, 1.8)


class DeadLeavesBackground(MovingBackground):
    """Overlapping discs of unlimited extent. Every clip has other discs."""

    kind: Literal["dead-leaves"]


class GradientBackground(MovingBackground):
    """A smooth blend of four random colours per clip, mirrored beyond its corners."""

    kind: Literal["gradient"]


AnyBackground = Annotated[
    SolidBackground
    | NoiseBackground
    | OneOverFBackground
    | DeadLeavesBackground
    | GradientBackground
    | ImageBackground
    | VideoBackground,
    Field(discriminator="kind"),
]


class SideDistribution(StrictModel):
    """A continuous distribution of box sides.

    Attributes:
        distribution: ``uniform``, ``log-uniform``, or ``power-law`` with a density of side^exponent.
        range: [low, high] pixels.
        exponent: of the power law.
    """

    distribution: Literal["uniform", "log-uniform", "power-law"]
    range: PositiveRange
    exponent: float = -3.0


AnySide = Annotated[
    Annotated[list[Positive], Field(min_length=1), Tag("choices")]
    | Annotated[SideDistribution, Tag("SideDistribution")],
    Discriminator(
        lambda value: "SideDistribution" if isinstance(value, dict | SideDistribution) else "choices"
    ),
]


class Distractors(StrictModel):
    """Unlabelled objects, which occlude and move like the labelled ones.

    Attributes:
        count: [low, high] per clip.
        side: box sides in pixels, as in `Objects`; None: those of the labelled objects.
        split: only objects of this split of the bank; None: that of the labelled objects.
        classes: only objects of these classes; None: those of the labelled objects.
    """

    count: RangeOf[CountOrZero] = (0, 0)
    side: AnySide | None = None
    split: Split | None = None
    classes: ClassNames | None = None


def _sorted_by_name(weights: dict[str, float]) -> dict[str, float]:
    """Sort a mapping, so that the order of its keys in a file has no effect."""
    return dict(sorted(weights.items()))


class Objects(StrictModel):
    """Number, size and choice of a clip's objects.

    Attributes:
        count: [low, high] labelled objects per clip.
        side: box sides in pixels: a list to choose from, or a distribution. A box is side*sqrt(aspect) wide
            and side/sqrt(aspect) high.
        aspect: width / height, chosen uniformly; with ``fit: keep`` it multiplies the object's own aspect.
        side_jitter: multiply each side by exp(U(-side_jitter, side_jitter)).
        fit: stretch the object to the box, or keep its own aspect.
        shared_motion: all objects of a clip use the same motion entry.
        depth_order: ``area``: objects with a larger average area are farther away (as published); or random.
        split: only objects of this split of the bank.
        classes: only objects of these classes.
        exclude_classes: no objects of these classes.
        balance: ``uniform``: every object is equally frequent; ``class-balanced``: every class is equally
            frequent; ``square-root``: a class is as frequent as the square root of its number of objects.
        class_weights: relative frequency of each class, also of distractors; None: by ``balance``.
        presence: [low, high] share of the frames in which an object is present; these frames are consecutive.
        overlap: [low, high] overlap of boxes in the first frame: shared area / area of the smaller box. For
            each object, the largest overlap with an earlier object counts. None: any overlap.
        whole_pixels: truncate box sides, corners and degrees to whole numbers, as the published code does.
        distractors: unlabelled objects.
    """

    count: RangeOf[CountOrZero] = (2, 2)
    side: AnySide
    aspect: list[Positive] = Field(default=[1.0], min_length=1)
    side_jitter: Annotated[float, Field(ge=0, le=2)] = 0.0
    fit: Literal["stretch", "keep"] = "keep"
    shared_motion: bool = False
    depth_order: Literal["area", "random"] = "area"
    split: Split | None = None
    classes: ClassNames | None = None
    exclude_classes: list[str] = []
    balance: Literal["uniform", "class-balanced", "square-root"] = "uniform"
    class_weights: (
        Annotated[dict[str, Positive], Field(min_length=1), AfterValidator(_sorted_by_name)] | None
    ) = None
    presence: ShareRange = (1.0, 1.0)
    overlap: ShareRange | None = None
    whole_pixels: bool = False
    distractors: Distractors = Distractors()

    @model_validator(mode="after")
    def _check_class_choice(self) -> Objects:
        if self.class_weights is not None:
            if self.classes is not None:
                raise ValueError("classes and class_weights: give one of them")
            if self.exclude_classes or self.balance != "uniform":
                raise ValueError("class_weights: cannot be combined with exclude_classes or balance")
            if self.distractors.classes is not None:
                raise ValueError(
                    "class_weights: cannot be combined with distractors.classes, because distractors use the "
                    "same weights"
                )
        return self


class Shadows(StrictModel):
    """Soft shadows that every object casts on the layers behind it; the light is the same for a whole clip.

    Attributes:
        strength: [low, high] 0..1 opacity of the shadow's core.
        distance: [low, high] pixels from an object to its shadow.
        direction: [low, high] degrees, clockwise from the right; 90 is straight down.
        blur: [low, high] pixels, half the width of the soft edge.
    """

    strength: ShareRange
    distance: NonNegativeRange
    direction: Range = (30.0, 150.0)
    blur: NonNegativeRange


class AppearanceParameters(StrictModel):
    """Camera effects and the blending of objects into the clip; every range is sampled once per clip.

    Attributes:
        shutter: [low, high] degrees 0..360 of the shutter angle (360: open all the time), which blurs
            motion; None: no motion blur.
        shutter_samples: subframes that are averaged for motion blur; odd.
        soft_edges: [low, high] pixels over which alpha rises at the objects' edges; None: as in the bank.
        shadows: of the objects; None: no shadows.
        linear_light: filter and blend in linear light instead of sRGB values.
        grain: [low, high] standard deviation of noise per pixel and channel, as a share of full scale.
        texture: ``noise``: every object and the background show noise instead of their colours, so that one
            frame shows nothing and only motion reveals objects; not together with the other keys. Brightness,
            gain, bias and gamma have no effect, and objects of opacity below .5 are absent. None: colours.
    """

    shutter: RangeOf[Degrees] | None = None
    shutter_samples: Annotated[int, Field(ge=3, le=63)] = 9
    soft_edges: NonNegativeRange | None = None
    shadows: Shadows | None = None
    linear_light: bool = False
    grain: ShareRange | None = None
    texture: Literal["noise"] | None = None

    @model_validator(mode="after")
    def _check_texture(self) -> AppearanceParameters:
        if self.texture and self.model_dump(exclude_defaults=True).keys() != {"texture"}:
            raise ValueError("texture: cannot be combined with other keys of appearance")
        return self

    @model_validator(mode="after")
    def _check_samples(self) -> AppearanceParameters:
        if self.shutter_samples % 2 == 0:
            raise ValueError(f"shutter_samples: must be odd, got {self.shutter_samples}")
        return self


class OcclusionTarget(StrictModel):
    """How much objects should cover each other, measured as the labels measure it.

    There are two kinds of targets. With ``visibility`` and ``frames``, one object's visibility is at most
    ``visibility`` in ``frames`` consecutive frames, and higher in the frame before and the frame after. With
    ``overlap``, a share of all objects' pixels is covered. Give the keys of one kind.

    Attributes:
        weight: relative frequency of this entry.
        visibility: the object's visibility is at or below this value during the run; 0 is fully hidden.
        frames: [low, high] length of the run.
        overlap: [low, high] share of the objects' extents that other layers own, over all frames.
        by: methods, tried in turn: move another object's ``path``, change the ``depth`` order, add an
            unlabelled ``occluder``.
        tries: maximum number of attempts per clip.
    """

    weight: Positive = 1.0
    visibility: Annotated[float, Field(ge=0, lt=1)] | None = None
    frames: RangeOf[Count] | None = None
    overlap: ShareRange | None = None
    by: list[Literal["path", "depth", "occluder"]] = Field(
        default=["path", "depth", "occluder"], min_length=1
    )
    tries: Annotated[int, Field(ge=1, le=1000)] = 32

    @model_validator(mode="after")
    def _check_kind(self) -> OcclusionTarget:
        given = tuple(value is not None for value in (self.visibility, self.frames, self.overlap))
        if given not in ((True, True, False), (False, False, True)):
            raise ValueError("give either visibility and frames, or overlap")
        return self


def _as_knots(value: object) -> object:
    """Read one number as a constant weight."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [(0, value)]
    if isinstance(value, list):
        return [tuple(knot) if isinstance(knot, list) else knot for knot in value]
    return value


def _as_recipe(value: object) -> object:
    """Read a preset's name or a path as the recipe in that file."""
    return Recipe.load(value) if isinstance(value, str) else value


class MixtureEntry(StrictModel):
    """One recipe of a mixture.

    Attributes:
        recipe: a preset's name, a path, or a recipe; None: the recipe that contains the mixture.
        weight: relative frequency: a number, or [[clip index, weight], ...] with linear interpolation
            between them, for a curriculum.
    """

    recipe: Annotated[Recipe | None, BeforeValidator(_as_recipe)] = None
    weight: Annotated[
        list[tuple[CountOrZero, NonNegative]], Field(min_length=1), BeforeValidator(_as_knots)
    ] = [(0, 1.0)]

    @model_validator(mode="after")
    def _check_entry(self) -> MixtureEntry:
        indices = [index for index, _ in self.weight]
        if any(later <= earlier for earlier, later in zip(indices, indices[1:], strict=False)):
            raise ValueError(f"weight: clip indices must increase, got {indices}")
        if self.recipe is not None and self.recipe.mixture:
            raise ValueError("recipe: must not contain a mixture itself")
        return self

    def weight_at(self, index: int) -> float:
        """Return the weight for the clip ``index``."""
        indices, weights = zip(*self.weight, strict=True)
        return float(np.interp(index, indices, weights))


class Recipe(StrictModel):
    """Everything that determines a clip, except the sources, the seed and the index.

    Attributes:
        size: frame (height, width); all lengths are pixels at this size.
        num_frames: frames per clip.
        fps: frames per second of a written video; motion is per frame.
        backgrounds: one entry is sampled per clip, by weight.
        objects: number, size and choice of the objects.
        key_times: key frames of curves and key-framed paths.
        motion: one entry is sampled per object (or clip), by weight.
        relations: one entry is sampled per clip, by weight; it applies to the first objects of the clip.
        camera: one entry is sampled per clip, by weight; it moves every layer. Empty: a still camera.
        occlusion: one target is sampled per clip, by weight. Empty: no target.
        appearance: shutter, light, edges, shadows and grain, or noise instead of all colours; none of them by
            default.
        mixture: one recipe is sampled per clip, by weight. Empty: only this recipe.

    Example:
        >>> Recipe.load("smile-gaussian", ["num_frames=8"]).num_frames
        8
    """

    size: tuple[Count, Count] = (224, 224)
    num_frames: Count = 16
    fps: Positive = 8.0
    backgrounds: list[AnyBackground] = Field(min_length=1)
    objects: Objects
    key_times: KeyTimesParameters = KeyTimesParameters()
    motion: list[AnyMotion] = Field(min_length=1)
    relations: list[AnyRelation] = []
    camera: list[CameraEntry] = []
    occlusion: list[OcclusionTarget] = []
    appearance: AppearanceParameters = AppearanceParameters()
    mixture: list[MixtureEntry] = []

    @model_validator(mode="after")
    def _check_occlusion(self) -> Recipe:
        most_labelled = self.objects.count[1]
        most = most_labelled + self.objects.distractors.count[1]
        for number, target in enumerate(self.occlusion):
            if target.frames is not None and target.frames[0] + 2 > self.num_frames:
                raise ValueError(
                    f"occlusion.{number}: a run of {target.frames[0]} frames, with one before and one after, "
                    f"does not fit into num_frames {self.num_frames}"
                )
            if most_labelled == 0 or (most < 2 and "occluder" not in target.by):
                raise ValueError(
                    f"occlusion.{number}: cannot be reached: objects.count allows no labelled object, or no "
                    "second object that covers it"
                )
        if self.occlusion and self.appearance.soft_edges is not None:
            raise ValueError("appearance.soft_edges: cannot be combined with occlusion targets")
        return self

    @model_validator(mode="after")
    def _check_mixture(self) -> Recipe:
        for number, entry in enumerate(self.mixture):
            for name in ("size", "num_frames", "fps"):
                own, other = getattr(self, name), getattr(entry.recipe or self, name)
                if own != other:
                    raise ValueError(
                        f"mixture.{number}: {name} is {other}, must be {own} as in the main recipe"
                    )
        return self

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a preset by name, or a YAML file, with ``key.path=value`` overrides.

        Raises:
            UserError: unknown preset, missing file, or mistakes in it; one message lists all of them.
        """
        return load(cls, find_config(name_or_path, "synth"), overrides)

    def to_yaml(self) -> str:
        """Return the recipe with every value written out; `Recipe.load` reads it back equal."""
        return dump(self)

    def values(self) -> dict[str, Any]:
        """Return the recipe as plain data."""
        return self.model_dump(mode="json")

    @cached_property
    def digest(self) -> str:
        """sha256 of all values. Equal digests, sources, seeds and indices give equal scenes."""
        return hashlib.sha256(json.dumps(self.values(), sort_keys=True).encode()).hexdigest()


def flattened(values: object, key: str = "") -> dict[str, Any]:
    """Return nested data by dotted keys, for example ``motion.0.speed``; lists without dicts stay whole."""
    if isinstance(values, dict):
        items: Iterable[tuple[object, object]] = values.items()
    elif isinstance(values, list | tuple) and any(isinstance(value, dict) for value in values):
        items = enumerate(values)
    else:
        return {key: list(values) if isinstance(values, tuple) else values}
    return {k: v for name, value in items for k, v in flattened(value, f"{key}.{name}".lstrip(".")).items()}


def differences(first: Recipe, second: Recipe) -> list[tuple[str, str, str]]:
    """Return (key, first value, second value) for every key that differs; ``-`` marks an absent key."""
    a, b = (
        {key: json.dumps(value) for key, value in flattened(recipe.values()).items()}
        for recipe in (first, second)
    )
    return [(key, a.get(key, "-"), b.get(key, "-")) for key in a | b if a.get(key) != b.get(key)]


def check_classes(recipe: Recipe, bank: ObjectBank, name_or_path: str | Path) -> None:
    """Raise if the bank lacks a class or a split that the recipe names.

    Raises:
        UserError: with file, line and key; all at once.
    """
    path = find_config(name_or_path, "synth")
    mistakes = []
    for section, objects in ("objects", recipe.objects), ("objects.distractors", recipe.objects.distractors):
        choices: list[tuple[str, dict[str, Any]]] = [("split", {"split": objects.split})]
        for key in ("classes", "exclude_classes", "class_weights"):
            choices += [(key, {"classes": [name]}) for name in getattr(objects, key, None) or ()]
        for key, choice in choices:
            try:
                bank.select(**choice)
            except UserError as error:
                name = f"{section}.{key}"
                mistakes.append(f"{path}:{line_of(path, tuple(name.split('.')))}: {name}: {error}")
    if mistakes:
        raise UserError("\n".join(mistakes))


def presets() -> dict[str, str]:
    """Return the description of every shipped recipe (its file's first comment), by name.

    Example:
        >>> "smile-gaussian" in presets()
        True
    """
    descriptions = {}
    for path in sorted((shipped("configs") / "synth").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = takewhile(lambda line: line.startswith("#"), lines)
        descriptions[path.stem] = " ".join(line[1:].strip() for line in comment)
    return descriptions


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of recipe files. It also allows short forms, such as 3 for [3, 3]."""
    schema = Recipe.model_json_schema()
    # A mixture contains recipes, so pydantic puts the schema of Recipe into its definitions.
    schema = {**schema["$defs"]["Recipe"], "$defs": schema["$defs"]}
    schema["$defs"]["KeyFramedCurve"]["required"].remove("family")  # the short form {rate: r}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
