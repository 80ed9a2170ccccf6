"""Embeddings in OpenAI's protocol, which llama.cpp in the process speaks too: what is asked, and the vectors that come.

The texts of a request are sent in parts. So a long list gives signs of life before it is done and is nobody's hang, an
abort is seen between two parts, and servers that take only so many texts at once take it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from dask_fmware.model.engine import Delta, Usage
from dask_fmware_workers.engines.openai_dialects import usage_in

__all__ = ["PART_TEXTS", "Embedding"]

PART_TEXTS = 32  # as many as text-embeddings-inference takes at once if nothing else is said


class Embedding:
    """The vectors of a request as they come.

    Parameters
    ----------
    texts
        Each as it is, or as its tokens.
    prompt_tokens
        Of all of them, told where the server does not count them.
    """

    def __init__(self, texts: Sequence[str] | Sequence[list[int]], prompt_tokens: int = 0) -> None:
        self._texts, self._prompt_tokens = texts, prompt_tokens
        self._vectors: list[tuple[float, ...]] = []
        self._counted: int | None = 0  # by the server so far; None: it does not count

    @property
    def is_whole(self) -> bool:
        """Whether all vectors are there."""
        return len(self._vectors) == len(self._texts)

    def body(self) -> dict[str, Any]:
        """Return what is asked next, without the model's name."""
        return {"input": list(self._part()), "encoding_format": "float"}

    def take(self, answer: Mapping[str, Any]) -> None:
        """Take in the answer to that.

        Raises
        ------
        ValueError, TypeError, KeyError
            If it is none, in words that show nothing of it.
        """
        entries = sorted(answer["data"], key=lambda entry: int(entry["index"]))
        vectors = [tuple(map(float, entry["embedding"])) for entry in entries]
        if len(vectors) != len(self._part()) or not all(vector and all(map(isfinite, vector)) for vector in vectors):
            raise ValueError("there is not one vector for each text")
        self._vectors += vectors
        told = usage_in(answer.get("usage"))
        self._counted = None if told is None or self._counted is None else self._counted + told.prompt_tokens

    def delta(self) -> Delta:
        """Return the last delta of the request, when it is whole."""
        usage = Usage(self._prompt_tokens if self._counted is None else self._counted, 1)
        return Delta("", 1, "stop", usage, self._vectors)

    def _part(self) -> Sequence[str] | Sequence[list[int]]:
        return self._texts[len(self._vectors) : len(self._vectors) + PART_TEXTS]
