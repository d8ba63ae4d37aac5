from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smile_synth.core.errors import UserError
from smile_train.config import TargetOptions
from smile_train.models import Encoder, Student, StudentConfig, Teacher
from smile_train.targets import (
    LOSSES,
    TOKEN_NORMS,
    Targets,
    normalise_tokens,
    pixel_targets,
    zscore_over_clip,
)


def clips(batch: int = 2) -> Tensor:
    return torch.rand(batch, 6, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def test_pixel_targets_hold_the_pixels_of_their_token_channel_last() -> None:
    targets = pixel_targets(clips(), 4, 2, normalise=False)
    assert targets.shape == (2, 3 * 2 * 3, 2 * 4 * 4 * 3)
    # Token (1, 0, 2) of the 3x2x3 grid.
    block = clips()[1, 2:4, :, 0:4, 8:12]
    assert torch.equal(targets[1, 1 * 6 + 0 * 3 + 2].view(2, 4, 4, 3), block.permute(0, 2, 3, 1))


def test_normalised_pixel_targets_are_z_scores_per_channel_of_the_token() -> None:
    raw = pixel_targets(clips(), 4, 2, normalise=False).view(2, 18, 32, 3).double()
    mean = raw.sum(2, keepdim=True) / 32
    std = ((raw - mean).square().sum(2, keepdim=True) / 31).sqrt()
    expected = ((raw - mean) / (std + 1e-6)).flatten(2).float()
    torch.testing.assert_close(pixel_targets(clips(), 4, 2), expected)
    assert not pixel_targets(torch.full((1, 2, 3, 4, 4), 0.5), 4, 2).any()


def test_pixel_targets_lie_at_the_tokens_of_the_student() -> None:
    config = StudentConfig.of_size(
        "tiny", target_dim=96, num_frames=6, size_hw=(8, 12), patch_size=4, tubelet_size=2
    )
    embed = Encoder(config, generator=torch.Generator().manual_seed(0)).patch_embed
    changed = clips().index_fill(0, torch.tensor([1]), 0.0)
    changed[0, 5, 2, 7, 11] += 1
    changed[0, 2, 0, 4, 3] += 1
    moved = (embed(changed, None) != embed(clips(), None)).any(-1)[0]
    assert moved.nonzero()[:, 0].tolist() == [9, 17]
    targets = pixel_targets(changed, 4, 2) != pixel_targets(clips(), 4, 2)
    assert torch.equal(targets.any(-1)[0], moved)


def test_zscore_over_clip_is_per_channel_and_clip() -> None:
    tokens = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1)) * 3 + 2
    expected = torch.empty_like(tokens)
    for b in range(2):
        for c in range(5):
            column = tokens[b, :, c]
            std = ((column - column.mean()).square().sum() / 6).sqrt()
            expected[b, :, c] = (column - column.mean()) / (std + 1e-6)
    torch.testing.assert_close(zscore_over_clip(tokens), expected)
    assert not zscore_over_clip(torch.full((1, 7, 5), 4.0)).any()


def test_token_norms() -> None:
    tokens = (torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1)) * 3 + 2).bfloat16()
    assert list(TOKEN_NORMS) == ["zscore", "layernorm", "none"]
    for kind in TOKEN_NORMS:
        assert normalise_tokens(kind, tokens).dtype == torch.float32
    assert torch.equal(normalise_tokens("zscore", tokens), zscore_over_clip(tokens))
    assert torch.equal(normalise_tokens("none", tokens), tokens.float())
    layer = normalise_tokens("layernorm", tokens)
    torch.testing.assert_close(layer.mean(2), torch.zeros(2, 7), atol=1e-6, rtol=0)
    torch.testing.assert_close(layer.var(2, correction=0), torch.ones(2, 7), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="unknown target norm 'z-score' .*did you mean 'zscore'"):
        normalise_tokens("z-score", tokens)


def frames(batch: int = 2) -> Tensor:
    return (clips(batch) * 255).byte()


def targets_of(teacher: Teacher | None = None, **options: Any) -> Targets:
    return Targets(TargetOptions(**options), patch_size=4, tubelet_size=2, teacher=teacher)


class Looker(nn.Module):
    """Stands for a teacher of two layers of 3 and 2 channels, and counts how often it looks."""

    widths, width, looked = (3, 2), 5, 0

    def look(self, frames: Tensor) -> Tensor:
        self.looked += 1
        return torch.randn(len(frames), 18, 5, generator=torch.Generator().manual_seed(4)) * 2 + 1


def teacher() -> Any:
    return Looker()


def test_pixel_targets_of_a_run() -> None:
    targets = targets_of(kind="pixels")
    assert targets.width == 96
    assert torch.equal(targets(frames()), pixel_targets(frames().float() / 255, 4, 2))
    raw = targets_of(kind="pixels", per_patch=False)(frames())
    assert torch.equal(raw, pixel_targets(frames().float() / 255, 4, 2, normalise=False))
    with pytest.raises(ValueError, match="a target of kind teacher needs a teacher"):
        targets_of(kind="pixels", also=[{"kind": "teacher"}])


@pytest.mark.parametrize("norm", list(TOKEN_NORMS))
def test_each_layer_of_the_teacher_is_normalised_alone(norm: str) -> None:
    looker = teacher()
    targets = targets_of(looker, norm=norm)
    tokens = looker.look(frames())
    expected = [normalise_tokens(norm, part) for part in tokens.split((3, 2), dim=-1)]
    assert targets.width == 5
    torch.testing.assert_close(targets(frames()), torch.cat(expected, dim=-1))


