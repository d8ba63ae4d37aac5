"""Exported encoders give the same outputs where they are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from smile_synth import UserError
from smile_synth.io.strict_yaml import dump
from smile_train.batch import normalise
from smile_train.config import FinetuneConfig
from smile_train.export import FORMATS, export_run, model_card
from smile_train.models import (
    CLASSIFIER,
    STUDENT,
    ClassifierConfig,
    Encoder,
    EncoderConfig,
    Student,
    StudentConfig,
    VideoClassifier,
    build_encoder,
    load_student_weights,
    save_model,
)

ENCODER = EncoderConfig(width=48, depth=2, heads=3, num_frames=4, size_hw=(24, 24), patch_size=8)
CONFIG = StudentConfig(encoder=ENCODER, decoder_width=8, decoder_depth=1, decoder_heads=2, target_dim=4)


def randomised(model: nn.Module) -> nn.Module:
    """Add noise to every weight, so that biases and norms have values of their own, too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def student() -> Student:
    model = randomised(Student(CONFIG, generator=torch.Generator().manual_seed(1)))
    assert isinstance(model, Student)
    return model


def classifier(names: tuple[str, ...] = ("left", "right", "up")) -> VideoClassifier:
    config = ClassifierConfig(encoder=ENCODER, num_classes=3, class_names=names)
    model = randomised(VideoClassifier(config, generator=torch.Generator().manual_seed(1)))
    assert isinstance(model, VideoClassifier)
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run's folder."""
    folder = tmp_path_factory.mktemp("run")
    save_model(folder / STUDENT, student())
    return folder


