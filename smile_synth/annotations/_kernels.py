"""Loops over layers, pixels and points; alpha and ownership are those of `smile_synth.core.coverage`.

Arguments that kernels share:

- ``texels [n, 4]`` uint8: the textures of all layers;
- ``views [L, T]`` of `LAYER_VIEW`;
- ``order [T, L - 1]``: the layers in front of the background, back to front;
- ``numbers [L]``: the number of each labelled object, -1 for other layers;
- ``owner [T, H, W]`` int16: the layer that owns each pixel, 0 is the background;
- ``extents [N, T]`` of `EXTENT`;
- ``amodal [n]`` uint8: the pixels of all crops, 1 where they belong to the object's extent.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from smile_synth.core.compile import inlined, kernel
from smile_synth.core.coverage import THRESHOLD, alpha_point, columns_near, cover_row, map_point

# The extent of an object in a frame. Boxes are x0, y0, x1, y1, half-open.
EXTENT = np.dtype(
    [
        ("area", np.int64),  # of the whole extent, also outside the frame
        ("box", np.int64, (4,)),  # of the whole extent
        ("crop", np.int64, (4,)),  # a part of the frame that holds all of the extent inside the frame
        ("first", np.int64),  # where the pixels of the crop begin in ``amodal``, row by row
        ("amodal_area", np.int64),  # inside the frame
        ("modal_area", np.int64),
        ("modal_box", np.int64, (4,)),
    ],
    align=True,
)


@kernel
def place_crops(views, numbers, size_hw, extents):  # pragma: no cover - compiled
    """Fill the crops of ``extents``, which are zero before; returns their number of pixels."""
    height, width = size_hw
    total = 0
    for k in range(len(numbers)):
        for t in range(views.shape[1] if numbers[k] >= 0 else 0):
            view, extent = views[k, t], extents[numbers[k], t]
            extent.first = total
            if view.opacity > 0.0:  # an object that is not present has no labels
                for i in range(4):
                    extent.crop[i] = min(max(view.window[i], 0), height if i % 2 else width)
            x0, y0, x1, y1 = extent.crop
            total += (x1 - x0) * (y1 - y0)
    return total


@inlined
def _include(box, area, x0, x1, y):  # pragma: no cover - compiled
    """Extend a box of some area by the columns [x0, x1) of a row that is not above it."""
    if area == 0:
        box[0], box[1], box[2], box[3] = x0, y, x1, y + 1
    else:
        box[0], box[2], box[3] = min(box[0], x0), max(box[2], x1), y + 1


@kernel
def fill_owners(texels, sides, views, order, numbers, owner, extents, amodal):  # pragma: no cover - compiled
    """Fill ``owner``, all 0 before, and the whole extents and amodal pixels of the labelled objects.

    Layers go from back to front, row after row; a nearer layer replaces the owner.
    """
    height, width = owner.shape[1:]
    buffer, places = np.empty(1, np.uint8), np.empty((2, 1), np.int32)
    for t in range(order.shape[0]):
        for k in order[t]:
            n, view = numbers[k], views[k, t]
            opacity = view.opacity
            if opacity <= 0.0 or (n < 0 and opacity < THRESHOLD):
                continue
            x0, y0, x1, y1 = view.window
            if n < 0:  # only its pixels in the frame matter
                x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
            if len(buffer) < x1 - x0:
                buffer, places = np.empty(x1 - x0, np.uint8), np.empty((2, x1 - x0), np.int32)
            for y in range(y0, y1):
                begin, end = columns_near(view, y, x0, x1)
                if begin >= end:
                    continue
                row = buffer[: end - begin]
                cover_row(texels, sides, view, 1.0 if n >= 0 else opacity, y, (begin, 1), places, row)
                if n >= 0:
                    _add_row(extents[n, t], row, begin, y, amodal)
                if not 0 <= y < height or opacity < THRESHOLD:
                    continue
                if n >= 0 and opacity < 1.0:
                    cover_row(texels, sides, view, opacity, y, (begin, 1), places, row)
                owners = owner[t, y]
                for x in range(np.uint64(max(begin, 0)), np.uint64(max(min(end, width), 0))):
                    owners[x] = k if row[x - np.uint64(begin)] else owners[x]


@kernel
def _add_row(extent, row, begin, y, amodal):  # pragma: no cover - compiled
    """Add pixels of row ``y`` from column ``begin`` on to an extent, those that are 1 in ``row``."""
    area, low, high = 0, 0, len(row)
    for i in range(len(row)):
        area += row[i]
    if area == 0:
        return
    while row[low] == 0:
        low += 1
    while row[high - 1] == 0:
        high -= 1
    _include(extent.box, extent.area, begin + low, begin + high, y)
    extent.area += area
    x0, y0, x1, y1 = extent.crop
    if y0 <= y < y1:
        at = np.uint64(extent.first + (y - y0) * (x1 - x0) + begin - x0)
        for i in range(np.uint64(max(x0 - begin, 0)), np.uint64(max(min(len(row), x1 - begin), 0))):
            amodal[at + i] = row[i]


@kernel
def count_visible(owner, layers, numbers, extents, amodal, occluded_by):  # pragma: no cover - compiled
    """Fill areas and modal boxes of ``extents``, and ``occluded_by [N, N, T]``, of objects ``layers [N]``."""
    columns = np.empty(owner.shape[2], np.uint8)  # 1 where the object is visible in the column
    for n in range(len(layers)):
        layer = np.int16(layers[n])
        for t in range(extents.shape[1]):
            extent = extents[n, t]
            x0, y0, x1, y1 = extent.crop
            columns[x0:x1] = 0
            # Unsigned indices and small integers, so that the compiler uses SIMD.
            left, right, first = np.uint64(x0), np.uint64(x1), np.uint64(extent.first)
            for y in range(y0, y1):
                area, visible = np.uint32(0), np.uint32(0)
                for x in range(left, right):
                    pixel = amodal[first + x - left]
                    own = pixel & np.uint8(owner[t, y, x] == layer)
                    area, visible = np.uint32(area + pixel), np.uint32(visible + own)
                    columns[x] |= own
                if visible:
                    extent.modal_box[1] = extent.modal_box[1] if extent.modal_area else y
                    extent.modal_box[3] = y + 1
                extent.amodal_area += area
                extent.modal_area += visible
                if visible < area:
                    for x in range(left, right):
                        other = numbers[owner[t, y, x]]
                        if amodal[first + x - left] and other >= 0 and other != n:
                            occluded_by[n, other, t] += 1
                first += right - left
            if extent.modal_area:
                while columns[x0] == 0:
                    x0 += 1
                while columns[x1 - 1] == 0:
                    x1 -= 1
                extent.modal_box[0], extent.modal_box[2] = x0, x1


@kernel
def fill_masks(owner, layers, extents, amodal, amodal_masks, modal_masks):  # pragma: no cover - compiled
    """Fill the masks ``[N, T, H, W]`` bool, all false before, of objects ``layers [N]``."""
    for n in range(len(layers)):
        for t in range(extents.shape[1]):
            at, (x0, y0, x1, y1) = extents[n, t].first, extents[n, t].crop
            for y in range(y0, y1):
                pixels, owners = amodal[at : at + x1 - x0], owner[t, y, x0:x1]
                whole, visible = amodal_masks[n, t, y, x0:x1], modal_masks[n, t, y, x0:x1]
                at += x1 - x0
                for i in range(len(pixels)):
                    whole[i] = pixels[i] != 0
                    visible[i] = (pixels[i] != 0) & (owners[i] == layers[n])


@kernel
def _run_lengths(pixels, crop, size_hw, runs):  # pragma: no cover - compiled
    """Fill ``runs`` with the run lengths of a mask, down its columns, zeros first; returns how many they are.

    ``pixels`` are those of the crop, row by row; the mask is 0 outside the crop.
    """
    height, width = size_hw
    x0, y0, x1, y1 = crop
    count, begin, value = 0, 0, 0
    for x in range(x0, x1):
        if value and y1 - y0 < height:  # the crop's column ends before the next one begins
            runs[count] = (x - 1) * height + y1 - begin
            begin, value, count = begin + runs[count], 0, count + 1
        at = x - x0
        for y in range(y0, y1):
            if pixels[at] != value:
                runs[count] = x * height + y - begin
                begin, value, count = begin + runs[count], pixels[at], count + 1
            at += x1 - x0
    if value:
        runs[count] = (x1 - 1) * height + y1 - begin
        begin, count = begin + runs[count], count + 1
    if begin < height * width:
        runs[count] = height * width - begin
        count += 1
    return count


@kernel
def _write_runs(runs, text, length):  # pragma: no cover - compiled
    """Write run lengths and a line break into ``text`` from ``length`` on; returns the new length.

    The format is `rleToString` of pycocotools: from the fourth on a run is written as its difference from the
    last but one; numbers in groups of five bits, the lowest first, with a sixth bit where more follow.
    """
    for i in range(len(runs)):
        value = runs[i] - (runs[i - 2] if i > 2 else 0)
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != -1 if bits & 16 else value != 0
            text[length] = 48 + (bits | 32 if more else bits)
            length += 1
    text[length] = 10
    return length + 1


@kernel
def _append_mask(pixels, crop, size_hw, text, length):  # pragma: no cover - compiled
    """Write a mask's run lengths into ``text``, or a larger copy of it, from ``length`` on; returns both."""
    runs = np.empty(len(pixels) + 2, np.int64)
    count = _run_lengths(pixels, crop, size_hw, runs)
    if len(text) < length + 7 * count + 1:
        grown = np.empty(2 * len(text) + 7 * count, np.uint8)
        grown[:length] = text[:length]
        text = grown
    return text, _write_runs(runs[:count], text, length)


