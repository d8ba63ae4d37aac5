"""Draw scenes: instances, depth order, camera, background and appearance, put together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from smile_synth.core import geometry
from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStream, RandomStreams
from smile_synth.recipe import Recipe
from smile_synth.sampling._appearance import sample_appearance, with_appearance
from smile_synth.sampling._background import sample_background, uses_folder
from smile_synth.sampling._camera import sample_cameras
from smile_synth.sampling._instances import Instances, sample_instances
from smile_synth.sampling._occlusion import reach_targets
from smile_synth.scene import Layer, Scene, StoredImage, levels_of_detail
from smile_synth.sources import Sources


def sample_scene(recipe: Recipe, sources: Sources, *, seed: int, index: int) -> Scene:
    """Draw the scene of clip ``index``: a pure function of recipe, sources, seed and index.

    Every purpose has a random stream of its own: the count, the depth order, the key times, the choice of
    background and the background, each object's look, choice of motion, path and every curve, the relation,
    the camera. Changing one part of a recipe leaves the draws of the others as they were.

    Raises:
        UserError: the recipe wants images behind and none were given, or classes the bank lacks.
    """
    return sample_scenes(recipe, sources, seed=seed, indices=[index])[0]


def sample_scenes(
    recipe: Recipe,
    sources: Sources,
    *,
    seed: int,
    indices: Sequence[int],
) -> list[Scene]:
    """Draw the scenes of many clips at once: to the bit those of `sample_scene`, several times faster.

    The arrays of the scenes of a batch are views of common ones. A few hundred clips make a good batch.

    Raises:
        UserError: as for `sample_scene`.
    """
    if not recipe.mixture:
        return _scenes(recipe, recipe, sources, seed, np.asarray(indices, np.int64))
    u = RandomStreams(seed, indices, "mixture").random()
    weights = np.array([[entry.weight_at(index) for entry in recipe.mixture] for index in indices])
    total = weights.sum(axis=1)
    if not (total > 0).all():
        clip = indices[int(np.argmin(total))]
        raise UserError(f"mixture: every weight is 0 at clip {clip}")
    chosen = (np.cumsum(weights, axis=1) <= (u * total)[:, None]).sum(axis=1)
    scenes: dict[int, Scene] = {}
    for number, entry in enumerate(recipe.mixture):
        rows = np.flatnonzero(chosen == number)
        if len(rows):
            drawn = _scenes(
                entry.recipe or recipe, recipe, sources, seed, np.asarray(indices, np.int64)[rows]
            )
            for scene in drawn:
                scene.factors["mixture_entry"] = float(number)
            scenes.update(zip(rows.tolist(), drawn, strict=True))
    return [scenes[row] for row in range(len(indices))]


def _scenes(
    recipe: Recipe,
    whole: Recipe,
    sources: Sources,
    seed: int,
    indices: NDArray[np.int64],
) -> list[Scene]:
    """Draw clips of one recipe, which may stand in the mixture of the whole one."""
    frames, bank, backgrounds = recipe.num_frames, sources.objects, sources.backgrounds
    instances = sample_instances(recipe, sources.objects, seed, indices)
    order = _depth_orders(recipe, instances, seed, indices)
    camera, factors = sample_cameras(recipe, seed, indices)
    if recipe.occlusion:
        camera_pose = None if camera is None else camera.pose
        instances, order = reach_targets(
            recipe, sources.objects, instances, order, camera_pose, factors, seed=seed, indices=indices
        )

    # Slots of the common arrays: every clip's background, then its objects from back to front.
    counts = np.bincount(instances.clip, minlength=len(indices))
    first = np.cumsum(counts + 1) - (counts + 1)
    slots = np.arange(len(order)) + instances.clip[order] + 1
    total = len(order) + len(indices)
    poses = np.empty((total, frames, 3, 3))
    poses[slots] = instances.poses(recipe.size)[order]
    opacity, gain, depth = np.ones((total, frames)), np.ones((total, frames, 3)), np.empty((total, frames))
    opacity[slots], gain[slots] = instances.opacity[order], instances.gain[order]
    bias, gamma = np.zeros((total, frames, 3)), None
    if instances.bias is not None:
        bias[slots] = instances.bias[order]
    if instances.gamma is not None:
        gamma = np.ones((total, frames))
        gamma[slots] = instances.gamma[order, :, 0]
    # As deep as there are layers in front, and one.
    rank = np.repeat(counts + 1, counts + 1) - (np.arange(total) - np.repeat(first, counts + 1))
    depth[:] = rank[:, None]
    depth[slots] += instances.depth[order]
    class_ids = bank.class_ids[instances.object_id].tolist()
    sizes = list(
        zip(instances.object_id.tolist(), instances.height.tolist(), instances.width.tolist(), strict=True)
    )
    appearance, shadows, edges = sample_appearance(recipe.appearance, seed, indices, factors)
    texels_per_pixel = np.sqrt(
        instances.height * instances.width / instances.box_wh.prod(axis=2).mean(axis=1)
    ).tolist()
    layers: list[Layer] = []
    places = order.tolist()
    for clip, index in enumerate(indices.tolist()):
        background, pose, brightness = sample_background(
            recipe, backgrounds, partial(RandomStream, seed, index)
        )
        slot = len(layers)
        poses[slot], gain[slot] = pose, brightness
        layers.append(background)
        for i in places[slot - clip : slot - clip + int(counts[clip])]:
            surface = StoredImage("objects", *sizes[i])
            labelled = bool(instances.labelled[i])
            class_name = bank.class_names[class_ids[i]] if labelled else ""
            layer = Layer(surface, "transparent", labelled, class_name, instances.factors[i])
            layers.append(with_appearance(layer, edges[clip], shadows[clip], texels_per_pixel[i]))
    if camera is not None:
        clip_of_slot = np.repeat(np.arange(len(indices)), counts + 1)
        poses = geometry.product(camera.pose[clip_of_slot], poses)
        gain *= camera.gain[clip_of_slot]
    level = levels_of_detail(layers, poses)
    background_digest = backgrounds.digest if backgrounds and uses_folder(whole) else ""
    labelled_counts = np.bincount(instances.clip[instances.labelled], minlength=len(indices)).tolist()
    scenes = []
    for clip, index in enumerate(indices.tolist()):
        part = slice(int(first[clip]), int(first[clip] + counts[clip] + 1))
        scenes.append(
            Scene(
                size_hw=recipe.size,
                recipe_size_hw=recipe.size,
                fps=recipe.fps,
                seed=seed,
                index=index,
                recipe_digest=whole.digest,
                bank_digest=bank.digest,
                background_digest=background_digest,
                layers=tuple(layers[part]),
                object_to_frame=poses[part],
                opacity=opacity[part],
                depth=depth[part],
                gain=gain[part],
                bias=bias[part],
                level=level[part],
                factors={"num_objects": float(labelled_counts[clip]), **factors[clip]},
                appearance=appearance[clip],
                # By the clip's own values: other clips of the batch change nothing.
                gamma=None if gamma is None or (gamma[part] == 1).all() else gamma[part],
            )
        )
    return scenes


def _depth_orders(
    recipe: Recipe, instances: Instances, seed: int, indices: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rows of all instances, clip after clip, in each from back to front."""
    if recipe.objects.depth_order == "area":
        # As published: the larger the average area, the farther behind.
        area = instances.box_wh.prod(axis=2).mean(axis=1)
        return np.lexsort((-area, instances.clip)).astype(np.int64)
    counts = np.bincount(instances.clip, minlength=len(indices))
    drawn = RandomStreams(seed, indices, "depth order").permutations(counts)
    starts = np.cumsum(counts) - counts
    orders = [start + order for start, order in zip(starts, drawn, strict=True)]
    return np.concatenate(orders) if orders else np.zeros(0, np.int64)
