"""The recipe's models of motion entries and curves, built from the registry of families."""

from __future__ import annotations

from functools import lru_cache
from math import isinf
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union

import numpy as np
from pydantic import BeforeValidator, Field, create_model, model_validator

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import Positive, Range
from smile_synth.io.strict_yaml import StrictModel
from smile_synth.motion._base import FAMILIES, Float, Path, Request
from smile_synth.motion._families import UNAVAILABLE


class Curve(NamedTuple):
    """A property that changes over time.

    Attributes:
        dims: values per frame.
        neutral: value that changes nothing; the default start.
        low, high: limits, to which values are clipped.
        unit: of the values.
    """

    dims: int
    neutral: float
    low: float
    high: float
    unit: str


_INFINITE = float("inf")
OBJECT_CURVES: dict[str, Curve] = {
    "log_scale": Curve(2, 0.0, -_INFINITE, _INFINITE, "log"),
    "rotation": Curve(1, 0.0, -_INFINITE, _INFINITE, "degrees"),
    "shear": Curve(2, 0.0, -_INFINITE, _INFINITE, "slope"),
    "tilt": Curve(2, 0.0, -80.0, 80.0, "degrees"),
    "opacity": Curve(1, 1.0, 0.0, 1.0, "share"),
    "gain": Curve(3, 1.0, 0.0, 4.0, "gain"),
    "bias": Curve(3, 0.0, -1.0, 1.0, "bias"),
    "gamma": Curve(1, 1.0, 0.1, 10.0, "gamma"),
    "depth": Curve(1, 0.0, -_INFINITE, _INFINITE, "ranks"),
}
CAMERA_CURVES: dict[str, Curve] = {
    "pan": Curve(2, 0.0, -_INFINITE, _INFINITE, "px"),
    "shake": Curve(2, 0.0, -_INFINITE, _INFINITE, "px"),
    "zoom": Curve(1, 0.0, -_INFINITE, _INFINITE, "log"),
    "roll": OBJECT_CURVES["rotation"],
    "shear": OBJECT_CURVES["shear"],
    "tilt": OBJECT_CURVES["tilt"],
    "gain": OBJECT_CURVES["gain"],
}


# name -> generated model. Pickles refer to this table, because the models are no attributes of a module.
_MODELS: dict[str, type[StrictModel]] = {}


def _restore(name: str, values: dict[str, Any]) -> StrictModel:
    return _MODELS[name].model_construct(**values)


class _EntryKeys(StrictModel):
    """Base of the models that are generated for every family."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the name of the generated model."""
        return _restore, (type(self).__name__, dict(self))


class CurveKeys(_EntryKeys):
    """Keys of every curve, beside those of its family.

    Attributes:
        low: least value; None: the limit of the property.
        high: largest value; None: the limit of the property.
        start: [low, high] of the first value (of an oscillation: of its middle). None: the whole range if
            both ``low`` and ``high`` are given, else the value that changes nothing.
    """

    low: float | None = None
    high: float | None = None
    start: Range | None = None

    @model_validator(mode="after")
    def _check_bounds(self) -> CurveKeys:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self


def _expand_short_form(value: object) -> object:
    """Read ``{rate: r}`` as a key-framed curve."""
    if isinstance(value, dict) and "family" not in value and "rate" in value:
        return {"family": "key-framed", **value}
    return value


def _check_available(value: object) -> object:
    """Refuse families of packages that could not be loaded."""
    name = value.get("family") if isinstance(value, dict) else None
    if name in UNAVAILABLE:
        raise ValueError(f"motion family '{name}' {UNAVAILABLE[name]}")
    return value


def _any_family(suffix: str, keys: type[StrictModel]) -> Any:
    """Return the union of the models of all families, each with further keys."""
    models = [
        create_model(
            f"{family.parameters.__name__}{suffix}", __base__=(family.parameters, keys),
            __module__=__name__, __doc__=family.parameters.__doc__,
        )
        for family in FAMILIES.values()
    ]  # fmt: skip
    for model in models:
        if _MODELS.setdefault(model.__name__, model) is not model:
            raise ValueError(f"two motion families have parameters called {model.__name__}")
    union: Any = Union[tuple(models)]  # noqa: UP007 - the members are known at run time
    return Annotated[union, Field(discriminator="family"), BeforeValidator(_check_available)]


