"""From the text of an engine to the value that other nodes see, checked against what was asked for."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from dask_fmware.errors import OutputFormatError
from dask_fmware.model.call import ModelCall
from dask_fmware.model.engine import FinishReason

__all__ = ["value_of"]


def value_of(call: ModelCall, text: str, finish_reason: FinishReason) -> Any:
    """Return the label, the object or the text.

    Raises
    ------
    OutputFormatError
        If the text is none of the choices, no JSON, or JSON of another shape. The message holds sizes
        and positions, never the text.
    """
    cut = f" (cut at max_tokens={call.max_tokens}: raise it)" if finish_reason == "length" else ""
    if call.choices is not None:
        if text in call.choices:
            return text
        stripped = text.strip()
        if stripped in call.choices:
            return stripped
        raise OutputFormatError(
            f"{call.where}: an answer of {len(text)} characters is none of the {len(call.choices)} choices{cut}"
        )
    if call.json_schema is None:
        return text
    try:
        if call.schema is not None:
            return call.schema.model_validate_json(text)
        return json.loads(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise OutputFormatError(
            f"{call.where}: the answer does not fit its schema at {where}: {first['type']}{cut}"
        ) from None
    except json.JSONDecodeError as error:
        raise OutputFormatError(
            f"{call.where}: the answer is no JSON, at character {error.pos} of {len(text)}{cut}"
        ) from None
