"""Read YAML into typed models and tell every mistake at once, each with its file, line and key."""

from __future__ import annotations

import json
import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from smile_synth.core.errors import UserError, nearest

Key = tuple[str | int, ...]
COMMAND_LINE = 0  # the "line" of a value that was given as an override


class StrictModel(BaseModel):
    """Base of every recipe and run configuration: unknown keys, coercions and NaN are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


Model = TypeVar("Model", bound=StrictModel)


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: 1e-4 is a number, ``no`` and ``12:30`` are text, a key stands once."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|false)$", "tf"),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.nan)$",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:null", r"^(?:null|~|)$", "n~"),
):
    _starts = [*_first, ""] if _tag.endswith("null") else list(_first)
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _starts)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # 010 is ten, not octal


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node))
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either `_Loader` or plain YAML 1.1 would read as something else."""


_Dumper.yaml_implicit_resolvers = {
    first: [
        resolver
        for dialect in (yaml.SafeDumper, _Loader)
        for resolver in dialect.yaml_implicit_resolvers.get(first, [])
    ]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def dump(model: StrictModel) -> str:
    """Return the model as YAML with every value written out; `parse` reads it back equal."""
    data = json.loads(model.model_dump_json())
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None))


def load(model: type[Model], path: Path, overrides: typing.Sequence[str] = ()) -> Model:
    """Read a YAML file as ``model``, with ``key.path=value`` overrides applied on top.

    Raises:
        UserError: the file cannot be read or parsed, or breaks the model; one line per mistake,
            ``file:line: key: what is wrong, what is allowed``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from None
    return parse(model, text, name=str(path), overrides=overrides)


def parse(model: type[Model], text: str, *, name: str, overrides: typing.Sequence[str] = ()) -> Model:
    """Read YAML text as ``model``; ``name`` stands for the file in messages. See `load`."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        lines: dict[Key, int] = {}
        duplicates: list[str] = []
        if root is not None:
            _note_lines(root, (), lines, duplicates, name)
        data = yaml.load(text, Loader=_Loader) if root is not None else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # `!!int x`; an alias of itself
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise UserError(f"{name}:{line}: not valid YAML: {problem}") from None
    if duplicates:
        raise UserError("\n".join(duplicates))
    if not isinstance(data, dict):
        raise UserError(f"{name}:1: expected 'key: value' lines, got {type(data).__name__}")
    for override in overrides:
        _override(data, override, lines)
    try:
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        messages = [_message(model, data, dict(mistake), lines, name) for mistake in error.errors()]
        # One number that stands for a pair is wrong twice.
        raise UserError("\n".join(dict.fromkeys(messages))) from None


