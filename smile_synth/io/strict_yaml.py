"""Read YAML into typed models; report all mistakes at once, each with its file, line and key."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from smile_synth.core.errors import UserError, nearest

Key = tuple[str | int, ...]
COMMAND_LINE = 0  # the line number of a value from an override


class StrictModel(BaseModel):
    """Base of every recipe and run configuration: refuses unknown keys, type conversions and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


Model = TypeVar("Model", bound=StrictModel)


class _Loader(yaml.SafeLoader):
    """YAML where 1e-4 is a number and 010 is ten, and ``no``, ``12:30`` and ``0x10`` are text."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that either `_Loader` or a YAML 1.1 reader would read as another type."""


_FLOAT = r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)"
_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first_characters in (
    ("bool", "true|false", "tf"),
    ("int", "[-+]?[0-9]+", "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", "null|~|", "n~"),
):
    for _dialect in (_Loader, _Dumper):
        _dialect.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), [*_first_characters, ""]
        )


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def dump(model: StrictModel) -> str:
    """Return the model as YAML with every value written out; `parse` reads it back equal."""
    data = json.loads(model.model_dump_json())
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None))


def load(
    model: type[Model],
    path: Path,
    overrides: Sequence[str] = (),
    *,
    find_base: Callable[[Path, str], Path] | None = None,
) -> Model:
    """Read a YAML file as ``model``, with ``key.path=value`` overrides applied on top.

    With ``find_base`` a file may have the key ``extends``. The keys of the file are then applied to the data
    of its base: mappings are merged, other values are replaced, and ``a.0.b: value`` sets one value inside.

    Args:
        model: type of the result.
        path: the file.
        overrides: changes of single values.
        find_base: returns the path of a base, given the file that extends it and the name it gives.

    Raises:
        UserError: the file cannot be read or parsed, or does not fit the model; one line per mistake,
            ``file:line: key: what is wrong, what is allowed``.
    """
    data, lines = _read_mapping(_read_text(path), str(path))
    if find_base is not None:
        data = _extend_base(data, lines, path, find_base, (path.resolve(),))
    return _validate(model, data, lines, str(path), overrides)


def parse(model: type[Model], text: str, *, name: str, overrides: Sequence[str] = ()) -> Model:
    """Read YAML text as ``model``; messages use ``name`` as the file. See `load`."""
    data, lines = _read_mapping(text, name)
    return _validate(model, data, lines, name, overrides)


def _validate(
    model: type[Model], data: dict[str, Any], lines: dict[Key, int], name: str, overrides: Sequence[str]
) -> Model:
    for override in overrides:
        _apply_override(data, override, lines)
    try:
        # As JSON: pydantic's strict mode takes a list for a tuple only from JSON.
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        messages = [_message(model, data, dict(mistake), lines, name) for mistake in error.errors()]
        # A wrong number given for a range is reported for both ends.
        raise UserError("\n".join(dict.fromkeys(messages))) from None


def _extend_base(
    data: dict[str, Any],
    lines: dict[Key, int],
    path: Path,
    find_base: Callable[[Path, str], Path],
    chain: tuple[Path, ...],
) -> dict[str, Any]:
    """Return the data of the base of ``path`` with the keys of ``path`` applied."""
    if "extends" not in data:
        return data
    name = data.pop("extends")
    where = f"{path}:{lines.get(('extends',), 1)}: extends"
    if not isinstance(name, str):
        raise UserError(f"{where}: should be the name or path of a config, got {json.dumps(name)}")
    try:
        base_path = find_base(path, name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if base_path.resolve() in chain:
        raise UserError(f"{where}: '{name}' extends itself")
    base, base_lines = _read_mapping(_read_text(base_path), str(base_path))
    base = _extend_base(base, base_lines, base_path, find_base, (*chain, base_path.resolve()))
    for key, value in data.items():
        if "." in key:
            _set_value(base, key, value, lines, lines[(key,)], f"{path}:{lines[(key,)]}: {key}")
        else:
            base[key] = _merged(base.get(key), value)
    return base


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}
    return above


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot be read: not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read_mapping(text: str, name: str) -> tuple[dict[str, Any], dict[Key, int]]:
    data, lines = _read(text, name)
    if not isinstance(data, dict):
        raise UserError(f"{name}:1: expected 'key: value' lines, got {type(data).__name__}")
    return data, lines


def line_of(path: Path, key: Key) -> int:
    """Return the line of a key, or of the nearest enclosing key, in a valid YAML file."""
    return _line(key, _read(path.read_text(encoding="utf-8"), str(path))[1])


def _line(key: Key, lines: dict[Key, int]) -> int:
    return next((lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in lines), 1)


def _read(text: str, name: str) -> tuple[Any, dict[Key, int]]:
    """Return the data and the line of every key."""
    lines: dict[Key, int] = {}
    duplicates: list[str] = []

    def note_lines(node: yaml.Node, key: Key) -> None:
        lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                child, line = (*key, str(key_node.value)), key_node.start_mark.line + 1
                if child in lines:
                    first = f"first on line {lines[child]}"
                    duplicates.append(f"{name}:{line}: {_dotted(child)}: is given twice, {first}")
                lines[child] = line
                note_lines(value_node, child)
        elif isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                note_lines(item, (*key, i))

    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None:
            note_lines(root, ())
        data = {} if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # `!!int x`; an alias of itself
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or "the value cannot be read"
        raise UserError(f"{name}:{line}: not valid YAML: {problem}") from None
    if duplicates:
        raise UserError("\n".join(duplicates))
    return data, lines


