"""Choices as a grammar: the text that makes llama.cpp answer with one of a few labels.

A pure function from labels to GBNF (https://github.com/ggml-org/llama.cpp/tree/master/grammars). JSON
schemas are not handled here: llama.cpp turns those into grammars itself.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["choices_grammar"]


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