def line_of(path: Path, key: Key) -> int:
    """Return the line of a key in a YAML file that was read before, or of what stands around it."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    lines: dict[Key, int] = {}
    if root is not None:
        _note_lines(root, (), lines, [], str(path))
    return next((lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in lines), 1)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8 text"


def _note_lines(node: yaml.Node, key: Key, lines: dict[Key, int], duplicates: list[str], name: str) -> None:
    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            child = (*key, str(key_node.value))
            line = key_node.start_mark.line + 1
            if child in lines:
                first = f"first on line {lines[child]}"
                duplicates.append(f"{name}:{line}: {_dotted(child)}: stands twice, {first}")
            lines[child] = line
            _note_lines(value_node, child, lines, duplicates, name)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _note_lines(item, (*key, i), lines, duplicates, name)


def _override(data: dict[str, Any], override: str, lines: dict[Key, int]) -> None:
    dotted, equals, value_text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"override '{override}': expected key.path=value, for example objects.count=3")
    try:
        value = yaml.load(value_text, Loader=_Loader)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"override '{override}': the value is not valid YAML") from None
    node: Any = data
    key: Key = ()
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                entries = f"has the entries 0..{len(node) - 1}"
                raise UserError(f"override '{override}': {_dotted(key)} {entries}, got '{part}'")
            step: str | int = int(part)
        elif isinstance(node, dict):
            step = part
            if not last and not isinstance(node.get(part), dict | list):
                node[part] = {}
                lines[(*key, part)] = COMMAND_LINE
        else:
            raise UserError(f"override '{override}': {_dotted(key)} holds no keys")
        key = (*key, step)
        if last:
            for stale in [k for k in lines if k[: len(key)] == key]:
                del lines[stale]  # of the value in the file
            lines[key] = COMMAND_LINE
            node[step] = value
        else:
            node = node[step]


def _where(key: Key, lines: dict[Key, int], name: str) -> str:
    line = next((lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in lines), 1)
    return f"{name}: command line" if line == COMMAND_LINE else f"{name}:{line}"


def _message(
    model: type[BaseModel], data: Any, mistake: dict[str, Any], lines: dict[Key, int], name: str
) -> str:
    kind, given = mistake["type"], mistake["input"]
    key, owner = _locate(model, data, mistake["loc"], absent=kind in ("missing", "extra_forbidden"))
    fields = sorted(field.alias or n for n, field in owner.model_fields.items()) if owner else []
    if kind == "extra_forbidden":
        what = f"unknown key, allowed are {', '.join(fields)}{nearest(str(key[-1]), fields)}"
    elif kind == "missing":
        what = "is missing"
    elif kind == "union_tag_invalid":
        allowed = [tag.strip().strip("'") for tag in mistake["ctx"]["expected_tags"].split(",")]
        tag = str(mistake["ctx"]["tag"])
        discriminator = mistake["ctx"]["discriminator"].strip("'")
        key = (*key, discriminator)
        what = f"unknown {discriminator} '{tag}', allowed are {', '.join(allowed)}{nearest(tag, allowed)}"
    elif kind == "union_tag_not_found":
        what = f"needs the key {mistake['ctx']['discriminator']}"
    elif kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", mistake["ctx"]["expected"])
        what = f"should be {mistake['ctx']['expected']}, got {given!r}{nearest(str(given), allowed)}"
    elif kind == "value_error":
        key, what = _point(data, key, str(mistake["ctx"]["error"]))
        overridden = [k for k, line in lines.items() if line == COMMAND_LINE and k[: len(key)] == key]
        if overridden:  # the rule is about several keys, one of which the command line changed
            lines = {key: COMMAND_LINE}
    else:
        text = mistake["msg"][0].lower() + mistake["msg"][1:]
        what = text.replace("input should", "should") + f", got {_short(given)}"
    return f"{_where(key, lines, name)}: {_dotted(key) or 'the whole file'}: {what}"


def _point(data: Any, key: Key, what: str) -> tuple[Key, str]:
    """Take the key that a rule names first, ``rotation: ...``, into the place of the mistake."""
    name, colon, rest = what.partition(": ")
    inner: Key = tuple(int(part) if part.isdecimal() else part for part in name.split("."))
    node = data
    for part in (*key, *inner):
        if isinstance(part, int):
            inside = isinstance(node, list) and part < len(node)
        else:
            inside = isinstance(node, dict) and part in node
        if inside:
            node = node[part]
        else:
            return key, what
    return ((*key, *inner), rest) if colon else (key, what)


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, dict | list | str | bool) or value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)


def _locate(
    model: type[BaseModel], data: Any, loc: Key, *, absent: bool
) -> tuple[Key, type[BaseModel] | None]:
    """Turn pydantic's location, which also names union members, into the user's key and its model.

    The last part of it may be no key of the data only if the mistake is that it is ``absent``, or too many.
    """
    key: list[str | int] = []
    annotation: Any = model
    owner: type[BaseModel] | None = model
    node = data
    for position, part in enumerate(loc):
        models = _models(annotation)
        if (
            isinstance(node, dict)
            and part not in node
            and (position < len(loc) - 1 or len(models) > 1 or not absent)
        ):
            # Not a key of the file: the tag of the union member that was tried.
            models = [m for m in models if part in _tags(m)] or models
            annotation = models[0] if models else annotation
            continue
        if isinstance(node, list) and not isinstance(part, int) or not isinstance(node, dict | list):
            continue
        owner = models[0] if models else None
        key.append(part)
        if isinstance(part, str) and owner is not None and part in owner.model_fields:
            annotation = owner.model_fields[part].annotation
        elif isinstance(part, int):
            annotation = _item(annotation)
        if isinstance(node, dict):
            node = node.get(part)
        else:
            node = node[part] if isinstance(part, int) and part < len(node) else None
    return tuple(key), owner


def _members(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for arg in typing.get_args(annotation) for member in _members(arg)]
    return [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def _item(annotation: Any) -> Any:
    for member in _members(annotation):
        if typing.get_origin(member) in (list, tuple):
            return typing.get_args(member)[0]
    return None


def _tags(model: type[BaseModel]) -> set[Any]:
    tags: set[Any] = {model.__name__}
    for field in model.model_fields.values():
        if typing.get_origin(field.annotation) is typing.Literal:
            tags.update(typing.get_args(field.annotation))
    return tags