def test_losses_are_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, wanted = torch.randn(2, 2, 7, 96, generator=generator) * 2
    error = (predicted - wanted).abs()
    angle = (predicted * wanted).sum(-1) / (predicted.norm(dim=-1) * wanted.norm(dim=-1))
    for name, expected in {
        "l2": error.square().mean(),
        "smooth_l1": torch.where(error < 1, error.square() / 2, error - 0.5).mean(),
        "cosine": (1 - angle).mean(),
    }.items():
        loss = targets_of(kind="pixels", loss=name).loss(predicted, wanted)
        torch.testing.assert_close(loss, expected)
        assert targets_of(kind="pixels", loss=name).loss(predicted.bfloat16(), wanted).dtype == torch.float32
    assert set(LOSSES) == {"l2", "smooth_l1", "cosine"}
    assert targets_of(kind="pixels", loss="cosine").loss(3 * wanted, wanted) < 1e-6
    with pytest.raises(ValueError, match=r"prediction is \[2, 7, 96\] but target \[2, 6, 96\]"):
        targets_of(kind="pixels").loss(predicted, wanted[:, 1:])


def test_heads_stand_side_by_side_and_are_weighted() -> None:
    looker = teacher()
    also = [
        {"kind": "pixels", "weight": 0.5, "loss": "smooth_l1"},
        {"norm": "layernorm", "loss": "cosine", "weight": 3.0},
    ]
    targets = targets_of(looker, weight=2.0, also=also)
    values = targets(frames())
    assert looker.looked == 1 and targets.width == 5 + 96 + 5 and values.shape == (2, 18, 106)
    tokens = looker.look(frames())
    torch.testing.assert_close(values[..., :3], zscore_over_clip(tokens[..., :3]))
    torch.testing.assert_close(values[..., 5:101], pixel_targets(frames().float() / 255, 4, 2))
    predicted = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))

    def part(start: int, stop: int) -> tuple[Tensor, Tensor]:
        return predicted[..., start:stop], values[..., start:stop]

    layers = (LOSSES["l2"](*part(0, 3)) + LOSSES["l2"](*part(3, 5))) / 2
    cosines = (LOSSES["cosine"](*part(101, 104)) + LOSSES["cosine"](*part(104, 106))) / 2
    expected = 2 * layers + 0.5 * LOSSES["smooth_l1"](*part(5, 101)) + 3 * cosines
    torch.testing.assert_close(targets.loss(predicted, values), expected)


@pytest.mark.parametrize("tokens", ["masked", "visible", "all"])
def test_the_loss_is_on_the_tokens_that_the_student_predicts(tokens: Any) -> None:
    form = StudentConfig(
        width=24, depth=1, heads=3, decoder_width=12, decoder_depth=1, decoder_heads=2, target_dim=96,
        num_frames=6, size_hw=(8, 12), patch_size=4, tubelet_size=2,
    )  # fmt: skip
    student = Student(form, generator=torch.Generator().manual_seed(0)).eval()
    targets = targets_of(kind="pixels", tokens=tokens)
    values = targets(frames())
    mask = torch.rand(2, 18, generator=torch.Generator().manual_seed(8)).argsort(1) < 11
    predicted = student(clips(), mask, 11, tokens=targets.options.tokens)
    wanted = targets.pick(values, mask, 11)
    assert predicted.shape == wanted.shape == (2, {"masked": 11, "visible": 7, "all": 18}[tokens], 96)
    # A student that predicts every token's own target has no loss, whichever tokens are asked for.
    everything = student(clips(), mask, 11, tokens="all")
    in_place = torch.empty(2, 18, 96)
    order = torch.cat([(~mask).nonzero()[:, 1].view(2, 7), mask.nonzero()[:, 1].view(2, 11)], dim=1)
    in_place.scatter_(1, order[..., None].expand(-1, -1, 96), everything)
    torch.testing.assert_close(targets.pick(in_place, mask, 11), predicted)
    assert targets.loss(targets.pick(in_place, mask, 11), predicted) < 1e-9


def test_loss_of_the_mean_is_that_of_one_answer_per_clip() -> None:
    targets = targets_of(kind="pixels", per_patch=False)
    values = targets(frames())
    mask = torch.rand(2, 18, generator=torch.Generator().manual_seed(8)).argsort(1) < 11
    wanted = targets.pick(values, mask)
    mean = values.mean(1, keepdim=True)
    torch.testing.assert_close(targets.loss_of_mean(values, wanted), (wanted - mean).square().mean())
    scored = targets_of(teacher())
    values = scored(frames())
    spread = [scored.pick(values, mask)[..., part].square().mean() for part in (slice(0, 3), slice(3, 5))]
    torch.testing.assert_close(scored.loss_of_mean(values, scored.pick(values, mask)), sum(spread) / 2)


def test_clips_that_do_not_divide_are_refused() -> None:
    for shape in ((1, 5, 3, 8, 12), (1, 6, 3, 9, 12), (1, 6, 3, 8, 13)):
        with pytest.raises(ValueError, match="do not divide into tokens of 2x4x4"):
            pixel_targets(torch.zeros(shape), 4, 2)
