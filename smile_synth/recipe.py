"""Recipe: the typed, strict form of a YAML file in configs/synth/."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from smile_synth.core.errors import UserError
from smile_synth.io.resources import find_config, shipped
from smile_synth.io.strict_yaml import StrictModel, dump, line_of, load
from smile_synth.motion import AnyMotion, AnyRelation, CameraEntry, KeyTimesParameters, RangesModel
from smile_synth.objects import ObjectBank

Byte = Annotated[int, Field(ge=0, le=255)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=360)]

MOTION_KEYS = ("drift", "zoom_rate", "roll_rate")


def _pair(value: object) -> object:
    """Read a single value as the range from it to itself."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value, value
    return tuple(value) if isinstance(value, list) else value


def _by_name(weights: dict[str, float] | None) -> dict[str, float] | None:
    """Return a mapping sorted: its own order, which files need not keep, must not matter."""
    return None if weights is None else dict(sorted(weights.items()))


def _ordered(name: str, values: tuple[float, float]) -> None:
    if values[0] > values[1]:
        raise ValueError(f"{name} is [low, high], got low {values[0]} above high {values[1]}")


class BackgroundParameters(StrictModel):
    """Keys that every background has, beside its own.

    Attributes:
        weight: how often this entry is drawn, relative to the others.
        brightness: [low, high] 0..1, or one number; the clip's background is dimmed to a drawn share.
    """

    weight: Positive = 1.0
    brightness: Annotated[tuple[Share, Share], BeforeValidator(_pair)] = (1.0, 1.0)

    @model_validator(mode="after")
    def _check_brightness(self) -> BackgroundParameters:
        _ordered("brightness", self.brightness)
        return self


class SolidBackground(BackgroundParameters):
    """One colour over the whole clip.

    Attributes:
        color: RGB 0..255; left out, each clip draws its own uniformly.
    """

    kind: Literal["solid"]
    color: tuple[Byte, Byte, Byte] | None = None


class MovingBackground(BackgroundParameters):
    """Keys of the backgrounds that a camera can move over; each is left out for none of it.

    Attributes:
        drift: [low, high] pixels per frame, in a direction drawn uniformly.
        zoom_rate: [low, high] log-size per frame, about the frame's middle; above 0 the image grows.
        roll_rate: [low, high] degrees per frame, about the frame's middle; above 0 it turns clockwise.
    """

    drift: Annotated[tuple[NonNegative, NonNegative] | None, BeforeValidator(_pair)] = None
    zoom_rate: Annotated[tuple[float, float] | None, BeforeValidator(_pair)] = None
    roll_rate: Annotated[tuple[float, float] | None, BeforeValidator(_pair)] = None

    @model_validator(mode="after")
    def _check_motion(self) -> MovingBackground:
        for name in MOTION_KEYS:
            if getattr(self, name) is not None:
                _ordered(name, getattr(self, name))
        return self


class NoiseBackground(MovingBackground):
    """White noise, uniform 0..255 per pixel and channel.

    Attributes:
        redrawn: new noise in every frame (no flow is valid on it) instead of one still image.
    """

    kind: Literal["noise"]
    redrawn: bool = False


class CroppedBackground(BackgroundParameters):
    """A crop of an image or a video that is larger than the frame.

    Attributes:
        zoom: [low, high] at least 1; 1 is the largest crop of the frame's aspect, 2 half of it.
    """

    zoom: Annotated[tuple[float, float], BeforeValidator(_pair)] = (1.0, 1.5)

    @model_validator(mode="after")
    def _check_zoom(self) -> CroppedBackground:
        if not 1 <= self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom is [low, high] with 1 <= low <= high, got {list(self.zoom)}")
        return self


class ImageBackground(CroppedBackground, MovingBackground):
    """A crop of an image from the backgrounds folder; still, or under the motion of a camera."""

    kind: Literal["image"]


