"""Loops over pixels, rows and points, by the sampling of `smile_synth.core.coverage`.

A mask is kept as runs: ``runs [R, 2]`` int32, the columns [x0, x1) of one row after another, and ``rows
[N, T, H + 1]`` int64, where in ``runs`` every row of object n in frame t begins.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from smile_synth.core.compile import inlined, kernel
from smile_synth.core.coverage import THRESHOLD, alpha_point, levels_at

# What is known of all points between four neighbouring texels.
_MIXED, _BELOW, _ABOVE = 0, 1, 2
_EACH = np.uint64(0x0101010101010101)  # one in every byte
_FIXED = 2.0**32
_HALF_CELL = 1 << 31
_ROUGH = 2.0**-12  # as near to one half as fixed point leaves in doubt


@kernel
def back_to_front(depth, order):  # pragma: no cover
    """Fill ``order [T, L - 1]`` with the layers but for the background, the rearmost first."""
    for t in range(order.shape[0]):
        for new in range(order.shape[1]):
            place = new
            while place > 0 and depth[order[t, place - 1], t] < depth[new + 1, t]:
                order[t, place] = order[t, place - 1]
                place -= 1
            order[t, place] = new + 1


@inlined
def texel_box(texels, first, height, width):  # pragma: no cover
    """Return (x0, y0, x1, y1) around the texels of half alpha or more; x1 is 0 where there are none."""
    x0, y0, x1, y1 = width, height, 0, 0
    for y in range(height):
        row = first + y * width
        low = 0
        while low < width and texels[row + low, 3] < 128:
            low += 1
        if low == width:
            continue
        high = width
        while texels[row + high - 1, 3] < 128:
            high -= 1
        x0, x1, y0, y1 = min(x0, low), max(x1, high), min(y0, y), y + 1
    return x0, y0, x1, y1


@kernel(error_model="numpy")
def oriented_boxes(texels, first, heights, widths, labelled, poses, out):  # pragma: no cover
    """Fill ``out [N, T, 4, 2]`` with the corners of the `texel_box` of layers ``labelled [N]``; NaN: none."""
    for n in range(len(labelled)):
        k = labelled[n]
        x0, y0, x1, y1 = texel_box(texels, first[k], heights[k], widths[k])
        for t in range(poses.shape[1]):
            pose = poses[k, t]
            whole = x1 > 0
            for corner in range(4):
                x, y = float(x1 if corner in (1, 2) else x0), float(y1 if corner in (2, 3) else y0)
                depth = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2]
                across = (pose[0, 0] * x + pose[0, 1] * y + pose[0, 2]) / depth
                down = (pose[1, 0] * x + pose[1, 1] * y + pose[1, 2]) / depth
                out[n, t, corner, 0], out[n, t, corner, 1] = across, down
                whole = whole and depth > 0.0 and np.isfinite(across + down)
            if not whole:  # a box with one corner behind the horizon is no box
                for corner in range(4):
                    out[n, t, corner, 0] = out[n, t, corner, 1] = np.nan


@kernel
def depth_ranks(order, number, out):  # pragma: no cover
    """Fill ``out [N, T]``: how many labelled objects are in front of each; ``order`` is `back_to_front`'s."""
    for t in range(order.shape[0]):
        rank = 0
        for place in range(order.shape[1] - 1, -1, -1):
            n = number[order[t, place]]
            if n >= 0:
                out[n, t] = rank
                rank += 1