def _apply_override(data: dict[str, Any], override: str, lines: dict[Key, int]) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"override '{override}': expected key.path=value, for example objects.count=3")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"override '{override}': the value is not valid YAML") from None
    _set_value(data, dotted, value, lines, COMMAND_LINE, f"override '{override}'")


def _set_value(
    data: dict[str, Any], dotted: str, value: Any, lines: dict[Key, int], line: int, where: str
) -> None:
    """Set the value of a dotted key; ``line`` becomes its line, and messages start with ``where``."""
    node: Any = data
    key: Key = ()
    parts = dotted.split(".")
    for part in parts:
        step: str | int = part
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise UserError(f"{where}: {_dotted(key)} has the entries 0..{len(node) - 1}, got '{part}'")
            step = int(part)
        elif not isinstance(node, dict):
            raise UserError(f"{where}: {_dotted(key)} has no keys")
        key = (*key, step)
        if len(key) == len(parts):
            for stale in [other for other in lines if other[: len(key)] == key]:
                del lines[stale]  # these are lines of the value that is replaced
            node[step] = value
            lines[key] = line
        elif isinstance(node, dict) and not isinstance(node.get(part), dict | list):
            node[part] = {}
            lines[key] = line
        node = node[step]


def _message(
    model: type[BaseModel], data: Any, mistake: dict[str, Any], lines: dict[Key, int], name: str
) -> str:
    kind, context = mistake["type"], mistake.get("ctx", {})
    key, owners = _locate(model, data, mistake["loc"], absent=kind in ("missing", "extra_forbidden"))
    line = _line(key, lines)
    if kind == "extra_forbidden":
        fields = sorted({field for owner in owners for field in owner.model_fields})
        what = f"unknown key, allowed are {', '.join(fields)}{nearest(str(key[-1]), fields)}"
    elif kind == "missing":
        what = "is missing"
    elif kind == "union_tag_invalid":
        allowed = re.findall(r"'([^']*)'", context["expected_tags"])
        tag, discriminator = str(context["tag"]), context["discriminator"].strip("'")
        key = (*key, discriminator)
        line = _line(key, lines)
        what = f"unknown {discriminator} '{tag}', allowed are {', '.join(allowed)}{nearest(tag, allowed)}"
    elif kind == "union_tag_not_found":
        what = f"needs the key {context['discriminator']}"
    elif kind == "literal_error":
        value = mistake["input"]
        hint = nearest(str(value), re.findall(r"'([^']*)'", context["expected"]))
        what = f"should be {context['expected']}, got {value!r}{hint}"
    elif kind == "value_error":
        key, what = _extend_key(data, key, str(context["error"]))
        line = _line(key, lines)
        if any(other[: len(key)] == key and lines[other] == COMMAND_LINE for other in lines):
            line = COMMAND_LINE  # a rule about several keys, one of which an override changed
    else:
        text = mistake["msg"][0].lower() + mistake["msg"][1:]
        value = mistake["input"]
        given = repr(value) if isinstance(value, float) else json.dumps(value, default=repr)
        given = given if len(given) <= 60 else given[:57] + "..."
        what = text.replace("input should", "should") + f", got {given}"
    where = f"{name}: command line" if line == COMMAND_LINE else f"{name}:{line}"
    return f"{where}: {_dotted(key) or 'the whole file'}: {what}"


def _extend_key(data: Any, key: Key, text: str) -> tuple[Key, str]:
    """Move a key that starts a rule's message, as in ``rotation: ...``, into the key of the mistake."""
    name, colon, rest = text.partition(": ")
    inner: Key = tuple(int(part) if part.isdecimal() else part for part in name.split("."))
    node = data
    try:
        for part in (*key, *inner):
            node = node[part]
    except (KeyError, IndexError, TypeError):
        return key, text
    return ((*key, *inner), rest) if colon else (key, text)


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)


def _locate(
    model: type[BaseModel], data: Any, location: Key, *, absent: bool
) -> tuple[Key, list[type[BaseModel]]]:
    """Return the key in the file for pydantic's location, which also names members of unions.

    ``absent`` says that the last part is a key that is missing or not allowed. Also returns the models that
    the last part may belong to.
    """
    key: Key = ()
    node = data
    models = owners = [model]
    for number, part in enumerate(location, 1):
        is_new = absent and number == len(location)
        if isinstance(node, dict) and (part in node or is_new):
            node = node.get(part)
            owners = models
            annotations = [
                owner.model_fields[str(part)].annotation for owner in owners if part in owner.model_fields
            ]
            models = [found for annotation in annotations for found in _models_in(annotation)]
        elif isinstance(node, list) and isinstance(part, int):
            node = node[part] if part < len(node) else None
        else:  # a member of a union
            models = [member for member in models if part in _tags(member)] or models
            continue
        key = (*key, part)
    return key, owners


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]


def _tags(model: type[BaseModel]) -> set[Any]:
    """Return the names that pydantic may use for a model in a union: its own and its literal values."""
    literals = [
        f.annotation for f in model.model_fields.values() if typing.get_origin(f.annotation) is typing.Literal
    ]
    return {model.__name__, *(value for literal in literals for value in typing.get_args(literal))}