@kernel
def encode_crops(owner, layers, extents, amodal):  # pragma: no cover - compiled
    """Return the COCO run lengths of the masks of each object and frame, a line for each mask.

    The amodal mask comes first. The modal mask follows only where its area is smaller.
    """
    text, length = np.empty(4096, np.uint8), 0
    size_hw = owner.shape[1:]
    for n in range(len(layers)):
        for t in range(extents.shape[1]):
            extent = extents[n, t]
            x0, y0, x1, y1 = extent.crop
            whole = amodal[extent.first : extent.first + (x1 - x0) * (y1 - y0)]
            text, length = _append_mask(whole, extent.crop, size_hw, text, length)
            if extent.modal_area < extent.amodal_area:
                visible = whole & (owner[t, y0:y1, x0:x1].copy().ravel() == layers[n])
                text, length = _append_mask(visible, extent.crop, size_hw, text, length)
    return text[:length]


@kernel
def oriented_boxes(texels, views, layers, poses, out):  # pragma: no cover - compiled
    """Fill ``out [N, T, 4, 2]`` with the corners of the boxes of texels of half alpha or more; NaN: none."""
    for n in range(len(layers)):
        view = views[layers[n], 0]
        height, width = view.texture_height, view.texture_width
        x0, y0, x1, y1 = width, height, 0, 0
        at = view.texture_first
        for y in range(height):
            for x in range(width):
                if texels[at, 3] >= 128:
                    x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x + 1), y + 1
                at += 1
        for t in range(out.shape[1]):
            for corner in range(4):
                u, v = float(x1 if corner in (1, 2) else x0), float(y1 if corner in (2, 3) else y0)
                out[n, t, corner, 0], out[n, t, corner, 1] = map_point(poses[layers[n], t], u, v)
            # A box with a corner behind the horizon is no box.
            if x1 == 0 or np.isnan(out[n, t].sum()) or views[layers[n], t].opacity <= 0.0:
                out[n, t] = np.nan