class VideoBackground(CroppedBackground):
    """Frames of a video from the backgrounds folder, in a still crop. No flow is valid on it.

    Attributes:
        stride: [low, high] frames of the video from one frame of the clip to the next, or one number.
    """

    kind: Literal["video"]
    stride: Annotated[tuple[Count, Count], BeforeValidator(_pair)] = (1, 1)

    @model_validator(mode="after")
    def _check_stride(self) -> VideoBackground:
        _ordered("stride", self.stride)
        return self


class OneOverFBackground(MovingBackground):
    """Coloured 1/f noise, drawn anew for each clip, without end.

    Attributes:
        exponent: [low, high], or one number; amplitudes fall as 1 / frequency^exponent.
    """

    kind: Literal["one-over-f"]
    exponent: Annotated[tuple[NonNegative, NonNegative], BeforeValidator(_pair)] = (1.0, 1.8)

    @model_validator(mode="after")
    def _check_exponent(self) -> OneOverFBackground:
        _ordered("exponent", self.exponent)
        return self


class DeadLeavesBackground(MovingBackground):
    """Overlapping discs, drawn anew for each clip, without end."""

    kind: Literal["dead-leaves"]


class GradientBackground(MovingBackground):
    """A smooth blend of four colours, drawn anew for each clip, mirrored beyond its corners."""

    kind: Literal["gradient"]


class SideLaw(RangesModel):
    """A continuous distribution of box sides.

    Attributes:
        law: ``uniform``, ``log-uniform``, or ``power-law`` with a density like side^exponent.
        range: [low, high] pixels.
        exponent: of the power law.
    """

    law: Literal["uniform", "log-uniform", "power-law"]
    range: Annotated[tuple[Positive, Positive], BeforeValidator(_pair)]
    exponent: float = -3.0


AnySide = Annotated[
    Annotated[list[Positive], Field(min_length=1), Tag("choices")] | Annotated[SideLaw, Tag("by law")],
    Discriminator(lambda value: "by law" if isinstance(value, dict | SideLaw) else "choices"),
]


class Distractors(RangesModel):
    """Objects that occlude and move like the others, but carry no label.

    Attributes:
        count: [low, high] per clip, or one number.
        side: as of the labelled objects; None: theirs.
        split: take objects of this side of the bank only; None: that of the labelled objects.
        classes: take objects of these classes only; None: those of the labelled objects.
    """

    count: Annotated[tuple[Whole, Whole], BeforeValidator(_pair)] = (0, 0)
    side: AnySide | None = None
    split: Literal["train", "val", "test"] | None = None
    classes: list[str] | None = Field(default=None, min_length=1)


class Objects(RangesModel):
    """How many objects of which size stand in a clip.

    Attributes:
        count: [low, high] labelled objects per clip, or one number.
        side: box sides in pixels: a list to choose from, or a law; a box is side*sqrt(aspect) x
            side/sqrt(aspect).
        aspect: width / height, drawn uniformly; with ``fit: keep`` it multiplies the object's own.
        side_jitter: each side times exp(U(-side_jitter, side_jitter)).
        fit: stretch the object to the box, or keep its own aspect.
        shared_motion: all objects of a clip draw the same motion entry.
        depth_order: larger average area lies behind (as published), or random.
        split: take objects of this side of the bank only.
        classes: take objects of these classes only.
        exclude_classes: take no objects of these classes.
        balance: how often an object is drawn: ``uniform``, each as often, so a class as often as it is
            frequent in the bank; ``class-balanced``, each class as often; ``square-root``, between the two,
            each class by the square root of its number of objects.
        class_weights: draw the class first, by weight; None: by balance.
        presence: [low, high] share of the frames in which an object is there, in one piece.
        overlap: [low, high] share of the smaller box that an object shares with the one it overlaps most, in
            the first frame; None: as it comes.
        whole_pixels: cut box sides, corners and degrees to whole numbers, as the published code does.
        distractors: unlabelled objects.
    """

    count: Annotated[tuple[Whole, Whole], BeforeValidator(_pair)] = (2, 2)
    side: AnySide
    aspect: list[Positive] = Field(default=[1.0], min_length=1)
    side_jitter: Annotated[float, Field(ge=0, le=2)] = 0.0
    fit: Literal["stretch", "keep"] = "keep"
    shared_motion: bool = False
    depth_order: Literal["area", "random"] = "area"
    split: Literal["train", "val", "test"] | None = None
    classes: list[str] | None = Field(default=None, min_length=1)
    exclude_classes: list[str] = []
    balance: Literal["uniform", "class-balanced", "square-root"] = "uniform"
    class_weights: Annotated[dict[str, Positive] | None, AfterValidator(_by_name)] = Field(
        default=None, min_length=1
    )
    presence: Annotated[tuple[Share, Share], BeforeValidator(_pair)] = (1.0, 1.0)
    overlap: Annotated[tuple[Share, Share], BeforeValidator(_pair)] | None = None
    whole_pixels: bool = False
    distractors: Distractors = Distractors()

    @model_validator(mode="after")
    def _check(self) -> Objects:
        if self.classes is not None and self.class_weights is not None:
            raise ValueError("classes and class_weights: give one of them")
        if self.class_weights is not None and (self.exclude_classes or self.balance != "uniform"):
            raise ValueError("class_weights says it all: leave out exclude_classes and balance")
        return self


