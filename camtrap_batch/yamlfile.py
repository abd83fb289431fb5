"""YAML files as pydantic models, with errors that name file, line, key and what is possible.

Used by `job` (what to process) and `cluster` (where to run).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import pydantic
import yaml
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from camtrap_batch.errors import UserError, choices
from camtrap_batch.registry import registry


class Section(pydantic.BaseModel):
    """A block of a YAML file: unknown keys are refused, values are not coerced across kinds."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class OneOf:
    """Marks a field whose section is that of a variant: `Annotated[SerializeAsAny[Base], OneOf(...)]`.

    Attributes
    ----------
    group : group of the registry (see `registry.registry`); each of its variants has a `section`, a subclass
        of the field's
    key : the key of the section that names the variant
    default : value of the key in sections without it; None: the key is required
    """

    group: str
    key: str
    default: str | None = None

    def name_of(self, value: str) -> str:
        """Name of the variant that a value of the key asks for, if the value is more than a name."""
        return value

    def refuse(self, value: Any) -> str:
        """The message about a value of the key that names no variant."""
        return f"{value!r} is not possible; {choices(str(value), registry(self.group))}"

    def sections(self) -> Iterator[tuple[str, type[Section]]]:
        """Name and section of each variant that can be loaded."""
        for name, variant in registry(self.group).loadable():
            yield name, variant.section

    def describe(self) -> str:
        """What each variant is, for help texts."""
        variants = registry(self.group)
        return "; ".join(f"{name}: {_help(variants, name)}" for name in variants)

    def section(self, content: Any) -> type[Section] | None:
        """The section that a block of keys names; None if it names none that exists."""
        name = content.get(self.key, self.default) if isinstance(content, dict) else None
        variants = registry(self.group)
        found = self.name_of(name) if isinstance(name, str) else None
        if found is None or found not in variants:
            return None
        section: type[Section] = variants[found].section
        return section

    def __get_pydantic_core_schema__(
        self, source: Any, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    def _validate(self, value: Any, as_base: Callable[[Any], Any]) -> Any:
        if not isinstance(value, dict):
            return as_base(value)
        section = self.section(value)
        if section is not None:
            return section.model_validate(self._without_blanks(value, section))
        name = value.get(self.key, self)
        kind: str | PydanticCustomError = "missing"
        if name is not self:
            kind = PydanticCustomError("value_error", "{text}", {"text": self.refuse(name)})
        wrong = InitErrorDetails(type=kind, loc=(self.key,), input=name)
        raise pydantic.ValidationError.from_exception_data(self.key, [wrong])

    def _without_blanks(self, content: dict[str, Any], section: type[Section]) -> dict[str, Any]:
        """The block without keys that only another variant's section has, if they are null or have its
                default.

        A complete job file contains such keys, and stays valid when it is switched to another variant.
        """
        foreign = set(content) - set(_fields(section))
        for _, other in self.sections() if foreign else ():
            for key in foreign & set(_fields(other)):
                default = _fields(other)[key].get_default(call_default_factory=True)
                if content.get(key) in (None, default):
                    content = {name: value for name, value in content.items() if name != key}
        return content

    def variants_with(self, key: str) -> list[str]:
        """The variants whose section has a key."""
        return [name for name, section in self.sections() if key in _fields(section)]


Model = TypeVar("Model", bound=Section)
Lines = dict[tuple[str | int, ...], int]

_INT, _FLOAT, _DATE, _BOOL, _STR = (
    f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp", "bool", "str")
)
_INT_FORM = re.compile(r"[-+]?[0-9][0-9_]*$")
_FLOAT_FORM = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$")


class _Loader(yaml.SafeLoader):
    """Reads numbers as people mean them, dates as text, and also a key `on`, `no` or `yes` as text.

    To YAML 1.1, 1e-3 is text, 010 is 8, +10:30 is 630, 2024-02-30 is an exception, and a key `on` is true.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - declared by the base class
        first: [(tag, form) for tag, form in known if tag not in (_INT, _FLOAT, _DATE)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if key.tag == _BOOL:
                key.tag = _STR
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader`, or any reader of YAML 1.1, would take for a number; writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_implicit_resolver(_INT, _INT_FORM, list("-+0123456789"))
_Loader.add_implicit_resolver(_FLOAT, _FLOAT_FORM, list("-+.0123456789"))
_Loader.add_constructor(_INT, lambda _, node: int(node.value))
_Dumper.add_implicit_resolver(_FLOAT, _FLOAT_FORM, list("-+.0123456789"))


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """Text of several lines as a block of lines."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def write_yaml(content: Any, **style: Any) -> str:
    """`content` as YAML that `read_yaml` reads back unchanged."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style)
    return text


def read_yaml(path: Path, error: type[UserError]) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file, and the line of each of its keys.

    Raises
    ------
    error
        The file can't be read, is not YAML, is not a mapping, or names a key twice.
    """
    try:
        data = path.read_bytes()
        # Windows editors also write UTF-16, and a byte order mark before either.
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
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
        _index(node, (), lines, path, error, most=max(len(text), 10_000))
    except yaml.MarkedYAMLError as problem:
        line, reason = _plainly(problem, text)
        raise error(f"{path}:{line}: not valid YAML: {reason}") from None
    except (yaml.YAMLError, ValueError) as problem:
        raise error(f"{path}: not valid YAML: {str(problem).splitlines()[0]}") from None
    except RecursionError:
        raise error(f"{path}: its blocks are nested without end") from None
    if not isinstance(content, dict):
        what = "it is empty" if content is None else f"it holds {_kind(content)}"
        raise error(f"{path}: should hold `key: value` lines, {what}")
    return content, lines


def _plainly(problem: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """Line, and what is wrong there, in words for people who do not know YAML's."""
    said = problem.problem or problem.context or ""
    line = problem.problem_mark.line + 1 if problem.problem_mark else 1
    opened = problem.context_mark.line + 1 if problem.context_mark else line
    lines = text.split("\n")
    content = (lines[line - 1 : line] or [""])[0]
    where = problem.problem_mark.column if problem.problem_mark else 0
    if "'\\t'" in said:
        return line, "indented with a tab; use spaces, two for each level"
    if "escape" in said:
        return line, (
            "in double quotes a backslash starts a special character; put a Windows path in single quotes: "
            "'C:\\data\\photos'"
        )
    if problem.context == "while scanning a quoted scalar":
        return opened, "a quote that is never closed"
    if problem.context in ("while parsing a flow mapping", "while parsing a flow sequence"):
        mark = "{" if "mapping" in problem.context else "["
        return opened, f"a {mark} that is never closed, or a comma missing after one of its values"
    if said.startswith("found character") and content[where : where + 1]:
        return line, f"text that begins with {content[where]} has to be in quotes"
    if "mapping values are not allowed" in said:
        if ": " in content[:where]:
            return (
                line,
                "a second colon in the line; text that contains a colon and a space has to be in quotes",
            )
        before = next((above for above in reversed(lines[: line - 1]) if above.strip()), "")
        if ":" in before:
            return line, "indented deeper than the line before it, which has a value already"
        return line - 1, "a key without a colon after it"
    if "<block end>" in said or "could not find expected ':'" in said:
        return line, (
            "indented differently from the keys beside it, or the line before it lacks a colon; all keys of "
            "a block begin in the same column"
        )
    return line, said


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
    model: type[Model],
    content: dict[str, Any],
    where: str,
    lines: Lines,
    error: type[UserError],
    assignments: Sequence[str] = (),
) -> Model:
    """`content` as `model`; the first thing wrong is raised as one line that says where it stands.

    `assignments`: those that `override` has put into it; an error in one is reported for the assignment.
    """
    try:
        return model.model_validate(content)
    except pydantic.ValidationError as problem:
        # A union of kinds reports once for each kind, with the kind's name after the key: one is enough.
        found: dict[tuple[str | int, ...], dict[str, Any]] = {}
        for entry in problem.errors(include_url=False):
            problem_found = dict(entry)
            found.setdefault(_keys_of(content, problem_found), problem_found)
        at = {keys: _line(keys, lines) for keys in found}
        # Missing keys come last: one may be there under a misspelt name.
        keys = min(found, key=lambda keys: (found[keys]["type"] == "missing", at[keys] or 0))
        line = f"{where}:{at[keys]}" if at[keys] else where
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        dotted = ".".join(map(str, keys))
        given = [assignment.partition("=")[0].strip() for assignment in assignments]
        is_set = any(f"{dotted}.".startswith(f"{key}.") for key in given)
        where = f"--set {dotted}" if is_set else f"{line}: {dotted}"
        raise error(f"{where}: {_explain(model, content, keys, found[keys])}{more}") from None


def reference(model: type[Section], prefix: str = "") -> list[tuple[str, str, str]]:
    """Each key of `model`, dotted: (key, default as YAML, description); for variants, the keys of all."""
    rows: dict[str, tuple[str, str, str]] = {}
    for name, field in _fields(model).items():
        base = section_of(field)
        if base is None or issubclass(model, base):  # the latter has the same keys
            key = f"{prefix}{name}"
            rows[key] = (key, _default(field), field.description or "")
            continue
        for section in _sections_of(field):
            for row in reference(section, f"{prefix}{name}."):
                rows.setdefault(row[0], row)
        if (one_of := _one_of(field)) is not None:
            key = f"{prefix}{name}.{one_of.key}"
            rows[key] = (*rows[key][:2], f"{rows[key][2]}: {one_of.describe()}")
    return list(rows.values())


def section_of(field: FieldInfo, content: Any = None) -> type[Section] | None:
    """The Section that a field holds (also as `Section | None`), if it holds one.

    `content`: what the file has there; it shows which variant's section it is.
    """
    if (one_of := _one_of(field)) is not None and (found := one_of.section(content)) is not None:
        return found
    return next(_kinds(field.annotation), None)


def _sections_of(field: FieldInfo) -> list[type[Section]]:
    """The section of a field, or, for variants, the base and the section of each."""
    base = section_of(field)
    one_of = _one_of(field)
    others = [section for _, section in one_of.sections()] if one_of is not None else []
    return [*([base] if base is not None else []), *others]


def _kinds(annotation: Any) -> Iterator[type[Section]]:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            yield kind


def _one_of(field: FieldInfo) -> OneOf | None:
    return next((mark for mark in field.metadata if isinstance(mark, OneOf)), None)


def _help(variants: Mapping[str, Any], name: str) -> str:
    try:
        return str(variants[name].help)
    except UserError as problem:
        return str(problem)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    content = default.model_dump() if isinstance(default, Section) else _plain(default)
    return write_yaml(content, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _keys_of(content: Any, problem: dict[str, Any]) -> tuple[str | int, ...]:
    """The keys of the file in a problem's location, without names of kinds."""
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
    field = _field(model, content, keys)
    if kind in ("extra_forbidden", "invalid_key"):
        return _unknown_key(model, content, keys)
    if kind == "missing":
        return "required, but missing"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        known = _known_keys(model, content, keys)
        return f"should be a block of keys ({', '.join(known) or 'any'}), it is {_kind(given)}"
    if kind == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    literals = _literals(field.annotation if field else None)
    if literals and (kind == "literal_error" or isinstance(given, str)):
        if kind != "literal_error":
            literals = [*literals, "a number"]
        return f"{given!r} is not possible; {choices(str(given), literals)}"
    return f"{_shown(given)}: {str(problem['msg']).removeprefix('Input ')}"


def _unknown_key(model: type[Section], content: Any, keys: tuple[str | int, ...]) -> str:
    key = str(keys[-1])
    field = _field(model, content, keys[:-1])
    one_of = _one_of(field) if field is not None else None
    if one_of is not None and (having := one_of.variants_with(key)):
        names = " or ".join(filter(None, [", ".join(having[:-1]), having[-1]]))
        here = _inside(content, keys[:-1]).get(one_of.key, one_of.default)
        return f"{key} is for `{one_of.key}: {names}`; here it is {here}"
    return f"unknown key; {choices(key, _known_keys(model, content, keys[:-1]))}"


def _field(model: type[Section], content: Any, loc: tuple[str | int, ...]) -> FieldInfo | None:
    current: type[Section] | None = model
    field: FieldInfo | None = None
    for key in loc:
        field = _fields(current).get(str(key)) if current else None
        if field is None:
            break
        content = content.get(key) if isinstance(content, dict) else None
        current = section_of(field, content)
    return field


def _known_keys(model: type[Section], content: Any, loc: tuple[str | int, ...]) -> list[str]:
    field = _field(model, content, loc) if loc else None
    section = section_of(field, _inside(content, loc)) if field else model
    return list(_fields(section)) if section else []


def _inside(content: Any, loc: tuple[str | int, ...]) -> Any:
    for key in loc:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _fields(section: type[Section]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _literals(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [text for inner in get_args(annotation) for text in _literals(inner)]


def _shown(value: Any) -> str:
    """A wrong value as it stands in the file, not longer than a line has room for."""
    words = {None: "empty", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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


def _index(
    node: Any, at: tuple[str | int, ...], lines: Lines, path: Path, error: type[UserError], most: int
) -> None:
    """Put the line of each key and item below `node` into `lines`; more than `most` come from aliases."""
    if isinstance(node, yaml.CollectionNode) and len(lines) > most:
        line = node.start_mark.line + 1
        raise error(f"{path}:{line}: too many values repeated by aliases (*name); write them out, or fewer")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*at, key.value)
            line = key.start_mark.line + 1
            if inner in lines:
                dotted = ".".join(map(str, inner))
                raise error(f"{path}:{line}: {dotted}: given twice, first on line {lines[inner]}")
            lines[inner] = line
            _index(value, inner, lines, path, error, most)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[*at, number] = value.start_mark.line + 1
            _index(value, (*at, number), lines, path, error, most)
