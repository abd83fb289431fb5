"""YAML files as pydantic models, with errors that name file, line, key and what is possible.

Used by `job.py` (what to process) and `cluster` (where to run).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import pydantic
import yaml
from pydantic.fields import FieldInfo

from camtrap_batch.errors import UserError, choices


class Section(pydantic.BaseModel):
    """A block of a YAML file: unknown keys are refused, values are not coerced across kinds."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def variants(cls) -> Iterable[type[Section]]:
        """Of a section with variants, the section of each: a subclass with the keys that it adds."""
        return ()

    @classmethod
    def variant(cls, content: Any) -> type[Section]:
        """The section that `content` is checked as: of a section with variants, the one that it asks for."""
        return cls


Model = TypeVar("Model", bound=Section)
Lines = dict[tuple[str | int, ...], int]

_INT, _FLOAT, _DATE = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))
_INT_FORM = re.compile(r"[-+]?[0-9][0-9_]*$")
_FLOAT_FORM = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$")


class _Loader(yaml.SafeLoader):
    """Numbers are what people mean by them, and dates are text.

    To YAML 1.1, 1e-3 is text, 010 is 8, +10:30 is 630, and 2024-02-30 is an exception.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - declared by the base class
        first: [(tag, form) for tag, form in known if tag not in (_INT, _FLOAT, _DATE)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader`, or any reader of YAML 1.1, would take for a number; makes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_implicit_resolver(_INT, _INT_FORM, list("-+0123456789"))
_Loader.add_implicit_resolver(_FLOAT, _FLOAT_FORM, list("-+.0123456789"))
_Loader.add_constructor(_INT, lambda _, node: int(node.value))
_Dumper.add_implicit_resolver(_FLOAT, _FLOAT_FORM, list("-+.0123456789"))


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """Text of several lines as lines."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def write_yaml(content: Any, **style: Any) -> str:
    """`content` as YAML that `read_yaml` reads as the same."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style)
    return text


def read_yaml(path: Path, error: type[UserError]) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file, and the line each of its keys stands on.

    Raises
    ------
    error
        The file can't be read, is not YAML, is not a mapping, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as problem:
        raise error(f"{path}: can't be read: {problem.strerror}") from None
    except ValueError as problem:
        raise error(f"{path}: can't be read as text in UTF-8: {problem}") from None
    lines: Lines = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
        _index(node, (), lines, path, error)
    except yaml.MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        raise error(f"{path}:{line}: not valid YAML: {problem.problem or problem.context}") from None
    except (yaml.YAMLError, ValueError) as problem:
        raise error(f"{path}: not valid YAML: {str(problem).splitlines()[0]}") from None
    except RecursionError:
        raise error(f"{path}: its blocks are nested without end") from None
    if not isinstance(content, dict):
        raise error(f"{path}: should hold `key: value` lines, it holds {_kind(content)}")
    return content, lines


def override(content: dict[str, Any], assignments: list[str], error: type[UserError]) -> dict[str, Any]:
    """A copy of `content` with each `a.b=value` of `assignments` set; values are read as YAML.

    >>> override({"train": {"epochs": 5}}, ["train.epochs=1"], UserError)
    {'train': {'epochs': 1}}
    """
    result = dict(content)
    for assignment in assignments:
        dotted, sign, text = assignment.partition("=")
        keys = dotted.strip().split(".")
        if not sign or not all(keys):
            raise error(f"--set {assignment}: should be KEY=VALUE, such as --set train.epochs=3")
        try:
            value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
        except (yaml.YAMLError, ValueError, RecursionError):
            raise error(f"--set {assignment}: the value is not valid YAML") from None
        inner = result
        for key in keys[:-1]:
            existing = inner.get(key)
            inner[key] = dict(existing) if isinstance(existing, dict) else {}
            inner = inner[key]
        inner[keys[-1]] = value
    return result


def parse(
    model: type[Model], content: dict[str, Any], where: str, lines: Lines, error: type[UserError]
) -> Model:
    """`content` as `model`; the first thing wrong is raised as one line that says where it stands."""
    try:
        return model.model_validate(content)
    except pydantic.ValidationError as problem:
        # A union of kinds reports once for each kind, with the kind's name behind the key: one is enough.
        found: dict[tuple[str | int, ...], dict[str, Any]] = {}
        for entry in problem.errors(include_url=False):
            problem_found = dict(entry)
            found.setdefault(_keys_of(content, problem_found), problem_found)
        at = {keys: _line(keys, lines) for keys in found}
        # What is missing comes last: it may be there under a misspelt name.
        keys = min(found, key=lambda keys: (found[keys]["type"] == "missing", at[keys] or 0))
        place = f"{where}:{at[keys]}" if at[keys] else where
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        dotted = ".".join(map(str, keys))
        raise error(f"{place}: {dotted}: {_explain(model, content, keys, found[keys])}{more}") from None


def reference(model: type[Section], prefix: str = "") -> list[tuple[str, str, str]]:
    """Each key of `model`, dotted: (key, default as YAML, description)."""
    rows: list[tuple[str, str, str]] = []
    fields = _fields(model)
    for variant in model.variants():
        fields = {**fields, **{name: field for name, field in _fields(variant).items() if name not in fields}}
    for name, field in fields.items():
        inner = section_of(field)
        if inner is not None:
            rows += reference(inner, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        shown = (
            "required"
            if field.is_required()
            else write_yaml(
                default.model_dump() if isinstance(default, Section) else _plain(default),
                default_flow_style=True,
            )
            .removesuffix("\n")
            .removesuffix("\n...")
        )
        rows.append((f"{prefix}{name}", shown, field.description or ""))
    return rows


def section_of(field: FieldInfo) -> type[Section] | None:
    """The Section that a field holds (also as `Section | None`), if it holds one."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _keys_of(content: Any, problem: dict[str, Any]) -> tuple[str | int, ...]:
    """The part of a problem's location that is keys of the file, without names of kinds."""
    keys: list[str | int] = []
    for key in problem["loc"]:
        is_key = isinstance(content, dict) and key in content
        is_index = isinstance(content, list) and isinstance(key, int) and key < len(content)
        if not is_key and not is_index:
            if problem["type"] in ("missing", "invalid_key"):
                keys.append(key)
            break
        keys.append(key)
        content = content[key]
    return tuple(keys)


