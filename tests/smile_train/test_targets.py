import pytest
import torch
from torch import Tensor

from smile_synth.errors import UserError
from smile_train.models import Encoder, StudentConfig
from smile_train.targets import (
    TOKEN_NORMS,
    gather_masked,
    masked_mse,
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


def test_masked_tokens_are_gathered_in_order() -> None:
    tokens = torch.arange(2 * 5 * 3.0).view(2, 5, 3)
    mask = torch.tensor([[True, False, True, False, False], [False, False, False, True, True]])
    expected = torch.stack([tokens[0, [0, 2]], tokens[1, [3, 4]]])
    assert torch.equal(gather_masked(tokens, mask), expected)
    assert torch.equal(gather_masked(tokens, mask, num_masked=2), expected)
    with pytest.raises(ValueError, match=r"mask must be \[2, 5\], got \[2, 4\]"):
        gather_masked(tokens, mask[:, 1:])
    mask[0, 1] = True
    with pytest.raises(ValueError, match="must hide equally many, got 2..3"):
        gather_masked(tokens, mask)


def test_loss_is_the_mean_of_squares_in_float32() -> None:
    predicted = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 5.0]]])
    assert masked_mse(predicted, target).item() == pytest.approx((4 + 9) / 4)
    loss = masked_mse(predicted.bfloat16(), target)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(13 / 4)
    with pytest.raises(ValueError, match=r"prediction is \[1, 2, 2\] but target \[1, 1, 2\]"):
        masked_mse(predicted, target[:, :1])


def test_clips_that_do_not_divide_are_refused() -> None:
    for shape in ((1, 5, 3, 8, 12), (1, 6, 3, 9, 12), (1, 6, 3, 8, 13)):
        with pytest.raises(ValueError, match="do not divide into tokens of 2x4x4"):
            pixel_targets(torch.zeros(shape), 4, 2)
