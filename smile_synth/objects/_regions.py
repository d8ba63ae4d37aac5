"""Propose objects in plain images: class-agnostic regions, with high precision and low recall.

1. Divide the image into small segments (Felzenszwalb and Huttenlocher, IJCV 2004).
2. Merge them pair by pair, most similar first (as selective search, Uijlings et al., IJCV 2013). Every
   intermediate region is a proposal.
3. Score the plausible proposals and drop overlapping ones.
4. Refine the best ones on the image by a graph cut (GrabCut, Rother et al., SIGGRAPH 2004).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from smile_synth.io.images import UInt8

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
METHOD = "felzenszwalb-merge-grabcut"
MAX_REGIONS = 6  # per image
MIN_SCORE = 0.35
AREA_SHARE = (0.008, 0.45)  # of the image
MIN_SOLIDITY = 0.5  # area / area of the convex hull
MIN_ASPECT = 0.2  # short side / long side of the smallest rotated box
MAX_OVERLAP = 0.3  # intersection / area of the smaller region
# Proposals
PROPOSAL_SIDE = 320  # long side of the image that is segmented
MIN_SIDE = 16  # short side of this image
SCALES = (40.0, 120.0)  # of the first segments
IGNORED_STEP = 6.0  # Lab distance between neighbours that counts as zero
MAX_REFINED = 10  # proposals that are refined, per image
# Refinement
WINDOW_SIDE = 256  # long side of the window around a region
MIN_AGREEMENT = 0.6  # intersection over union of a region before and after
SMOOTHING = 1.2  # sigma in pixels of the window
EDGE_WIDTH = 1.5  # pixels of the image over which alpha rises


@dataclass(frozen=True, eq=False)
class Region:
    """An object found in an image."""

    alpha: UInt8  # [h, w], a window of the image
    corner_yx: tuple[int, int]  # the window's first pixel
    score: float  # 0..1, see `_score`


def find_regions(rgb: UInt8) -> list[Region]:
    """Find objects in an image ``[H, W, 3]`` uint8, best first, at most MAX_REGIONS.

    A region is returned if its area is within AREA_SHARE of the image, it does not touch the border, it has
    at least MIN_SOLIDITY, MIN_ASPECT and MIN_SCORE. This is tested before and after refinement.
    """
    scale = min(1.0, PROPOSAL_SIDE / max(rgb.shape[:2]))
    size_wh = [max(1, round(side * scale)) for side in rgb.shape[1::-1]]
    small = _resized(rgb, size_wh)
    if min(size_wh) < MIN_SIDE:
        return []
    lab = _smooth_lab(small)
    found: list[Region] = []
    taken = np.zeros(small.shape[:2], bool)
    for proposal, distance in _propose(small, lab):
        refined = _refined(rgb, proposal)
        if refined is None or not _is_plausible(refined[0]):
            continue
        mask, alpha, corner_yx = refined
        score = _score(lab, distance, mask)
        if score >= MIN_SCORE and (mask & taken).sum() <= MAX_OVERLAP * mask.sum():
            taken |= mask
            found.append(Region(alpha, corner_yx, score))
        if len(found) == MAX_REGIONS:
            break
    return sorted(found, key=lambda region: -region.score)


def _propose(rgb: UInt8, lab: Float) -> list[tuple[Bool, Float]]:
    """Return masks ``[H, W]`` of small overlap with their `_distance_from_border`, best first."""
    found: list[tuple[float, Bool, Float]] = []
    for scale in SCALES:
        labels, means = _segments(rgb, lab, scale)
        distance = _distance_from_border(labels, means)
        plausible = [mask for mask in _merged_regions(labels, means, lab) if _is_plausible(mask)]
        found += [(_score(lab, distance, mask), mask, distance) for mask in plausible]
    kept: list[tuple[Bool, Float]] = []
    for score, mask, distance in sorted(found, key=lambda proposal: -proposal[0]):
        if score < MIN_SCORE or len(kept) == MAX_REFINED:
            break
        if all((mask & other).sum() <= MAX_OVERLAP * min(mask.sum(), other.sum()) for other, _ in kept):
            kept.append((mask, distance))
    return kept


def _resized(values: UInt8, size_wh: Sequence[int]) -> UInt8:
    return np.asarray(cv2.resize(values, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


def _smooth_lab(rgb: UInt8) -> Float:
    smooth = cv2.GaussianBlur(rgb, (0, 0), 0.8).astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB), np.float32)


def _refined(rgb: UInt8, proposal: Bool) -> tuple[Bool, UInt8, tuple[int, int]] | None:
    """Fit a proposal's outline to the image.

    Returns:
        The mask in the size of the proposal; alpha ``[h, w]`` of a window of the image; the row and
        column of the window's first pixel. None if graph cut and proposal disagree.
    """
    rows, columns = np.nonzero(proposal.any(axis=1))[0], np.nonzero(proposal.any(axis=0))[0]
    margin = 3 + round(0.25 * float(proposal.sum()) ** 0.5)
    top, left = max(int(rows[0]) - margin, 0), max(int(columns[0]) - margin, 0)
    small = np.s_[top : int(rows[-1]) + 1 + margin, left : int(columns[-1]) + 1 + margin]
    (h, w), zoom = proposal[small].shape, np.array(rgb.shape[:2]) / proposal.shape
    y0, x0 = (int(v) for v in np.round(zoom * (top, left)))
    y1, x1 = (int(v) for v in np.round(zoom * (top + h, left + w)))
    window = rgb[y0:y1, x0:x1]
    shrink = min(1.0, WINDOW_SIDE / max(window.shape[:2]))
    size_wh = (max(1, round((x1 - x0) * shrink)), max(1, round((y1 - y0) * shrink)))
    near = _resized(window, size_wh)
    start = cv2.resize(proposal[small].astype(np.float32), size_wh, interpolation=cv2.INTER_LINEAR) > 0.5
    fit = _graph_cut(near, start)
    if fit is None:
        return None
    soft = cv2.GaussianBlur(fit.astype(np.float32), (0, 0), SMOOTHING)
    # The blurred edge rises by 1 / (sigma sqrt(2 pi)) per pixel; alpha rises by 1 over EDGE_WIDTH pixels.
    gain = SMOOTHING * (2 * np.pi) ** 0.5 / (EDGE_WIDTH * shrink)
    fine = cv2.resize(soft, (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)
    alpha = np.floor(np.clip((fine - 0.5) * gain + 0.5, 0, 1) * 255 + 0.5).astype(np.uint8)
    mask = np.zeros(proposal.shape, bool)
    mask[small] = _resized(alpha, (w, h)) >= 128
    return mask, alpha, (y0, x0)


def _graph_cut(rgb: UInt8, start: Bool) -> Bool | None:
    """Return the largest part, without holes and thin lines; None if it differs too much from ``start``."""
    reach = 0.12 * float(start.sum()) ** 0.5
    depth = cv2.distanceTransform(start.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    height = cv2.distanceTransform(1 - start.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    trimap = np.where(start, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    trimap[depth > min(reach, 0.6 * float(depth.max()))] = cv2.GC_FGD
    trimap[height > reach] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(rgb, trimap, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    radius = max(1, round(0.1 * reach))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.morphologyEx(inside, cv2.MORPH_OPEN, disk))
    if count == 1:
        return None
    fit = _filled(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))
    return fit if (fit & start).sum() >= MIN_AGREEMENT * (fit | start).sum() else None


def _segments(rgb: UInt8, lab: Float, scale: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return labels ``[H, W]`` and each segment's mean colour ``[N, 3]``."""
    # Imported here because this import is slow.
    from skimage.segmentation import felzenszwalb

    labels = felzenszwalb(rgb, scale=scale, sigma=0.8, min_size=rgb.shape[0] * rgb.shape[1] // 1500)
    totals = np.stack([np.bincount(labels.ravel(), channel.ravel()) for channel in cv2.split(lab)], axis=1)
    return labels, totals / np.bincount(labels.ravel())[:, None]


def _merged_regions(labels: NDArray[np.int64], means: NDArray[np.float64], lab: Float) -> Iterator[Bool]:
    """Merge segments pair by pair; yield every region of plausible size and position, holes filled."""
    count = len(means)
    mean = list(means)
    sizes = np.bincount(labels.ravel()).astype(float).tolist()
    edge = np.zeros(labels.shape, bool)
    edge[[0, 1, -2, -1]] = True
    edge[:, [0, 1, -2, -1]] = True
    at_border = list(np.bincount(labels[edge], minlength=count) > 0)
    members: list[list[int]] = [[k] for k in range(count)]
    neighbours = _neighbours(labels, lab, count)

    def distance(i: int, j: int) -> float:
        length, contrast = neighbours[i][j]
        colour = float(np.linalg.norm(mean[i] - mean[j]))
        # Small regions are merged first, then regions of similar colour with a weak edge between them.
        weight: float = 0.1 + (min(sizes[i], sizes[j]) / float(labels.size)) ** 0.35
        return (colour + 2 * contrast / length) * weight

    queue = [(distance(i, j), i, j) for i in range(count) for j in neighbours[i] if i < j]
    heapq.heapify(queue)
    merged: set[int] = set()
    while queue:
        _, i, j = heapq.heappop(queue)
        if i in merged or j in merged:
            continue
        merged |= {i, j}
        new = len(members)
        members.append(members[i] + members[j])
        sizes.append(sizes[i] + sizes[j])
        mean.append((mean[i] * sizes[i] + mean[j] * sizes[j]) / sizes[new])
        at_border.append(at_border[i] or at_border[j])
        borders = [border for part in (i, j) for border in neighbours[part].items()]
        neighbours.append({})
        for k, (length, contrast) in borders:
            if k not in merged:
                old = neighbours[new].get(k, (0.0, 0.0))
                neighbours[new][k] = neighbours[k][new] = (old[0] + length, old[1] + contrast)
        for k in neighbours[new]:
            heapq.heappush(queue, (distance(k, new), k, new))

    lowest, highest = (share * labels.size for share in AREA_SHARE)
    for region, parts in enumerate(members):
        if not at_border[region] and 0.5 * lowest <= sizes[region] <= highest:
            chosen = np.zeros(count, bool)
            chosen[parts] = True
            yield _filled(chosen[labels])


def _neighbours(labels: NDArray[np.int64], lab: Float, count: int) -> list[dict[int, tuple[float, float]]]:
    """Return the length of the border, and the sum of the contrast across it, for all neighbours."""
    found: list[dict[int, tuple[float, float]]] = [{} for _ in range(count)]
    for axis in (0, 1):
        a, b = np.delete(labels, -1, axis).ravel(), np.delete(labels, 0, axis).ravel()
        step = np.linalg.norm(np.diff(lab, axis=axis), axis=2).ravel()
        differ = a != b
        pair = np.minimum(a, b)[differ] * count + np.maximum(a, b)[differ]
        keys, inverse = np.unique(pair, return_inverse=True)
        lengths, contrasts = np.bincount(inverse), np.bincount(inverse, step[differ])
        for key, length, contrast in zip(keys.tolist(), lengths.tolist(), contrasts.tolist(), strict=True):
            i, j = divmod(key, count)
            old = found[i].get(j, (0.0, 0.0))
            found[i][j] = found[j][i] = (old[0] + length, old[1] + contrast)
    return found


def _filled(mask: Bool) -> Bool:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), contours, -1, 1, cv2.FILLED).astype(bool)


