"""Choices and schemas for llama.cpp, which holds an answer to a grammar.

Pure functions: from labels to GBNF (https://github.com/ggml-org/llama.cpp/tree/master/grammars), and from JSON schemas
to such as llama.cpp can make grammars of by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["bounded_schema", "choices_grammar"]

ITEMS = ("minItems", "maxItems")
ITEMS_PER_TOKEN = 16  # of a list, at most: "1,1," and so on, in a token longer than any that is known
DATA = ("const", "default", "enum", "examples")  # hold values and no schemas


def choices_grammar(choices: Iterable[str]) -> str:
    r"""Return a GBNF grammar whose only sentences are `choices`.

    Everything but letters and digits of ASCII is written as a code point, so that quotes, backslashes
    and characters with a meaning in regular expressions or grammars stand for themselves.

    Examples
    --------
    >>> choices_grammar(["yes", 'no "way"'])
    'root ::= "yes" | "no\\U00000020\\U00000022way\\U00000022"'
    """
    return "root ::= " + " | ".join(f'"{"".join(map(_literal, choice))}"' for choice in choices)


def _literal(character: str) -> str:
    plain = character.isascii() and character.isalnum()
    return character if plain else f"\\U{ord(character):08X}"


def bounded_schema(schema: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    """Return a schema that is the same to an answer of so many tokens, with lists that are no longer than it could be.

    llama.cpp writes each item into its grammar: of a thousand million, as some say for no bound, it is never done, and
    whatever else it serves waits.

    Examples
    --------
    >>> bounded_schema({"type": "array", "maxItems": 10**9, "items": {"type": "array", "maxItems": 3}}, max_tokens=8)
    {'type': 'array', 'maxItems': 128, 'items': {'type': 'array', 'maxItems': 3}}
    """
    bounded: dict[str, Any] = _bounded(schema, ITEMS_PER_TOKEN * max_tokens)
    return bounded


def _bounded(schema: Any, most: int) -> Any:
    if isinstance(schema, Mapping):
        return {
            key: min(value, most) if key in ITEMS and isinstance(value, int | float)
            else value if key in DATA
            else _bounded(value, most)
            for key, value in schema.items()
        }  # fmt: skip
    return [_bounded(one, most) for one in schema] if isinstance(schema, list | tuple) else schema
