"""Image models of open_clip and timm behind one interface: images in, tokens of chosen layers out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from smile_synth.core.errors import UserError, nearest
from smile_train.config import TeacherOptions
from smile_train.models._clip import check_divides, load_clip
from smile_train.models._config import Size
from smile_train.models._tensors import check_fit, read_tensors, without_prefix, without_wrappers

TIMM = "timm:"


class ImageTower(nn.Module):
    """An image model that gives the tokens of chosen layers.

    Attributes:
        image_size_hw: height and width of its images in pixels.
        layers: indices of the chosen layers, counted from 0.
        widths: channels of each chosen layer.
        grids_hw: tokens along height and width of each chosen layer.
        mean, std: statistics of the pixels in 0..1 that it was trained with.
    """

    image_size_hw: Size
    widths: tuple[int, ...]
    grids_hw: tuple[Size, ...]

    def __init__(self, trunk: Any, visual: Any, options: TeacherOptions, num_layers: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.layers = _chosen_layers(options, num_layers)
        if hasattr(visual, "image_mean"):  # open_clip
            self.mean, self.std = tuple(visual.image_mean), tuple(visual.image_std)
        else:
            self.mean, self.std = tuple(visual.pretrained_cfg["mean"]), tuple(visual.pretrained_cfg["std"])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the tokens ``[B, h * w, C]`` of each chosen layer.

        Args:
            images: float ``[B, 3, H, W]``, normalised.
        """
        unique = sorted(set(self.layers))
        found = self.intermediates(images, unique)
        return [self.finish(found[unique.index(layer)], layer) for layer in self.layers]

    def intermediates(self, images: Tensor, layers: list[int]) -> Sequence[Tensor]:
        """Return the outputs of layers, which are in ascending order."""
        raise NotImplementedError

    def finish(self, output: Tensor, layer: int) -> Tensor:
        """Return a layer's tokens ``[B, h * w, C]`` from its output: final norm, projection."""
        raise NotImplementedError

    def gflops(self) -> float:
        """Return the forward cost of one image in GFLOP, 2 per multiply-add."""
        raise NotImplementedError


