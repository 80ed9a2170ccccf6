"""Texts on their way to an engine that embeds, and the vectors on their way back: one for one, a list for a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dask_fmware.errors import EngineError, WorkflowError

__all__ = ["MOST_TEXTS", "embedded", "texts_of"]

MOST_TEXTS = 2048  # in one call, which is one step in one slot; as many as OpenAI's API takes


def texts_of(value: object, where: str) -> tuple[str, ...]:
    """Return the texts of a value.

    Raises
    ------
    WorkflowError
        If it is neither a text nor a list of texts, or there are none or too many of them; shows none of them.
    """
    texts: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    others = [type(text).__name__ for text in texts if not isinstance(text, str)]
    if others:
        inside = f" that holds a {others[0]}" if isinstance(value, (list, tuple)) else ""
        raise WorkflowError(
            f"{where}: a text or a list of texts is embedded, not a {type(value).__name__}{inside}; make texts of it "
            "in a function decorated with @fm.task"
        )
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise WorkflowError(
            f"{where}: {len(texts):,} texts in one call, which takes 1 to {MOST_TEXTS:,}; "
            "embed a long list in parts with fm.map, and decide about an empty one with fm.switch"
        )
    return tuple(texts)


def embedded(value: object, vectors: Sequence[Sequence[float]] | None, where: str) -> list[Any]:
    """Return the vectors of a value as other nodes see them: of a text its vector, of a list a list of vectors.

    Raises
    ------
    EngineError
        If the engine gave another number of vectors than there are texts, or an empty one.
    """
    wanted = len(value) if isinstance(value, (list, tuple)) else 1
    made = [list(vector) for vector in vectors or ()]
    if len(made) != wanted or not all(made):
        raise EngineError(
            f"{where}: the engine gave {sum(map(bool, made))} vectors for {wanted} texts; see what its server serves"
        )
    return made if isinstance(value, (list, tuple)) else made[0]
