"""Sample scenes: objects, depth order, camera, background and appearance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from smile_synth.core import geometry
from smile_synth.core.appearance import Shadow
from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStreams
from smile_synth.recipe import Recipe
from smile_synth.sampling._appearance import sample_appearance
from smile_synth.sampling._background import sample_backgrounds, uses_folder
from smile_synth.sampling._camera import sample_cameras
from smile_synth.sampling._instances import Batch, Float, Instances, Int
from smile_synth.sampling._objects import sample_instances
from smile_synth.sampling._occlusion import reach_targets
from smile_synth.scene import Factor, Factors, Layer, Scene, StoredImage, levels_of_detail
from smile_synth.sources import Sources


def sample_scene(recipe: Recipe, sources: Sources, *, seed: int, index: int) -> Scene:
    """Sample the scene of clip ``index``: a pure function of recipe, sources, seed and index.

    Every purpose has its own random stream: the count, the depth order, the key times, the choice of the
    background, the background, the choice of each object, its motion entry, its path and each of its curves,
    the relation, the camera. A change of one part of a recipe does not change the random choices of the other
    parts.

    Raises:
        UserError: the recipe needs backgrounds, or classes of the bank, that the sources lack.

    Example:
        >>> scene = sample_scene(recipe, sources, seed=0, index=7)
        >>> len(scene.layers), scene.num_frames  # the background and two objects
        (3, 3)
    """
    return sample_scenes(recipe, sources, seed=seed, indices=[index])[0]


def sample_scenes(recipe: Recipe, sources: Sources, *, seed: int, indices: Sequence[int]) -> list[Scene]:
    """Sample the scenes of many clips as a batch, several times faster. Each equals that of `sample_scene`.

    The scenes share read-only arrays. Recommended: a few hundred clips per call.

    Raises:
        UserError: see `sample_scene`; or all weights of a mixture are 0 at an index.

    Example:
        >>> [scene.index for scene in sample_scenes(recipe, sources, seed=0, indices=range(2, 5))]
        [2, 3, 4]
    """
    clips = np.array(indices, np.int64)
    if not len(clips):
        return []
    if not recipe.mixture:
        return _sample_recipe(Batch(recipe, sources, seed, clips), recipe)
    chosen = _choose_mixture_entries(recipe, seed, clips)
    scenes: dict[int, Scene] = {}
    for number, entry in enumerate(recipe.mixture):
        rows = np.flatnonzero(chosen == number)
        if len(rows):
            batch = Batch(entry.recipe or recipe, sources, seed, clips[rows])
            sampled = _sample_recipe(batch, recipe, {"mixture_entry": float(number)})
            scenes.update(zip(rows.tolist(), sampled, strict=True))
    return [scenes[row] for row in range(len(clips))]


def _choose_mixture_entries(recipe: Recipe, seed: int, indices: Int) -> Int:
    """Sample the mixture entry of every clip."""
    u = RandomStreams(seed, indices, "mixture").random()
    weights = np.array([[entry.weight_at(index) for entry in recipe.mixture] for index in indices.tolist()])
    total = weights.sum(axis=1)
    if not (total > 0).all():
        raise UserError(f"mixture: every weight is 0 at clip {indices[int(np.argmin(total))]}")
    return np.asarray((np.cumsum(weights, axis=1) <= (u * total)[:, None]).sum(axis=1))


def _sample_recipe(
    batch: Batch, recipe: Recipe, common_factors: dict[str, Factor] | None = None
) -> list[Scene]:
    """Sample the scenes of a batch; ``batch.recipe`` is ``recipe`` or an entry of its mixture."""
    instances = sample_instances(batch)
    order = _depth_orders(batch, instances)
    factors: list[dict[str, Factor]] = [dict(common_factors or {}) for _ in range(len(batch))]
    cameras = sample_cameras(batch, factors)
    if batch.recipe.appearance.texture is not None:
        instances = _without_colors(instances)
        cameras = cameras and (cameras[0], np.ones_like(cameras[1]))
    if batch.recipe.occlusion:
        instances, order = reach_targets(
            batch.recipe, batch.sources.objects, instances, order,
            None if cameras is None else cameras[0], factors, seed=batch.seed, indices=batch.indices,
        )  # fmt: skip
    appearance, shadows, edges = sample_appearance(batch, factors)
    objects = _object_layers(batch, instances, order, shadows, edges)
    first, layers, stacked = _stack_layers(batch, instances, order, objects, cameras)
    labelled_counts = np.bincount(instances.clip[instances.labelled], minlength=len(batch)).tolist()
    backgrounds = batch.sources.backgrounds
    background_digest = backgrounds.digest if backgrounds and uses_folder(recipe) else ""
    scenes = []
    for clip, index in enumerate(batch.indices.tolist()):
        part = slice(first[clip], first[clip + 1])
        arrays = {name: array[part] for name, array in stacked.items()}
        # Decided per clip: the other clips of a batch must not change a scene.
        if "gamma" in arrays and (arrays["gamma"] == 1).all():
            del arrays["gamma"]
        scene = Scene(
            size_hw=batch.recipe.size,
            recipe_size_hw=batch.recipe.size,
            fps=batch.recipe.fps,
            seed=batch.seed,
            index=index,
            recipe_digest=recipe.digest,
            bank_digest=batch.sources.objects.digest,
            background_digest=background_digest,
            layers=tuple(layers[part]),
            factors=Factors(num_objects=float(labelled_counts[clip]), **factors[clip]),
            appearance=appearance[clip],
            **arrays,
        )
        scenes.append(scene)
    return scenes


def _without_colors(instances: Instances) -> Instances:
    """Return instances with neutral colours that are fully present or absent in each frame."""
    present = np.where(instances.opacity >= 0.5, 1.0, 0.0)
    return replace(instances, opacity=present, gain=np.ones_like(instances.gain), bias=None, gamma=None)


def _stack_layers(
    batch: Batch, instances: Instances, order: Int, objects: list[Layer], cameras: tuple[Float, Float] | None
) -> tuple[list[int], list[Layer], dict[str, Float]]:
    """Put each clip's background and its ordered objects one after another.

    Returns:
        The first layer of each clip and the number of layers L, the layers, and the arrays ``[L, T, ...]`` of
        `Scene`, read-only.
    """
    counts = np.bincount(instances.clip, minlength=len(batch)) + 1
    first = np.zeros(len(batch) + 1, np.int64)
    counts.cumsum(out=first[1:])
    behind, total, frames = first[:-1], int(first[-1]), batch.recipe.num_frames
    front = np.empty(len(order), np.int64)  # the layer of each object
    front[order] = np.arange(1, len(order) + 1) + instances.clip[order]
    # The depth of a layer is the number of layers in front of it, plus one.
    rank = first[1:].repeat(counts) - np.arange(total)
    arrays = {
        "object_to_frame": np.empty((total, frames, 3, 3)),
        "opacity": np.ones((total, frames)),
        "depth": rank[:, None] + np.zeros(frames),
        "gain": np.ones((total, frames, 3)),
        "bias": np.zeros((total, frames, 3)),
    }
    arrays["object_to_frame"][front] = instances.poses(batch.recipe.size)
    arrays["opacity"][front] = instances.opacity
    arrays["depth"][front] += instances.depth
    arrays["gain"][front] = instances.gain
    if instances.bias is not None:
        arrays["bias"][front] = instances.bias
    if instances.gamma is not None:
        arrays["gamma"] = np.ones((total, frames))
        arrays["gamma"][front] = instances.gamma[..., 0]
    backgrounds, arrays["object_to_frame"][behind], brightness = sample_backgrounds(batch)
    arrays["gain"][behind] = brightness[:, None, None]
    if cameras is not None:
        clip_of_layer = np.arange(len(batch)).repeat(counts)
        arrays["object_to_frame"] = geometry.product(cameras[0][clip_of_layer], arrays["object_to_frame"])
        arrays["gain"] *= cameras[1][clip_of_layer]
    layers, starts = [], first.tolist()
    for clip, background in enumerate(backgrounds):
        layers += [background, *objects[starts[clip] - clip : starts[clip + 1] - clip - 1]]
    arrays["level"] = levels_of_detail(layers, arrays["object_to_frame"])
    for array in arrays.values():
        array.flags.writeable = False
    return starts, layers, arrays


def _object_layers(
    batch: Batch, instances: Instances, order: Int, shadows: list[Shadow | None], edges: list[float]
) -> list[Layer]:
    """Return the layers of the objects, sorted by ``order``, which lists their rows.

    Soft edges and blurs of shadows are converted from pixels to texels.
    """
    bank = batch.sources.objects
    texels_per_pixel = np.zeros(len(instances))
    if any(edges) or any(shadows):
        texels_per_pixel = np.sqrt(instances.height * instances.width / instances.mean_area())
    columns = (
        instances.clip, instances.labelled, instances.object_id, instances.height, instances.width,
        bank.class_ids[instances.object_id], texels_per_pixel,
    )  # fmt: skip
    rows = zip(order.tolist(), *(column[order].tolist() for column in columns), strict=True)
    layers = []
    for row, clip, labelled, object_id, height, width, class_id, scale in rows:
        shadow = shadows[clip]
        layers.append(
            Layer(
                StoredImage("objects", object_id, height, width),
                labelled=labelled,
                class_name=bank.class_names[class_id] if labelled else "",
                factors=Factors(instances.factors[row]),
                feather=edges[clip] * scale,
                shadow=shadow and replace(shadow, blur=shadow.blur * scale),
            )
        )
    return layers


def _depth_orders(batch: Batch, instances: Instances) -> Int:
    """Return the rows of all instances, clip after clip, in each clip from back to front."""
    if batch.recipe.objects.depth_order == "area":
        # As published, an object with a larger average area is farther behind.
        return np.asarray(np.lexsort((-instances.mean_area(), instances.clip)), np.int64)
    counts = np.bincount(instances.clip, minlength=len(batch))
    starts = counts.cumsum() - counts
    drawn = batch.streams("depth order").permutations(counts)
    return np.concatenate([start + rows for start, rows in zip(starts, drawn, strict=True)])