class Shadows(RangesModel):
    """Soft shadows that every object casts on all that lies behind it; the light is the clip's.

    Attributes:
        strength: [low, high] 0..1, how dark it is where it is darkest.
        distance: [low, high] pixels from an object to its shadow.
        direction: [low, high] degrees that it falls to, clockwise from the right; 90 is straight down.
        blur: [low, high] pixels, half the width of its edge.
    """

    strength: Annotated[tuple[Share, Share], BeforeValidator(_pair)]
    distance: Annotated[tuple[NonNegative, NonNegative], BeforeValidator(_pair)]
    direction: Annotated[tuple[float, float], BeforeValidator(_pair)] = (30.0, 150.0)
    blur: Annotated[tuple[NonNegative, NonNegative], BeforeValidator(_pair)]


class AppearanceParameters(RangesModel):
    """How clips are exposed and what keeps their objects from looking pasted; each drawn once per clip.

    Attributes:
        shutter: [low, high] degrees 0..360 that the shutter is open, 360 all the time; blurs what moves.
            None: an instant.
        shutter_samples: subframes of that time that are averaged, odd.
        soft_edges: [low, high] pixels over which objects fade in from their edges; None: as in the bank.
        shadows: of the objects; None: none.
        linear_light: filter and blend light instead of sRGB values.
        grain: [low, high] standard deviation of noise on every pixel and channel, as a share of full scale.
    """

    shutter: Annotated[tuple[Degrees, Degrees], BeforeValidator(_pair)] | None = None
    shutter_samples: Annotated[int, Field(ge=3, le=63)] = 9
    soft_edges: Annotated[tuple[NonNegative, NonNegative], BeforeValidator(_pair)] | None = None
    shadows: Shadows | None = None
    linear_light: bool = False
    grain: Annotated[tuple[Share, Share], BeforeValidator(_pair)] | None = None

    @model_validator(mode="after")
    def _check_samples(self) -> AppearanceParameters:
        if self.shutter_samples % 2 == 0:
            raise ValueError(
                f"shutter_samples is odd, the middle one is the frame; got {self.shutter_samples}"
            )
        return self


