"""The recipe's models of motion entries and curves, made from the registry of families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union

import numpy as np
from pydantic import BeforeValidator, Field, create_model, model_validator

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import Positive, Range
from smile_synth.io.strict_yaml import StrictModel
from smile_synth.motion._base import Float, Path, Request
from smile_synth.motion._families import FAMILIES


class Curve(NamedTuple):
    """What a curve means.

    Attributes:
        dims: values per frame.
        neutral: where it starts if the recipe says nothing, and what it is without a curve.
        low, high: values beyond these are cut off.
        unit: of its values.
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


class CurveKeys(StrictModel):
    """Keys of every curve, beside those of its family.

    Attributes:
        low: the curve never goes below; None: the limit of what it controls.
        high: the curve never goes above.
        start: [low, high] of where it starts (for a swing: of its middle). None: anywhere between ``low``
            and ``high`` if both are given, else where it changes nothing.
    """

    low: float | None = None
    high: float | None = None
    start: Range | None = None

    @model_validator(mode="after")
    def _check_bounds(self) -> CurveKeys:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} lies above high {self.high:g}")
        return self


def _short(value: object) -> object:
    """Read ``{rate: r}`` as a key-framed curve."""
    if isinstance(value, dict) and "family" not in value and "rate" in value:
        return {"family": "key-framed", **value}
    return value


def _made(suffix: str, keys: type[StrictModel]) -> Any:
    """Return the union of all families' models, each with further keys."""
    models = []
    for family, (parameters, *_) in FAMILIES.items():
        name = f"{parameters.__name__}{suffix}"
        if name in globals():
            raise ValueError(
                f"motion family '{family}': another one has parameters called {parameters.__name__}"
            )
        # Other processes find the model of a pickled recipe by its name.
        globals()[name] = create_model(
            name, __base__=(parameters, keys), __module__=__name__, __doc__=parameters.__doc__
        )
        models.append(globals()[name])
    return Annotated[Union[tuple(models)], Field(discriminator="family")]  # noqa: UP007 - from the registry


if TYPE_CHECKING:
    AnyCurve = CurveKeys
else:
    AnyCurve = Annotated[_made("Curve", CurveKeys), BeforeValidator(_short)]


def check_curves(model: Any, curves: dict[str, Curve]) -> None:
    """Raise ValueError where a curve's family needs bounds that neither the recipe nor nature gives."""
    for name, kind in curves.items():
        parameters = getattr(model, name)
        if parameters is None:
            continue
        low = kind.low if parameters.low is None else parameters.low
        high = kind.high if parameters.high is None else parameters.high
        if FAMILIES[parameters.family].bounded and not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"{name}: a curve of the family {parameters.family} needs low and high")
        if low > kind.high or high < kind.low:
            raise ValueError(f"{name}: [{low:g}, {high:g}] lies outside its {kind.low:g} .. {kind.high:g}")


class MotionKeys(StrictModel):
    """Keys that every motion entry has, beside those of its family.

    Attributes:
        weight: how often this entry is drawn, relative to the others.
        start: [low, high] where the middle of the box starts, in shares of the frame's sides (beyond 0..1 is
            outside); None: wherever the whole way stays inside the frame, if it can.
        log_scale: log-size over time, drawn apart for width and height.
        log_scale_isotropic: draw one log_scale for both sides.
        rotation: degrees, clockwise.
        shear: slopes, x by y and y by x.
        tilt: degrees about the horizontal and the vertical axis, in perspective.
        opacity: 0..1.
        gain: factor on each colour channel, 0..4.
        gain_isotropic: draw one gain for all channels.
        bias: added to each colour channel after gain, -1..1 (1 is full scale).
        bias_isotropic: draw one bias for all channels.
        gamma: exponent of the colours after gain and bias, .1..10; above 1 is darker.
        depth: ranks to the back (positive) or to the front; objects pass each other where orders change.
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
    AnyMotion = _made("Path", MotionKeys)


def draw_path(parameters: Any, request: Request, *, rng: RandomStreams) -> Path:
    """Draw values with the family that ``parameters.family`` names."""
    return FAMILIES[parameters.family].draw(rng=rng, parameters=parameters, request=request)


def draw_curve(
    kind: Curve,
    parameters: Any,
    key_times: Float,
    num_frames: int,
    *,
    rng: RandomStreams,
    dims: int | None = None,
) -> Path:
    """Draw a curve ``[R, T, D]`` for R rows with key times ``[R, K]``, within its bounds."""
    dims = dims or kind.dims
    rows = len(key_times)
    if getattr(parameters, "rate", None) == 0 and parameters.start is None and parameters.low is None:
        return Path(np.full((rows, num_frames, dims), kind.neutral))  # as drawn, but quicker
    low = kind.low if parameters.low is None else max(parameters.low, kind.low)
    high = kind.high if parameters.high is None else min(parameters.high, kind.high)
    start: tuple[float, float] | None = parameters.start
    if start is None and (parameters.low is None or parameters.high is None):
        start = (kind.neutral, kind.neutral)
    shape = (rows, num_frames, dims)
    request = Request(
        num_frames,
        np.broadcast_to(low, shape),
        np.broadcast_to(high, shape),
        np.repeat([[low], [high]], dims, axis=1).astype(np.float64),
        key_times,
        None if start is None else np.repeat(np.array(start)[:, None], dims, axis=1),
        kind.unit,
        0.0,
    )
    path = draw_path(parameters, request, rng=rng)
    return Path(np.clip(path.values, low, high), path.factors)