@inlined
def _is_edge(segmentation, t, y, x):  # pragma: no cover - compiled
    """Return whether a pixel has a neighbour above, below, left or right of another owner."""
    owner = segmentation[t, y, x]
    return (
        (segmentation[t, max(y - 1, 0), x] != owner)
        | (segmentation[t, min(y + 1, segmentation.shape[1] - 1), x] != owner)
        | (segmentation[t, y, max(x - 1, 0)] != owner)
        | (segmentation[t, y, min(x + 1, segmentation.shape[2] - 1)] != owner)
    )


@kernel
def count_candidates(segmentation, edges, counts):  # pragma: no cover - compiled
    """Fill ``counts [T, H]``: pixels of labelled objects in each row; ``edges``: only those at an edge."""
    for t in range(counts.shape[0]):
        for y in range(counts.shape[1]):
            count = 0
            for x in range(segmentation.shape[2]):
                if segmentation[t, y, x] > 0:
                    count += not edges or _is_edge(segmentation, t, y, x)
            counts[t, y] = count


@kernel
def find_candidates(segmentation, edges, counts, chosen, found):  # pragma: no cover - compiled
    """Fill ``found [P, 3]`` (t, x, y) with the candidates that have the numbers ``chosen [P]``.

    ``counts [T, H]`` is what `count_candidates` found in every row.
    """
    height, width = segmentation.shape[1:]
    totals = np.cumsum(counts)
    for p in range(len(chosen)):
        row = np.searchsorted(totals, chosen[p], side="right")
        t, y = row // height, row % height
        left = chosen[p] - (totals[row] - counts[t, y])
        for x in range(width):
            if segmentation[t, y, x] > 0 and (not edges or _is_edge(segmentation, t, y, x)):
                if left == 0:
                    found[p, 0], found[p, 1], found[p, 2] = t, x, y
                    break
                left -= 1


