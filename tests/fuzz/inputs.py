"""Inputs that are nearly right: sound documents with random damage, and texts that were never anything."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from dask_fmware.spec.source import write_yaml

__all__ = ["anything", "damaged", "damaged_bytes", "damaged_text", "documents"]

ODD = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63),
    10**30,
    0.0,
    -0.5,
    1e308,
    -1e-308,
    5e-324,
    "",
    " ",
    "\n",
    "0",
    "null",
    "{}",
    "{x}",
    "{x.__class__}",
    "{0}",
    "{{",
    "}",
    "{x!r:>{y}}",
    "a b",
    "../../etc/passwd",
    "\u202eabc",
    "\ud7ff",
    "é",
    "x" * 300,
    "%s",
    "${HOME}",
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"from": "x"},
    {"ref": 1},
    [0] * 50,
    {"version": 99},
)
ODD_BYTES = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\r\n",
    b'"',
    b'""',
    b"'",
    b",",
    b",,,",
    b"\t",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"NaN",
    b"Infinity",
    b"-",
    b"1e999",
    b"9" * 400,
    b"null",
    b"true",
    b"[" * 400,
    b'{"a":' * 400,
    b"\x80",
    b"\xc3\x28",
    b"&x",
    b"*x",
    b"!!python/object:os.system",
    b"<<: *x",
    b"%",
    b"? ",
    b"--- ",
    b"...",
    b"|",
    b">",
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
seeds = st.integers(0, 2**48)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container within a value, with each of its keys."""
    todo = [value]
    while todo:
        one = todo.pop()
        items = list(one.items()) if isinstance(one, dict) else list(enumerate(one))
        for key, inner in items:
            yield one, key
            if isinstance(inner, (dict, list)):
                todo.append(inner)


def _damage(value: Any, draws: random.Random, odd: Any) -> Any:
    """Change one place of a document; of what is none any more, nothing."""
    if not isinstance(value, (dict, list)):
        return copy.deepcopy(odd)  # which may be damaged next
    places = list(_places(value))
    if not places:
        return copy.deepcopy(odd)
    container, key = draws.choice(places)
    other, other_key = draws.choice(places)
    match draws.randrange(12):
        case 0 | 1:
            container[key] = copy.deepcopy(odd)
        case 2:
            container[key] = copy.deepcopy(draws.choice(ODD))
        case 3:
            del container[key]
        case 4:
            container[key] = copy.deepcopy(other[other_key])
        case 5:
            container[key] = [container[key]]
        case 6:
            container[key] = {str(key): container[key]}
        case 7 if isinstance(container, dict):
            container[str(draws.choice(ODD))] = container.pop(key)
        case 8 if isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        case _:
            container[key] = _nudged(container[key], draws)
    return value


def _nudged(value: Any, draws: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return value * draws.choice((-1, 0, 2, 1e-9, 1e9)) + draws.choice((0, 1, -1))
    if isinstance(value, str):
        at = draws.randrange(len(value) + 1)
        return value[:at] + str(draws.choice(ODD)) + value[at + draws.randrange(3) :]
    return value


@st.composite
def damaged(draw: st.DrawFn, sound: list[Any]) -> Any:
    """One of some sound documents, as plain data, with one to four changes."""
    draws = random.Random(draw(seeds))
    value = copy.deepcopy(draws.choice(sound))
    for _ in range(draws.choice((1, 1, 1, 2, 4))):
        value = _damage(value, draws, draw(anything) if draws.random() < 0.3 else draws.choice(ODD))
    return value


@st.composite
def damaged_bytes(draw: st.DrawFn, sound: list[bytes]) -> bytes:
    """A sound file with one to six changes of its bytes."""
    draws = random.Random(draw(seeds))
    content = draws.choice(sound)
    for _ in range(draws.choice((1, 1, 2, 3, 6))):
        start = draws.randrange(len(content) + 1)
        stop = start + draws.choice((0, 0, 1, 2, 20, 200))
        odd = (
            draw(st.binary(max_size=8)) if draws.random() < 0.2 else draws.choice((*ODD_BYTES, content[start:stop] * 2))
        )
        content = content[:start] + odd + content[stop:]
    return content


def damaged_text(sound: list[str]) -> st.SearchStrategy[str]:
    """A sound text with changes, as it is read from a file."""
    return damaged_bytes([text.encode() for text in sound]).map(lambda content: content.decode("utf-8", "replace"))


def documents(sound: list[Any]) -> st.SearchStrategy[tuple[str, str]]:
    """Text and form of documents: damaged in their values, damaged in their text, or never anything."""
    written = [json.dumps(one) for one in sound], [write_yaml(one) for one in sound]
    return st.one_of(
        damaged(sound).map(lambda value: (json.dumps(value), "json")),
        damaged(sound).map(lambda value: (_yaml(value), "yaml")),
        damaged_text(written[0]).map(lambda text: (text, "json")),
        damaged_text(written[1]).map(lambda text: (text, "yaml")),
        st.tuples(anything.map(json.dumps) | st.text(max_size=80), st.sampled_from(["json", "yaml"])),
    )


def _yaml(value: Any) -> str:
    return write_yaml(value)
