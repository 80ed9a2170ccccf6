"""How a run is told to its caller: all at once, or as a stream of events."""

from __future__ import annotations

from typing import Any, ClassVar

from dask_fmware.client.session import Outcome
from dask_fmware.gateway.answers import answer, json_text
from dask_fmware.gateway.bodies import EmbeddingBody
from dask_fmware.gateway.chat import ChatAnswer
from dask_fmware.gateway.embeddings import embedding_answer
from dask_fmware.model.completion import Chunk

__all__ = ["ChatShape", "EmbeddingShape", "Event", "RunShape"]

Event = tuple[str | None, str]  # its name, if it has one, and what it says


class RunShape:
    """As ``POST /workflows/NAME`` tells it."""

    error: ClassVar[str | None] = "error"

    def __init__(self, name: str) -> None:
        self.name = name

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return all of it at once, as JSON."""
        return answer(self.name, outcome)

    def first(self) -> list[Event]:
        """Return what comes before all else."""
        return []

    def text(self, chunk: Chunk) -> Event:
        """Return a piece of text."""
        return "text", json_text({"text": chunk.text, "restarted": chunk.restarted})

    def last(self, outcome: Outcome) -> list[Event]:
        """Return what comes at the end of a run that has finished."""
        return [("end", json_text(answer(self.name, outcome)))]


class EmbeddingShape(RunShape):
    """As OpenAI's clients are told of vectors."""

    def __init__(self, body: EmbeddingBody) -> None:
        super().__init__(body.model)
        self._body = body

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return the list of them."""
        return embedding_answer(self.name, self._body, outcome)


class ChatShape(RunShape):
    """As OpenAI's clients are told."""

    error: ClassVar[str | None] = None

    def __init__(self, name: str, run_id: str, wants_usage: bool) -> None:
        super().__init__(name)
        self._chat, self._wants_usage = ChatAnswer(run_id, name), wants_usage

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return a chat completion."""
        return self._chat.whole(outcome)

    def first(self) -> list[Event]:
        """Say who speaks."""
        return [(None, json_text(self._chat.first()))]

    def text(self, chunk: Chunk) -> Event:
        """Return a piece of text."""
        return None, json_text(self._chat.text(str(chunk)))

    def last(self, outcome: Outcome) -> list[Event]:
        """Say why it ended, and what it took if that was asked for."""
        said = [self._chat.last(outcome), *([self._chat.usage(outcome)] if self._wants_usage else [])]
        return [*((None, json_text(one)) for one in said), (None, "[DONE]")]