def clips() -> torch.Tensor:
    return torch.randn((2, 4, 3, 24, 24), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def tokens() -> torch.Tensor:
    out: torch.Tensor = student().encoder(clips())
    return out


def test_transformers_reads_an_encoder_and_we_read_its_files(run: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export_run(run, tmp_path / "t", to="transformers")
    model, info = transformers.VideoMAEModel.from_pretrained(tmp_path / "t", output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(clips()).last_hidden_state, tokens(), atol=1e-5, rtol=0)
    processor = transformers.VideoMAEImageProcessor.from_pretrained(tmp_path / "t")
    frames = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
    own = normalise(torch.from_numpy(frames).permute(0, 3, 1, 2)[None])
    torch.testing.assert_close(
        processor(list(frames), return_tensors="pt")["pixel_values"], own, atol=1e-5, rtol=0
    )
    model.save_pretrained(tmp_path / "back")
    with torch.no_grad():
        torch.testing.assert_close(build_encoder(tmp_path / "back")(clips()), tokens(), atol=1e-6, rtol=0)


def test_transformers_reads_a_classifier_and_we_read_its_files(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save_model(tmp_path / CLASSIFIER, classifier())
    export_run(tmp_path, tmp_path / "t", to="transformers")
    model, info = transformers.VideoMAEForVideoClassification.from_pretrained(
        tmp_path / "t", output_loading_info=True
    )
    assert not any(info.values()) and model.config.id2label == {0: "left", 1: "right", 2: "up"}
    model.fc_norm.eps = 1e-6  # transformers fixes it to 1e-5
    model.save_pretrained(tmp_path / "back")
    back = classifier()
    nn.init.zeros_(back.head.weight)
    load_student_weights(back, tmp_path / "back")
    with torch.no_grad():
        scores = classifier()(clips())
        torch.testing.assert_close(model.eval()(clips()).logits, scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(back(clips()), scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_transformers_files_are_read_without_transformers(kind: str, tmp_path: Path) -> None:
    save_model(tmp_path / STUDENT, student() if kind == "encoder" else classifier(()))
    report = export_run(tmp_path, tmp_path / "t", to="transformers")
    assert report.files == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert report.checked == "read back, largest difference 0.0e+00"
    encoder = build_encoder(tmp_path / "t")
    source = student().encoder if kind == "encoder" else classifier()
    assert encoder.config == ENCODER
    assert torch.equal(encoder.encode_tokens(clips()), source.encode_tokens(clips()))
    config = json.loads((tmp_path / "t" / "config.json").read_text())
    assert config.get("id2label") == (
        None if kind == "encoder" else {"0": "class 0", "1": "class 1", "2": "class 2"}
    )
    for change, message in (
        ({"num_hidden_layers": 3}, r"13 tensors do not fit the model: blocks\.2\."),
        ({"model_type": "bert"}, "is a 'bert', expected a VideoMAE"),
        ({"image_size": None}, "config.json': not the config of a VideoMAE"),
    ):
        (tmp_path / "t" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=message):
            build_encoder(tmp_path / "t")


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_onnxruntime_runs_it_on_any_batch(kind: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    save_model(tmp_path / STUDENT, student() if kind == "encoder" else classifier())
    report = export_run(tmp_path, tmp_path / "o", to="onnx")
    assert "run by onnxruntime" in report.checked
    session = onnxruntime.InferenceSession(tmp_path / "o" / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"clips": clips()[:1].numpy()})
    with torch.no_grad():
        expected = tokens() if kind == "encoder" else classifier()(clips())
    np.testing.assert_allclose(found, expected[:1].numpy(), atol=1e-4)


def test_card_tells_training_licences_and_scores(tmp_path: Path, train_bank: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(folder / STUDENT, student())
    (folder / "config.yaml").write_text(
        f"bank: {train_bank}\nbackgrounds: my/photos\nbatch_size: 3\nstudent: {{size: tiny}}\n"
        "targets: [{kind: pixels}, {kind: teacher}]\n"
        "stages: [{steps: 7, sources: [{recipe: demo}]}, {steps: 5, sources: [{corpus: nowhere/written}]}]\n"
    )
    row = {"protocol": "linear", "features": "encoder", "accuracy": 0.625, "low": 0.5, "high": 0.75}
    (folder / "scores.json").write_text(json.dumps({"rows": [row]}))
    export_run(folder, tmp_path / "s", to="transformers")
    card = (tmp_path / "s" / "README.md").read_text()
    assert "| scores | linear | encoder | 62.5 | 50.0 .. 75.0 |" in card
    assert "stage 1: 7 steps of 3 clips from demo" in card and "licences: unknown (" in card
    assert "stage 2: 5 steps of 3 clips from nowhere/written" in card
    assert "targets: pixels and teacher" in card and "teacher: tiny-clip" in card
    assert "backgrounds: photos; licences are not recorded" in card
    assert "corpus written: is missing, so the licences" in card
    assert "2 blocks, width 48" in card and "The decoder is not included" in card


def test_card_of_a_classifier(tmp_path: Path) -> None:
    save_model(tmp_path / CLASSIFIER, classifier())
    card = model_card(tmp_path, classifier(), "onnx")
    assert "scores for 3 classes" in card and "The run's config is not beside the weights" in card
    assert "No scores in the run's folder" in card
    overrides = ["epochs=7", "batch_size=6", "start_from=runs/first", "videos.train=lists/train.csv"]
    config = FinetuneConfig.load("finetune-ucf101-vits", overrides)
    (tmp_path / "config.yaml").write_text(dump(config))
    (tmp_path / "test.json").write_text(json.dumps({"top1": 0.875, "top5": 1.0}))
    card = model_card(tmp_path, classifier(), "onnx")
    assert "fine-tuning: 7 epochs in steps of 6 clips on lists/train.csv; seed 0" in card
    assert "initial weights: runs/first" in card and "| test | fine-tuning | classifier | 87.5 | |" in card


def test_wrong_exports_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format 'onx': expected one of .*; did you mean 'onnx'?"):
        export_run(run, tmp_path / "x", to="onx")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "a").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        export_run(run, tmp_path / "used", to="transformers")
    for fields, message in (
        ({"positions": "separable"}, "needs joint positions, the student has separable positions"),
        ({"size_hw": (32, 64)}, r"needs square frames, the student has \(32, 64\)"),
    ):
        student = Student(StudentConfig.of_size("tiny", target_dim=4, **fields), generator=torch.Generator())
        save_model(tmp_path / STUDENT, student)
        with pytest.raises(UserError, match=message):
            export_run(tmp_path, tmp_path / "x", to="transformers")


def test_a_failed_export_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: Encoder | VideoClassifier, folder: Path) -> str:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "onnx", fails)
    with pytest.raises(UserError, match=r"out '.*x': cannot be written: No space left on device"):
        export_run(run, tmp_path / "x", to="onnx")
    assert not list(tmp_path.iterdir())
    (tmp_path / "x").mkdir()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "x")  # an empty working directory is kept
    files = export_run(run, ".", to="transformers").files
    assert "README.md" in files and files == sorted(p.name for p in Path().iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
