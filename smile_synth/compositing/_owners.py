"""Which labelled object owns each pixel, on the CPU: the definition is in `smile_synth.core.coverage`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smile_synth.compositing._parameters import IMAGE, SHADOW, TRANSPARENT, Parameters
from smile_synth.core.compile import kernel
from smile_synth.core.coverage import LAYER_VIEW, THRESHOLD, cover_row, set_levels


def find_owners(parameters: Parameters, bank: NDArray[np.uint8], owners: NDArray[np.int16]) -> None:
    """Write the number of the labelled object that owns each pixel, or 0, into ``owners`` ``[F, H, W]``.

    ``bank`` is ``[X, 4]``, the texels of the bank.
    """
    extra = parameters.extra.view(np.uint8).reshape(-1, 4)
    owners[:] = 0
    _find_owners(parameters.first, parameters.subframes, parameters.entries, bank, extra, owners)


@kernel
def _find_owners(first, subframes, entries, bank, extra, owners):  # type: ignore[no-untyped-def]  # pragma: no cover
    view, no_maps = np.empty(1, LAYER_VIEW)[0], np.empty(0, np.uint8)
    buffer, places = np.empty(owners.shape[2], np.uint8), np.empty((2, owners.shape[2]), np.int32)
    for f in range(len(owners)):
        middle = (subframes[f] + subframes[f + 1]) // 2
        for e in range(first[middle], first[middle + 1]):
            entry = entries[e]
            if entry.label == SHADOW or entry.opacity < THRESHOLD:
                continue
            texels = bank if entry.from_bank else extra
            view.frame_to_texture[:] = entry.inverse
            set_levels(view, entry.first_texel, entry.height, entry.width, entry.level)
            has_edge = entry.kind == IMAGE and entry.border == TRANSPARENT
            row = buffer[: max(entry.x1 - entry.x0, 0)]
            row[:] = 1
            for y in range(entry.y0, entry.y1):
                if has_edge:
                    cover_row(texels, no_maps, view, entry.opacity, y, (entry.x0, 1), places, row)
                for i in range(len(row)):
                    if row[i]:
                        owners[f, y, entry.x0 + i] = entry.label
