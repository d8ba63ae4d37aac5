"""The rules of the house: data flows one way, and only the command lines print."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Top to bottom; a module imports only what stands above it.
ORDER = {
    "smile_synth": [
        "core", "io", "parallel", "motion", "objects", "backgrounds", "sources", "recipe", "scene", "sampling",
        "compositing", "annotations", "corpus", "exporters", "streaming", "visualize", "_public", "cli",
    ],
    "smile_train": [
        "config", "distributed", "batch", "models", "masking", "motion_target", "targets", "data", "materials", "own_images",
        "evaluate", "training", "export", "ablate", "report_motion", "report", "demo", "quickstart", "cli",
    ],
}  # fmt: skip


# Folders of independent modules, each imported by its own name.
OF_MODULES = ("core", "io", "parallel", "data", "training")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def room_of(path: Path) -> str:
    """Return the module or folder right below the package, or ``__init__``."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every absolute name that a file imports, wherever it does so, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            # `from package import name` may name a module.
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


# The modules of smile_train/training, likewise.
TRAINING = [
    "cost", "optim", "checkpoint", "logging", "build", "trainer", "motion_probes", "pretrain", "multi_view",
    "labelled_videos", "finetune", "probe", "captions", "teacher_scores", "teacher",
]  # fmt: skip
TRAINERS = ("trainer", "pretrain", "finetune", "probe", "teacher")


@pytest.mark.parametrize("package", ORDER)
def test_every_module_has_its_place_in_the_order(package: str) -> None:
    rooms = {room_of(path) for path in modules(package)} - {"__init__", "_shipped"}
    assert rooms <= set(ORDER[package])


@pytest.mark.parametrize("package", ORDER)
def test_modules_import_only_what_stands_above_them(package: str) -> None:
    order = ORDER[package]
    wrong = []
    for path in modules(package):
        room = room_of(path)
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] != package or room in ("__init__", order[-1]) or parts[1:2] == [room]:
                continue
            # The package itself, or a name of its __init__, is everything: only the last may want it.
            if len(parts) < 2 or parts[1] not in order or order.index(parts[1]) > order.index(room):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: imports {name}")
    assert not wrong


def test_modules_of_training_import_only_what_stands_above_them() -> None:
    paths = [path for path in modules("smile_train") if room_of(path) == "training"]
    assert {path.stem for path in paths} - {"__init__"} <= set(TRAINING)
    wrong = []
    for path in paths:
        for name, line in imports(path):
            parts = name.split(".")
            if parts[:2] != ["smile_train", "training"]:
                continue
            if parts[2] not in TRAINING or TRAINING.index(parts[2]) >= TRAINING.index(path.stem):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: imports {name}")
    assert not wrong


def test_evaluation_and_the_page_of_a_run_import_no_trainer() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path in modules("smile_train")
        if room_of(path) in ("evaluate", "report", "report_motion")
        for name, line in imports(path)
        if name.split(".")[:2] == ["smile_train", "training"] and name.split(".")[2] in TRAINERS
    ]
    assert not wrong


def test_smile_synth_never_imports_smile_train() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path in modules("smile_synth")
        for name, line in imports(path)
        if name.split(".")[0] == "smile_train"
    ]
    assert not wrong


def test_a_folder_is_imported_by_its_public_name() -> None:
    wrong = []
    for package in ORDER:
        for path in modules(package):
            for name, line in imports(path):
                parts = name.split(".")
                if parts[0] in ORDER and len(parts) > 2 and parts[2].startswith("_"):
                    own = parts[0] == package and parts[1] == room_of(path)
                    if not own:
                        wrong.append(f"{path.relative_to(ROOT)}:{line}: imports {name}")
    assert not wrong


def test_kernels_use_only_names_of_their_own_folder_and_of_core() -> None:
    """The cache of compiled kernels follows changes of these files only, see `smile_synth.core.compile`."""
    wrong = []
    for path in modules("smile_synth"):
        tree = ast.parse(path.read_text())
        own = ".".join(path.relative_to(ROOT).parent.parts)
        foreign = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smile_synth")
            if node.module != "smile_synth.core" and not f"{node.module}.".startswith("smile_synth.core.")
            if (node.module or "").rpartition(".")[0] != own
            for alias in node.names
        }
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and any(
                isinstance(name, ast.Name) and name.id in ("kernel", "inlined")
                for decorator in function.decorator_list
                for name in ast.walk(decorator)
            ):
                used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
                wrong += [f"{path.relative_to(ROOT)}: {function.name} uses {name}" for name in used & foreign]
    assert not wrong


@pytest.mark.parametrize("package", ORDER)
def test_folders_keep_their_files_private_and_name_what_is_public(package: str) -> None:
    for init in (ROOT / package).rglob("__init__.py"):
        folder = init.parent
        if folder == ROOT / package or folder.name in OF_MODULES:
            continue
        public = [path.name for path in folder.glob("*.py") if not path.name.startswith("_")]
        assert not public, f"{folder}: {public}"
        names = {node.id for node in ast.walk(ast.parse(init.read_text())) if isinstance(node, ast.Name)}
        assert "__all__" in names, f"{init} has no __all__"


@pytest.mark.parametrize("package", ORDER)
def test_only_the_command_line_prints(package: str) -> None:
    wrong = []
    for path in modules(package):
        if room_of(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            prints = (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            )
            writes = (
                isinstance(node, ast.Attribute)
                and node.attr in ("stdout", "stderr")
                and isinstance(node.value, ast.Name)
                and node.value.id == "sys"
            )
            if prints or writes:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
        wrong += [
            f"{path.relative_to(ROOT)}:{line}" for name, line in imports(path) if name.split(".")[0] == "rich"
        ]
    assert not wrong


@pytest.mark.parametrize("package", ORDER)
def test_there_is_no_hidden_global_randomness(package: str) -> None:
    allowed = {"Generator", "Philox", "default_rng", "BitGenerator", "SeedSequence"}
    wrong = []
    for path in modules(package):
        if path == ROOT / "smile_train/data/augmentation.py":
            continue  # seeds the global generators, which timm uses, and restores their states
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Attribute)
                and node.value.attr == "random"
                and isinstance(node.value.value, ast.Name)
                and node.value.value.id == "np"
                and node.attr not in allowed
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: np.random.{node.attr}")
        wrong += [
            f"{path.relative_to(ROOT)}:{line}"
            for name, line in imports(path)
            if name.split(".")[0] == "random"
        ]
    assert not wrong


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert len(names) == len(set(names))
    assert "__init__.py" not in names
