"""Compositing: a scene becomes pixels. One interface, several backends, one image.

Tolerance of every backend against the oracle: at most 1/255 on 99.9 % of the pixels and never more
than 3/255, with up to four stacked translucent layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from smile_synth.compositing._cpu import composite_cpu, write_normalised
from smile_synth.compositing._effects import composite_effects
from smile_synth.compositing._oracle import composite_oracle
from smile_synth.compositing._parameters import (
    Parameters,
    Shown,
    fetch,
    lay_out,
    num_texels,
    prepare,
    words_of,
)
from smile_synth.objects import ObjectBank
from smile_synth.scene import Scene, check_sources
from smile_synth.sources import Sources

if TYPE_CHECKING:
    import torch

    from smile_synth.compositing._device import DeviceTextures, Rendered

__all__ = [
    "BACKENDS",
    "NOT_NORMALISED",
    "OUT_DTYPES",
    "STORED",
    "Normalise",
    "OutDtype",
    "Parameters",
    "Shown",
    "as_tensor",
    "check_output",
    "composite",
    "composite_chunks",
    "device_textures",
    "draw_frames",
    "empty_frames",
    "fetch",
    "frames_shape",
    "lay_out",
    "num_texels",
    "render",
    "render_parameters",
]

BACKENDS = ("cpu", "oracle", "torch", "triton")

Triple = tuple[float, float, float]
OutDtype = Literal["uint8", "float32", "float16", "bfloat16"]
STORED: dict[str, type] = {
    "uint8": np.uint8, "float32": np.float32, "float16": np.float16, "bfloat16": np.uint16
}  # fmt: skip
OUT_DTYPES = tuple(STORED)
# Mean and standard deviation of each channel.
Normalise = tuple[Triple, Triple]
NOT_NORMALISED: Normalise = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def composite(
    scene: Scene,
    sources: Sources,
    *,
    backend: str = "cpu",
    device: str | torch.device = "cpu",
    frames: range | None = None,
    threads: int = 1,
) -> NDArray[np.uint8]:
    """Render one scene to frames ``[T, H, W, 3]`` uint8 RGB in main memory.

    Args:
        scene: the clip.
        sources: the sources that the scene was drawn from.
        backend: cpu, oracle, torch or triton.
        device: where torch and triton draw.
        frames: a run of its frames; all by default.
        threads: that the cpu backend draws with.

    Raises:
        UserError: the sources are not those that the scene was drawn from.
        ValueError: unknown backend, or frames that the scene does not have.
    """
    chosen = _checked([scene], sources, backend, frames)
    if backend == "oracle":
        return composite_oracle(scene, sources, chosen)
    if backend == "cpu":
        out = empty_frames(1, len(chosen), scene.size_hw, "uint8")
        draw_frames([scene], sources, out, frames=chosen, threads=threads)
        drawn: NDArray[np.uint8] = out[0]
        return drawn
    rendered = render([scene], sources, backend=backend, device=device, frames=frames)
    clip: NDArray[np.uint8] = rendered.frames[0].cpu().numpy()
    return clip


def composite_chunks(
    scene: Scene,
    sources: Sources,
    *,
    chunk: int = 32,
    backend: str = "cpu",
    device: str | torch.device = "cpu",
    threads: int = 1,
) -> Iterator[NDArray[np.uint8]]:
    """Yield a scene's frames ``[t, H, W, 3]`` uint8, t at most ``chunk``: any length in constant memory.

    Raises:
        UserError: the sources are not those that the scene was drawn from.
        ValueError: unknown backend.
    """
    for start in range(0, scene.num_frames, chunk):
        frames = range(start, min(start + chunk, scene.num_frames))
        yield composite(scene, sources, backend=backend, device=device, frames=frames, threads=threads)


def render(
    scenes: Sequence[Scene],
    sources: Sources,
    *,
    backend: str = "cpu",
    device: str | torch.device = "cpu",
    out_dtype: OutDtype = "uint8",
    normalise: Normalise = NOT_NORMALISED,
    segmentation: bool = False,
    tokens: tuple[int, int] | None = None,
    frames: range | None = None,
    threads: int = 1,
) -> Rendered:
    """Render a batch of scenes of one size to tensors on a device; they may differ in layers.

    Args:
        scenes: the clips.
        sources: the sources that the scenes were drawn from.
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
        UserError: the sources are not those that a scene was drawn from.
        ValueError: unknown backend or type, scenes of different sizes, or what a backend cannot give.
    """
    import torch  # takes seconds to load

    from smile_synth.compositing._device import Rendered

    chosen = _checked(scenes, sources, backend, frames)
    check_output(len(chosen), scenes[0].size_hw, out_dtype, tokens)
    if backend in ("torch", "triton"):
        return render_parameters(
            prepare(scenes, sources, chosen),
            sources.objects,
            backend=backend,
            device=device,
            out_dtype=out_dtype,
            normalise=normalise,
            segmentation=segmentation,
            tokens=tokens,
        )
    if backend == "oracle" or torch.device(device).type != "cpu" or segmentation or tokens:
        raise ValueError(
            f"backend {backend} on {device}: the oracle draws single scenes, and cpu gives frames on the "
            "cpu; for all else take torch or triton"
        )
    out = empty_frames(len(scenes), len(chosen), scenes[0].size_hw, out_dtype)
    draw_frames(scenes, sources, out, normalise=normalise, frames=chosen, threads=threads)
    return Rendered(as_tensor(out))


def render_parameters(
    parameters: Parameters,
    bank: ObjectBank,
    *,
    backend: str,
    device: str | torch.device,
    out_dtype: OutDtype = "uint8",
    normalise: Normalise = NOT_NORMALISED,
    segmentation: bool = False,
    tokens: tuple[int, int] | None = None,
    extra: torch.Tensor | None = None,
) -> Rendered:
    """Render scenes that are laid out already, with torch or triton; see `render`.

    ``extra`` ``[X]`` int32 on the device holds the texels of ``parameters.textures``, if they were not
    fetched.

    Raises:
        ValueError: unknown type, or tokens that do not divide the frames.
    """
    import torch

    from smile_synth.compositing._device import render_on_device

    check_output(parameters.num_frames, parameters.size_hw, out_dtype, tokens)
    scale, shift = _scale_and_shift(normalise)
    return render_on_device(
        parameters,
        bank,
        backend=backend,
        device=torch.device(device),
        dtype=getattr(torch, out_dtype),
        scale=scale,
        shift=shift,
        segmentation=segmentation,
        tokens=tokens,
        extra=extra,
    )


def device_textures(device: str | torch.device, num_bytes: int) -> DeviceTextures:
    """Return a store of background textures on a device, those used last kept up to a bound."""
    import torch

    from smile_synth.compositing._device import DeviceTextures

    return DeviceTextures(torch.device(device), num_bytes)


def empty_frames(clips: int, num_frames: int, size_hw: tuple[int, int], out_dtype: OutDtype) -> NDArray[Any]:
    """Return an array to draw into: uint8 ``[B, T, H, W, 3]`` or ``[B, T, 3, H, W]``, bfloat16 as uint16."""
    return np.empty((clips, *frames_shape(num_frames, size_hw, out_dtype)), STORED[out_dtype])


def frames_shape(num_frames: int, size_hw: tuple[int, int], out_dtype: OutDtype) -> tuple[int, ...]:
    """Return the shape of a clip: interleaved for uint8, planes for a float type."""
    return (num_frames, *size_hw, 3) if out_dtype == "uint8" else (num_frames, 3, *size_hw)


def as_tensor(frames: NDArray[Any]) -> torch.Tensor:
    """Return what `empty_frames` made as a tensor over the same memory."""
    import torch

    if frames.dtype == np.uint16:  # NumPy knows no bfloat16
        return torch.from_numpy(frames.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(frames)


def draw_frames(
    scenes: Sequence[Scene],
    sources: Sources,
    out: NDArray[Any],
    *,
    normalise: Normalise = NOT_NORMALISED,
    frames: range | None = None,
    threads: int = 1,
) -> None:
    """Render a batch on the CPU into an array as of `empty_frames`; needs no torch.

    Raises:
        UserError: the sources are not those that a scene was drawn from.
        ValueError: scenes of different sizes.
    """
    chosen = _checked(scenes, sources, "cpu", frames)
    parameters = prepare(scenes, sources, chosen)
    flat = out.reshape(-1, *out.shape[2:])
    drawn: NDArray[Any] = np.empty(flat.shape, np.float32) if out.dtype == np.float16 else flat
    scale, shift = (values.astype(np.float32) for values in _scale_and_shift(normalise))
    if len(parameters.effects):
        size_hw = scenes[0].size_hw
        exposed = drawn if drawn.dtype == np.uint8 else np.empty((len(flat), *size_hw, 3), np.uint8)
        composite_effects(parameters, words_of(sources.objects.texels), exposed, threads=threads)
        if exposed is not drawn:
            write_normalised(exposed, drawn, scale, shift)
    else:
        composite_cpu(parameters, words_of(sources.objects.texels), drawn, scale, shift, threads=threads)
    if drawn is not flat:
        flat[:] = drawn


def check_output(
    num_frames: int, size_hw: tuple[int, int], out_dtype: str, tokens: tuple[int, int] | None
) -> None:
    """Refuse an unknown type, and tokens that do not divide the frames.

    Raises:
        ValueError: either of them.
    """
    if out_dtype not in OUT_DTYPES:
        raise ValueError(f"unknown out_dtype '{out_dtype}', allowed are {', '.join(OUT_DTYPES)}")
    if tokens and (num_frames % tokens[0] or size_hw[0] % tokens[1] or size_hw[1] % tokens[1]):
        raise ValueError(f"tokens {tokens} do not divide {num_frames} frames of {size_hw}")


def _scale_and_shift(normalise: Normalise) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean, deviation = (np.array(values) for values in normalise)
    return 1 / (255 * deviation), -mean / deviation


def _checked(
    scenes: Sequence[Scene],
    sources: Sources,
    backend: str,
    frames: range | None,
) -> range:
    """Refuse what cannot be drawn; returns the frames."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend '{backend}', allowed are {', '.join(BACKENDS)}")
    if not scenes:
        raise ValueError("an empty batch has no frames")
    for scene in scenes:
        check_sources(scene, sources)
    chosen = range(scenes[0].num_frames) if frames is None else frames
    if chosen.step != 1 or not 0 <= chosen.start < chosen.stop <= scenes[0].num_frames:
        raise ValueError(f"frames {chosen}: expected a run within 0..{scenes[0].num_frames}")
    return chosen
