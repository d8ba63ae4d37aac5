"""Targets of the student: their values, losses and names."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile_train.batch import Batch
from smile_train.config import MotionTarget, PixelTarget, TargetOptions, TeacherTarget
from smile_train.models import Encoder, EncoderConfig, Student, StudentConfig, pick_tokens
from smile_train.targets import (
    LOSSES,
    TARGETS,
    TOKEN_NORMS,
    Targets,
    pixel_targets,
    token_weights,
    zscore_over_clip,
)

MASK = torch.rand(2, 18, generator=torch.Generator().manual_seed(8)).argsort(1) < 11


def clips(batch: int = 2) -> Tensor:
    return torch.rand(batch, 6, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def batch() -> Batch:
    return Batch(torch.arange(2), (clips() * 255).byte())


def targets_of(*options: TargetOptions, teacher: Any = None, tokens: Any = "masked") -> Targets:
    return Targets(options, patch_size=4, tubelet_size=2, teacher=teacher, tokens=tokens)


class StubTeacher(nn.Module):
    """A teacher with two layers of 3 and 2 channels that counts its passes."""

    widths, width, num_passes = (3, 2), 5, 0

    def encode(self, frames: Tensor) -> Tensor:
        self.num_passes += 1
        return torch.randn(len(frames), 18, 5, generator=torch.Generator().manual_seed(4)) * 2 + 1


def test_pixel_targets_have_the_pixels_of_their_token_channel_last() -> None:
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


def test_pixel_targets_have_the_token_order_of_the_student() -> None:
    config = EncoderConfig.of_size("tiny", num_frames=6, size_hw=(8, 12), patch_size=4, tubelet_size=2)
    encoder = Encoder(config, generator=torch.Generator().manual_seed(0))
    changed = clips().index_fill(0, torch.tensor([1]), 0.0)
    changed[0, 5, 2, 7, 11] += 1
    changed[0, 2, 0, 4, 3] += 1
    same = clips().index_fill(0, torch.tensor([1]), 0.0)
    moved = (encoder.patch_embed(changed, None) != encoder.patch_embed(same, None)).any(-1)[0]
    assert moved.nonzero()[:, 0].tolist() == [9, 17]
    targets = pixel_targets(changed, 4, 2) != pixel_targets(same, 4, 2)
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
    for normalise in TOKEN_NORMS.values():
        assert normalise(tokens).dtype == torch.float32
    assert torch.equal(TOKEN_NORMS["zscore"](tokens), zscore_over_clip(tokens))
    assert torch.equal(TOKEN_NORMS["none"](tokens), tokens.float())
    layer = TOKEN_NORMS["layernorm"](tokens)
    torch.testing.assert_close(layer.mean(2), torch.zeros(2, 7), atol=1e-6, rtol=0)
    torch.testing.assert_close(layer.var(2, correction=0), torch.ones(2, 7), atol=1e-5, rtol=0)


def test_pixel_targets_of_a_run() -> None:
    for per_patch in (True, False):
        targets = targets_of(PixelTarget(per_patch=per_patch))
        built = targets.build(batch())
        assert (targets.width, targets.names, built.weights) == (96, ["pixels"], [None])
        expected = pixel_targets(batch().frames.float() / 255, 4, 2, normalise=per_patch)
        assert torch.equal(built.values[0], expected)
    with pytest.raises(ValueError, match="a target of kind teacher needs a teacher"):
        targets_of(PixelTarget(), TeacherTarget())


@pytest.mark.parametrize("norm", TOKEN_NORMS)
def test_each_layer_of_the_teacher_is_normalised_alone(norm: Any) -> None:
    teacher = StubTeacher()
    targets = targets_of(TeacherTarget(norm=norm), teacher=teacher)
    layers = teacher.encode(batch().frames).split((3, 2), dim=-1)
    expected = torch.cat([TOKEN_NORMS[norm](layer) for layer in layers], dim=-1)
    assert targets.width == 5
    torch.testing.assert_close(targets.build(batch()).values[0], expected)


def test_losses_are_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(2, 11, 96, generator=generator) * 2
    expected_of = {
        "l2": lambda a, b: (a - b).square().mean(),
        "smooth_l1": lambda a, b: torch.where(
            (a - b).abs() < 1, (a - b).square() / 2, (a - b).abs() - 0.5
        ).mean(),
        "cosine": lambda a, b: (1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean(),
    }
    assert expected_of.keys() == LOSSES.keys()
    for name, expected in expected_of.items():
        targets = targets_of(PixelTarget(loss=name, weight=3.0))  # type: ignore[arg-type]
        built = targets.build(batch())
        picked = pick_tokens(built.values[0], MASK, 11)
        found = targets.losses(prediction, built, MASK, 11)
        assert list(found) == ["loss", "baseline_loss"]
        torch.testing.assert_close(found["loss"], 3 * expected(prediction, picked))
        half = targets.losses(prediction.bfloat16(), built, MASK, 11)["loss"]
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, found["loss"], rtol=1e-2, atol=0)
        perfect = (3 if name == "cosine" else 1) * picked
        assert targets.losses(perfect, built, MASK, 11)["loss"] < 1e-6
    with pytest.raises(ValueError, match=r"prediction must be \[B, P, 96\], got \[2, 11, 95\]"):
        targets_of(PixelTarget()).losses(prediction[..., 1:], built, MASK, 11)


def test_several_targets_share_a_prediction_and_have_losses_of_their_own() -> None:
    teacher = StubTeacher()
    targets = targets_of(
        TeacherTarget(weight=2.0),
        PixelTarget(weight=0.5, loss="smooth_l1"),
        TeacherTarget(norm="layernorm", loss="cosine", weight=3.0),
        teacher=teacher,
    )
    built = targets.build(batch())
    assert targets.names == ["teacher-0", "pixels", "teacher-1"]
    assert targets.width == 5 + 96 + 5 and [v.shape[-1] for v in built.values] == [5, 96, 5]
    prediction = torch.randn(2, 11, 106, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = targets.losses(prediction, built, MASK, 11)

    picked = [pick_tokens(values, MASK, 11) for values in built.values]
    l2, cosine, smooth = LOSSES["l2"], LOSSES["cosine"], LOSSES["smooth_l1"]
    first, second = prediction[..., :5], prediction[..., 101:]
    expected = {
        "loss/teacher-0": (l2(first[..., :3], picked[0][..., :3]) + l2(first[..., 3:], picked[0][..., 3:]))
        / 2,
        "loss/pixels": smooth(prediction[..., 5:101], picked[1]),
        "loss/teacher-1": (
            cosine(second[..., :3], picked[2][..., :3]) + cosine(second[..., 3:], picked[2][..., 3:])
        )
        / 2,
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    weighted = 2 * found["loss/teacher-0"] + 0.5 * found["loss/pixels"] + 3 * found["loss/teacher-1"]
    torch.testing.assert_close(found["loss"], weighted)
    baselines = [found[f"baseline_loss/{name}"] for name in targets.names]
    torch.testing.assert_close(
        found["baseline_loss"], 2 * baselines[0] + 0.5 * baselines[1] + 3 * baselines[2]
    )
    assert found["loss"].requires_grad and not found["baseline_loss"].requires_grad


def test_baseline_loss_is_that_of_predicting_the_mean_of_the_clip() -> None:
    targets = targets_of(PixelTarget(per_patch=False))
    built = targets.build(batch())
    picked = pick_tokens(built.values[0], MASK, 11)
    mean = built.values[0].mean(1, keepdim=True)
    found = targets.losses(torch.zeros(2, 11, 96), built, MASK, 11)
    torch.testing.assert_close(found["baseline_loss"], (picked - mean).square().mean())
    targets = targets_of(TeacherTarget(), teacher=StubTeacher())
    built = targets.build(batch())
    picked = pick_tokens(built.values[0], MASK, 11)  # z-scores: their mean over the clip is 0
    expected = (picked[..., :3].square().mean() + picked[..., 3:].square().mean()) / 2
    found = targets.losses(torch.zeros(2, 11, 5), built, MASK, 11)
    torch.testing.assert_close(found["baseline_loss"], expected)


@pytest.mark.parametrize("tokens", ["masked", "visible", "all"])
def test_the_loss_is_on_the_tokens_that_the_student_predicts(tokens: Any) -> None:
    config = StudentConfig(
        encoder=EncoderConfig(width=24, depth=1, heads=3, num_frames=6, size_hw=(8, 12), patch_size=4),
        decoder_width=12, decoder_depth=1, decoder_heads=2, target_dim=96,
    )  # fmt: skip
    student = Student(config, generator=torch.Generator().manual_seed(0)).eval()
    targets = targets_of(PixelTarget(), tokens=tokens)
    prediction = student(clips(), MASK, 11, tokens=tokens)
    assert prediction.shape == (2, {"masked": 11, "visible": 7, "all": 18}[tokens], 96)
    # A target equal to the prediction of each token, in token order, has no loss.
    order = torch.cat([(~MASK).nonzero()[:, 1].view(2, 7), MASK.nonzero()[:, 1].view(2, 11)], dim=1)
    everything = student(clips(), MASK, 11, tokens="all").detach()
    values = torch.empty(2, 18, 96).scatter_(1, order[..., None].expand(-1, -1, 96), everything)
    built = targets.build(batch())._replace(values=[values])
    assert targets.losses(prediction, built, MASK, 11)["loss"] < 1e-9


def test_targets_of_other_decoders_and_encoder_blocks_have_losses_of_their_own() -> None:
    options = (
        PixelTarget(decoder="own", weight=2.0, encoder_blocks=[2]),
        MotionTarget(offsets=[0, 1], spread=0.0, weight=0.5, encoder_blocks=[0, 2]),
    )
    targets = targets_of(*options)
    assert targets.names == ["motion", "pixels"] and targets.encoder_blocks == (0, 2)
    assert (targets.shared_width, targets.own_widths, targets.width) == (4, (96,), 100)
    built = targets.build(Batch(torch.arange(2), batch().frames, motion_labels()))
    # 11 masked tokens, then the 7 visible tokens after block 0 and those after block 2.
    prediction = torch.randn(2, 25, 100, generator=torch.Generator().manual_seed(5))
    found = targets.losses(prediction, built, MASK, 11)
    visible = pick_tokens(built.values[1], MASK, 11, "visible")
    torch.testing.assert_close(found["loss/pixels.block2"], F.mse_loss(prediction[:, 18:, 4:], visible))
    assert "loss/pixels.block0" not in found and "baseline_loss/motion.block0" in found
    alone = targets_of(MotionTarget(offsets=[0, 1], spread=0.0), tokens="visible")
    values = built._replace(values=built.values[:1], weights=built.weights[:1])
    torch.testing.assert_close(
        found["loss/motion.block0"], alone.losses(prediction[:, 11:18, :4], values, MASK, 11)["loss"]
    )
    motion = sum(found[f"loss/motion{name}"] for name in ("", ".block0", ".block2"))
    pixels = found["loss/pixels"] + found["loss/pixels.block2"]
    torch.testing.assert_close(found["loss"], 0.5 * motion + 2 * pixels)


@pytest.mark.parametrize("name", ["l2", "smooth_l1", "cosine"])
def test_visible_tokens_count_less_the_farther_they_are_from_masked_ones(name: Any) -> None:
    # Of 4x1x5 tokens, (0, 0, 0) and (3, 0, 4) are masked. Distances along time, by frame:
    distances = [[0, 1, 2, 3, 3], [1, 1, 2, 2, 2], [2, 2, 2, 1, 1], [3, 3, 2, 1, 0]]
    mask = torch.tensor(distances).flatten()[None] == 0
    weights = token_weights(mask, (4, 1, 5), 0.5)
    assert weights.shape == (1, 20, 1)
    expected = [1.0 if d == 0 else 0.5 / math.sqrt(d) for row in distances for d in row]
    assert weights.flatten().tolist() == pytest.approx(expected)
    targets = Targets(
        [PixelTarget(loss=name)], patch_size=4, tubelet_size=2, tokens="all", visible_weight=0.5
    )
    frames = torch.randint(0, 256, (1, 8, 3, 4, 20), dtype=torch.uint8, generator=torch.Generator())
    built = targets.build(Batch(torch.arange(1), frames))
    prediction = torch.randn(1, 20, 96, generator=torch.Generator().manual_seed(5))
    order = torch.cat([(~mask[0]).nonzero(), mask[0].nonzero()])[:, 0]
    losses = torch.stack([LOSSES[name](prediction[0, k], built.values[0][0, n]) for k, n in enumerate(order)])
    own = torch.tensor(expected)[order]
    found = targets.losses(prediction, built, mask, 2)["loss"]
    torch.testing.assert_close(found, (own * losses).sum() / own.sum())


def motion_labels() -> dict[str, Tensor]:
    """Two offsets of 18 tokens. Token n of clip 0 moves by (n, -1) and (0, 2n); clip 1 is natural video."""
    number = torch.arange(18.0)
    zero = torch.zeros(18)
    displacement = torch.stack([torch.stack([number, zero - 1], -1), torch.stack([zero, 2 * number], -1)])
    valid = torch.stack([number < 17, number < 9])
    return {
        "motion_displacement": torch.stack([displacement, torch.zeros(2, 18, 2)]),
        "motion_visibility": torch.stack([torch.stack([number < 6, number < 12]), torch.zeros(2, 18).bool()]),
        "motion_valid": torch.stack([valid, torch.zeros(2, 18).bool()]),
        "motion_object": torch.stack([(number % 3).to(torch.int16), torch.zeros(18, dtype=torch.int16)]),
    }


def test_motion_is_predicted_as_signed_logarithms_where_it_is_known() -> None:
    options = MotionTarget(offsets=[0, 1], spread=0.0, visibility=0.5, background_weight=0.25)
    targets = targets_of(options)
    assert (targets.width, targets.names) == (6, ["motion"])
    built = targets.build(Batch(torch.arange(2), batch().frames, motion_labels()))
    values, weights = built.values[0], built.weights[0]
    assert weights is not None
    # Columns: displacement x, y and visibility of the first offset, then of the second one.
    log = math.log1p
    assert values[0, 5].tolist() == pytest.approx([log(5), -log(1), 1, 0, log(10), 1])
    assert weights[0, :, 0].tolist() == [0.25 if n % 3 == 0 else 1.0 for n in range(17)] + [0.0]
    assert weights[0, 8, :2].tolist() == [1.0, 1.0] and weights[0, 10, :2].tolist() == [1.0, 0.0]
    assert not weights[1].any()
    prediction = torch.zeros(2, 11, 6)
    found = targets.losses(prediction, built, MASK, 11)
    masked = MASK[0].nonzero()[:, 0].tolist()
    total = sum(weights[0, n, :2].sum() for n in masked)
    smooth = lambda v: v * v / 0.2 if v < 0.1 else v - 0.05  # noqa: E731
    lengths = sum(
        weights[0, n, d] * (smooth(abs(values[0, n, 3 * d])) + smooth(abs(values[0, n, 3 * d + 1]))) / 2
        for n in masked
        for d in (0, 1)
    )
    assert found["loss/motion.displacement"] == pytest.approx(float(lengths / total), rel=1e-5)
    assert found["loss/motion.visibility"] == pytest.approx(math.log(2), rel=1e-5)
    expected = found["loss/motion.displacement"] + 0.5 * found["loss/motion.visibility"]
    torch.testing.assert_close(found["loss"], expected)
    # Without motion the baseline has the same loss of the displacement, and a better one of the visibility.
    torch.testing.assert_close(found["baseline_loss/motion.displacement"], found["loss/motion.displacement"])
    assert found["baseline_loss/motion.visibility"] < found["loss/motion.visibility"]


def test_depth_is_the_rank_from_the_front_among_the_owners_of_a_tubelet() -> None:
    depth = torch.tensor([[0, 1, 2, 0, 1, 2], [7, 4, 3, 2, 1, 0], [0] * 6], dtype=torch.int16).flatten()
    labels = {**motion_labels(), "motion_depth": torch.stack([depth, torch.zeros_like(depth)])}
    targets = targets_of(MotionTarget(displacement=0.0, spread=0.0, depth=1.0, background_weight=0.5))
    built = targets.build(Batch(torch.arange(2), batch().frames, labels))
    ranks = [2, 1, 0, 2, 1, 0, 0, 1, 2, 3, 3, 3, 0, 0, 0, 0, 0, 0]
    assert targets.width == 4 and built.values[0][0].argmax(-1).tolist() == ranks
    # The rank is known for every token of a clip with a scene, also where the motion is not.
    weights = torch.tensor([0.5 if n % 3 == 0 else 1.0 for n in range(18)])
    logits = torch.randn(2, 11, 4, generator=torch.Generator().manual_seed(2))
    masked = MASK[0].nonzero()[:, 0]
    own, true = weights[masked], torch.tensor(ranks)[masked]
    shares = logits[0].exp() / logits[0].exp().sum(1, keepdim=True)
    found = targets.losses(logits, built, MASK, 11)
    torch.testing.assert_close(found["loss"], (own * -shares[torch.arange(11), true].log()).sum() / own.sum())
    counts = torch.tensor([9, 3, 3, 3]) / 18
    baseline = (own * -counts.log()[true]).sum() / own.sum()
    torch.testing.assert_close(found["baseline_loss"], baseline)


def same_object_loss(embeddings: Tensor, owners: list[int], weights: list[float]) -> float:
    """The contrastive loss of one clip, token by token; temperature .1."""
    losses = []
    for i, owner in enumerate(owners):
        cosines = F.cosine_similarity(embeddings[i], embeddings, dim=-1).tolist()
        powers = {j: math.exp(cosine / 0.1) for j, cosine in enumerate(cosines) if j != i}
        same = [j for j in powers if owners[j] == owner]
        if same and owner >= 0:
            loss = -sum(math.log(powers[j] / sum(powers.values())) for j in same) / len(same)
            losses.append((weights[i], loss))
    return sum(weight * loss for weight, loss in losses) / sum(weight for weight, _ in losses)


@pytest.mark.parametrize("compared", [64, 4])
def test_same_object_attracts_tokens_of_an_owner_and_repels_others(
    compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smile_train.motion_target.COMPARED_TOKENS", compared)
    owners = torch.tensor([0, 1, 2, 0, -1, 0, 1, 2, 0, -1, 0, 1, 0, 3, 2, 0, 0, 1], dtype=torch.int16)
    labels = {**motion_labels(), "motion_object": torch.stack([owners, torch.zeros_like(owners)])}
    options = MotionTarget(offsets=[0, 1], spread=0.0, same_object=0.5, background_weight=0.25)
    targets = targets_of(options, tokens="all")
    built = targets.build(Batch(torch.arange(2), batch().frames, labels))
    prediction = torch.randn(2, 18, 20, generator=torch.Generator().manual_seed(3), requires_grad=True)
    found = targets.losses(prediction, built, MASK, 11)
    order = torch.cat([(~MASK[0]).nonzero(), MASK[0].nonzero()])[:, 0]
    chosen = [0, 4, 9, 13] if compared == 4 else list(range(18))
    own = owners[order][chosen].tolist()
    weights = [0.25 if owner == 0 else 1.0 for owner in own]
    embeddings = prediction[0, chosen, 4:].detach()  # after the displacement
    expected = same_object_loss(embeddings, own, weights)
    assert found["loss/motion.same_object"].item() == pytest.approx(expected, rel=1e-5)
    equal = found["baseline_loss/motion.same_object"].item()
    assert equal == pytest.approx(math.log(len(chosen) - 1), rel=1e-5)
    torch.testing.assert_close(
        found["loss"], found["loss/motion.displacement"] + 0.5 * found["loss/motion.same_object"]
    )
    found["loss"].backward()
    assert prediction.grad is not None and prediction.grad.isfinite().all()
    assert prediction.grad[0, :, 4:].any() and not prediction.grad[1].any()  # clip 1 is natural video


def test_natural_videos_alone_have_no_loss_of_motion() -> None:
    targets = targets_of(MotionTarget(depth=1.0, same_object=1.0), PixelTarget())
    built = targets.build(batch())
    prediction = torch.zeros(2, 11, 120, requires_grad=True)
    found = targets.losses(prediction, built, MASK, 11)
    assert found["loss/motion"] == 0 and found["loss/pixels"] > 0
    found["loss"].backward()
    assert prediction.grad is not None and not prediction.grad[..., :24].any() and prediction.grad.any()


def test_a_target_may_be_valid_for_some_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class FirstTokens:
        """The index of the token as the target, valid for the first seven tokens."""

        width = 1

        def __init__(self, *given: Any) -> None:
            pass

        def build(self, batch: Batch) -> tuple[Tensor, Tensor]:
            numbers = torch.arange(18.0).expand(2, 18)[..., None]
            return numbers, (numbers < 7).float()

        def baseline(self, values: Tensor) -> Tensor:
            return values.mean(1, keepdim=True)

        def loss(
            self, prediction: Tensor, target: Tensor, weights: Tensor
        ) -> tuple[Tensor, dict[str, Tensor]]:
            valid = weights[..., 0] > 0
            assert (valid == (target[..., 0] < 7)).all() and valid.any() and not valid.all()
            return (prediction - target)[valid].square().mean(), {}

    monkeypatch.setitem(TARGETS, "pixels", FirstTokens)
    targets = targets_of(PixelTarget())
    found = targets.losses(torch.zeros(2, 11, 1), targets.build(batch()), MASK, 11)
    masked = MASK.nonzero()[:, 1]
    torch.testing.assert_close(found["loss"], masked[masked < 7].float().square().mean())
    torch.testing.assert_close(found["baseline_loss"], (masked[masked < 7] - 8.5).square().mean())


def test_clips_that_do_not_divide_into_tokens_are_refused() -> None:
    for shape in ((1, 5, 3, 8, 12), (1, 6, 3, 9, 12), (1, 6, 3, 8, 13)):
        with pytest.raises(ValueError, match="do not divide into tokens of 2x4x4"):
            pixel_targets(torch.zeros(shape), 4, 2)