if TYPE_CHECKING:
    AnyCurve = CurveKeys
else:
    AnyCurve = Annotated[_any_family("Curve", CurveKeys), BeforeValidator(_expand_short_form)]


def check_curves(model: Any, curves: dict[str, Curve]) -> None:
    """Check the bounds of a model's curves.

    Raises:
        ValueError: the bounds are outside the limits, or missing for a family that needs them.
    """
    for name, curve in curves.items():
        parameters = getattr(model, name)
        if parameters is None:
            continue
        low = curve.low if parameters.low is None else parameters.low
        high = curve.high if parameters.high is None else parameters.high
        if FAMILIES[parameters.family].bounded and (isinf(low) or isinf(high)):
            raise ValueError(f"{name}: a curve of the family {parameters.family} needs low and high")
        if low > curve.high or high < curve.low:
            raise ValueError(f"{name}: [{low:g}, {high:g}] is outside {curve.low:g} .. {curve.high:g}")


class MotionKeys(_EntryKeys):
    """Keys of every motion entry, beside those of its family.

    Attributes:
        weight: relative frequency of this entry.
        start: [low, high] first position of the box centre, as a share of the frame's sides (values outside
            0..1 are outside the frame); None: such that the whole path stays inside the frame, if possible.
        log_scale: logarithm of the size over time, drawn separately for width and height.
        log_scale_isotropic: draw one log_scale for both sides.
        rotation: degrees, clockwise.
        shear: slopes, x by y and y by x.
        tilt: degrees about the horizontal and the vertical axis, in perspective.
        opacity: 0..1.
        gain: factor on each colour channel, 0..4.
        gain_isotropic: draw one gain for all channels.
        bias: added to each colour channel after gain, -1..1 (1 is full scale).
        bias_isotropic: draw one bias for all channels.
        gamma: exponent of the colours after gain and bias, .1..10; values above 1 darken.
        depth: ranks to the back (positive) or to the front; objects change their order where depths cross.
    """

    weight: Positive = 1.0
    start: Range | None = None
    log_scale: AnyCurve | None = None
    log_scale_isotropic: bool = False
    rotation: AnyCurve | None = None
    shear: AnyCurve | None = None
    tilt: AnyCurve | None = None
    opacity: AnyCurve | None = None
    gain: AnyCurve | None = None
    gain_isotropic: bool = False
    bias: AnyCurve | None = None
    bias_isotropic: bool = False
    gamma: AnyCurve | None = None
    depth: AnyCurve | None = None

    @model_validator(mode="after")
    def _check_curves(self) -> MotionKeys:
        check_curves(self, OBJECT_CURVES)
        return self


if TYPE_CHECKING:
    AnyMotion = MotionKeys
else:
    AnyMotion = _any_family("Path", MotionKeys)


@lru_cache(maxsize=256)
def _rows_of(low: float, high: float, dims: int) -> Float:
    """Return ``[2, D]`` low and high values, read-only."""
    rows = np.array([[low] * dims, [high] * dims], np.float64)
    rows.flags.writeable = False
    return rows


def draw_path(parameters: Any, request: Request, *, rng: RandomStreams) -> Path:
    """Draw values with the family ``parameters.family``."""
    return FAMILIES[parameters.family].draw(rng=rng, parameters=parameters, request=request)


def draw_curve(
    curve: Curve,
    parameters: Any,
    key_times: Float,
    num_frames: int,
    *,
    rng: RandomStreams,
    dims: int | None = None,
) -> Path:
    """Draw curves ``[R, T, D]`` for R rows with key times ``[R, K]``, clipped to their bounds."""
    dims = dims or curve.dims
    low = curve.low if parameters.low is None else max(parameters.low, curve.low)
    high = curve.high if parameters.high is None else min(parameters.high, curve.high)
    start: tuple[float, float] | None = parameters.start
    if start is None and (parameters.low is None or parameters.high is None):
        start = (curve.neutral, curve.neutral)
    outer = _rows_of(low, high, dims)
    first = None if start is None else _rows_of(*start, dims)
    request = Request(num_frames, outer[0], outer[1], outer, key_times, first, curve.unit, pixel=0.0)
    path = draw_path(parameters, request, rng=rng)
    values = path.values if isinf(low) and isinf(high) else path.values.clip(low, high)
    return Path(values, path.factors)
