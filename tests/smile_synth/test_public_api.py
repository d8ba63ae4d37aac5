import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import smile_synth
from smile_synth import BackgroundFolder, ObjectBank, Recipe, Sources

# Exceptions and containers that other functions return.
WITHOUT_EXAMPLE = {
    "Annotation",
    "Clip",
    "ExportOptions",
    "Flow",
    "Labels",
    "Scene",
    "StreamOptions",
    "Tracks",
    "UserError",
}


def test_public_names_are_sorted_and_exist() -> None:
    assert smile_synth.__all__ == sorted(smile_synth.__all__)
    assert {name for name in smile_synth.__all__ if not hasattr(smile_synth, name)} == set()
    expected = {
        "Corpus",
        "Sources",
        "collate_clips",
        "export",
        "presets",
        "query_points",
        "render",
        "repair",
        "verify",
    }
    assert expected <= set(smile_synth.__all__)


SLOW = {"torch", "matplotlib", "skimage", "sklearn"}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import smile_synth", {*SLOW, "numpy"}),
        ("import smile_synth.cli", {*SLOW, "numpy"}),
        ("import smile_train.cli", {*SLOW, "numpy"}),
        ("from smile_synth import stream", SLOW),
    ],
)
def test_an_import_loads_no_slow_packages(statement: str, unwanted: set[str]) -> None:
    script = f"import sys; {statement}; print(sorted({unwanted} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_listed_and_other_names_are_refused() -> None:
    assert {"__version__", *smile_synth.__all__} <= set(dir(smile_synth))
    with pytest.raises(AttributeError, match="module 'smile_synth' has no attribute 'strem'"):
        _ = smile_synth.strem


@pytest.mark.parametrize("name", sorted(set(smile_synth.__all__) - WITHOUT_EXAMPLE))
@pytest.mark.slow
def test_the_examples_of_docstrings_are_right(
    name: str,
    bank: ObjectBank,
    images: BackgroundFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("objects.bank").symlink_to(bank.path)
    Path("photos").symlink_to(images.files[0].parent)
    recipe = Recipe.load("smile-gaussian", ["num_frames=3", "size=[20, 28]", "objects.count=2"])
    names = {public: getattr(smile_synth, public) for public in smile_synth.__all__}
    names |= {"Path": Path, "recipe": recipe, "sources": Sources(bank)}
    (example,) = doctest.DocTestFinder(recurse=False).find(names[name], name, globs=names)
    assert example.examples, f"{name} has no example"
    output: list[str] = []
    result = doctest.DocTestRunner().run(example, out=output.append)
    assert not result.failed, "".join(output)