class OcclusionTarget(RangesModel):
    """What is wanted of who covers whom; the labels' own definition measures it.

    Either ``visibility`` and ``frames``: a chosen object is at most that visible for that many frames in a
    row, and more before and after. Or ``overlap``: that share of all labelled pixels of the clip is covered.

    Attributes:
        weight: how often this entry is drawn, relative to the others.
        visibility: the chosen object's visibility stays at or below it; 0 is fully hidden.
        frames: [low, high] length of the run.
        overlap: [low, high] share of the objects' extents that others own, over all frames.
        by: ways to try, in turn: move another object's ``path``, reorder ``depth``, add an ``occluder``.
        tries: scenes that are measured before the sampler gives up.
    """

    weight: Positive = 1.0
    visibility: Share | None = None
    frames: Annotated[tuple[Count, Count], BeforeValidator(_pair)] | None = None
    overlap: Annotated[tuple[Share, Share], BeforeValidator(_pair)] | None = None
    by: list[Literal["path", "depth", "occluder"]] = Field(
        default=["path", "depth", "occluder"], min_length=1
    )
    tries: Annotated[int, Field(ge=1, le=1000)] = 32

    @model_validator(mode="after")
    def _check(self) -> OcclusionTarget:
        run = self.visibility is not None and self.frames is not None
        if run == (self.overlap is not None) or (self.visibility is None) != (self.frames is None):
            raise ValueError("give either visibility and frames, or overlap")
        if self.visibility == 1.0:
            raise ValueError("visibility must be below 1, that an object is ever covered")
        return self


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


def _weights(value: object) -> object:
    """Read one number as a weight that stays the same."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [(0, value)]
    return (
        [tuple(knot) if isinstance(knot, list) else knot for knot in value]
        if isinstance(value, list)
        else value
    )


def _recipe(value: object) -> object:
    """Read a preset's name or a file as the recipe it holds."""
    return Recipe.load(value) if isinstance(value, str) else value


class MixtureEntry(StrictModel):
    """A recipe among others.

    Attributes:
        recipe: a preset's name, a path, or a recipe written out; None: the recipe the mixture stands in.
        weight: how often it is drawn, relative to the others: a number, or [[clip index, weight], ...] with
            straight lines between, which makes a curriculum.
    """

    recipe: Annotated[Recipe | None, BeforeValidator(_recipe)] = None
    weight: Annotated[list[tuple[Whole, NonNegative]], Field(min_length=1), BeforeValidator(_weights)] = [
        (0, 1.0)
    ]

    @model_validator(mode="after")
    def _check(self) -> MixtureEntry:
        places = [index for index, _ in self.weight]
        if any(later <= earlier for earlier, later in zip(places, places[1:], strict=False)):
            raise ValueError(f"weight: clip indices must grow, got {places}")
        if self.recipe is not None and self.recipe.mixture:
            raise ValueError("recipe: a mixture cannot hold another mixture")
        return self

    def weight_at(self, index: int) -> float:
        """Return the weight for a clip."""
        places, weights = zip(*self.weight, strict=True)
        return float(np.interp(index, places, weights))


