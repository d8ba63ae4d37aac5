"""Arrays as JSON of four decimals: what `json.dumps` writes of rounded lists, without making the lists."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.compile import kernel

_UNITS = 10_000.0  # in one
# From here on shortest decimals are not the digits of so many units.
_MOST = 2.0**49
_COMMA, _SPACE, _OPEN, _CLOSE, _MINUS, _POINT, _ZERO = (np.uint8(ord(sign)) for sign in ", []-.0")
_NULL = np.frombuffer(b"null", np.uint8)
_10 = np.uint64(10)


def decimals(values: NDArray[np.float64]) -> list[str]:
    """Return ``[N, ...]`` as JSON, one text for each of the N; NaN becomes null.

    Values have four decimals, beyond which areas carry nothing.
    """
    ends = np.zeros(len(values), np.int64)
    # How many numbers stand between the brackets of every axis.
    spans = np.cumprod(values.shape[:0:-1])
    flat = np.ascontiguousarray(values).reshape(len(values), int(spans[-1]))
    text = _write(flat, spans, ends).tobytes().decode()
    if not text:  # nothing, or too large
        rounded = np.round(values, 4).astype(object)
        rounded[np.isnan(values)] = None
        return [json.dumps(item) for item in rounded.tolist()]
    places = ends.tolist()
    return [text[begin:end] for begin, end in zip([0, *places], places, strict=False)]


@kernel
def _write(values, spans, ends):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the JSON of every row of ``values [N, M]``, one after another; ``ends [N]`` is filled.

    There is no text where a value is too large.
    """
    # Comma and space, sign, fifteen digits, point; brackets.
    text = np.empty(values.size * (19 + 2 * len(spans)), np.uint8)
    digits = np.empty(15, np.uint8)
    at = 0
    for n in range(values.shape[0]):
        for i in range(values.shape[1]):
            if i > 0:
                text[at], text[at + 1] = _COMMA, _SPACE
                at += 2
            for span in spans:
                if i % span == 0:
                    text[at] = _OPEN
                    at += 1
            value = values[n, i]
            units = np.rint(value * _UNITS)  # as np.round has it
            if np.isnan(value):
                for sign in _NULL:
                    text[at] = sign
                    at += 1
            elif abs(units) < _MOST:
                if np.copysign(1.0, units) < 0.0:
                    text[at] = _MINUS
                    at += 1
                # The last digit first; one before the point at least, and one behind it.
                rest, count, last = np.uint64(abs(units)), 0, 0
                while count < 5 or rest > 0:
                    digits[count] = _ZERO + np.uint8(rest % _10)
                    rest //= _10
                    count += 1
                while last < 3 and digits[last] == _ZERO:
                    last += 1
                for place in range(count - 1, last - 1, -1):
                    text[at] = digits[place]
                    at += 1
                    if place == 4:
                        text[at] = _POINT
                        at += 1
            else:
                return text[:0]
            for span in spans:
                if (i + 1) % span == 0:
                    text[at] = _CLOSE
                    at += 1
        ends[n] = at
    return text[:at]
