"""The student, the classifier and their weights."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_students import CONFIG, ENCODER, block, classifier_of, config_with, seeded, tiny_clips, tiny_mask
from torch import Tensor, nn

from smile_synth.core.errors import UserError
from smile_train.config import StudentOptions
from smile_train.models import (
    STUDENT,
    STUDENT_SIZES,
    ClassifierConfig,
    Encoder,
    Student,
    StudentConfig,
    VideoClassifier,
    load_student,
    pick_tokens,
    save_model,
    set_fused_attention,
    split_tokens,
)

REFERENCE = Path(__file__).parents[2] / "../shared/reference/smile_student.json"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="no reference files beside this checkout")

# Outputs of the published ViT-S for weights and pixels filled by formula (see `fill`).
SMALL = {
    "encoder_shape": [1, 314, 384],
    "encoder_sum": -45.2831949947049,
    "encoder_abs_mean": 0.8349681227446116,
    "encoder_first8": [-2.035063, 1.804, -1.195674, 0.532898, -0.0063, -0.336572, 0.311933, -0.292263],
    "output_shape": [1, 1254, 768],
    "output_sum": 106.86651550084935,
    "output_abs_mean": 0.20576511243540724,
    "output_first8": [-0.003385, -0.357993, 0.295744, 0.184516, -0.40875, 0.095271, 0.32074, -0.354902],
    "output_last8": [0.053018, 0.125243, -0.112659, -0.00605, 0.166172, -0.058302, -0.080125, 0.148014],
}


def fill(model: nn.Module) -> None:
    with torch.no_grad():
        for k, (name, parameter) in enumerate(sorted(model.named_parameters())):
            flat = 0.02 * torch.sin(0.37 * torch.arange(parameter.numel(), dtype=torch.float64) + k)
            if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
                flat += 1
            parameter.copy_(flat.view(parameter.shape))


@pytest.mark.parametrize("size", ["small", pytest.param("base", marks=needs_reference)])
def test_outputs_are_those_of_the_published_model(size: str) -> None:
    expected = SMALL if size == "small" else json.loads(REFERENCE.read_text())[f"forward_{size}"]
    student = Student(StudentConfig.of_size(size, target_dim=768), generator=seeded()).eval()
    fill(student)
    channel_first = torch.sin(0.0137 * torch.arange(3 * 16 * 224 * 224, dtype=torch.float64))
    clips = channel_first.view(1, 3, 16, 224, 224).float().transpose(1, 2)
    mask = torch.arange(1568)[None] % 5 != 0
    encoded: list[Tensor] = []
    student.encoder.norm.register_forward_hook(lambda _module, _inputs, output: encoded.append(output))
    with torch.no_grad():
        predicted = student(clips, mask)
    for name, value in (("encoder", encoded[0]), ("output", predicted)):
        assert list(value.shape) == expected[f"{name}_shape"]
        assert value.double().sum().item() == pytest.approx(expected[f"{name}_sum"], rel=1e-4)
        assert value.double().abs().mean().item() == pytest.approx(expected[f"{name}_abs_mean"], rel=1e-5)
        torch.testing.assert_close(
            value.flatten()[:8], torch.tensor(expected[f"{name}_first8"]), rtol=2e-4, atol=5e-6
        )
    torch.testing.assert_close(
        predicted.flatten()[-8:], torch.tensor(expected["output_last8"]), rtol=2e-4, atol=5e-6
    )


@needs_reference
@pytest.mark.parametrize("form", ["pretrain_small", "pretrain_base", "finetune_base"])
def test_parameters_have_the_published_names_shapes_and_order(form: str) -> None:
    kind, size = form.split("_")
    config = StudentConfig.of_size(size, target_dim=768)
    classifier = ClassifierConfig(encoder=config.encoder, num_classes=400)
    model = (
        Student(config, generator=seeded())
        if kind == "pretrain"
        else VideoClassifier(classifier, generator=seeded())
    )
    published = json.loads(REFERENCE.read_text())[form]
    assert [(name, list(tensor.shape)) for name, tensor in model.state_dict().items()] == list(
        published.items()
    )


def test_further_decoders_and_heads_of_encoder_blocks_add_predictions(tmp_path: Path) -> None:
    plain = Student(CONFIG, generator=seeded())
    config = config_with(own_target_dims=(3, 1), encoder_blocks=(0, 2))
    student = Student(config, generator=seeded())
    outputs = []
    for number in (0, 2):
        block(student.encoder, number).register_forward_hook(lambda *call: outputs.append(call[2]))
    clips, mask = tiny_clips(), tiny_mask()
    with torch.no_grad():
        predicted = student(clips, mask, tokens="all")
        assert predicted.shape == (2, 18 + 7 + 7, 5 + 3 + 1)
        # The decoder has the weights that it has alone.
        assert torch.equal(predicted[:, :18, :5], plain(clips, mask, tokens="all"))
        for number, tokens in enumerate(outputs):
            # A ModuleList says nothing about the type of its items.
            norm, head = student.block_heads[number]  # type: ignore[misc]
            assert torch.equal(predicted[:, 18 + 7 * number :][:, :7], head(norm(tokens)))
        student.own_decoders[1].get_submodule("head").weight.zero_()
        again = student(clips, mask)
    assert again[:, :11, 5:8].any() and not again[:, :11, 8].any()
    save_model(tmp_path / STUDENT, student)
    loaded = load_student(tmp_path)
    assert loaded.config == config and torch.equal(loaded.mask_token, student.mask_token)
    with pytest.raises(ValueError, match=r"encoder_blocks: the encoder has the blocks 0..2, got \[3\]"):
        config_with(encoder_blocks=(3,))


def test_patches_are_embedded_as_by_conv3d() -> None:
    encoder = Encoder(ENCODER, generator=seeded())
    clips = tiny_clips()
    proj = encoder.patch_embed.proj
    everything = proj(clips.transpose(1, 2)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.patch_embed(clips, None), everything)
    tokens = torch.tensor([[0, 4, 17], [5, 6, 11]])
    chosen = torch.stack([everything[0, tokens[0]], everything[1, tokens[1]]])
    torch.testing.assert_close(encoder.patch_embed(clips, tokens), chosen)


def test_positions_are_sine_and_cosine_of_the_token_index() -> None:
    position = Encoder(ENCODER, generator=seeded()).position
    assert position.shape == (18, 24)
    for token, column in ((0, 0), (3, 0), (3, 1), (17, 10), (17, 23)):
        angle = token / 10000 ** (2 * (column // 2) / 24)
        expected = math.cos(angle) if column % 2 else math.sin(angle)
        assert position[token, column].item() == pytest.approx(expected, abs=1e-6)


def test_attention_gives_the_same_in_bf16_fused_or_not() -> None:
    student, found = Student(CONFIG, generator=seeded()), {}
    for fused in (True, False):
        set_fused_attention(student, fused)
        assert block(student.encoder, 1).attn.fused_attn == student.decoder.blocks[1].attn.fused_attn == fused
        student.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            predicted = student(tiny_clips(), tiny_mask())
        predicted.float().square().sum().backward()
        found[fused] = predicted, block(student.encoder, 0).attn.qkv.weight.grad
    for first, second in zip(found[True], found[False], strict=True):
        assert (first - second).norm() < 0.02 * second.norm()


def test_attention_is_softmax_of_scaled_products_with_biased_queries_and_values() -> None:
    attention = block(Encoder(ENCODER, generator=seeded()), 0).attn
    with torch.no_grad():
        attention.q_bias.uniform_(-1, 1, generator=seeded(1))
        attention.v_bias.uniform_(-1, 1, generator=seeded(2))
    x = torch.randn(2, 7, 24, generator=seeded(3))
    query, key, value = (x @ attention.qkv.weight.T).split(24, dim=2)
    query, value = query + attention.q_bias, value + attention.v_bias
    heads = []
    for head in (slice(0, 8), slice(8, 16), slice(16, 24)):
        weights = (query[..., head] @ key[..., head].transpose(1, 2) / 8**0.5).softmax(-1)
        heads.append(weights @ value[..., head])
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, dim=2)))


def test_mlp_has_the_exact_gelu() -> None:
    mlp = block(Encoder(ENCODER, generator=seeded()), 0).mlp
    x = torch.randn(2, 7, 24, generator=seeded(3)) * 3
    hidden = mlp.fc1(x)
    expected = mlp.fc2(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)
    torch.testing.assert_close(mlp(x), expected, rtol=0, atol=1e-5)


def test_masked_pixels_have_no_influence() -> None:
    student = Student(CONFIG, generator=seeded()).eval()
    clips, mask = tiny_clips(), tiny_mask()
    pixels = mask.view(2, 3, 2, 3).repeat_interleave(2, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    changed = torch.where(pixels[:, :, None], torch.tensor(9.0), clips)
    assert not torch.equal(student.encode(changed), student.encode(clips))
    assert torch.equal(student.encode(changed, mask), student.encode(clips, mask))
    assert torch.equal(student(changed, mask), student(clips, mask))


def test_encoding_without_a_mask_is_encoding_with_an_empty_one() -> None:
    student = Student(CONFIG, generator=seeded()).eval()
    empty = torch.zeros(2, 18, dtype=torch.bool)
    torch.testing.assert_close(student.encode(tiny_clips()), student.encode(tiny_clips(), empty))
    assert student(tiny_clips(), empty).shape == (2, 0, 5)


def test_each_clip_is_predicted_alone_and_under_its_own_mask() -> None:
    student = Student(CONFIG, generator=seeded()).eval()
    clips, mask = tiny_clips(3), tiny_mask(3)
    assert not torch.equal(mask[0], mask[1])
    together = student(clips, mask, num_masked=11)
    assert together.shape == (3, 11, 5)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], student(clips[i : i + 1], mask[i : i + 1]))


def test_tokens_split_in_ascending_order() -> None:
    mask = torch.tensor([[True, False, True, False, True], [False, True, True, True, False]])
    for visible, masked in (split_tokens(mask), split_tokens(mask, 3)):
        assert visible.tolist() == [[1, 3], [0, 4]]
        assert masked.tolist() == [[0, 2, 4], [1, 2, 3]]


def test_initial_weights_follow_the_generator_and_leave_the_global_one_alone() -> None:
    state = torch.random.get_rng_state()
    first, same, other = (Student(CONFIG, generator=seeded(seed)).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["mask_token"], other["mask_token"])
    assert not torch.equal(first["encoder.patch_embed.proj.weight"], other["encoder.patch_embed.proj.weight"])
    assert not torch.equal(first["decoder.head.weight"], other["decoder.head.weight"])


def test_initial_weights_are_distributed_as_in_videomae() -> None:
    student = Student(StudentConfig.of_size("tiny", target_dim=30), generator=seeded())
    for name, tensor in student.state_dict().items():
        if "norm" in name and name.endswith("weight"):
            assert torch.equal(tensor, torch.ones_like(tensor)), name
        elif name.endswith("bias") and "patch_embed" not in name:
            assert not tensor.any(), name
        elif name == "mask_token":
            assert 0.005 < tensor.std() < 0.015 and tensor.abs().max() <= 0.02
        else:
            fan_in = 3 * 2 * 16 * 16 if "patch_embed" in name else tensor.shape[-1]
            bound = fan_in**-0.5 if "patch_embed" in name else (6 / sum(tensor.shape)) ** 0.5
            assert 0.95 * bound < tensor.abs().max() <= bound, name
    assert {norm.eps for norm in student.modules() if isinstance(norm, nn.LayerNorm)} == {1e-6}
    assert 1e-5 < classifier_of(400).head.weight.std() < 2e-5
    larger = ClassifierConfig(encoder=ENCODER, num_classes=400, head_init_scale=0.1)
    assert 1e-3 < VideoClassifier(larger, generator=seeded()).head.weight.std() < 2e-3


def test_every_parameter_learns_also_under_bfloat16() -> None:
    student = Student(CONFIG, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        predicted = student(tiny_clips(), tiny_mask())
    torch.testing.assert_close(predicted.float(), student(tiny_clips(), tiny_mask()), rtol=0, atol=0.05)
    predicted.float().square().mean().backward()
    assert [name for name, p in student.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_drop_path_rises_with_depth_and_acts_in_training_only() -> None:
    encoder = Encoder(replace(ENCODER, depth=4, drop_path=0.3), generator=seeded())
    rates = [getattr(block(encoder, i).drop_path1, "drop_prob", 0) for i in range(4)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = block(encoder, 3).drop_path2(torch.ones(2000, 2, 3))
        clips = tiny_clips(16)
        first, second = encoder(clips), encoder(clips)
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))  # per clip
    assert not torch.equal(first, second)
    assert torch.equal(encoder.eval()(clips), Encoder(replace(ENCODER, depth=4), generator=seeded())(clips))


def test_classifier_scores_the_normalised_mean_of_all_tokens() -> None:
    classifier = classifier_of(7).eval()
    encoder = Encoder(ENCODER, generator=seeded(1)).eval()
    encoder.load_state_dict(classifier.state_dict(), strict=False)
    encoder.norm = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        classifier.fc_norm.weight.copy_(torch.linspace(1, 2, 24))
        mean = encoder(tiny_clips()).mean(1)
        expected = classifier.head(F.layer_norm(mean, (24,), torch.linspace(1, 2, 24), None, 1e-6))
        torch.testing.assert_close(classifier(tiny_clips()), expected)
    assert expected.shape == (2, 7)


def test_named_sizes() -> None:
    config = StudentConfig.of_size("huge", target_dim=768, size_hw=(112, 224), num_frames=8, patch_size=14)
    encoder = config.encoder
    assert (encoder.width, encoder.depth, encoder.heads, encoder.mlp_ratio) == (1280, 32, 16, 4)
    assert (config.decoder_width, config.decoder_depth, config.decoder_heads) == (640, 4, 8)
    assert config.grid_thw == (4, 8, 16) and config.num_tokens == 512
    assert list(STUDENT_SIZES) == ["tiny", "small", "base", "large", "huge"]
    with pytest.raises(UserError, match=r"unknown student size 'larg' .*did you mean 'large'"):
        StudentConfig.of_size("larg", target_dim=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 5}, "num_frames 5 must be a multiple of tubelet_size 2"),
        ({"size_hw": (9, 12)}, "height 9 must be a multiple of patch_size 4"),
        ({"size_hw": (8, 13)}, "width of size_hw 13 must be a multiple of patch_size 4"),
        ({"heads": 5}, "width 24 must be a multiple of heads 5"),
        ({"decoder_heads": 5}, "decoder_width 12 must be a multiple of decoder_heads 5"),
        ({"depth": 0}, "depth must be positive, got 0"),
        ({"size_hw": (0, 12)}, "size_hw must be positive"),
        ({"drop_path": 1.0}, "drop_path must be in"),
        ({"decoder_chunk": -1}, "decoder_chunk must not be negative"),
    ],
)
def test_config_refuses_what_does_not_divide(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_with(**change)


def test_config_of_a_classifier_is_checked() -> None:
    with pytest.raises(ValueError, match="num_classes must be positive, got 0"):
        ClassifierConfig(encoder=ENCODER, num_classes=0)
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        ClassifierConfig(encoder=ENCODER, num_classes=3, class_names=("left", "right"))


def test_wrong_shapes_are_refused() -> None:
    student = Student(CONFIG, generator=seeded())
    with pytest.raises(ValueError, match=r"clips must be \[B, 6, 3, 8, 12\], got \[2, 3, 6, 8, 12\]"):
        student.encode(tiny_clips().transpose(1, 2))
    with pytest.raises(ValueError, match=r"mask must be \[B, 18\], got \[2, 17\]"):
        student(tiny_clips(), tiny_mask()[:, 1:])
    uneven = tiny_mask()
    uneven[1] = False
    with pytest.raises(ValueError, match=r"every row of a mask must have the same count, got 0\.\.11"):
        student(tiny_clips(), uneven)


def test_predicted_tokens_come_in_the_order_of_pick_tokens() -> None:
    student, mask = Student(CONFIG, generator=seeded()).eval(), tiny_mask()
    masked, visible, both = (student(tiny_clips(), mask, 11, tokens=t) for t in ("masked", "visible", "all"))
    assert masked.shape == (2, 11, 5) and visible.shape == (2, 7, 5)
    assert torch.equal(masked, student(tiny_clips(), mask))
    torch.testing.assert_close(both, torch.cat([visible, masked], dim=1))
    values = torch.arange(2 * 18.0).view(2, 18, 1)
    for which, part in (("masked", mask), ("visible", ~mask)):
        assert torch.equal(pick_tokens(values, mask, 11, which), values[part].view(2, -1, 1))  # type: ignore[arg-type]
    everything = pick_tokens(values, mask, which="all")
    assert everything.shape == (2, 18, 1) and torch.equal(everything[:, 7:], pick_tokens(values, mask))
    with pytest.raises(ValueError, match=r"mask must be \[2, 18\], got \[2, 17\]"):
        pick_tokens(values, mask[:, 1:])


def step(config: StudentConfig) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradients, and bytes kept for the backward pass, of three clips with drop path."""
    student = Student(config, generator=seeded())
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = student(tiny_clips(3), tiny_mask(3)).square().mean()
        loss.backward()
    parameters = {p.untyped_storage().data_ptr() for p in student.parameters()}
    gradients = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    return loss.item(), gradients, sum(size for at, size in kept.items() if at not in parameters)