class Recipe(StrictModel):
    """Everything that decides what a clip looks like, but for the sources, the seed and the index.

    Attributes:
        size: frame (height, width); lengths elsewhere are pixels at this size.
        num_frames: frames per clip.
        fps: frames per second of a written video; motion is per frame.
        backgrounds: one entry is drawn per clip, by weight.
        objects: number, sizes and choice of the objects.
        key_times: key frames of curves and key-framed paths.
        motion: one entry is drawn per object (or clip), by weight.
        relations: one entry is drawn per clip, by weight; the first objects of the clip are its group.
        camera: one entry is drawn per clip, by weight; it moves every layer. Empty: it stands still.
        occlusion: one target is drawn per clip, by weight. Empty: as it comes.
        appearance: shutter, light, edges, shadows, grain; as it stands, none of them.
        mixture: one recipe is drawn per clip, by weight. Empty: this one alone.
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
    def _check(self) -> Recipe:
        for number, target in enumerate(self.occlusion):
            if target.frames is not None and target.frames[0] + 2 > self.num_frames:
                raise ValueError(
                    f"occlusion.{number}: a run of {target.frames[0]} frames, with one before and one after, "
                    f"does not fit into num_frames {self.num_frames}"
                )
            most = self.objects.count[1] + self.objects.distractors.count[1]
            if self.objects.count[1] == 0 or (most < 2 and "occluder" not in target.by):
                raise ValueError(
                    f"occlusion.{number}: is out of reach, objects.count allows no object that another "
                    f"could cover"
                )
        if self.occlusion and self.appearance.soft_edges is not None:
            raise ValueError(
                "appearance.soft_edges: occlusion targets are measured on unsoftened edges; drop one of them"
            )
        for number, entry in enumerate(self.mixture):
            other = entry.recipe
            if other is None:
                continue
            for name in ("size", "num_frames", "fps"):
                if getattr(other, name) != getattr(self, name):
                    raise ValueError(
                        f"mixture.{number}: its {name} is {getattr(other, name)}, this recipe's is "
                        f"{getattr(self, name)}"
                    )
        return self

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a preset by name, or a YAML file, with ``key.path=value`` overrides.

        Raises:
            UserError: unknown preset, missing file, or mistakes in it, all at once.
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
        """sha256 of every value: equal digests draw equal scenes from equal sources."""
        return hashlib.sha256(json.dumps(self.values(), sort_keys=True).encode()).hexdigest()


def differences(first: Recipe, second: Recipe) -> list[tuple[str, str, str]]:
    """Return (key, value of the first, value of the second) wherever two recipes differ; ``-`` is no key."""

    def flat(value: object, key: str = "") -> dict[str, str]:
        if isinstance(value, dict):
            items = [(f"{key}.{name}".lstrip("."), item) for name, item in value.items()]
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            items = [(f"{key}.{number}", item) for number, item in enumerate(value)]
        else:
            return {key: json.dumps(value)}
        return {k: v for name, item in items for k, v in flat(item, name).items()}

    a, b = (flat(json.loads(recipe.model_dump_json())) for recipe in (first, second))
    keys = [*a, *(key for key in b if key not in a)]
    return [(key, a.get(key, "-"), b.get(key, "-")) for key in keys if a.get(key) != b.get(key)]


def check_classes(recipe: Recipe, bank: ObjectBank, name_or_path: str | Path) -> None:
    """Refuse classes and splits that a bank does not have.

    Raises:
        UserError: with file, line and key; all at once.
    """
    path = find_config(name_or_path, "synth")
    objects, other = recipe.objects, recipe.objects.distractors
    wanted: list[tuple[tuple[str, ...], str | None, list[str] | None]] = [
        (("objects", "split"), objects.split, None),
        (("objects", "classes"), None, objects.classes),
        (("objects", "class_weights"), None, list(objects.class_weights or [])),
        (("objects", "distractors", "split"), other.split, None),
        (("objects", "distractors", "classes"), None, other.classes),
    ]
    mistakes = []
    for key, split, classes in wanted:
        for name in classes or ([] if split is None else [""]):
            try:
                bank.select(split=split, classes=[name] if name else None)
            except UserError as error:
                mistakes.append(f"{path}:{line_of(path, key)}: {'.'.join(key)}: {error}")
    if mistakes:
        raise UserError("\n".join(mistakes))


def presets() -> dict[str, str]:
    """Return what every shipped recipe is, in the words of its file's first comment, by name."""
    told = {}
    for path in sorted((shipped("configs") / "synth").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = takewhile(lambda line: line.startswith("#"), lines)
        told[path.stem] = " ".join(line[1:].strip() for line in comment)
    return told


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of recipe files, short forms included."""
    schema = Recipe.model_json_schema()
    # A mixture holds recipes, which makes the whole a reference to one of its definitions.
    schema = {**schema["$defs"]["Recipe"], "$defs": schema["$defs"]}

    def widen(node: Any, key: str = "") -> Any:
        if isinstance(node, list):
            return [widen(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {name: widen(item, name) for name, item in node.items()}
        entries = node.get("prefixItems", [])
        # One number stands for a range of numbers everywhere but in the frame's size.
        if len(entries) == 2 and entries[0] == entries[1] and key != "size":
            titles = {name: node.pop(name) for name in ("title", "default") if name in node}
            return {"anyOf": [node, entries[0]], **titles}
        return node

    schema = widen(schema)
    schema["$defs"]["KeyFramedCurve"]["required"].remove("family")  # {rate: r}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
