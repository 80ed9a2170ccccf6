"""Answers that almost have their format, mended without asking the model again.

It takes off what models put around a label or a document (quotes, fences, prose) and mends the syntax of
JSON. It never adds content: a text that was cut is left alone, and what comes out is checked by the
caller as any other answer. Work is bounded by the length of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

__all__ = ["LONGEST_REPAIR", "repaired_documents", "repaired_label"]

LONGEST_REPAIR = 16_384  # characters; json-repair takes about 0.2 s for twice as many, on the worker's loop
MOST_PLACES, MOST_REPAIRS = 32, 2  # where a document is looked for, and where one is mended, which takes time
AROUND_LABELS = " \t\r\n\"'`*_.,;:!()[]<>"
OPENING = re.compile(r"[\[{]")
DECODER = json.JSONDecoder()


def repaired_label(text: str, choices: Sequence[str]) -> str | None:
    """Return the one choice that a text means apart from case and what stands around it, or None.

    A label inside a sentence is not taken: "not order" must not become ``order``.

    >>> repaired_label('"Order".', ["order", "search"])
    'order'
    """
    if len(text) > LONGEST_REPAIR:
        return None
    bare = text.strip(AROUND_LABELS).casefold()
    meant = [choice for choice in choices if choice.strip(AROUND_LABELS).casefold() == bare]
    return meant[0] if bare and len(meant) == 1 else None


def repaired_documents(text: str) -> Iterator[str]:
    """Yield the JSON objects and arrays that stand in a text one after the other, each as sound JSON.

    What is within one of them is a part of it and no answer by itself, also where the outer one cannot be mended.

    >>> list(repaired_documents("As in [1]: {'sure': True,}"))
    ['[1]', '{"sure": true}']
    """
    at, repairs = 0, 0
    for _ in range(MOST_PLACES if len(text) <= LONGEST_REPAIR else 0):
        opening = OPENING.search(text, at)
        if opening is None:
            return
        start = opening.start()
        try:
            found, at = DECODER.raw_decode(text, start)  # sound within prose: taken to the letter
        except (ValueError, RecursionError):
            repairs += 1
            if repairs > MOST_REPAIRS:
                return
            found, at = _mended(text[start:]), _closed(text, start)
        if (document := _written(found)) is not None:
            yield document


def _mended(text: str) -> object:
    """What a text that begins with a bracket was meant to be, or None; it may end in prose."""
    import json_repair

    try:
        return json_repair.loads(text, skip_json_loads=True, strict=True)  # nothing is put where nothing is
    except (ValueError, RecursionError):
        return None


def _closed(text: str, start: int) -> int:
    """Where the bracket at `start` is closed, whatever is in quotes; the end of the text where it is not."""
    depth = 0
    for at in range(start, len(text)):
        if text[at] in "[{":
            depth += 1
        elif text[at] in "]}":
            depth -= 1
            if not depth:
                return at + 1
    return len(text)


def _written(found: object) -> str | None:
    try:
        return json.dumps(found) if isinstance(found, dict | list) and found else None
    except (ValueError, RecursionError):
        return None