def _line(keys: tuple[str | int, ...], lines: Lines) -> int | None:
    return next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)


def _explain(model: type[Section], content: Any, keys: tuple[str | int, ...], problem: dict[str, Any]) -> str:
    kind, given = problem["type"], problem.get("input")
    section, field = _section(model, content, keys[:-1]), None
    if section is not None and keys:
        field = _fields(section).get(str(keys[-1]))
    if kind in ("extra_forbidden", "invalid_key"):
        return f"unknown key; {choices(str(keys[-1]), list(_fields(section)) if section else [])}"
    if kind == "missing":
        return "required, and not there"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        inner = _section(model, content, keys)
        known = ", ".join(_fields(inner)) if inner else ""
        return f"should be a block of keys ({known or 'any'}), it is {_kind(given)}"
    if kind == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    literals = _literals(field.annotation if field else None)
    if literals and (kind == "literal_error" or isinstance(given, str)):
        if kind != "literal_error":
            literals = [*literals, "a number"]
        return f"{given!r} is not possible; {choices(str(given), literals)}"
    return f"{given!r}: {str(problem['msg']).removeprefix('Input ')}"


def _section(model: type[Section], content: Any, keys: tuple[str | int, ...]) -> type[Section] | None:
    """The section at `keys`, None where it is none."""
    current: type[Section] | None = model.variant(content)
    for key in keys:
        field = _fields(current).get(str(key)) if current else None
        current = section_of(field) if field else None
        content = content.get(key) if isinstance(content, dict) else None
        current = current.variant(content) if current else None
    return current


def _fields(section: type[Section]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _literals(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [text for inner in get_args(annotation) for text in _literals(inner)]


def _kind(value: Any) -> str:
    names = {
        dict: "a block of keys",
        list: "a list",
        str: "text",
        bool: "true/false",
        type(None): "empty",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _index(node: Any, at: tuple[str | int, ...], lines: Lines, path: Path, error: type[UserError]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*at, key.value)
            line = key.start_mark.line + 1
            if inner in lines:
                dotted = ".".join(map(str, inner))
                raise error(f"{path}:{line}: {dotted}: stands here twice, first on line {lines[inner]}")
            lines[inner] = line
            _index(value, inner, lines, path, error)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[*at, number] = value.start_mark.line + 1
            _index(value, (*at, number), lines, path, error)
