"""Requests that run a workflow, and are answered at the end or as the answer comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import ClassVar, TypeVar

from pydantic import BaseModel
from tornado.iostream import StreamClosedError

from dask_fmware.client.session import Outcome
from dask_fmware.compile.collection import BoundWorkflow
from dask_fmware.errors import FMwareError
from dask_fmware.gateway.answers import Fault, RefusedError, json_text
from dask_fmware.gateway.bodies import ChatBody, EmbeddingBody, RunBody, read
from dask_fmware.gateway.chat import inputs_of, no_model
from dask_fmware.gateway.embeddings import embedding_inputs
from dask_fmware.gateway.events import Events
from dask_fmware.gateway.gateway import Gateway
from dask_fmware.gateway.handler import ENDING, Handler, ending
from dask_fmware.gateway.shapes import ChatShape, EmbeddingShape, RunShape
from dask_fmware.gateway.sites import is_of_another_site
from dask_fmware.model.completion import Chunk
from dask_fmware.spec.record import shorten

__all__ = ["BODY_BYTES", "Chat", "Embeddings", "Workflow"]

logger = logging.getLogger("dask_fmware.gateway")
Kind = TypeVar("Kind", bound=BaseModel)

BODY_BYTES = 16 << 20
LARGE_BYTES = 1 << 20  # from which on a body is read beside the loop


def _too_large() -> RefusedError:
    return RefusedError(413, f"the body has more than {BODY_BYTES} bytes; send less")


class _Runs(Handler):
    """Answers with a run, at once or as it comes."""

    methods: ClassVar[str] = "POST"
    asks: ClassVar[str] = 'POST with a body of JSON, such as {"inputs": {"question": "..."}}'

    def initialize(self, gateway: Gateway) -> None:
        super().initialize(gateway)
        self._body = bytearray()
        self._body_bytes = 0  # as many as have come

    def admit(self) -> None:
        super().admit()
        if not self.gateway.needs_token and is_of_another_site(self.request.headers):
            raise RefusedError(403, "this gateway has no tokens, so pages of other sites may not run anything here")
        length = self.request.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > BODY_BYTES:
            raise _too_large()

    def data_received(self, chunk: bytes) -> None:
        self._body_bytes += len(chunk)
        if self.refusal is None and self._body_bytes <= BODY_BYTES:
            self._body += chunk

    async def asked(self, kind: type[Kind], bind: Callable[[Kind], BoundWorkflow]) -> tuple[Kind, BoundWorkflow]:
        """Return the body and the run that it asks for; the streams of others go on while a large one is read."""
        if self._body_bytes > BODY_BYTES:  # of pieces, whose sum was not announced
            raise _too_large()

        def made() -> tuple[Kind, BoundWorkflow]:
            body = read(kind, self._body)
            return body, bind(body)

        found = made() if len(self._body) < LARGE_BYTES else await asyncio.to_thread(made)
        if self.settings[ENDING].is_set():  # while it came, or was read
            raise ending()
        return found

    async def run(self, bound: BoundWorkflow, shape: RunShape, *, is_streamed: bool) -> None:
        """Run and answer."""
        self.set_header("X-Run-Id", bound.run_id)
        await self.while_connected(self._told(bound, shape, is_streamed))

    async def _told(self, bound: BoundWorkflow, shape: RunShape, is_streamed: bool) -> None:
        events = Events(self)
        try:
            await (self._stream(bound, shape, events) if is_streamed else self._whole(bound, shape))
        except asyncio.CancelledError:
            if not self._has_gone and not self._finished:  # the gateway ends: said without waiting, for it does not
                if events.have_begun:
                    events.put(json_text(Fault.of(ending()).body()), shape.error)
                    self.finish()
                else:
                    self.fail(Fault.of(ending()))
            raise

    async def _whole(self, bound: BoundWorkflow, shape: RunShape) -> None:
        outcome = await self.gateway.outcome(bound)
        if outcome.error is not None:
            self._blame(bound, outcome.error)
            await self.fail(Fault.of(outcome.error))
        else:
            said = json_text(shape.whole(outcome))
            await self.taken(self.tell_text(said), len(said))

    async def _stream(self, bound: BoundWorkflow, shape: RunShape, events: Events) -> None:
        async with events.kept_open():
            fault = await self._sent(bound, shape, events)
        if fault is not None and not events.have_begun:
            await self.fail(fault)
            return
        if fault is not None:
            await events.send(json_text(fault.body()), shape.error)
        await self.finish()

    async def _sent(self, bound: BoundWorkflow, shape: RunShape, events: Events) -> Fault | None:
        """Send the answer as it comes, and return what went wrong with it."""
        pieces: AsyncGenerator[Chunk | Outcome, None]
        said = shape.first()
        async with aclosing(self.gateway.pieces(bound)) as pieces:
            try:
                async for piece in pieces:
                    if isinstance(piece, Outcome) and piece.error is not None:
                        self._blame(bound, piece.error)
                        return Fault.of(piece.error)
                    said += [shape.text(piece)] if isinstance(piece, Chunk) else shape.last(piece)
                    for name, event in said:
                        await events.send(event, name)
                    said = []
            except StreamClosedError:
                raise
            except Exception as error:
                self.log_exception(type(error), error, error.__traceback__)
                return Fault.ours(error)
        return None

    def _blame(self, bound: BoundWorkflow, error: Exception) -> None:
        if not isinstance(error, FMwareError):  # of plain code; its words may hold a prompt
            logger.error("run %s of workflow '%s': %s", bound.run_id, bound.workflow.name, type(error).__name__)


class Workflow(_Runs):
    """``POST /workflows/NAME``."""

    async def posted(self, name: str) -> None:
        """Run it."""
        if name not in self.gateway.workflows:
            raise RefusedError(404, f"no workflow '{shorten(name)}' here: see GET /workflows")
        body, bound = await self.asked(
            RunBody,
            lambda body: self.gateway.bound(
                name, body.inputs, caller=self.caller, tenant=body.tenant, slo=body.slo, priority=body.priority
            ),
        )
        await self.run(bound, RunShape(name), is_streamed=body.stream)


class Chat(_Runs):
    """``POST /v1/chat/completions``."""

    asks: ClassVar[str] = "POST with a body of JSON that has model and messages"

    async def posted(self) -> None:
        """Run the workflow that is the model."""
        body, bound = await self.asked(ChatBody, self._bound)
        await self.run(bound, ChatShape(body.model, bound.run_id, body.wants_usage), is_streamed=bool(body.stream))

    def _bound(self, body: ChatBody) -> BoundWorkflow:
        if body.model not in self.gateway.workflows:
            raise no_model(body.model)
        inputs = inputs_of(self.gateway.workflows[body.model].workflow, body.messages)
        return self.gateway.bound(body.model, inputs, caller=self.caller)


class Embeddings(_Runs):
    """``POST /v1/embeddings``."""

    asks: ClassVar[str] = "POST with a body of JSON that has model and input"

    async def posted(self) -> None:
        """Run the workflow that is the model."""
        body, bound = await self.asked(EmbeddingBody, self._bound)
        await self.run(bound, EmbeddingShape(body), is_streamed=False)

    def _bound(self, body: EmbeddingBody) -> BoundWorkflow:
        if body.model not in self.gateway.workflows:
            raise no_model(body.model)
        inputs = embedding_inputs(self.gateway.workflows[body.model].workflow, body)
        return self.gateway.bound(body.model, inputs, caller=self.caller)
