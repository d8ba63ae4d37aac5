"""Images of the motion that is read from tokens, beside the known motion; for the page of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smile_synth.visualize import contact_sheet, draw_arrows, png_uri
from smile_train.evaluate import fit_displacement, read_displacement, token_flow

Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
# Tubelets of a clip that are shown, and the side of an image in pixels.
_TUBELETS, _SIDE = 2, 256


def motion_examples(
    frames: UInt8,
    displacement: Float,
    features: Mapping[str, Float],
    *,
    grid: tuple[int, int, int],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Draw the motion of a synthetic and of a real clip, known and read from features.

    The synthetic clip is the one with the median of the mean displacements. The linear readouts are fitted on
    all other synthetic clips.

    Args:
        frames: ``[K, T, H, W, 3]`` uint8.
        displacement: ``[K, N, 2]``, see `token_displacement`; clips with NaN only count as real.
        features: tokens ``[K, N, C]`` of encoders, by name.
        grid: tokens along time, height and width.
        names: of the clips.

    Returns:
        Name, and rows (title, image) of each clip; empty with fewer than two synthetic clips.
    """
    known = np.isfinite(displacement).any(axis=(1, 2))
    synthetic = np.flatnonzero(known)
    if len(synthetic) < 2:
        return []
    by_length = sorted(synthetic.tolist(), key=lambda k: _length(displacement[k]))
    chosen = by_length[len(by_length) // 2]
    others = synthetic[synthetic != chosen]
    clips = [(chosen, "exact motion", displacement[chosen])]
    for k in np.flatnonzero(~known)[-1:].tolist():
        token_size = frames.shape[1] // grid[0], frames.shape[2] // grid[1]
        clips.append(
            (
                k,
                "DIS flow",
                token_flow(torch.from_numpy(frames[k : k + 1]).permute(0, 1, 4, 2, 3), token_size)[0],
            )
        )
    images = [[(title, displacement_png(frames[k], true, grid))] for k, title, true in clips]
    for name, tokens in features.items():
        readout = fit_displacement([(torch.from_numpy(tokens[others]), displacement[others])])
        for rows, (k, _, true) in zip(images, clips, strict=True):
            predicted = read_displacement(readout, torch.from_numpy(tokens[k]))
            title = f"{name}: endpoint error {_length(predicted - true):.2f} px"
            rows.append((title, displacement_png(frames[k], predicted, grid)))
    return [
        {"name": f"{names[k]}; endpoint error of no motion {_length(true):.2f} px", "rows": rows}
        for (k, _, true), rows in zip(clips, images, strict=True)
    ]


def displacement_png(clip: UInt8, displacement: Float, grid: tuple[int, int, int]) -> str:
    """Draw displacements ``[N, 2]`` over the first frames of some tubelets of a clip ``[T, H, W, 3]``.

    Returns:
        a data URI.
    """
    times, rows, columns = grid
    num_frames, height, width = clip.shape[:3]
    scale = max(1, _SIDE // max(height, width))
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) + 0.5
    centers = np.stack([x * width / columns, y * height / rows], axis=1)
    images = []
    for t in np.linspace(0, times - 1, _TUBELETS + 2).round().astype(int)[1:-1]:
        image = clip[t * num_frames // times].repeat(scale, 0).repeat(scale, 1)
        draw_arrows(image, centers, displacement.reshape(times, -1, 2)[t], scale)
        images.append(image)
    return png_uri(contact_sheet(images, columns=len(images)))


def _length(vectors: Float) -> float:
    return float(np.nanmean(np.linalg.norm(vectors, axis=1)))