@pytest.mark.parametrize(
    "change", [{"checkpointing": True}, {"decoder_chunk": 2}, {"checkpointing": True, "decoder_chunk": 1}]
)
def test_less_memory_gives_the_same_loss_and_gradients(change: dict[str, Any]) -> None:
    loss, gradients, kept = step(config_with(drop_path=0.5))
    again, same, less = step(config_with(drop_path=0.5, **change))
    assert again == pytest.approx(loss, rel=1e-6) and same.keys() == gradients.keys()
    for name in gradients:
        torch.testing.assert_close(same[name], gradients[name], rtol=1e-5, atol=1e-8)
    assert less < (0.4 if change.get("checkpointing") else 0.8) * kept
    student = Student(config_with(**change), generator=seeded()).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            student(tiny_clips(3), tiny_mask(3)),
            Student(CONFIG, generator=seeded()).eval()(tiny_clips(3), tiny_mask(3)),
        )


def test_options_of_a_run_describe_a_student() -> None:
    options = StudentOptions(size="small", patch_size=8, tubelet_size=1, checkpointing=True, decoder_chunk=3)
    config = StudentConfig.from_options(options, num_frames=5, size_hw=(24, 40), target_dim=11)
    assert (config.encoder.width, config.grid_thw, config.target_dim) == (384, (5, 3, 5), 11)
    assert config.encoder.checkpointing and config.decoder_chunk == 3 and config.depth == 12
    for wrong, message in (
        ({"tubelet_size": 2}, "student: num_frames 5 must be a multiple of tubelet_size 2"),
        ({"patch_size": 16}, "student: height 24 must be a multiple of patch_size 16"),
    ):
        with pytest.raises(UserError, match=message):
            StudentConfig.from_options(
                options.model_copy(update=wrong), num_frames=5, size_hw=(24, 40), target_dim=11
            )


def test_separable_positions_tell_time_row_and_column_apart() -> None:
    config = StudentConfig.of_size(
        "tiny", target_dim=4, num_frames=6, size_hw=(32, 80), positions="separable"
    )  # grid 3x2x5
    table = Student(config, generator=torch.Generator()).encoder.position.reshape(3, 2, 5, 128)
    share = 42  # 128 // 6 * 2
    assert torch.equal(table[1, 0, 3, :share], table[1, 1, 0, :share])  # time alone
    assert torch.equal(table[0, 1, 3, share : 2 * share], table[2, 1, 0, share : 2 * share])  # row alone
    assert torch.equal(table[0, 0, 3, 2 * share : 3 * share], table[2, 1, 3, 2 * share : 3 * share])
    assert (table[..., 3 * share :] == 0).all()
    assert len({tuple(row.tolist()) for row in table.reshape(30, 128)}) == 30
    joint = Student(
        StudentConfig.of_size("tiny", target_dim=4, num_frames=6, size_hw=(32, 80)),
        generator=torch.Generator(),
    )
    assert not torch.allclose(joint.encoder.position, table.reshape(30, 128))
