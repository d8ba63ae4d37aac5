"""Types of the values in recipes and run configurations."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

Number = TypeVar("Number", int, float)
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def _as_pair(value: object) -> object:
    """Read a single number ``x`` as ``[x, x]``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value, value
    return tuple(value) if isinstance(value, list) else value


def _check_order(values: tuple[Number, Number]) -> tuple[Number, Number]:
    low, high = values
    if low > high:
        raise ValueError(f"should be [low, high], got low {low} above high {high}")
    return values


class _ShortForm:
    """Adds the single number to the JSON schema of a range."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        pair = handler(schema)
        return {"anyOf": [pair, pair["prefixItems"][0]]}


# A pair [low, high]; a config may give one number for both.
RangeOf = Annotated[
    tuple[Number, Number], BeforeValidator(_as_pair), AfterValidator(_check_order), _ShortForm()
]
Range = RangeOf[float]
PositiveRange = RangeOf[Positive]
NonNegativeRange = RangeOf[NonNegative]
ShareRange = RangeOf[Share]