class OpenClipViT(ImageTower):
    """A vision transformer of open_clip."""

    def __init__(self, visual: Any, options: TeacherOptions) -> None:
        blocks = visual.transformer.resblocks
        super().__init__(visual, visual, options, len(blocks))
        if options.final_norm and getattr(visual, "attn_pool", None) is not None:
            raise UserError(
                f"teacher '{options.model}': pools before its final norm, so its tokens have no final norm; "
                "use final_norm=false"
            )
        if options.projection and visual.proj is None:
            raise _no_projection(options)
        self._norm = visual.ln_post if options.final_norm else nn.Identity()
        self._project = options.projection
        self.image_size_hw = tuple(visual.image_size)
        width = visual.proj.shape[1] if options.projection else visual.transformer.width
        self.widths = (width,) * len(self.layers)
        self.grids_hw = (tuple(visual.grid_size),) * len(self.layers)

    def intermediates(self, images: Tensor, layers: list[int]) -> Sequence[Tensor]:
        found = self.trunk.forward_intermediates(
            images, indices=layers, stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
        tokens: list[Tensor] = found["image_intermediates"]
        return tokens

    def finish(self, output: Tensor, layer: int) -> Tensor:
        tokens: Tensor = self._norm(output)
        return tokens @ self.trunk.proj if self._project else tokens

    def gflops(self) -> float:
        blocks = self.trunk.transformer.resblocks[: max(self.layers) + 1]
        return _vit_gflops(self.trunk.conv1, blocks, self.grids_hw[0], prefix_tokens=1)


class TimmViT(ImageTower):
    """A vision transformer of timm, alone or in an open_clip model."""

    def __init__(self, visual: Any, options: TeacherOptions, size_hw: Size) -> None:
        trunk = getattr(visual, "trunk", visual)
        super().__init__(trunk, visual, options, len(trunk.blocks))
        if options.projection:
            raise _no_projection(options)
        if options.final_norm and not hasattr(trunk, "norm"):
            raise UserError(f"teacher '{options.model}': has no final norm of tokens; use final_norm=false")
        if hasattr(trunk, "set_input_size"):
            check_divides(options.model, size_hw, tuple(trunk.patch_embed.patch_size))
            trunk.set_input_size(img_size=size_hw)
        norm: nn.Module = nn.Identity()
        if options.final_norm:
            # timm puts the norm behind the pooling in models that classify the mean token.
            norm = trunk.fc_norm if isinstance(trunk.norm, nn.Identity) else trunk.norm
        self._norm = norm
        self.image_size_hw = tuple(trunk.patch_embed.img_size)
        self.widths = (trunk.embed_dim,) * len(self.layers)
        self.grids_hw = (tuple(trunk.patch_embed.grid_size),) * len(self.layers)

    def intermediates(self, images: Tensor, layers: list[int]) -> Sequence[Tensor]:
        found: list[Tensor] = self.trunk.forward_intermediates(
            images, indices=layers, stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
        return found

    def finish(self, output: Tensor, layer: int) -> Tensor:
        tokens: Tensor = self._norm(output)
        return tokens

    def gflops(self) -> float:
        blocks = self.trunk.blocks[: max(self.layers) + 1]
        prefix = getattr(self.trunk, "num_prefix_tokens", 0)
        return _vit_gflops(self.trunk.patch_embed.proj, blocks, self.grids_hw[0], prefix_tokens=prefix)


class FeatureMaps(ImageTower):
    """A convolutional model: open_clip's ResNet, or a timm model such as ConvNeXt or ResNet.

    A layer is a stage; the positions of its feature map are the tokens. The final norm is that before the
    classifier, applied to each position of the last stage; ResNets have none.
    """

    def __init__(self, visual: Any, options: TeacherOptions, size_hw: Size) -> None:
        from open_clip.modified_resnet import ModifiedResNet

        trunk = getattr(visual, "trunk", visual)
        self._open_clip = isinstance(trunk, ModifiedResNet)
        if self._open_clip:
            width = trunk.conv3.out_channels
            stages = [(width, 4)] + [(width * 4 * 2**k, 4 * 2**k) for k in range(4)]
        else:
            stages = [(stage["num_chs"], stage["reduction"]) for stage in trunk.feature_info]
        super().__init__(trunk, visual, options, len(stages))
        if options.projection:
            raise _no_projection(options)
        self._norm: nn.Module = nn.Identity()
        self._last = len(stages) - 1
        if options.final_norm:
            found = (getattr(trunk, "norm_pre", None), getattr(getattr(trunk, "head", None), "norm", None))
            norms = [norm for norm in found if isinstance(norm, nn.Module)]
            self._norm = nn.Sequential(*norms)
        chosen = [stages[layer] for layer in self.layers]
        check_divides(options.model, size_hw, (stages[-1][1],) * 2)
        self.image_size_hw = size_hw
        self.widths = tuple(width for width, _ in chosen)
        self.grids_hw = tuple((size_hw[0] // step, size_hw[1] // step) for _, step in chosen)

    def intermediates(self, images: Tensor, layers: list[int]) -> Sequence[Tensor]:
        found = self.trunk.forward_intermediates(
            images, indices=layers, stop_early=True, intermediates_only=True, output_fmt="NCHW"
        )
        maps: list[Tensor] = found["image_intermediates"] if self._open_clip else found
        return maps

    def finish(self, output: Tensor, layer: int) -> Tensor:
        if layer == self._last:
            output = self._norm(output)
        return output.flatten(2).transpose(1, 2)

    def gflops(self) -> float:
        # Convolutions run at many sizes, so they are counted in a forward pass.
        parameter = next(self.trunk.parameters())
        image = torch.zeros(1, 3, *self.image_size_hw, device=parameter.device, dtype=parameter.dtype)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self(image)
        return float(counter.get_total_flops()) / 1e9


def load_tower(options: TeacherOptions, size_hw: Size) -> ImageTower:
    """Load the image model of a teacher for images of the given size.

    Raises:
        UserError: unknown model, weights that cannot be loaded or do not fit, or as `wrap_tower`.
    """
    if options.model.startswith(TIMM):
        visual = _load_timm(options.model, options.pretrained)
    else:
        visual = load_clip(
            options.model, pretrained=options.pretrained, force_quick_gelu=options.force_quick_gelu,
            size_hw=size_hw,
        ).visual  # fmt: skip
    return wrap_tower(visual, options, size_hw)


def wrap_tower(visual: Any, options: TeacherOptions, size_hw: Size) -> ImageTower:
    """Return the tower of ``model.visual`` of an open_clip model, or of a timm model.

    Raises:
        UserError: the model has no tokens, or lacks a layer, norm or projection of the options.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    trunk = getattr(visual, "trunk", visual)
    if isinstance(trunk, VisionTransformer):
        return OpenClipViT(visual, options)
    if hasattr(trunk, "blocks") and hasattr(trunk, "patch_embed"):
        return TimmViT(visual, options, size_hw)
    if isinstance(trunk, ModifiedResNet) or hasattr(trunk, "feature_info"):
        return FeatureMaps(visual, options, size_hw)
    raise UserError(
        f"teacher '{options.model}': needs a model with patch tokens or feature maps, "
        f"got {type(trunk).__name__}"
    )


def _chosen_layers(options: TeacherOptions, num_layers: int) -> tuple[int, ...]:
    outside = [layer for layer in options.layers if not -num_layers <= layer < num_layers]
    if outside:
        raise UserError(
            f"teacher.layers: {outside[0]} given, but '{options.model}' has blocks 0..{num_layers - 1} "
            f"(or -{num_layers}..-1, counted from the last)"
        )
    return tuple(layer % num_layers for layer in options.layers)


def _no_projection(options: TeacherOptions) -> UserError:
    return UserError(f"teacher '{options.model}': has no projection of tokens; use projection=false")


def _vit_gflops(patch_embed: nn.Module, blocks: Any, grid_hw: Size, *, prefix_tokens: int) -> float:
    """Return the cost of a vision transformer: 2 x weights x tokens, and 4 x tokens^2 x width per block."""
    patches = grid_hw[0] * grid_hw[1]
    tokens = patches + prefix_tokens
    weights = [p for block in blocks for p in block.parameters() if p.ndim > 1]
    embedding: Any = patch_embed
    flops = 2 * tokens * sum(p.numel() for p in weights) + 2 * patches * embedding.weight.numel()
    flops += len(blocks) * 4 * tokens**2 * embedding.weight.shape[0]
    return float(flops) / 1e9


def _load_timm(model: str, pretrained: str | None) -> Any:
    import timm

    name = model.removeprefix(TIMM)
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise UserError(f"teacher '{model}': unknown to timm{nearest(name.split('.')[0], known)}")
    if not pretrained:
        raise UserError(f"teacher '{model}': needs pretrained weights from a local file: teacher.pretrained")
    tensors = read_tensors(Path(pretrained))
    trunk = timm.create_model(name, pretrained=False, num_classes=0)
    # Training runs wrap the network, and timm's own filter converts the layouts of other projects.
    tensors = without_prefix(without_wrappers(tensors), list(trunk.state_dict()))
    adapt = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    try:
        tensors = adapt(tensors, trunk) if adapt else tensors
    except (KeyError, RuntimeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{pretrained}: does not fit timm's '{name}': {' '.join(str(error).split())}"
        ) from None
    expected = trunk.state_dict()
    heads = ("head", "fc.", "classifier")
    tensors = {key: v for key, v in tensors.items() if key in expected or not key.startswith(heads)}
    check_fit(Path(pretrained), tensors, expected)
    trunk.load_state_dict(tensors)
    return trunk.eval()
