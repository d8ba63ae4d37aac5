"""Write docs/config.md (options of smile-train) and docs/recipe-keys.md (recipes) from the typed models.

uv run python docs/make_config_reference.py          # writes both pages
uv run python docs/make_config_reference.py --check  # fails if a page is not current
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import annotated_types
import yaml
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from smile_synth.recipe import MixtureEntry, Recipe
from smile_train.ablate import Study
from smile_train.config import CHANGEABLE, FinetuneConfig, PretrainConfig, ProbeConfig, TeacherTrainingConfig
from smile_train.evaluate import EvaluateOptions

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "train"
# Title, command, type of the config, whether its runs can be continued.
SECTIONS: tuple[tuple[str, str, type[BaseModel], bool], ...] = (
    ("Pretraining", "pretrain", PretrainConfig, True),
    ("Fine-tuning", "finetune", FinetuneConfig, True),
    ("Probes that are trained on videos", "train-probe", ProbeConfig, True),
    ("Training of a small CLIP", "teacher", TeacherTrainingConfig, True),
    ("Studies", "ablate", Study, False),
    ("Evaluation", "evaluate", EvaluateOptions, False),  # its `read` has the options of embed
)
INTRO = """# Configuration

All options of `smile-train`, generated from the code by `docs/make_config_reference.py`. Guides:
[pretraining](pretraining.md), [evaluation](evaluate.md), [Kinetics on eight GPUs](kinetics.md).

A config is a preset's name or a YAML file. Three rules hold for all of them:

- **Overrides.** `key.path=value` arguments of a command change single values: `batch_size=64`,
  `run.device=cpu`, `stages.0.mask.ratio=0.9` (entries of lists have numbers from 0),
  `stages.0.sources.0.recipe=smile-linear`. The value is YAML: `targets=[{kind: pixels}]`.
- **Extending.** A file with `extends: NAME` starts from another preset or file. Its other keys are applied
  on top: mappings are merged, lists and single values replace, and a dotted key (`stages.0.steps: 1000`)
  changes one value inside a list.
- **Strictness.** An unknown key, a wrong type or a value out of range is an error, with file, line, key and
  the allowed values. All errors of a file are reported together.

A run can be continued with other values of the options with "yes" in the column "may change". A change of any
other option is an error.
"""
RECIPE_INTRO = """# Recipe keys

