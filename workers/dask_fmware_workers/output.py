"""From the text of an engine to the value that other nodes see, checked against what was asked for.

Engines say how an answer ended; whether it has its format is judged here alone. One that breaks it is mended once
where that invents nothing (see `repair`); what then still does not fit is an error. Whether a call is tried again is
not decided here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dask_fmware.errors import OutputFormatError
from dask_fmware.model.call import ModelCall
from dask_fmware.model.engine import FinishReason
from dask_fmware.spec.json_schema import broken_rule
from dask_fmware.spec.nesting import is_deep
from dask_fmware_workers.repair import repaired_documents, repaired_label

__all__ = ["Output", "format_tokens", "output_of"]


@dataclass(frozen=True, slots=True)
class Output:
    """The value of an answer."""

    value: Any  # the label, the object or the text
    is_repaired: bool = False  # the text had to be mended to give it


def output_of(call: ModelCall, text: str, finish_reason: FinishReason) -> Output:
    """Return the value of a whole answer.

    Raises
    ------
    OutputFormatError
        If the text is none of the choices, no JSON, or JSON of another shape. The message holds sizes
        and positions, never the text.
    """
    is_cut = finish_reason == "length"
    hint = f" (cut at max_tokens={call.max_tokens}: raise it)" if is_cut else ""
    if call.choices is not None:
        return _label(call, text, hint, is_cut)
    if call.json_schema is None:
        return Output(text)
    try:
        return Output(_document(call, text, hint))
    except OutputFormatError as error:
        if is_cut:
            raise
        fault = error
    for mended in repaired_documents(text):
        try:
            return Output(_document(call, mended, hint), is_repaired=True)
        except OutputFormatError as error:
            fault = error
    raise fault


def format_tokens(call: ModelCall, text: str, output_tokens: int) -> int | None:
    """Return how many output tokens of a sound answer are format and not content; None if none was asked for.

    Keys, brackets and blanks of a document take their share of its characters; so this is an estimate. Of a label,
    what is beyond a token for each of its bytes and the end: some servers take choices as documents only.
    """
    if call.choices is not None:
        return max(0, output_tokens - len(text.encode()) - 1)
    if call.json_schema is None:
        return None
    try:
        content = sum(map(len, _leaves(json.loads(text))))
    except (ValueError, RecursionError):  # it had to be mended: what is content, nobody can say
        return 0
    return round(output_tokens * (1 - min(1.0, content / max(1, len(text)))))


def _leaves(document: Any) -> Iterator[str]:
    match document:
        case dict():
            for value in document.values():
                yield from _leaves(value)
        case list():
            for value in document:
                yield from _leaves(value)
        case str():
            yield document
        case _:
            yield json.dumps(document)


def _label(call: ModelCall, text: str, hint: str, is_cut: bool) -> Output:
    choices = call.choices or ()
    for label in (text, text.strip()):
        if label in choices and not (is_cut and _is_part_of_another(label, choices)):
            return Output(label)
    meant = None if is_cut else repaired_label(text, choices)
    if meant is None:
        raise OutputFormatError(
            f"{call.where}: an answer of {len(text)} characters is none of the {len(choices)} choices{hint}"
        )
    return Output(meant, is_repaired=True)


def _is_part_of_another(label: str, choices: Sequence[str]) -> bool:
    """Whether a label begins another one, so that it may be what is left of that where an answer was cut."""
    return any(choice != label and choice.startswith(label) for choice in choices)


def _document(call: ModelCall, text: str, hint: str) -> Any:
    """Read a document and hold it to its schema, as a class of pydantic's or in JSON."""
    try:
        if call.schema is not None:
            return call.schema.model_validate_json(text)
        document = json.loads(text)
        if is_deep(document):  # Python 3.13 reads some thousand levels, 3.11 fewer than a thousand
            raise RecursionError
        rule = broken_rule(call.json_schema or {}, document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise OutputFormatError(
            f"{call.where}: the answer does not fit its schema at {where}: {first['type']}{hint}"
        ) from None
    except ValueError as error:
        where = f", at character {error.pos} of {len(text)}" if isinstance(error, json.JSONDecodeError) else ""
        raise OutputFormatError(f"{call.where}: the answer is no JSON that can be read{where}{hint}") from None
    except RecursionError:
        raise OutputFormatError(
            f"{call.where}: the answer nests deeper than can be read and sent, in {len(text)} characters{hint}"
        ) from None
    if rule is not None:
        raise OutputFormatError(f"{call.where}: the answer breaks a rule of its schema: {rule}{hint}")
    return document