def _is_plausible(mask: Bool) -> bool:
    lowest, highest = AREA_SHARE
    area = float(mask.sum())
    if not lowest * mask.size <= area <= highest * mask.size:
        return False
    points = _outline_points(mask)
    if area < MIN_SOLIDITY * _hull_area(points):
        return False
    sides = cv2.minAreaRect(points)[1]
    return bool(min(sides) >= MIN_ASPECT * max(sides))


def _outline_points(mask: Bool) -> NDArray[np.int32]:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.concatenate(contours).astype(np.int32)


def _hull_area(points: NDArray[np.int32]) -> float:
    return float(cv2.contourArea(cv2.convexHull(points)))


def _score(lab: Float, distance: Float, mask: Bool) -> float:
    """Return 0..1: how clearly a region differs from its surroundings on all sides.

    The product of six terms:

    - edge = e / (e + 20), with e the first quartile along the outline of the Lab distance between the
      colours just inside and just outside, plus the same for a wider band; the quartile measures the weak
      parts of the outline;
    - isolation: 1 - (`_distance_from_border` of the surroundings / that of the region), so that a part of
      an object scores less than the whole;
    - solidity^(1/2), with solidity = area / area of the convex hull;
    - size = (share of the image / 3 %)^(1/4), at most 1;
    - clearance: 0.5 at the image's border, 1 from 8 % of the long side on, because regions near the border
      are often background;
    - variety: 0.7 for a uniform colour, 1 from a standard deviation of 12 in Lab on, because walls and sky
      are uniform.
    """
    share = float(mask.mean())
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    gap = min(rows[0], columns[0], len(mask) - 1 - rows[-1], mask.shape[1] - 1 - columns[-1])
    clearance = min(1.0, 0.5 + 0.5 * float(gap) / (0.08 * max(mask.shape)))
    variety = min(1.0, 0.7 + 0.3 * float(lab[mask].var(axis=0).sum()) ** 0.5 / 12)
    reach = max(4, round(0.12 * float(mask.sum()) ** 0.5))
    top, left = max(rows[0] - 2 * reach, 0), max(columns[0] - 2 * reach, 0)
    window = np.s_[top : rows[-1] + 2 * reach + 1, left : columns[-1] + 2 * reach + 1]
    lab, distance, mask = lab[window], distance[window], mask[window]
    inside = mask.astype(np.float32)

    def local_mean(values: Float, weight: Float, radius: int) -> Float:
        size = (2 * radius + 1,) * 2
        total = np.maximum(cv2.blur(weight, size), 1e-6)
        mean = cv2.blur(values * weight[..., None], size).reshape(*weight.shape, -1) / total[..., None]
        return mean.astype(np.float32)

    outline = mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    edge = 0.0
    for radius in (3, reach):
        difference = local_mean(lab, inside, radius) - local_mean(lab, 1 - inside, radius)
        edge += float(np.quantile(np.linalg.norm(difference, axis=2)[outline], 0.25))
    around = local_mean(distance[..., None], 1 - inside, reach)[outline]
    isolation = max(0.0, 1 - float(around.mean()) / max(float(distance[mask].mean()), 1e-6))
    solidity = min(1.0, float(mask.sum()) / _hull_area(_outline_points(mask)))
    size = min(1.0, (share / 0.03) ** 0.25)
    return float(edge / (edge + 20) * isolation * solidity**0.5 * size * clearance * variety)


def _distance_from_border(labels: NDArray[np.int64], mean: NDArray[np.float64]) -> Float:
    """Return each pixel's distance to the image's border: the least sum of Lab steps between segments.

    Wei et al., Geodesic saliency using background priors, ECCV 2012.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    count = len(mean)
    pairs = np.concatenate(
        [
            np.stack([np.delete(labels, -1, axis).ravel(), np.delete(labels, 0, axis).ravel()])
            for axis in (0, 1)
        ],
        axis=1,
    )
    i, j = np.unique(np.sort(pairs[:, pairs[0] != pairs[1]], axis=0), axis=1)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    steps = np.maximum(np.linalg.norm(mean[i] - mean[j], axis=1) - IGNORED_STEP, 0) + 1e-3
    rows, columns = np.concatenate([i, np.full(len(border), count)]), np.concatenate([j, border])
    graph = coo_array(
        (np.concatenate([steps, np.full(len(border), 1e-6)]), (rows, columns)), shape=(count + 1,) * 2
    )
    distance = dijkstra(graph.tocsr(), directed=False, indices=count)[:count]
    pixels: Float = distance.astype(np.float32)[labels]
    return pixels
