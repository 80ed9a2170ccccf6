"""JSON and YAML text to plain data and back, with the line of every value.

YAML is read as YAML 1.2 has it (``on``, ``no`` and dates are text, as they are in JSON), without tags,
anchors or merges: a document is data, the same on every line, and cannot expand to more than it is.
It knows nothing of workflows and deployments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import yaml

from dask_fmware.spec.record import shorten

__all__ = ["SourceError", "locate", "read", "write_json", "write_yaml"]

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 300
"""Of values in values; a block inside a block takes five."""

Position = tuple[int, int]
"""Line and column, from one."""


class SourceError(ValueError):
    """A text that is not one plain document, and where."""

    def __init__(self, message: str, position: Position | None = None) -> None:
        super().__init__(message)
        self.position = position


def read(text: str, form: Literal["json", "yaml"]) -> Any:
    """Return the one document of a text as plain data."""
    if len(text) > MAX_BYTES:
        raise SourceError(f"the document has {len(text):,} characters, more than {MAX_BYTES:,}; split it")
    return _read_json(text) if form == "json" else _plain(_compose(text))


def locate(text: str, path: Sequence[str | int]) -> Position | None:
    """Where in a text a value stands, by the path that pydantic reports; as deep as the path leads.

    JSON is nearly a subset of YAML, so one way serves both; None if the text cannot be followed.
    """
    try:
        node = _compose(text)
    except SourceError:
        return None
    mark = node.start_mark
    previous: str | int | None = None
    steps = list(path)
    while steps:
        step = steps.pop(0)
        if isinstance(node, yaml.MappingNode) and previous == "nodes[]":
            previous = None  # pydantic puts the kind of a node behind its index
            continue
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(step):
                    node, mark = value, key.start_mark
                    break
            previous = step
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            mark = node.start_mark
            previous = f"{previous}[]"
    return mark.line + 1, mark.column + 1


def write_json(data: Any) -> str:
    """Write plain data as indented JSON."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_yaml(data: Any) -> str:
    """Write plain data as YAML, texts of several lines as blocks where YAML can hold them exactly."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


# YAML 1.2, section 10.3.2 (core schema).
_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     "-+0123456789."),
)  # fmt: skip
_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _name, _pattern, _first in _SCALARS:
    for _character in [*_first, ""] if _name == "null" else _first:
        # PyYAML looks resolvers up by first character, and matches from the start only.
        _RESOLVERS.setdefault(_character, []).append((f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z")))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The C parser where PyYAML was built with it: ten times as fast."""

    yaml_implicit_resolvers = _RESOLVERS


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: Any) -> bool:
        return True


_BREAKS = re.compile("[\r\x85\u2028\u2029]")


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text.strip() else None
    if _BREAKS.search(text):  # YAML 1.1, which PyYAML reads, folds these as line breaks unless they are escaped
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _compose(text: str) -> yaml.Node:
    """Parse a text into nodes with positions, after its events have shown that it is shallow and plain."""
    try:
        _plain_events(text)
        loader = _Loader(text)
        try:
            node: yaml.Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "not YAML"
        raise SourceError(shorten(problem), None if mark is None else (mark.line + 1, mark.column + 1)) from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise SourceError(f"not text that YAML allows ({type(error).__name__})") from None
    if node is None:
        raise SourceError("the document is empty", (1, 1))
    return node


def _plain_events(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        position = _position(event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise SourceError("anchors and aliases are not read; write the value out", position)
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise SourceError(f"the tag {shorten(tag)} is not read; write plain data", position)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise SourceError(f"values are nested deeper than {MAX_DEPTH}", position)


def _position(item: yaml.Node | yaml.Event) -> Position:
    mark = item.start_mark
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


def _plain(node: yaml.Node) -> Any:
    """Turn a node into dictionaries, lists, text, numbers, booleans and None."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        made: dict[str, Any] = {}
        for key, value in node.value:
            position = _position(key)
            if not isinstance(key, yaml.ScalarNode):
                raise SourceError("a key is a list or a dictionary; keys are text", position)
            if key.value in made:
                raise SourceError(f"the key '{shorten(key.value)}' is given twice; remove one", position)
            made[key.value] = _plain(value)
        return made
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    text: str = node.value
    match node.tag.rpartition(":")[2]:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            try:
                return int(text, 0 if text[:2] in ("0o", "0x") else 10)
            except ValueError:  # Python bounds the digits of an integer
                raise SourceError("the number is too long", _position(node)) from None
        case "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        case _:
            return text


def _read_json(text: str) -> Any:
    try:
        text.encode()
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
        if "\\ud" in text or "\\uD" in text:  # only an escape can bring half of a pair
            json.dumps(data, ensure_ascii=False).encode()
        return data
    except UnicodeEncodeError:
        raise SourceError("a text holds half of a character (a lone surrogate); write the character whole") from None
    except json.JSONDecodeError as error:
        raise SourceError(error.msg, (error.lineno, error.colno)) from None
    except RecursionError:
        raise SourceError(f"values are nested deeper than {MAX_DEPTH}") from None
    except SourceError:
        _plain(_compose(text))  # finds the same, and knows where
        raise
    except ValueError:  # Python bounds the digits of an integer
        raise SourceError("a number is too long") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise SourceError("a key is given twice; remove one")
    return made


def _refuse(constant: str) -> Any:
    raise SourceError(f"{constant} is not a JSON value; write a finite number")
