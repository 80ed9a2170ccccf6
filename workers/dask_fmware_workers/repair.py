"""Answers that almost have their format, mended without asking the model again.

It takes off what models put around a label or a document (quotes, fences, prose) and mends the syntax of
JSON. It never adds content: a text that was cut is left alone, and what comes out is checked by the
caller as any other answer. Work is bounded by the length of the text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

__all__ = ["LONGEST_REPAIR", "repaired_json", "repaired_label"]

LONGEST_REPAIR = 16_384  # characters; json-repair takes about 0.2 s for twice as many, on the worker's loop
AROUND_LABELS = " \t\r\n\"'`*_.,;:!()[]<>"


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


def repaired_json(text: str) -> str | None:
    """Return the JSON object or array that a text holds, as sound JSON, or None.

    >>> repaired_json("Here it is: {'sure': True,}")
    '{"sure": true}'
    """
    starts = [at for bracket in "{[" if (at := text.find(bracket)) >= 0]
    if len(text) > LONGEST_REPAIR or not starts:
        return None
    import json_repair

    try:
        try:
            found, _ = json.JSONDecoder().raw_decode(text, min(starts))  # sound within prose: taken to the letter
        except ValueError:
            found = json_repair.loads(text, skip_json_loads=True, strict=True)  # nothing is put where nothing is
        return json.dumps(found) if isinstance(found, dict | list) and found else None
    except (ValueError, RecursionError):
        return None