@inlined
def _front_owner(texels, views, order, t, x, y, behind):  # pragma: no cover - compiled
    """Return the front-most layer that covers a point and is in front of layer ``behind``, else 0."""
    owner, place = 0, order.shape[1] - 1
    while owner == 0 and place >= 0 and order[t, place] != behind:
        k = order[t, place]
        opacity, window = views[k, t].opacity, views[k, t].window
        near = window[0] - 1 <= x <= window[2] + 1 and window[1] - 1 <= y <= window[3] + 1
        if near and opacity >= THRESHOLD and alpha_point(texels, views[k, t], x, y) * opacity >= THRESHOLD:
            owner = k
        place -= 1
    return owner


@kernel
def owners_at(texels, views, order, frames, points, owner):  # pragma: no cover - compiled
    """Fill ``owner [P]``: the layer that owns each point ``[P, 2]`` itself, in its frame ``[P]``."""
    for p in range(len(points)):
        owner[p] = _front_owner(texels, views, order, frames[p], points[p, 0], points[p, 1], 0)


@inlined
def is_covered(texels, views, order, k, t0, x0, y0, t1, x, y):  # pragma: no cover - compiled
    """Return whether a point of layer ``k`` is covered by another layer in frame ``t1``, at (x, y) there.

    In frame ``t0`` it is at (x0, y0). A point keeps the larger of its alphas in both frames: resampling at an
    edge must not hide an object behind what is behind it.
    """
    covered = _front_owner(texels, views, order, t1, x, y, k) != 0
    if not covered and k > 0:
        alpha, opacity = alpha_point(texels, views[k, t1], x, y), views[k, t1].opacity
        if alpha * opacity < THRESHOLD:
            alpha = max(alpha, alpha_point(texels, views[k, t0], x0, y0))
            covered = alpha * opacity < THRESHOLD
    return covered


@kernel
def follow(texels, views, order, poses, redrawn, start, ends, out):  # pragma: no cover - compiled
    """Move points from their frame to all of the frames ``ends [E]`` with their layer.

    Args:
        texels, views, order: see the module.
        poses: ``[L, T, 3, 3]`` texture to frame.
        redrawn: ``[L]`` bool, the layer shows new content in every frame.
        start: points ``[P, 2]``, layers ``[P]`` and frames ``[P]``.
        ends: ``[E]``.
        out: filled: targets ``[P, E, 2]``, NaN where a point has no position in that frame, and bool
            ``[P, E]``, another layer owns the target.
    """
    points, layers, frames = start
    targets, hidden = out
    for p in range(len(points)):
        k, t0, x0, y0 = layers[p], frames[p], points[p, 0], points[p, 1]
        for e in range(len(ends)):
            t1 = ends[e]
            x, y = x0, y0
            if t0 != t1:
                x, y = map_point(views[k, t0].frame_to_texture, x0, y0)
                x, y = map_point(poses[k, t1], x, y)
                if redrawn[k]:
                    x = y = np.nan
            targets[p, e, 0], targets[p, e, 1] = x, y
            hidden[p, e] = False
            if np.isnan(x):
                continue
            hidden[p, e] = is_covered(texels, views, order, k, t0, x0, y0, t1, x, y)
