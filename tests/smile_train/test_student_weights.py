"""Weights of the student and the classifier: saved, loaded, refused."""

import argparse
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_students import CONFIG, ENCODER, block, classifier_of, config_with, seeded, tiny_clips, tiny_mask
from torch import nn

import smile_train
from smile_synth.core.errors import UserError
from smile_synth.io.resources import shipped
from smile_train.models import (
    CHECKPOINTS,
    CLASSIFIER,
    CLASSIFIER_BEST,
    STUDENT,
    ClassifierConfig,
    Encoder,
    Student,
    StudentConfig,
    VideoClassifier,
    build_classifier,
    build_encoder,
    load_model,
    load_student,
    load_student_weights,
    save_model,
    steps_of,
)
from smile_train.training.build import find_absolute


def save(path: Path, model: nn.Module, form: str) -> Path:
    state = model.state_dict()
    path = path / f"weights.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        save_file(state, path)
    elif form == "bare":
        torch.save(state, path)
    else:
        # As published: beside the weights an optimiser, the scaler of fp16, and the command line.
        optimiser = torch.optim.AdamW(model.parameters()).state_dict()
        more = {
            "scaler": {"scale": 65536.0, "_growth_tracker": 7},
            "args": argparse.Namespace(size=(8, 14, 14)),
        }
        torch.save({form: state, "optimizer": optimiser, "epoch": 3, **more}, path)
    return path


@pytest.mark.parametrize("form", ["bare", "model", "module", "safetensors"])
def test_pretraining_weights_load_into_every_model(tmp_path: Path, form: str) -> None:
    source = Student(CONFIG, generator=seeded(1))
    nn.init.uniform_(source.encoder.norm.weight, generator=seeded(2))
    path = save(tmp_path, source, form)

    student = Student(CONFIG, generator=seeded())
    load_student_weights(student, path)
    assert torch.equal(student(tiny_clips(), tiny_mask()), source(tiny_clips(), tiny_mask()))

    encoder = Encoder(ENCODER, generator=seeded())
    load_student_weights(encoder, str(path))
    assert torch.equal(encoder(tiny_clips()), source.encode(tiny_clips()))

    classifier = classifier_of()
    head = classifier.head.weight.clone()
    load_student_weights(classifier, path)
    assert torch.equal(block(classifier, 2).mlp.fc2.weight, block(source.encoder, 2).mlp.fc2.weight)
    assert torch.equal(classifier.head.weight, head)
    assert torch.equal(classifier.fc_norm.weight, torch.ones(24))


def test_fine_tuned_weights_load_into_classifier_and_encoder(tmp_path: Path) -> None:
    source = classifier_of(seed=1)
    nn.init.uniform_(source.fc_norm.weight, generator=seeded(2))
    path = save(tmp_path, source, "module")

    classifier = classifier_of()
    load_student_weights(classifier, path)
    assert torch.equal(classifier(tiny_clips()), source(tiny_clips()))

    encoder = Encoder(ENCODER, generator=seeded())
    load_student_weights(encoder, path)
    assert torch.equal(encoder.norm.weight, source.fc_norm.weight)
    assert torch.equal(block(encoder, 0).attn.q_bias, block(source, 0).attn.q_bias)
    assert torch.equal(block(encoder, 2).mlp.fc2.weight, block(source, 2).mlp.fc2.weight)

    with pytest.raises(UserError, match="holds a fine-tuning checkpoint; Student needs a pretraining one"):
        load_student_weights(Student(CONFIG, generator=seeded()), path)
    with pytest.raises(
        UserError, match=r"2 tensors do not fit .*head\.weight \(file \[4, 24\], model \[9, 24\]\)"
    ):
        load_student_weights(classifier_of(9), path)


