"""The interface of all backends: scenes become frames, and on request segmentation and token coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from smile_synth.compositing._cpu import composite_cpu
from smile_synth.compositing._oracle import composite_oracle
from smile_synth.compositing._owners import find_owners
from smile_synth.compositing._parameters import Parameters, build_parameters_with_texels, words_of
from smile_synth.objects import ObjectBank
from smile_synth.scene import Scene, check_sources
from smile_synth.sources import Sources

if TYPE_CHECKING:
    import torch

    from smile_synth.compositing._device import DeviceTextures

BACKENDS = ("cpu", "oracle", "torch", "triton")

Triple = tuple[float, float, float]
OutDtype = Literal["uint8", "float32", "float16", "bfloat16"]
# The type of each kind of frames in NumPy, which has no bfloat16: its bits are stored as uint16.
STORED: dict[str, type] = {
    "uint8": np.uint8, "float32": np.float32, "float16": np.float16, "bfloat16": np.uint16
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rendered:
    """The tensors of a batch.

    Attributes:
        frames: ``[B, T, 3, H, W]``, contiguous.
        segmentation: ``[B, T, H, W]`` int16, the number from 1 of the labelled object that owns each pixel,
            else 0; None if not requested.
        coverage: ``[B, N]`` float32 0..1, the share of each token's pixels that labelled objects own; None
            if not requested.
    """

    frames: torch.Tensor
    segmentation: torch.Tensor | None = None
    coverage: torch.Tensor | None = None

    def __repr__(self) -> str:
        """Return the shapes."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        parts = (f"{name}={value.dtype} {list(value.shape)}" for name, value in given.items())
        return f"Rendered({', '.join(parts)})"


def composite(
    scene: Scene,
    sources: Sources,
    *,
    backend: str = "cpu",
    device: str | torch.device = "cpu",
    frames: range | None = None,
) -> NDArray[np.uint8]:
    """Render one scene to frames ``[T, H, W, 3]`` uint8 RGB in main memory.

    Args:
        scene: the clip.
        sources: the sources of the scene.
        backend: cpu, oracle, torch or triton.
        device: the device of torch and triton.
        frames: a contiguous range of frames; default: all.

    Raises:
        UserError: the sources are not those of the scene.
        ValueError: unknown backend, or frames outside the scene.

    Example:
        >>> composite(sample_scene(recipe, sources, seed=0, index=7), sources).shape
        (3, 20, 28, 3)
    """
    chosen = _checked([scene], sources, backend, frames)
    if backend == "oracle":
        return composite_oracle(scene, sources, chosen)[0]
    if backend == "cpu":
        out = np.empty((1, len(chosen), *scene.size_hw, 3), np.uint8)
        draw_frames([scene], sources, out, frames=chosen)
        clip: NDArray[np.uint8] = out[0]
        return clip
    rendered = render([scene], sources, backend=backend, device=device, frames=frames)
    return np.ascontiguousarray(rendered.frames[0].permute(0, 2, 3, 1).cpu().numpy())


