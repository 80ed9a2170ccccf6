"""Prompt templates: text with named fields, and nothing else.

``{name}`` stands for a field and ``{{`` for a brace. Attributes, indices, conversions and format
specifications are refused, so that a template loaded from a document cannot reach into objects.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import lru_cache

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.record import shorten

__all__ = ["literal_bytes", "render", "template_fields"]


@lru_cache(maxsize=4096)
def _parts(template: str, where: str) -> tuple[tuple[str, str | None], ...]:
    """Split a template into (literal text, field name or None), refusing all but plain names."""
    parts: list[tuple[str, str | None]] = []
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise WorkflowError(f"{where}: the prompt is not a valid template ({error}); write {{{{ for a brace") from None
    for literal, field, spec, conversion in parsed:
        if field is not None and (not field.isidentifier() or spec or conversion):
            shown = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            # A brace in a prompt that shows JSON ends up here, with user text behind it.
            raise WorkflowError(
                f"{where}: '{{{shorten(shown, 40)}}}' is not a field; a field is a plain name such as {{question}}, "
                "and a literal brace is written twice"
            )
        parts.append((literal, field))
    return tuple(parts)


def template_fields(template: str, where: str = "prompt") -> tuple[str, ...]:
    """Names of the fields of a template, in order of first use.

    >>> template_fields("Answer {question} from {passages}, {question}")
    ('question', 'passages')
    """
    return tuple(dict.fromkeys(field for _, field in _parts(template, where) if field is not None))


def literal_bytes(template: str, where: str = "prompt") -> int:
    """UTF-8 bytes of a template's fixed text: a lower bound for every prompt made from it.

    >>> literal_bytes("Say {word}!")
    5
    """
    return sum(len(literal.encode()) for literal, _ in _parts(template, where))


def render(template: str, values: Mapping[str, object], where: str = "prompt") -> str:
    """Fill in the fields; lists become lines, everything else its ``str``.

    Raises
    ------
    WorkflowError
        If a field has no value, or the template is none.

    >>> render("{a}: {b}", {"a": 1, "b": ["x", "y"]})
    '1: x\\ny'
    """
    out: list[str] = []
    for literal, field in _parts(template, where):
        out.append(literal)
        if field is not None:
            if field not in values:
                raise WorkflowError(f"{where}: no value for the field '{field}'; pass {field}=...")
            value = values[field]
            out.append("\n".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
    return "".join(out)