@kernel
def _add_cells(cells, used, texels, start, h, w):  # pragma: no cover
    """Write whether alpha is below half, above or either between texels from ``cells[used]`` on.

    Cell (j, i) lies between the texels j - 1, j and i - 1, i; there is nothing outside of the texture.
    Returns the cells, which are others where there was no room.
    """
    one = np.uint64(1)  # places are unsigned: numba then drops its test for negative ones
    wide, at = np.uint64(w) + one, np.uint64(used)
    end = at + np.uint64(h + 1) * wide
    if end > np.uint64(len(cells)):
        grown = np.empty(np.uint64(2) * end, np.uint8)
        for i in range(at):
            grown[i] = cells[i]
        cells = grown
    # Whether the texels of two rows are above, with nothing on either side.
    before, here = np.zeros(wide + one, np.uint8), np.zeros(wide + one, np.uint8)
    for j in range(np.uint64(h + 1)):
        row = np.uint64(start) + j * np.uint64(w)
        for i in range(np.uint64(w)):
            here[i + one] = texels[row + i, 3] >> 7 if j < np.uint64(h) else 0
        for i in range(wide):
            count = here[i] + here[i + one] + before[i] + before[i + one]
            cells[at + i] = (count == 4) * _ABOVE + (count == 0) * _BELOW
        at += wide
        before, here = here, before
    return cells


@inlined
def _look(seen, places, u, du, v, dv, cells0, wide0, cells1, wide1, mixed):  # pragma: no cover
    """Fill ``seen [n]`` with what the cells of both levels say of pixels along a row."""
    _walk(places, len(seen), u, du, v, dv, wide0, np.uint64(32))
    for k in range(np.uint64(len(seen))):
        seen[k] = cells0[np.uint64(places[k])]
    if mixed:
        # Half of the place from the texture's corner is that of the farther level.
        _walk(places, len(seen), u + _HALF_CELL, du, v + _HALF_CELL, dv, wide1, np.uint64(33))
        for k in range(np.uint64(len(seen))):
            seen[k] &= cells1[np.uint64(places[k])]


@inlined
def _walk(places, n, u, du, v, dv, wide, shift):  # pragma: no cover
    """Fill ``places[:n]`` with the cells along a row; apart from looking there, vectors do it."""
    for k in range(n):
        i, j = np.uint64(u + k * du) >> shift, np.uint64(v + k * dv) >> shift
        places[k] = np.uint32(np.uint32(j) * np.uint32(wide) + np.uint32(i))


@inlined
def _rough_alpha(texels, start, w, u, v):  # pragma: no cover
    """Return the alpha 0..1, to 2^-15, at a place in fixed point whose four texels are all there."""
    one, fu, fv = np.int64(1 << 16), (u >> 16) & 0xFFFF, (v >> 16) & 0xFFFF
    p = np.uint64(start + ((v >> 32) - 1) * w + (u >> 32) - 1)
    q = p + np.uint64(w)
    upper = (one - fu) * texels[p, 3] + fu * texels[p + np.uint64(1), 3]
    lower = (one - fu) * texels[q, 3] + fu * texels[q + np.uint64(1), 3]
    return ((one - fv) * upper + fv * lower) * (2.0**-32 / 255)


@inlined
def _slab(at, step, size, low, high):  # pragma: no cover
    """Narrow the columns [low, high) to those with 0 <= at + x step < size, all fixed point."""
    if step == 0:
        return (low, high) if 0 <= at < size else (low, low)
    enter, leave = -at / step, (size - at) / step
    if step < 0:
        enter, leave = leave, enter
    begin = max(low, int(np.floor(max(enter, low - 1.0))))
    end = min(high, int(np.ceil(min(leave, high + 1.0))) + 1)
    while begin < end and not 0 <= at + begin * step < size:
        begin += 1
    while begin < end and not 0 <= at + (end - 1) * step < size:
        end -= 1
    return begin, end


@kernel
def _affine_rows(m, height, width, level):  # pragma: no cover
    """Return (x0, y0, x1, y1) around an affine texture, a texel wider than it is."""
    reach = 2.0 ** (np.int64(level) + 1)
    det = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
    for corner in range(4):
        u = (width + reach if corner & 1 else -reach) - m[0, 2]
        v = (height + reach if corner & 2 else -reach) - m[1, 2]
        x, y = (m[1, 1] * u - m[0, 1] * v) / det, (m[0, 0] * v - m[1, 0] * u) / det
        x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
    return np.int64(np.floor(x0)), np.int64(np.floor(y0)), np.int64(np.ceil(x1)), np.int64(np.ceil(y1))