def render(
    scenes: Sequence[Scene],
    sources: Sources,
    *,
    backend: str = "cpu",
    device: str | torch.device = "cpu",
    out_dtype: OutDtype = "uint8",
    mean: Triple = (0.0, 0.0, 0.0),
    std: Triple = (1.0, 1.0, 1.0),
    segmentation: bool = False,
    tokens: tuple[int, int] | None = None,
    frames: range | None = None,
) -> Rendered:
    """Render scenes of one size to tensors on a device.

    Args:
        scenes: the clips.
        sources: the sources of the scenes.
        backend: cpu or oracle (on the device cpu), torch or triton.
        device: where the backend draws and where the tensors are.
        out_dtype: of the frames ``[B, T, 3, H, W]``: uint8 0..255, or a float type for
            (value / 255 - mean) / std of the same values.
        mean, std: of the three channels; float types only.
        segmentation: whether to return the owner of each pixel.
        tokens: (tubelet_size, patch_size), to return the coverage of each token.
        frames: a contiguous range of the scenes' frames; default: all.

    Raises:
        UserError: the sources are not those of a scene.
        ValueError: unknown backend or type, scenes of different sizes, frames outside the scenes, tokens
            that do not divide the frames, or a device that the backend does not support.

    Example:
        >>> scenes = sample_scenes(recipe, sources, seed=0, indices=[3, 7])
        >>> render(scenes, sources, out_dtype="float32", segmentation=True)
        Rendered(frames=torch.float32 [2, 3, 3, 20, 28], segmentation=torch.int16 [2, 3, 20, 28])
    """
    import torch  # takes seconds to load

    chosen = _checked(scenes, sources, backend, frames)
    check_output(len(chosen), scenes[0].size_hw, out_dtype, tokens)
    if backend in ("torch", "triton"):
        return render_parameters(
            build_parameters_with_texels(scenes, sources, chosen), sources.objects, backend=backend,
            device=device, out_dtype=out_dtype, mean=mean, std=std, segmentation=segmentation, tokens=tokens,
        )  # fmt: skip
    if torch.device(device).type != "cpu":
        raise ValueError(f"backend {backend} draws on the device cpu, not on {device}; use torch or triton")
    shape = (len(scenes), len(chosen), *scenes[0].size_hw)
    owners = np.empty(shape, np.int16) if segmentation or tokens else None
    if backend == "cpu":
        out: NDArray[Any] = np.empty((*shape[:2], 3, *shape[2:]), STORED[out_dtype])
        draw_frames(scenes, sources, out, mean=mean, std=std, segmentation=owners, frames=chosen)
        pixels = as_tensor(out)
    else:
        drawn = [composite_oracle(scene, sources, chosen) for scene in scenes]
        values = np.stack([clip for clip, _ in drawn]).transpose(0, 1, 4, 2, 3)
        scale, shift = (each[:, None, None] for each in _scale_and_shift(out_dtype, mean, std))
        pixels = torch.from_numpy(np.ascontiguousarray(values * scale + shift)).to(getattr(torch, out_dtype))
        owners = np.stack([owner for _, owner in drawn])
    labels = None if owners is None else torch.from_numpy(owners)
    coverage = _token_coverage(labels, *tokens) if tokens and labels is not None else None
    return Rendered(pixels, labels if segmentation else None, coverage)


def render_parameters(
    parameters: Parameters,
    bank: ObjectBank,
    *,
    backend: str,
    device: str | torch.device,
    out_dtype: OutDtype = "uint8",
    mean: Triple = (0.0, 0.0, 0.0),
    std: Triple = (1.0, 1.0, 1.0),
    segmentation: bool = False,
    tokens: tuple[int, int] | None = None,
    extra: torch.Tensor | None = None,
) -> Rendered:
    """Render a batch of parameters with torch or triton; see `render`.

    ``extra`` ``[X]`` int32 on the device holds the texels of ``parameters.textures``; needed if
    ``parameters.extra`` is empty.

    Raises:
        ValueError: unknown type, or tokens that do not divide the frames.
    """
    import torch

    from smile_synth.compositing._device import on_device

    check_output(parameters.num_frames, parameters.size_hw, out_dtype, tokens)
    device = torch.device(device)
    clips, num_frames, (height, width) = parameters.num_clips, parameters.num_frames, parameters.size_hw
    frames = torch.empty(clips, num_frames, 3, height, width, dtype=getattr(torch, out_dtype), device=device)
    scale, shift = _scale_and_shift(out_dtype, mean, std)
    sent = on_device(parameters, bank, device, extra)
    owners = coverage = None
    if segmentation or (tokens and backend == "torch"):
        owners = torch.empty(clips, num_frames, height, width, dtype=torch.int16, device=device)
    flat_owners = None if owners is None else owners.flatten(0, 1)
    if backend == "torch":
        from smile_synth.compositing._torch import composite_torch

        factor, offset = (torch.from_numpy(each).float().to(device) for each in (scale, shift))
        composite_torch(sent, frames.flatten(0, 1), factor, offset, flat_owners)
        if tokens and owners is not None:
            coverage = _token_coverage(owners, *tokens)
    else:
        from smile_synth.compositing._triton import composite_triton  # installed only where it has a GPU

        counts, tubelet, patch = None, *(tokens or (1, 1))
        if tokens:
            num_tokens = num_frames // tubelet * (height // patch) * (width // patch)
            counts = torch.zeros(clips, num_tokens, dtype=torch.int32, device=device)
        composite_triton(
            sent, frames.flatten(0, 1), tuple(scale.tolist()), tuple(shift.tolist()), flat_owners, counts,
            (tubelet, patch),
        )  # fmt: skip
        if counts is not None:
            coverage = counts.float() / (tubelet * patch**2)
    return Rendered(frames, owners if segmentation else None, coverage)


