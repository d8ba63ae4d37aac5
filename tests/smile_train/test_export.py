"""Exported encoders give the same outputs where they are read."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from smile_synth import UserError
from smile_train.data.synthetic import normalise
from smile_train.evaluate import load_encoder
from smile_train.export import FORMATS, export_run, from_timm, from_transformers
from smile_train.models import Student, StudentConfig
from smile_train.training.checkpoint import save_student

FORM = StudentConfig(
    width=48, depth=2, heads=3, decoder_width=8, decoder_depth=1, decoder_heads=2, target_dim=4,
    num_frames=4, size_hw=(24, 24), patch_size=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder whose every weight, biases and norms too, has a value of its own."""
    folder = tmp_path_factory.mktemp("run")
    save_student(folder / "student.safetensors", student())
    return folder


def student() -> Student:
    generator = torch.Generator().manual_seed(1)
    made = Student(FORM, generator=generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return made.eval()


def clips() -> torch.Tensor:
    return torch.randn((2, 4, 3, 24, 24), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def wanted() -> torch.Tensor:
    out: torch.Tensor = student().encoder(clips())
    return out


def test_transformers_reads_it_and_we_read_what_it_writes(run: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export_run(run, tmp_path / "t", to="transformers")
    model, info = transformers.VideoMAEModel.from_pretrained(tmp_path / "t", output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(clips()).last_hidden_state, wanted(), atol=1e-5, rtol=0)
    processor = transformers.VideoMAEImageProcessor.from_pretrained(tmp_path / "t")
    frames = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
    own = normalise(torch.from_numpy(frames).permute(0, 3, 1, 2)[None])
    torch.testing.assert_close(
        processor(list(frames), return_tensors="pt")["pixel_values"], own, atol=1e-5, rtol=0
    )
    model.save_pretrained(tmp_path / "back")
    with torch.no_grad():
        torch.testing.assert_close(from_transformers(tmp_path / "back")(clips()), wanted(), atol=1e-6, rtol=0)


def test_transformers_form_without_transformers(run: Path, tmp_path: Path) -> None:
    report = export_run(run, tmp_path / "t", to="transformers")
    assert report.files == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    with torch.no_grad():
        torch.testing.assert_close(from_transformers(tmp_path / "t")(clips()), wanted())
    frames = torch.zeros(1, 4, 3, 24, 24, dtype=torch.uint8)
    torch.testing.assert_close(load_encoder(tmp_path / "t").tokens(frames), load_encoder(run).tokens(frames))
    config = json.loads((tmp_path / "t" / "config.json").read_text())
    (tmp_path / "t" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"13 tensors are missing or do not fit: blocks\.2\."):
        from_transformers(tmp_path / "t")
    (tmp_path / "t" / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(UserError, match="is a 'bert', expected a VideoMAE"):
        from_transformers(tmp_path / "t")


class _Conv3dPatches(nn.Module):
    """What a timm model needs to read clips: its own patch embedding is of images."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.num_patches, self.proj = FORM.num_tokens, nn.Conv3d(3, FORM.width, (2, 8, 8), stride=(2, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x.transpose(1, 2)).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


def test_timms_vision_transformer_takes_the_weights(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from timm.models.vision_transformer import VisionTransformer

    export_run(run, tmp_path / "t", to="timm")
    model = VisionTransformer(
        img_size=24, patch_size=8, embed_dim=48, depth=2, num_heads=3, class_token=False, global_pool="",
        num_classes=0, embed_layer=_Conv3dPatches, norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    model.load_state_dict(load_file(tmp_path / "t" / "model.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(clips()), wanted(), atol=1e-5, rtol=0)
        torch.testing.assert_close(from_timm(tmp_path / "t")(clips()), wanted())


def test_onnxruntime_runs_it_on_any_batch(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    report = export_run(run, tmp_path / "o", to="onnx")
    assert "run by onnxruntime" in report.checked
    session = onnxruntime.InferenceSession(tmp_path / "o" / "model.onnx", providers=["CPUExecutionProvider"])
    (tokens,) = session.run(None, {"clips": clips()[:1].numpy()})
    np.testing.assert_allclose(tokens, wanted()[:1].numpy(), atol=1e-4)


@pytest.mark.parametrize("form", ["transformers", "timm", "safetensors"])
def test_what_was_exported_is_an_encoder_again(run: Path, tmp_path: Path, form: str) -> None:
    export_run(run, tmp_path / "x", to=form)
    frames = torch.randint(
        0, 256, (1, 4, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(load_encoder(tmp_path / "x").tokens(frames), load_encoder(run).tokens(frames))
    (tmp_path / "x" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="model.safetensors': not a safetensors file"):
        load_encoder(tmp_path / "x")


def test_card_tells_training_licences_and_scores(run: Path, tmp_path: Path, train_bank: Path) -> None:
    (tmp_path / "run").mkdir()
    save_student(tmp_path / "run" / "student.safetensors", student())
    text = (
        f"recipe: demo\nbank: {train_bank}\nbackgrounds: my/photos\nsteps: 7\nbatch_size: 3\nstudent: {{size: tiny}}\n"
        "target: {kind: pixels, also: [{kind: teacher}]}\nthen: [{steps: 5, corpus: nowhere/written}]\n"
    )
    (tmp_path / "run" / "config.yaml").write_text(text)
    row = {"protocol": "linear", "features": "encoder", "accuracy": 0.625, "low": 0.5, "high": 0.75}
    (tmp_path / "run" / "scores.json").write_text(json.dumps({"rows": [row]}))
    export_run(tmp_path / "run", tmp_path / "s", to="safetensors")
    card = (tmp_path / "s" / "README.md").read_text()
    assert "| scores | linear | encoder | 62.5 | 50.0 .. 75.0 |" in card
    assert "stage 1: 7 steps of 3 clips from demo" in card and "licences: unknown (" in card
    assert "stage 2: 5 steps of 3 clips from nowhere/written" in card
    assert "targets: pixels and teacher" in card and "teacher: tiny-clip" in card
    assert "backgrounds: photos; licences are not recorded" in card
    assert "corpus written: is not here, the licences" in card
    assert "2 blocks, 48 wide" in card


def test_refusals(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format 'tim': there are .*; did you mean 'timm'?"):
        export_run(run, tmp_path / "x", to="tim")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "a").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        export_run(run, tmp_path / "used", to="timm")
    separable = Student(
        StudentConfig.of_size("tiny", target_dim=4, positions="separable"), generator=torch.Generator()
    )
    save_student(tmp_path / "student.safetensors", separable)
    with pytest.raises(UserError, match="has joint positions, the student separable ones"):
        export_run(tmp_path, tmp_path / "x", to="transformers")


def test_a_failed_export_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(student: Student, folder: Path) -> str:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "timm", fails)
    with pytest.raises(UserError, match=r"out '.*x': cannot be written: No space left on device"):
        export_run(run, tmp_path / "x", to="timm")
    assert not list(tmp_path.iterdir())
    (tmp_path / "x").mkdir()  # an empty one will do
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "x")  # also the one that somebody is in
    files = ["README.md", "config.json", "model.safetensors"]
    assert export_run(run, ".", to="timm").files == files == sorted(p.name for p in Path().iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
