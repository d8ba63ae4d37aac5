"""Write the pages of the site that are made from code, and copy those of other folders.

`conf.py` calls this at every build. The pages are in docs/generated, which is not committed.
"""

from __future__ import annotations

import ast
import os
import re
from importlib import import_module
from inspect import isclass, isroutine
from pathlib import Path
from typing import Any

import click
import typer.cli
import typer.main

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ROOT / "docs" / "generated"
# Modules with public names. A name is described once, in the first module that exports it.
MODULES = [
    "smile_synth",
    "smile_synth.motion",
    "smile_synth.objects",
    "smile_synth.backgrounds",
    "smile_synth.scene",
    "smile_synth.compositing",
    "smile_synth.annotations",
    "smile_synth.corpus",
    "smile_synth.exporters",
    "smile_synth.streaming",
    "smile_synth.visualize",
    "smile_synth.core.rng",
    "smile_train",
    "smile_train.evaluate",
    "smile_train.models",
    "smile_train.masking",
    "smile_train.targets",
    "smile_train.motion_target",
    "smile_train.ablate",
    "smile_train.export",
    "smile_train.training.trainer",
    "smile_train.training.pretrain",
    "smile_train.training.finetune",
    "smile_train.training.probe",
]
# Pages in other folders, and their names in the site.
COPIED = {
    "README.md": "../index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "assets/README.md": "assets.md",
    "assets/encoders/smile-tiny-motion/README.md": "smile-tiny-motion.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def _public_names() -> dict[str, list[str]]:
    """Return the classes and functions of every module that no module before it exports."""
    found: dict[str, list[str]] = {}
    done: set[int] = set()
    for module_name in MODULES:
        module = import_module(module_name)
        names = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module_name
        ]
        values = {name: getattr(module, name) for name in names}
        kept = [
            name
            for name, value in values.items()
            if (isclass(value) or isroutine(value)) and value.__doc__ and id(value) not in done
        ]
        done.update(id(values[name]) for name in kept)
        found[module_name] = kept
    return found


PUBLIC_NAMES = _public_names()


def write_pages(folder: Path) -> None:
    """Write all generated pages into a folder."""
    from smile_synth.cli import app as synth_app
    from smile_train.cli import app as train_app

    folder.mkdir(exist_ok=True)
    pages = {f"{name}.md": _api_page(name, names) for name, names in PUBLIC_NAMES.items()}
    pages["cli-smile-synth.md"] = _command_page("smile-synth", synth_app)
    pages["cli-smile-train.md"] = _command_page("smile-train", train_app)
    pages["examples.md"] = _examples_page()
    for source, name in COPIED.items():
        if name.startswith(".."):
            continue
        text = (ROOT / source).read_text()
        pages[name] = _site_links(text, ROOT / source, folder / name)
    for old in set(folder.glob("*.md")) - {folder / name for name in pages}:
        old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:  # Sphinx reads changed pages only
            path.write_text(text)


def rewrite_links(app: Any, docname: str, source: list[str]) -> None:
    """Let the links of a page that leave docs/ work in the site."""
    page = ROOT / "docs" / f"{docname}.md"
    if page.parent != GENERATED:
        source[0] = _site_links(source[0], page, page)


def _site_links(text: str, page: Path, place: Path) -> str:
    """Return the text of a page with links that work from its place in the site.

    Links to pages that the site copies lead to the copies. Links to folders become plain text.
    """

    def replace(match: re.Match[str]) -> str:
        mark, label, path, section = match[1], match[2], match[3], match[4] or ""
        target = (page.parent / path).resolve()
        if target.is_dir():
            return label
        if target.is_relative_to(ROOT) and (copy := COPIED.get(target.relative_to(ROOT).as_posix())):
            target = GENERATED / copy
        return f"{mark}[{label}]({os.path.relpath(target, place.parent)}{section})"

    return LINK.sub(replace, text)


def _api_page(module_name: str, names: list[str]) -> str:
    lines = [f".. automodule:: {module_name}", "", f".. currentmodule:: {module_name}", ""]
    for name in names:
        if isclass(getattr(import_module(module_name), name)):
            lines += [f".. autoclass:: {name}", "   :members:", ""]
        else:
            lines += [f".. autofunction:: {name}", ""]
    text = "\n".join(lines)
    return f"# {module_name}\n\n```{{eval-rst}}\n{text}```\n"


def _command_page(name: str, app: typer.Typer) -> str:
    command = typer.main.get_command(app)
    context = click.Context(command, info_name=name)
    return typer.cli.get_docs_for_click(obj=command, ctx=context, name=name)


def _examples_page() -> str:
    """Return the scripts in docs/examples, each with its docstring as the introduction."""
    parts = ["# Examples\n\nFive short scripts in `docs/examples`. Tests run them at a small size."]
    for path in sorted((ROOT / "docs" / "examples").glob("*.py")):
        code = path.read_text()
        docstring = ast.get_docstring(ast.parse(code)) or ""
        title, _, text = docstring.partition("\n")
        body = code.split('"""', 2)[2].strip()
        parts += [f"## {title.rstrip('.')}", text.replace("``", "`").strip()]
        parts += [f"`uv run python docs/examples/{path.name}`", f"```python\n{body}\n```"]
    return "\n\n".join(parts) + "\n"