@kernel
def _with_room(runs):  # pragma: no cover
    """Return runs with room for twice as many; an assignment of slices would compile for seconds."""
    grown = np.empty((2 * len(runs), 2), np.int32)
    for i in range(len(runs)):
        grown[i, 0], grown[i, 1] = runs[i, 0], runs[i, 1]
    return grown


@kernel
def cover(
    texels, first, heights, widths, inverse, levels, opacity, order, windows, number, owner, rows, extent
):  # fmt: skip  # pragma: no cover
    """Fill owners and the rows and extents of amodal masks; returns their runs.

    Args:
        texels: ``[n, 4]``, the textures of all layers.
        first, heights, widths: ``[L]``, of each layer's texture in it.
        inverse: ``[L, T, 3, 3]`` frame to texture.
        levels, opacity: ``[L, T]``.
        order: ``[T, L - 1]``, layers without the background, back to front.
        windows: ``[L, T, 4]``, half-open, where a layer of a projective pose may be.
        number: ``[L]``, the labelled objects' place, else -1.
        owner: ``[T, H, W]``, filled: the layer that owns a pixel, 0 the background.
        rows: ``[N, T, H + 1]``, filled; no objects: amodal masks are not wanted.
        extent: ``[N, T, 5]`` int64, filled: area, x0, y0, x1, y1 of the WHOLE extents, beyond the frame, too.
    """
    frames, height, width = owner.shape
    runs = np.empty((4096 if rows.shape[0] else 0, 2), np.int32)
    count = 0
    # Most pixels lie between texels that are all opaque, or all empty: one look tells.
    cells, used = np.zeros(1, np.uint8), 1
    known = np.zeros((len(first), 64), np.int64)  # where those of a layer's level begin; 0: not there yet
    words = np.empty(0, np.uint64)
    seen, places = words.view(np.uint8), np.empty(0, np.uint32)  # along a row
    for t in range(frames):
        for place in range(order.shape[1]):
            k = order[t, place]
            n = number[k] if rows.shape[0] else -1
            strength, m = opacity[k, t], inverse[k, t]
            if n < 0 and strength < THRESHOLD:
                continue
            area, left, top, right, bottom = 0, 1 << 40, 1 << 40, -(1 << 40), -(1 << 40)
            mips = levels_at(first[k], heights[k], widths[k], levels[k, t])
            mix, scale, start0, h0, w0, start1, h1, w1 = mips
            affine = m[2, 0] == 0.0 and m[2, 1] == 0.0 and m[2, 2] == 1.0
            if affine:
                x0, y0, x1, y1 = _affine_rows(m, heights[k], widths[k], levels[k, t])
                # Fixed point must hold every place from the frame's corner to the window's.
                farthest = max(-x0, -y0, x1, y1, 1)
                across, down = abs(m[0, 0]) + abs(m[0, 1]), abs(m[1, 0]) + abs(m[1, 1])
                far = max(across * farthest + abs(m[0, 2]), down * farthest + abs(m[1, 2]))
                affine = far * scale < 2.0**30
            else:
                x0, y0, x1, y1 = windows[k, t]
            if n < 0:
                x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
            low = np.int64(levels[k, t])
            if affine:
                for level, start, h, w in ((low, start0, h0, w0), (low + 1, start1, h1, w1)):
                    if known[k, level] == 0 and (level == low or mix > 0.0):
                        cells = _add_cells(cells, used, texels, start, h, w)
                        known[k, level] = used
                        used += (h + 1) * (w + 1)
            cells0 = cells[known[k, low] :]
            cells1 = cells[known[k, low + 1] :] if mix > 0.0 else cells0
            wide0, wide1, mixed = w0 + 1, w1 + 1, mix > 0.0
            # Cells of the nearer level: where a row begins, and steps along it and down.
            du, dv = np.int64(np.rint(m[0, 0] * scale * _FIXED)), np.int64(np.rint(m[1, 0] * scale * _FIXED))
            if n >= 0:
                for y in range(max(min(y0, height), 0) + 1):
                    rows[n, t, y] = count
            if len(seen) < x1 - x0 + 8:
                words = np.empty((x1 - x0 + 15) // 8, np.uint64)
                seen, places = words.view(np.uint8), np.empty(8 * len(words), np.uint32)
            for y in range(y0, y1):
                a, b, u, v = x0, x1, np.int64(0), np.int64(0)
                if affine:
                    u = np.int64(((m[0, 0] * 0.5 + m[0, 1] * (y + 0.5) + m[0, 2]) * scale + 0.5) * _FIXED)
                    v = np.int64(((m[1, 0] * 0.5 + m[1, 1] * (y + 0.5) + m[1, 2]) * scale + 0.5) * _FIXED)
                    a, b = _slab(u, du, np.int64(w0 + 1) << 32, a, b)
                    a, b = _slab(v, dv, np.int64(h0 + 1) << 32, a, b)
                    u, v = u + a * du, v + a * dv
                length = np.uint64(max(b - a, 0))
                if affine:
                    _look(seen[:length], places, u, du, v, dv, cells0, wide0, cells1, wide1, mixed)
                else:
                    for at in range(length):
                        seen[at] = _MIXED
                inside = 0 <= y < height
                for at in range(length, length + np.uint64(8)):
                    seen[at] = _BELOW  # there is nothing behind the last pixel
                # Most words of eight pixels hold nothing new. In the others it cannot be foreseen what does:
                # appending has no branch.
                doubts = np.uint64(0)
                for word in range((length + np.uint64(7)) >> np.uint64(3)):
                    eight = words[word]
                    if strength == 1.0 and (eight - _EACH) & ~eight & (_EACH << np.uint64(7)) == 0:
                        continue
                    for at in range(np.uint64(8) * word, np.uint64(8) * word + np.uint64(8)):
                        places[doubts] = at
                        doubts += np.uint64((seen[at] == _MIXED) | ((seen[at] == _ABOVE) & (strength < 1.0)))
                for doubt in range(doubts):
                    at = places[doubt]
                    x = a + at
                    up, vp = u + at * du, v + at * dv
                    alpha, i, j = THRESHOLD, up >> 32, vp >> 32
                    if affine and 1 <= i < w0 and 1 <= j < h0:
                        alpha = _rough_alpha(texels, start0, w0, up, vp)
                        if mixed:
                            up, vp = (up + _HALF_CELL) >> 1, (vp + _HALF_CELL) >> 1
                            i, j = up >> 32, vp >> 32
                            if 1 <= i < w1 and 1 <= j < h1:
                                alpha += mix * (_rough_alpha(texels, start1, w1, up, vp) - alpha)
                            else:
                                alpha = THRESHOLD
                    if min(abs(alpha - THRESHOLD), abs(alpha * strength - THRESHOLD)) < _ROUGH:
                        alpha = alpha_point(texels, mips, m, x + 0.5, y + 0.5)
                    seen[np.uint64(at)] = _ABOVE if alpha >= THRESHOLD else _BELOW
                    if strength < 1.0 and alpha * strength >= THRESHOLD and inside and 0 <= x < width:
                        owner[t, y, x] = k
                # Where runs begin and end.
                before, changes = np.uint8(_BELOW), np.uint64(0)
                for word in range((length >> np.uint64(3)) + np.uint64(1)):
                    if words[word] == _EACH * np.uint64(before):
                        continue
                    for at in range(np.uint64(8) * word, np.uint64(8) * word + np.uint64(8)):
                        places[changes] = at
                        changes += np.uint64(seen[at] != before)
                        before = seen[at]
                for change in range(np.uint64(0), changes, np.uint64(2)):
                    begin, end = a + np.int64(places[change]), a + np.int64(places[change + np.uint64(1)])
                    area += end - begin
                    left, right, top, bottom = min(left, begin), max(right, end), min(top, y), y + 1
                    low_x, high_x = max(begin, 0), min(end, width)
                    if not inside or low_x >= high_x:
                        continue
                    if strength == 1.0:
                        for column in range(np.uint64(low_x), np.uint64(high_x)):
                            owner[t, y, column] = k
                    if n >= 0:
                        if count == len(runs):
                            runs = _with_room(runs)
                        runs[count, 0], runs[count, 1] = low_x, high_x
                        count += 1
                if n >= 0 and inside:
                    rows[n, t, y + 1] = count
            if n >= 0:
                for y in range(max(min(y1, height), 0), height + 1):
                    rows[n, t, y] = count
                extent[n, t, 0] = area
                extent[n, t, 1], extent[n, t, 2] = left, top
                extent[n, t, 3], extent[n, t, 4] = right, bottom
    return runs[:count]


@kernel
def summarise(
    owner, number, runs, rows, modal_rows, modal_extent, amodal_area, occluded_by
):  # pragma: no cover
    """Fill what follows from who owns which pixel of the amodal masks; returns the runs of the modal ones.

    Args:
        owner: ``[T, H, W]``, the layer that owns a pixel.
        number: ``[L]``, the labelled objects' place, else -1.
        runs, rows: of the amodal masks.
        modal_rows: ``[N, T, H + 1]``, filled.
        modal_extent: ``[N, T, 5]`` int64, filled: area, x0, y0, x1, y1 (0 where empty).
        amodal_area: ``[N, T]`` int64, filled.
        occluded_by: ``[N, N, T]`` int64, filled.
    """
    objects, frames, height = rows.shape[0], rows.shape[1], rows.shape[2] - 1
    found = np.empty((len(runs) + 64, 2), np.int32)
    count = 0
    for n in range(objects):
        mine = np.int16(0)
        for k in range(len(number)):
            if number[k] == n:
                mine = np.int16(k)
        for t in range(frames):
            area, left, top, right, bottom = 0, 1 << 40, 0, 0, 0
            inside = 0
            modal_rows[n, t, 0] = count
            for y in range(height):
                for r in range(rows[n, t, y], rows[n, t, y + 1]):
                    x, end = runs[r, 0], runs[r, 1]
                    inside += end - x
                    owned = np.uint32(0)  # vectors count it
                    for at in range(np.uint64(x), np.uint64(end)):
                        owned += np.uint32(owner[t, y, at] == mine)
                    whole = owned == end - x
                    while x < end:
                        layer = owner[t, y, x]
                        begin = x
                        if whole:
                            x = end
                        while x < end and owner[t, y, x] == layer:
                            x += 1
                        other = number[layer]
                        if other != n:
                            if other >= 0:
                                occluded_by[n, other, t] += x - begin
                            continue
                        if area == 0:
                            top = y
                        area += x - begin
                        left, right, bottom = min(left, begin), max(right, x), y + 1
                        if count == len(found):
                            found = _with_room(found)
                        found[count, 0], found[count, 1] = begin, x
                        count += 1
                modal_rows[n, t, y + 1] = count
            amodal_area[n, t] = inside
            if area:
                modal_extent[n, t, 0] = area
                modal_extent[n, t, 1], modal_extent[n, t, 2] = left, top
                modal_extent[n, t, 3], modal_extent[n, t, 4] = right, bottom
    return found[:count]


@kernel
def fill_masks(runs, rows, masks):  # pragma: no cover
    """Fill bool ``masks [N, T, H, W]``, all false, from their runs."""
    for n in range(rows.shape[0]):
        for t in range(rows.shape[1]):
            for y in range(rows.shape[2] - 1):
                for r in range(rows[n, t, y], rows[n, t, y + 1]):
                    for x in range(np.uint64(runs[r, 0]), np.uint64(runs[r, 1])):
                        masks[n, t, y, x] = True


@inlined
def _toggles(runs, rows, y, out):  # pragma: no cover
    """Write the columns at which it changes whether row ``y`` of a mask differs from the row above.

    ``rows [H + 1]`` is that of one mask; there is nothing above its first row and below its last. Returns
    how many columns there are: between the first and the second all differ, and so on.
    """
    height = len(rows) - 1
    a, a_end = (rows[y - 1], rows[y]) if y > 0 else (0, 0)
    b, b_end = (rows[y], rows[y + 1]) if y < height else (0, 0)
    i, j, i_end, j_end, count = 2 * a, 2 * b, 2 * a_end, 2 * b_end, 0
    flat = runs.reshape(-1)
    while i < i_end or j < j_end:
        if j == j_end or (i < i_end and flat[i] <= flat[j]):
            x = flat[i]
            i += 1
        else:
            x = flat[j]
            j += 1
        if count and out[count - 1] == x:
            count -= 1  # both rows change here
        else:
            out[count] = x
            count += 1
    return count


@kernel
def _changes(runs, rows, width):  # pragma: no cover
    """Return the places, counted down the columns, at which one mask changes, in order; it begins empty."""
    height = len(rows) - 1
    columns = np.empty(4 * width + 4, np.int32)
    # Columns that change between two rows, [x0, x1) and the lower row.
    spans = np.empty((2 * (rows[height] - rows[0]) + 1, 3), np.int32)
    first = np.zeros(width + 1, np.int64)
    # Above its first run and below its last a mask does not change.
    low, high = 0, height
    while low < height and rows[low + 1] == rows[0]:
        low += 1
    while high > low and rows[high - 1] == rows[height]:
        high -= 1
    count = 0
    for y in range(low, high + 1):
        for c in range(0, _toggles(runs, rows, y, columns), 2):
            spans[count, 0], spans[count, 1], spans[count, 2] = columns[c], columns[c + 1], y
            count += 1
            for x in range(columns[c], columns[c + 1]):
                first[x + 1] += 1
    for x in range(width):
        first[x + 1] += first[x]
    where = np.empty(first[width], np.int64)
    for i in range(count):
        for x in range(spans[i, 0], spans[i, 1]):
            where[first[x]] = x * height + spans[i, 2]
            first[x] += 1
    # The end of a column is the beginning of the next: what changes at both does not change.
    count = 0
    for at in where:
        if count and where[count - 1] == at:
            count -= 1
        else:
            where[count] = at
            count += 1
    return where[:count]


@kernel
def encode_runs(runs, rows, width, wanted):  # pragma: no cover
    """Return the COCO run lengths of those masks that are ``wanted [N, T]`` as text, a line each.

    Runs go down the columns and begin with zeros. From the fourth on a run is written as its difference
    from the last but one; numbers in groups of five bits, the lowest first, a sixth bit where more follow.
    """
    text = np.empty(4096, np.uint8)
    length, area = 0, (rows.shape[2] - 1) * width
    for n in range(rows.shape[0]):
        for t in range(rows.shape[1]):
            if not wanted[n, t]:
                continue
            where = _changes(runs, rows[n, t], width)
            if len(text) < length + 7 * (len(where) + 1) + 1:
                grown = np.empty(2 * length + 7 * (len(where) + 1) + 1, np.uint8)
                for i in range(length):
                    grown[i] = text[i]
                text = grown
            begin, before, last = 0, 0, 0  # where a run begins, and the last two
            for i in range(len(where) + 1):
                end = where[i] if i < len(where) else area
                if i == len(where) and i > 0 and begin == area:
                    break
                value = end - begin - (before if i > 2 else 0)
                before, last, begin = last, end - begin, end
                more = True
                while more:
                    bits = value & 31
                    value >>= 5
                    more = value != -1 if bits & 16 else value != 0
                    text[length] = 48 + (bits | 32 if more else bits)
                    length += 1
            text[length] = 10
            length += 1
    return text[:length]


@inlined
def _is_edge(owned, t, y, x):  # pragma: no cover
    """Return whether a pixel has a neighbour of another owner."""
    owner = owned[t, y, x]
    return (
        (owned[t, max(y - 1, 0), x] != owner)
        | (owned[t, min(y + 1, owned.shape[1] - 1), x] != owner)
        | (owned[t, y, max(x - 1, 0)] != owner)
        | (owned[t, y, min(x + 1, owned.shape[2] - 1)] != owner)
    )


@kernel
def count_candidates(runs, rows, width, edges, counts):  # pragma: no cover
    """Add to ``counts [T, H]`` how many pixels of the modal masks each row has; edges: only those on one.

    A pixel is on no edge where the mask holds its neighbours, too; beyond the frame there are none.
    """
    height = rows.shape[2] - 1
    for n in range(rows.shape[0]):
        for t in range(rows.shape[1]):
            for y in range(height):
                above, above_end = rows[n, t, max(y - 1, 0)], rows[n, t, max(y - 1, 0) + 1]
                below, below_end = rows[n, t, min(y + 1, height - 1)], rows[n, t, min(y + 1, height - 1) + 1]
                for r in range(rows[n, t, y], rows[n, t, y + 1]):
                    counts[t, y] += runs[r, 1] - runs[r, 0]
                    if not edges:
                        continue
                    # What of the run, without its ends, is in a run above and in one below.
                    x = runs[r, 0] + (runs[r, 0] > 0)
                    end = runs[r, 1] - (runs[r, 1] < width)
                    while x < end:
                        while above < above_end and runs[above, 1] <= x:
                            above += 1
                        while below < below_end and runs[below, 1] <= x:
                            below += 1
                        if above == above_end or below == below_end:
                            break
                        x = max(x, runs[above, 0], runs[below, 0])
                        stop = min(end, runs[above, 1], runs[below, 1])
                        if x < stop:
                            counts[t, y] -= stop - x
                            x = stop


@kernel
def find_candidates(owned, edges, counts, wanted, found):  # pragma: no cover
    """Fill ``found [P, 3]`` (t, x, y) with the candidates that have the numbers ``wanted [P]``.

    ``counts [T, H]`` is what `count_candidates` found in every row.
    """
    height, width = owned.shape[1:]
    totals = np.cumsum(counts)
    for p in range(len(wanted)):
        row = np.searchsorted(totals, wanted[p], side="right")
        t, y = row // height, row % height
        left = wanted[p] - (totals[row] - counts[t, y])
        for x in range(width):
            if owned[t, y, x] > 0 and (not edges or _is_edge(owned, t, y, x)):
                if left == 0:
                    found[p, 0], found[p, 1], found[p, 2] = t, x, y
                    break
                left -= 1


@kernel
def _mips(first, heights, widths, levels):  # pragma: no cover
    """Return what `levels_at` says of every layer and frame, whole numbers ``[L, T, 6]`` and others."""
    whole, others = np.empty((*levels.shape, 6), np.int64), np.empty((*levels.shape, 2))
    for k in range(levels.shape[0]):
        for t in range(levels.shape[1]):
            mips = levels_at(first[k], heights[k], widths[k], levels[k, t])
            others[k, t, 0], others[k, t, 1] = mips[0], mips[1]
            whole[k, t, 0], whole[k, t, 1], whole[k, t, 2] = mips[2], mips[3], mips[4]
            whole[k, t, 3], whole[k, t, 4], whole[k, t, 5] = mips[5], mips[6], mips[7]
    return whole, others


@inlined
def _alpha(texels, whole, others, inverse, k, t, x, y):  # pragma: no cover
    """Return the alpha of a layer at a point of a frame; see `_mips`."""
    places, parts = whole[k, t], others[k, t]
    mips = (parts[0], parts[1], places[0], places[1], places[2], places[3], places[4], places[5])
    return alpha_point(texels, mips, inverse[k, t], x, y)


@kernel
def owners_at(
    texels, first, heights, widths, inverse, levels, opacity, back_to_front, frames, points, owner
):  # pragma: no cover
    """Fill ``owner [P]``: the layer that owns each point ``[P, 2]`` itself, in its frame ``[P]``."""
    whole, others = _mips(first, heights, widths, levels)
    for p in range(len(points)):
        t = frames[p]
        for place in range(back_to_front.shape[1] - 1, -1, -1):
            k = back_to_front[t, place]
            alpha = _alpha(texels, whole, others, inverse, k, t, points[p, 0], points[p, 1])
            if alpha * opacity[k, t] >= THRESHOLD:
                owner[p] = k
                break


@inlined
def _moved(there, pose, x, y):  # pragma: no cover
    """Carry a point from a frame to a texture and from there to another frame; NaN: it has no place there."""
    depth = there[2, 0] * x + there[2, 1] * y + there[2, 2]
    if not depth > 0.0:
        return np.nan, np.nan
    u = (there[0, 0] * x + there[0, 1] * y + there[0, 2]) / depth
    v = (there[1, 0] * x + there[1, 1] * y + there[1, 2]) / depth
    depth = pose[2, 0] * u + pose[2, 1] * v + pose[2, 2]
    if not depth > 0.0:
        return np.nan, np.nan
    return (
        (pose[0, 0] * u + pose[0, 1] * v + pose[0, 2]) / depth,
        (pose[1, 0] * u + pose[1, 1] * v + pose[1, 2]) / depth,
    )


@kernel
def follow(
    texels, first, heights, widths, inverse, levels, opacity, back_to_front, poses, redrawn, size_hw,
    points, layers, begin, ends, targets, inside, hidden,
):  # fmt: skip  # pragma: no cover
    """Carry points from frame ``begin[p]`` to all of the frames ``ends`` with their layer.

    A point keeps the larger of its alphas at both: resampling at an edge must not make an object hide
    behind what lies behind it.

    Args:
        texels, first, heights, widths, inverse, levels, opacity, back_to_front: as in `cover`.
        poses: ``[L, T, 3, 3]`` texture to frame.
        redrawn: ``[L]`` bool, whether a layer is something new in every frame.
        size_hw: of the frame.
        points: ``[P, 2]``.
        layers, begin: ``[P]``.
        ends: ``[E]``.
        targets: ``[P, E, 2]``, filled; NaN where a point has no place in that frame.
        inside: ``[P, E]`` bool, filled: the target is in the frame.
        hidden: ``[P, E]`` bool, filled: another layer owns the target.
    """
    height, width = size_hw
    whole, others = _mips(first, heights, widths, levels)
    for p in range(len(points)):
        k, t0 = layers[p], begin[p]
        for e in range(len(ends)):
            t1 = ends[e]
            x, y = points[p, 0], points[p, 1]
            if t0 != t1:
                x, y = (np.nan, np.nan) if redrawn[k] else _moved(inverse[k, t0], poses[k, t1], x, y)
            targets[p, e, 0], targets[p, e, 1] = x, y
            if np.isnan(x):
                continue
            inside[p, e] = 0.0 <= x < width and 0.0 <= y < height
            covered = False
            for place in range(back_to_front.shape[1] - 1, -1, -1):
                front = back_to_front[t1, place]
                if front == k:
                    break
                alpha = _alpha(texels, whole, others, inverse, front, t1, x, y)
                if alpha * opacity[front, t1] >= THRESHOLD:
                    covered = True
                    break
            if not covered and k > 0:
                alpha = _alpha(texels, whole, others, inverse, k, t1, x, y)
                if alpha * opacity[k, t1] < THRESHOLD:
                    before = _alpha(texels, whole, others, inverse, k, t0, points[p, 0], points[p, 1])
                    covered = max(alpha, before) * opacity[k, t1] < THRESHOLD
            hidden[p, e] = covered