All keys of a recipe, generated from the code by `docs/make_config_reference.py`. Guides:
[recipes](recipes.md), [motion](motion.md), [backgrounds](backgrounds.md). Lengths are pixels at the recipe's
own `size`. A range is `[low, high]` or one number. A motion entry or a curve has the keys of its family and
those of [MotionKeys](#motionkeys) or [CurveKeys](#curvekeys). `smile-synth recipes show NAME` prints a preset
with all values.
"""
NUMBERS = {int: "integer", float: "number"}
BOUNDS = (
    (annotated_types.Ge, "ge", "≥"),
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Le, "le", "≤"),
    (annotated_types.Lt, "lt", "<"),
)


def config_page() -> str:
    """Return the text of docs/config.md."""
    parts, done = [INTRO], set[type[BaseModel]]()
    for title, command, config, continued in SECTIONS:
        parts.append(f"## {title}: `smile-train {command}`\n{_presets(command)}")
        parts += [_table(group, continued=continued) for group in _groups(config, done)]
    return "\n".join(parts)


def recipe_page() -> str:
    """Return the text of docs/recipe-keys.md."""
    MixtureEntry.model_rebuild(force=True)  # it was defined before Recipe, which it may contain
    groups = _groups(Recipe, set())
    return "\n".join([RECIPE_INTRO, *(_table(group, continued=False, level=2) for group in groups)])


PAGES = {"config.md": config_page, "recipe-keys.md": recipe_page}


def _command_of(file: Path) -> str:
    prefix = file.stem.split("-")[0]
    names = {"finetune": "finetune", "probe": "train-probe"}
    return "teacher" if file.stem == "tiny-clip" else names.get(prefix, "pretrain")


def _groups(model: type[BaseModel], done: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Yield an option group, then the groups in its fields, without those that are done."""
    if model in done:
        return
    done.add(model)
    if _is_generated(model):
        for base in reversed(model.__bases__):
            yield from _groups(base, done)
        return
    yield model
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            yield from _groups(inner, done)


def _is_generated(model: type[BaseModel]) -> bool:
    """Return whether code made the model: of a motion family and the keys that all entries have."""
    return not hasattr(sys.modules[model.__module__], model.__name__)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _presets(command: str) -> str:
    """Return a table of a command's presets with the comments at the top of their files."""
    rows = []
    for file in sorted(CONFIGS.glob("*.yaml")):
        if _command_of(file) == command:
            lines = file.read_text().splitlines()
            comment = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
            rows.append(f"| [`{file.stem}`](../configs/train/{file.name}) | {' '.join(comment)} |")
    return "\n".join(["", "| preset | |", "|---|---|", *rows, ""]) if rows else ""


def _table(group: type[BaseModel], *, continued: bool, level: int = 3) -> str:
    """Return the section of an option group, with a heading of that level."""
    text = _words(inspect.cleandoc(group.__doc__ or "").split("\nAttributes:")[0])
    columns = ["key", "type", "default", *(["may change"] if continued else []), "description"]
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines = [f"{'#' * level} {group.__name__}", "", text, "", *head]
    for name, field in group.model_fields.items():
        description = field.description or _attribute(group, name)
        if not description and len(typing.get_args(field.annotation)) != 1:  # the name of a kind or family
            raise SystemExit(f"{group.__name__}.{name}: has no description; write a docstring below it")
        cells = [f"`{name}`", _type(field.annotation, field.metadata), _default(field)]
        cells += ["yes" if CHANGEABLE in field.metadata else ""] if continued else []
        cells.append(_words(description).replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _words(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _attribute(group: type[BaseModel], name: str) -> str:
    """Return the description of a key in the section "Attributes" of a docstring, also of a base class."""
    for model in group.__mro__:
        _, _, attributes = inspect.cleandoc(vars(model).get("__doc__") or "").partition("\nAttributes:\n")
        found = re.search(rf"^    {name}: (.*?)(?=^    \S|^\S|\Z)", attributes, re.MULTILINE | re.DOTALL)
        if found:
            return found[1]
    return ""


def _type(annotation: Any, constraints: Sequence[Any] = ()) -> str:
    """Return the values that a type allows, in words."""
    metadata = list(constraints)
    while typing.get_origin(annotation) is Annotated:
        annotation, *more = typing.get_args(annotation)
        for item in more:
            metadata += item.metadata if isinstance(item, FieldInfo) else [item]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        texts = dict.fromkeys(_type(argument) for argument in arguments if argument is not type(None))
        text = ", or ".join(texts)
        return text + (", or null" if type(None) in arguments else "")
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is list:
        filled = any(isinstance(item, annotated_types.MinLen) for item in metadata)
        return f"{'non-empty ' if filled else ''}list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping of names to {_type(arguments[1])}"
    if origin is tuple:
        single = any(isinstance(item, BeforeValidator) for item in metadata)  # `as_pair`
        pair = f"[{', '.join(_type(argument) for argument in arguments)}]"
        return f"{pair}, or one number" if single else pair
    if annotation in NUMBERS:
        bounds = [
            f"{sign} {getattr(item, attribute):g}"
            for kind, attribute, sign in BOUNDS
            for item in metadata
            if isinstance(item, kind)
        ]
        return " ".join([NUMBERS[annotation], " and ".join(bounds)]).strip()
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if _is_generated(annotation):
            return _type(annotation.__bases__[-1])
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {bool: "true or false", str: "text", Any: "any value"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
        return f"`{_flow(value)}`" if value else "its defaults"
    return f"`{_flow(value)}`" if value != "" else "empty"


def _flow(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, BaseModel):  # in a list, where its kind says which model it is
        value = {"kind": getattr(value, "kind", ""), **value.model_dump(mode="json", exclude_defaults=True)}
    if isinstance(value, list | tuple):
        return f"[{', '.join(_flow(item) for item in value)}]"
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return text.removesuffix("\n...\n").strip()


def main() -> None:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for name, make in PAGES.items():
        text, path = make(), ROOT / "docs" / name
        if not check:
            path.write_text(text)
        elif path.read_text() != text:
            sys.exit(f"docs/{name} is not current; run docs/make_config_reference.py")


if __name__ == "__main__":
    main()