def draw_frames(
    scenes: Sequence[Scene],
    sources: Sources,
    out: NDArray[Any],
    *,
    mean: Triple = (0.0, 0.0, 0.0),
    std: Triple = (1.0, 1.0, 1.0),
    segmentation: NDArray[np.int16] | None = None,
    frames: range | None = None,
) -> None:
    """Render scenes of one size on the CPU into arrays; needs no torch.

    Args:
        scenes: the clips.
        sources: the sources of the scenes.
        out: ``[B, T, H, W, 3]`` uint8, or ``[B, T, 3, H, W]``: uint8, float32, float16, or uint16 for the
            bits of bfloat16.
        mean, std: see `render`.
        segmentation: ``[B, T, H, W]`` int16, filled if given; see `Rendered`.
        frames: a contiguous range of the scenes' frames; default: all.

    Raises:
        UserError: the sources are not those of a scene.
        ValueError: scenes of different sizes, or ``out`` has another shape or type.
    """
    chosen = _checked(scenes, sources, "cpu", frames)
    size_hw, leading = scenes[0].size_hw, (len(scenes), len(chosen))
    kinds = [kind for kind, stored in STORED.items() if stored == out.dtype]
    channels_last = out.shape == (*leading, *size_hw, 3) and out.dtype == np.uint8
    if not kinds or not (channels_last or out.shape == (*leading, 3, *size_hw)):
        raise ValueError(
            f"out: expected {[*leading, 3, *size_hw]}, or uint8 {[*leading, *size_hw, 3]}, "
            f"got {out.dtype} {list(out.shape)}"
        )
    parameters = build_parameters_with_texels(scenes, sources, chosen)
    flat = out.reshape(-1, *out.shape[2:])
    drawn: NDArray[Any] = np.empty(flat.shape, np.float32) if out.dtype == np.float16 else flat
    scale, shift = (values.astype(np.float32) for values in _scale_and_shift(kinds[0], mean, std))
    composite_cpu(
        parameters, words_of(sources.objects.texels), drawn, scale, shift,
        channels_last=channels_last,
    )  # fmt: skip
    if drawn is not flat:
        flat[:] = drawn
    if segmentation is not None:
        find_owners(parameters, sources.objects.texels, segmentation.reshape(-1, *size_hw))


def as_tensor(frames: NDArray[Any]) -> torch.Tensor:
    """Return frames of `STORED` types as a tensor over the same memory."""
    import torch

    if frames.dtype == np.uint16:
        return torch.from_numpy(frames.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(frames)


def device_textures(device: str | torch.device, num_bytes: int) -> DeviceTextures:
    """Return an empty store of background textures on a device, of at most ``num_bytes``."""
    import torch

    from smile_synth.compositing._device import DeviceTextures

    return DeviceTextures(torch.device(device), num_bytes)


def check_output(
    num_frames: int, size_hw: tuple[int, int], out_dtype: str, tokens: tuple[int, int] | None
) -> None:
    """Check the type of the frames, and that tokens divide them.

    Raises:
        ValueError: an unknown type, or tokens that do not divide the frames.
    """
    if out_dtype not in STORED:
        raise ValueError(f"unknown out_dtype '{out_dtype}', allowed are {', '.join(STORED)}")
    if tokens and (num_frames % tokens[0] or size_hw[0] % tokens[1] or size_hw[1] % tokens[1]):
        raise ValueError(f"tokens {tokens} do not divide {num_frames} frames of {size_hw}")


def _token_coverage(segmentation: torch.Tensor, tubelet_size: int, patch_size: int) -> torch.Tensor:
    """Return the share ``[B, N]`` float32 of each token's pixels that objects own, from ``[B, T, H, W]``."""
    clips, frames, height, width = segmentation.shape
    blocks = (segmentation > 0).view(
        clips, frames // tubelet_size, tubelet_size, height // patch_size, patch_size, width // patch_size,
        patch_size,
    )  # fmt: skip
    return blocks.float().mean(dim=(2, 4, 6)).flatten(1)


def _scale_and_shift(
    out_dtype: str, mean: Triple, std: Triple
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and shift ``[3]`` so that byte x scale + shift is the output value."""
    if out_dtype == "uint8":
        return np.ones(3), np.zeros(3)
    return 1 / (255 * np.array(std)), -np.array(mean) / np.array(std)


def _checked(scenes: Sequence[Scene], sources: Sources, backend: str, frames: range | None) -> range:
    """Check the arguments and return the range of frames."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend '{backend}', allowed are {', '.join(BACKENDS)}")
    if not scenes:
        raise ValueError("scenes: expected at least one")
    for scene in scenes:
        check_sources(scene, sources)
    chosen = range(scenes[0].num_frames) if frames is None else frames
    if chosen.step != 1 or not 0 <= chosen.start < chosen.stop <= scenes[0].num_frames:
        raise ValueError(f"frames {chosen}: expected a range within 0..{scenes[0].num_frames} with step 1")
    return chosen
