"""Compositing: a scene becomes pixels. One interface, several backends, one picture.

Tolerance of every backend against the oracle: at most 1/255 on 99.9 % of the pixels and never more
than 3/255, with up to four stacked translucent layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from smile_synth.backgrounds import BackgroundFolder
from smile_synth.compositing._cpu import composite_cpu
from smile_synth.compositing._oracle import composite_oracle
from smile_synth.compositing._parameters import prepare, words_of
from smile_synth.objects import ObjectBank
from smile_synth.scene import Scene, check_sources

if TYPE_CHECKING:
    import torch

    from smile_synth.compositing._device import Rendered

__all__ = ["BACKENDS", "OUT_DTYPES", "composite", "composite_chunks", "render"]

BACKENDS = ("cpu", "oracle", "torch", "triton")
OUT_DTYPES = ("uint8", "float32", "float16", "bfloat16")

Triple = tuple[float, float, float]
OutDtype = Literal["uint8", "float32", "float16", "bfloat16"]
_NO_FLOATS, _ZERO = (0, 3, 1, 1), np.zeros(3, np.float32)


def composite(
    scene: Scene,
    bank: ObjectBank,
    backgrounds: BackgroundFolder | None = None,
    *,
    backend: str = "cpu",
    device: str | torch.device = "cpu",
    frames: range | None = None,
    threads: int = 1,
) -> NDArray[np.uint8]:
    """Render one scene to frames ``[T, H, W, 3]`` uint8 RGB in main memory.

    Args:
        scene: the clip.
        bank, backgrounds: the sources that the scene was drawn from.
        backend: cpu, oracle, torch or triton.
        device: where torch and triton draw.
        frames: a run of its frames; all by default.
        threads: that the cpu backend draws with.

    Raises:
        UserError: bank or backgrounds are not those that the scene was drawn from.
        ValueError: unknown backend, or frames that the scene does not have.
    """
    chosen = _checked([scene], bank, backgrounds, backend, frames)
    if backend == "oracle":
        return composite_oracle(scene, bank, backgrounds, chosen)
    if backend == "cpu":
        parameters = prepare([scene], bank, backgrounds, chosen)
        out = np.empty((len(chosen), *scene.size_hw, 3), np.uint8)
        planes = np.empty(_NO_FLOATS, np.float32)
        composite_cpu(parameters, words_of(bank.texels), out, planes, _ZERO, _ZERO, threads=threads)
        return out
    rendered = render([scene], bank, backgrounds, backend=backend, device=device, frames=frames)
    clip: NDArray[np.uint8] = rendered.frames[0].cpu().numpy()
    return clip


def composite_chunks(
    scene: Scene,
    bank: ObjectBank,
    backgrounds: BackgroundFolder | None = None,
    *,
    chunk: int = 32,
    backend: str = "cpu",
    device: str | torch.device = "cpu",
    threads: int = 1,
) -> Iterator[NDArray[np.uint8]]:
    """Yield a scene's frames ``[t, H, W, 3]`` uint8, t at most ``chunk``: any length in constant memory.

    Raises:
        UserError: bank or backgrounds are not those that the scene was drawn from.
        ValueError: unknown backend.
    """
    for start in range(0, scene.num_frames, chunk):
        frames = range(start, min(start + chunk, scene.num_frames))
        yield composite(
            scene, bank, backgrounds, backend=backend, device=device, frames=frames, threads=threads
        )


def render(
    scenes: Sequence[Scene],
    bank: ObjectBank,
    backgrounds: BackgroundFolder | None = None,
    *,
    backend: str = "cpu",
    device: str | torch.device = "cpu",
    out_dtype: OutDtype = "uint8",
    normalise: tuple[Triple, Triple] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    segmentation: bool = False,
    tokens: tuple[int, int] | None = None,
    frames: range | None = None,
    threads: int = 1,
) -> Rendered:
    """Render a batch of scenes of one size to tensors on a device; they may differ in layers.

    Args:
        scenes: the clips.
        bank, backgrounds: the sources that the scenes were drawn from.
        backend: cpu (the device must be cpu), torch or triton.
        device: where the backend draws and where the result is.
        out_dtype: uint8 gives ``[B, T, H, W, 3]``; a float type gives ``[B, T, 3, H, W]``.
        normalise: (mean, standard deviation) of each channel; a float is (value / 255 - mean) / deviation
            of the rounded value 0..255.
        segmentation: also give who owns each pixel; torch and triton only.
        tokens: (tubelet_size, patch_size); also give each token's coverage; torch and triton only.
        frames: a run of the scenes' frames; all by default.
        threads: that the cpu backend draws with.

    Raises:
        UserError: bank or backgrounds are not those that a scene was drawn from.
        ValueError: unknown backend or type, scenes of different sizes, or what a backend cannot give.
    """
    import torch  # takes seconds to load

    from smile_synth.compositing._device import Rendered, render_on_device

    chosen = _checked(scenes, bank, backgrounds, backend, frames)
    if out_dtype not in OUT_DTYPES:
        raise ValueError(f"unknown out_dtype '{out_dtype}', allowed are {', '.join(OUT_DTYPES)}")
    dtype: torch.dtype = getattr(torch, out_dtype)
    size_hw, place = scenes[0].size_hw, torch.device(device)
    if tokens and (len(chosen) % tokens[0] or size_hw[0] % tokens[1] or size_hw[1] % tokens[1]):
        raise ValueError(f"tokens {tokens} do not divide {len(chosen)} frames of {size_hw}")
    mean, deviation = (np.array(values) for values in normalise)
    scale, shift = 1 / (255 * deviation), -mean / deviation
    parameters = prepare(scenes, bank, backgrounds, chosen)
    if backend not in ("cpu", "oracle"):
        return render_on_device(
            parameters,
            bank,
            backend=backend,
            device=place,
            dtype=dtype,
            scale=scale,
            shift=shift,
            segmentation=segmentation,
            tokens=tokens,
        )
    if backend == "oracle" or place.type != "cpu" or segmentation or tokens:
        raise ValueError(
            f"backend {backend} on {place}: the oracle draws single scenes, and cpu gives frames on the cpu; "
            "for all else take torch or triton"
        )
    count = len(scenes) * len(chosen)
    pixels = np.empty((count if dtype == torch.uint8 else 0, *size_hw, 3), np.uint8)
    planes = np.empty((0 if dtype == torch.uint8 else count, 3, *size_hw), np.float32)
    factors = scale.astype(np.float32), shift.astype(np.float32)
    composite_cpu(parameters, words_of(bank.texels), pixels, planes, *factors, threads=threads)
    out = pixels if dtype == torch.uint8 else planes
    return Rendered(torch.from_numpy(out).view(len(scenes), len(chosen), *out.shape[1:]).to(dtype))


def _checked(
    scenes: Sequence[Scene],
    bank: ObjectBank,
    backgrounds: BackgroundFolder | None,
    backend: str,
    frames: range | None,
) -> range:
    """Refuse what cannot be drawn; returns the frames."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend '{backend}', allowed are {', '.join(BACKENDS)}")
    if not scenes:
        raise ValueError("an empty batch has no frames")
    for scene in scenes:
        check_sources(scene, bank, backgrounds)
    chosen = range(scenes[0].num_frames) if frames is None else frames
    if chosen.step != 1 or not 0 <= chosen.start < chosen.stop <= scenes[0].num_frames:
        raise ValueError(f"frames {chosen}: expected a run within 0..{scenes[0].num_frames}")
    return chosen