def test_a_deeper_or_wider_file_is_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    deeper = Student(config_with(depth=4), generator=seeded(1))
    encoder = Encoder(ENCODER, generator=seeded())
    before = block(encoder, 0).mlp.fc1.weight.clone()
    with pytest.raises(
        UserError, match=r"13 tensors .*: blocks\.3\.norm1\.weight \(file \[24\], model nothing\)"
    ) as caught:
        load_student_weights(encoder, save(tmp_path, deeper, "model"))
    assert "\n" not in str(caught.value)
    assert torch.equal(block(encoder, 0).mlp.fc1.weight, before)
    wider = Student(config_with(width=48), generator=seeded(1))
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight \(file \[48, 3, 2, 4, 4\], model \[24,"):
        load_student_weights(encoder, save(tmp_path, wider, "safetensors"))


@pytest.mark.parametrize(
    ("tensors", "kind"),
    [
        ({"videomae.encoder.layer.0.output.dense.bias": 5}, "transformers VideoMAE"),
        ({"visual.conv1.weight": 5, "text_projection": 5}, "CLIP"),
        ({"cls_token": 5, "patch_embed.proj.weight": 5, "fc_norm.weight": 5}, "plain ViT"),
        ({"features.0.weight": 5}, "non-VideoMAE"),
    ],
)
def test_the_kind_of_a_foreign_checkpoint_is_named(
    tmp_path: Path, tensors: dict[str, int], kind: str
) -> None:
    path = tmp_path / "other.pth"
    torch.save({"state_dict": {name: torch.zeros(size) for name, size in tensors.items()}}, path)
    for model, needs in (
        (Student(CONFIG, generator=seeded()), "Student needs a pretraining one"),
        (Encoder(ENCODER, generator=seeded()), "Encoder needs a pretraining or fine-tuning one"),
    ):
        with pytest.raises(UserError, match=f"holds a {kind} checkpoint; {needs}") as caught:
            load_student_weights(model, path)
        assert "\n" not in str(caught.value)


def test_a_misfit_names_three_tensors_at_most(tmp_path: Path) -> None:
    path = save(tmp_path, Student(config_with(target_dim=7), generator=seeded()), "model")
    with pytest.raises(
        UserError, match=r"2 tensors do not fit .* decoder\.head\.weight \(file \[7, 12\], model \[5, 12\]\)"
    ):
        load_student_weights(Student(CONFIG, generator=seeded()), path)
    path = save(tmp_path, Student(config_with(depth=5), generator=seeded()), "model")
    with pytest.raises(UserError, match=r"26 tensors do not fit .* and 23 more$"):
        load_student_weights(Student(CONFIG, generator=seeded()), path)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


def test_unreadable_files_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = Encoder(ENCODER, generator=seeded())
    with pytest.raises(UserError, match="no such checkpoint file"):
        load_student_weights(encoder, tmp_path / "none.pth")
    for name, content in {
        "evil.pth": pickle.dumps({"model": Evil()}, protocol=2),
        "text.pth": b"not a checkpoint",
        "empty.pth": b"",
        "text.safetensors": b"not a checkpoint",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="not a checkpoint of plain tensors") as caught:
            load_student_weights(encoder, tmp_path / name)
        # PyTorch's own text advises to run what is in the file.
        assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    assert capsys.readouterr().out == ""
    torch.save({"model": {"epoch": 3}}, tmp_path / "numbers.pth")
    with pytest.raises(UserError, match="no table of tensors at the top or under 'model' or 'module'"):
        load_student_weights(encoder, tmp_path / "numbers.pth")


def test_models_are_saved_with_their_configuration(tmp_path: Path) -> None:
    student = Student(config_with(positions="separable", decoder_chunk=2), generator=seeded(1))
    config = ClassifierConfig(encoder=ENCODER, num_classes=2, class_names=("left", "right"))
    classifier = VideoClassifier(config, generator=seeded(2))
    for model, name in ((student, STUDENT), (classifier, CLASSIFIER)):
        save_model(tmp_path / name, model)
        loaded = load_model(tmp_path / name)
        assert type(loaded) is type(model) and loaded.config == model.config and not loaded.training
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)
    save_model(tmp_path / STUDENT, student, {n: t + 1 for n, t in student.state_dict().items()})
    assert torch.equal(load_student(tmp_path).mask_token, student.mask_token + 1)
    with pytest.raises(UserError, match="holds a fine-tuned classifier, expected a pretrained student"):
        load_student(tmp_path / CLASSIFIER)
    save_file(student.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match=r"bare.safetensors': has no model configuration"):
        load_model(tmp_path / "bare.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty': no student.safetensors there"):
        load_model(tmp_path / "empty")


def test_a_run_has_a_model_and_steps(tmp_path: Path) -> None:
    """A folder gives its student, else its best, else its last classifier; a checkpoint gives weights only."""
    save_model(tmp_path / CLASSIFIER, classifier_of(seed=1))
    save_model(tmp_path / CLASSIFIER_BEST, classifier_of(seed=2))
    best = load_model(tmp_path)
    assert isinstance(best, VideoClassifier) and torch.equal(
        best.head.weight, classifier_of(seed=2).head.weight
    )
    save_model(tmp_path / STUDENT, Student(CONFIG, generator=seeded(3)))
    assert isinstance(load_model(tmp_path), Student) and steps_of(tmp_path) is None
    (tmp_path / CHECKPOINTS).mkdir()
    earlier = Student(CONFIG, generator=seeded(4))
    for name in ("00000005.pt", "00000012.pt", "best.pt"):
        torch.save({"model": earlier.state_dict(), "step": 0}, tmp_path / CHECKPOINTS / name)
    loaded = load_student(tmp_path / CHECKPOINTS / "00000005.pt")
    assert torch.equal(loaded.mask_token, earlier.mask_token)
    assert build_encoder(tmp_path / CHECKPOINTS / "00000005.pt").config == ENCODER
    assert steps_of(tmp_path / CHECKPOINTS / "00000005.pt") == 5
    assert steps_of(tmp_path) == steps_of(tmp_path / STUDENT) == 12
    assert steps_of(tmp_path / CHECKPOINTS / "best.pt") is None


def test_encoders_are_built_from_any_source(tmp_path: Path) -> None:
    config = StudentConfig.of_size("tiny", target_dim=5, num_frames=4, size_hw=(32, 32), patch_size=8)
    student = Student(config, generator=seeded(1))
    save_model(tmp_path / STUDENT, student)
    assert build_encoder(tmp_path, num_frames=16).config == config.encoder  # the file says the shape
    published = save(tmp_path, student, "module")
    encoder = build_encoder(published, num_frames=4, size_hw=(32, 32))
    assert encoder.config == config.encoder and not encoder.training
    clips = torch.randn(1, 4, 3, 32, 32, generator=seeded(5))
    assert torch.equal(encoder(clips), student.encode(clips))
    assert build_encoder(published).config.grid_thw == (8, 28, 28)
    torch.save({"patch_embed.proj.weight": torch.zeros(8, 3, 2, 4, 4)}, tmp_path / "part.pth")
    with pytest.raises(UserError, match="part.pth': holds no video encoder"):
        build_encoder(tmp_path / "part.pth")


@pytest.mark.parametrize("kind", ["run", "pretraining", "fine-tuning"])
def test_classifiers_are_built_from_any_source(tmp_path: Path, kind: str) -> None:
    source = Student(CONFIG, generator=seeded(1))
    path = tmp_path
    if kind == "run":
        save_model(tmp_path / STUDENT, source)
    else:
        path = save(tmp_path, source if kind == "pretraining" else classifier_of(9, seed=1), "model")
    changes = {} if kind == "run" else {"num_frames": 6, "size_hw": (8, 12)}
    classifier = build_classifier(
        path, num_classes=2, generator=seeded(), class_names=("left", "right"), head_init_scale=0.5,
        drop_path=0.2, **changes,
    )  # fmt: skip
    assert classifier.config.encoder.drop_path == 0.2 and classifier.config.class_names[1] == "right"
    assert torch.equal(block(classifier, 2).mlp.fc2.weight, block(source.encoder, 2).mlp.fc2.weight)
    assert torch.equal(classifier.fc_norm.weight, torch.ones(24))
    longer = build_classifier(path, num_classes=2, generator=seeded(), num_frames=8, size_hw=(8, 12))
    assert longer(torch.randn(1, 8, 3, 8, 12)).shape == (1, 2)


def test_a_shipped_encoder_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    student, encoder = load_student("smile-tiny-motion"), build_encoder("smile-tiny-motion")
    assert (encoder.config.num_frames, encoder.config.size_hw, encoder.config.width) == (8, (64, 64), 128)
    frames = torch.rand(1, 8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(encoder(frames), student.encode(frames))
    assert smile_train.load_encoder("smile-tiny-motion").side == 64
    assert find_absolute("smile-tiny-motion") == str(shipped("assets") / "encoders" / "smile-tiny-motion")
    assert find_absolute("runs/mine") == str(tmp_path / "runs" / "mine")
    with pytest.raises(UserError, match="checkpoint 'smile-tiny': no student.safetensors there"):
        load_student("smile-tiny")
    Path("smile-tiny-motion").mkdir()  # a folder of this name is used before the shipped encoder
    with pytest.raises(UserError, match="no student.safetensors there"):
        load_student("smile-tiny-motion")
