"""Embeddings in OpenAI's protocol: what is asked, and the vectors of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from dask_fmware.model.engine import Delta, Request, Usage
from dask_fmware_workers.engines.openai_dialects import usage_in

__all__ = ["embedding_body", "embedding_of"]


def embedding_body(request: Request) -> dict[str, Any]:
    """Return what is asked, without the model's name."""
    return {"input": list(request.texts or ()), "encoding_format": "float"}


def embedding_of(answer: Mapping[str, Any], request: Request, prompt_tokens: int) -> Delta:
    """Return an answer as the only delta of a request; `prompt_tokens` where the server does not count them.

    Raises
    ------
    ValueError, TypeError, KeyError
        If it is none, in words that show nothing of it.
    """
    entries = sorted(answer["data"], key=lambda entry: int(entry["index"]))
    vectors = [tuple(map(float, entry["embedding"])) for entry in entries]
    if len(vectors) != len(request.texts or ()) or not all(vector and all(map(isfinite, vector)) for vector in vectors):
        raise ValueError("there is not one vector for each text")
    told = usage_in(answer.get("usage"))
    return Delta("", 1, "stop", Usage(told.prompt_tokens if told is not None else prompt_tokens, 1), vectors)
