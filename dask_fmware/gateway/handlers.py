"""The HTTP side: who asks, what for, and how the answer is written."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator, Collection, Coroutine
from contextlib import aclosing
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel
from tornado.iostream import StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from dask_fmware.client.session import Outcome
from dask_fmware.compile.collection import BoundWorkflow
from dask_fmware.errors import FMwareError
from dask_fmware.gateway.answers import Fault, RefusedError, json_text
from dask_fmware.gateway.bodies import ChatBody, RunBody, read
from dask_fmware.gateway.chat import inputs_of, model, models
from dask_fmware.gateway.gateway import Gateway
from dask_fmware.gateway.shapes import ChatShape, RunShape
from dask_fmware.gateway.sites import is_named, is_of_another_site
from dask_fmware.model.completion import Chunk
from dask_fmware.spec.record import shorten

__all__ = ["BODY_BYTES", "application"]

logger = logging.getLogger("dask_fmware.gateway")
Kind = TypeVar("Kind", bound=BaseModel)

BODY_BYTES = 16 << 20
TAKEN_S = 60.0  # in which a caller must take an event or an answer, and as long again for each MiB of it
NO_PAGE = (
    "no such page: see GET /workflows and GET /v1/models; POST to /workflows/NAME, or to /v1/chat/completions, which "
    "is all of OpenAI's protocol that runs something here"
)
ENDING, NAMES = "ending", "names"  # settings of the application
ONCE = ("X-Should-Retry", "false")  # OpenAI's clients would have such a run again, with whatever its code does
HEADERS = {  # of errors, by their status
    401: ("WWW-Authenticate", "Bearer"),
    500: ONCE,
    502: ONCE,
    503: ("Retry-After", "1"),
}


@stream_request_body  # or Tornado reads it before it asks for a token, and takes curl's JSON for a form
class _Handler(RequestHandler):  # type: ignore[misc]
    """What all requests have in common: a token, a caller who may go, errors as JSON."""

    is_open: ClassVar[bool] = False  # to callers without a token
    methods: ClassVar[str] = "GET, HEAD"  # that are answered
    asks: ClassVar[str] = "GET"  # method, and what it is to bring

    def initialize(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.caller: str | None = None
        self._work: asyncio.Task[None] | None = None
        self._has_gone = False  # the caller
        self.refusal: RefusedError | None = None

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")

    def prepare(self) -> None:
        try:
            self.admit()
        except RefusedError as refusal:
            if self.request.method != "POST" or "Expect" in self.request.headers:
                raise
            self.refusal = refusal  # is told when the body has come: many send all of it before they look

    def head(self, *path: str) -> Any:
        """Answer as to ``GET``; Tornado leaves the body out."""
        return self.get(*path)

    async def post(self, *path: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        await self.posted(*path)

    async def posted(self, *_args: Any, **_kwargs: Any) -> None:
        """Answer what was posted."""
        raise HTTPError(405)

    def admit(self) -> None:
        """Raise `RefusedError` for who may not ask this."""
        if self.settings[ENDING].is_set():  # over a connection from before
            raise _ending()
        if self.is_open:
            return
        if not self.gateway.needs_token:
            self._admit_without_token()
            return
        kind, _, token = self.request.headers.get("Authorization", "").partition(" ")
        self.caller = self.gateway.tenant_of(token.strip()) if kind.lower() == "bearer" else None
        if self.caller is None:
            raise RefusedError(401, "send the header Authorization: Bearer TOKEN with a token of this gateway")

    def _admit_without_token(self) -> None:
        names: Collection[str] | None = self.settings[NAMES]
        if names is not None and not is_named(self.request.host, names):
            raise RefusedError(
                403, f"this gateway has no tokens and is no '{shorten(self.request.host)}': ask for localhost, or name "
                "it with --allow-host"
            )  # fmt: skip

    def data_received(self, chunk: bytes) -> None:
        """Drop a piece of the body: only runs have one."""

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that ends when the caller goes."""
        self._work = asyncio.create_task(work)
        self.gateway.requests[self._work] = self.application
        self._work.add_done_callback(self.gateway.requests.pop)
        try:
            await self._work
        except asyncio.CancelledError:
            if not self._work.cancelled():  # it is the handler that is to end
                self._work.cancel()
                raise
        except StreamClosedError:  # noticed while writing
            pass

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._has_gone = True
        if self._work is not None:
            self._work.cancel()

    def tell(self, said: dict[str, Any]) -> asyncio.Future[None]:
        """Answer with JSON; done when it is written."""
        return self.tell_text(json_text(said))

    def tell_text(self, said: str) -> asyncio.Future[None]:
        """Answer with what is JSON already."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        written: asyncio.Future[None] = self.finish(said)
        return written

    async def event(self, said: str, name: str | None = None) -> None:
        """Write one server-sent event and wait until it is sent."""
        await self.taken(self.written(said, name), len(said))

    async def taken(self, written: asyncio.Future[None], size: int) -> None:
        """Wait until something is sent; a caller who takes nothing any more has gone."""
        try:
            async with asyncio.timeout(TAKEN_S * (1 + size / (1 << 20))):
                await written
        except TimeoutError:
            self.request.connection.stream.close()
            raise StreamClosedError from None

    def written(self, said: str, name: str | None) -> asyncio.Future[None]:
        """Write one server-sent event, and the headers before the first; done when it is sent."""
        if not self._headers_written:
            self.set_header("Content-Type", "text/event-stream; charset=utf-8")
            self.set_header("X-Accel-Buffering", "no")  # proxies would keep what is to be read along
        self.write(f"event: {name}\ndata: {said}\n\n" if name else f"data: {said}\n\n")
        written: asyncio.Future[None] = self.flush()
        return written

    def fail(self, fault: Fault) -> asyncio.Future[None]:
        """Answer with an error, where nothing has been answered yet."""
        self.set_status(fault.status)
        if fault.status in HEADERS:
            self.set_header(*HEADERS[fault.status])
        return self.tell(fault.body())

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say what was raised, or what the server refused by itself."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, Exception) and not isinstance(error, HTTPError):
            self.fail(Fault.ours(error))
        elif status_code == 405:
            self.set_header("Allow", self.methods)
            said = f"{shorten(str(self.request.method))} is not answered here; send {self.asks}"
            self.tell(Fault(405, "RefusedError", said).body())
        else:
            self.tell(Fault(status_code, "HTTPError", self._reason).body())

    def log_exception(self, _kind: Any, error: Any, trace: Any) -> None:
        """Log where a stranger's error came from, without its words, which may hold a prompt."""
        if not isinstance(error, (FMwareError, HTTPError)):
            where = "".join(traceback.format_tb(trace))
            logger.error("%s %s: %s at\n%s", self.request.method, self.request.path, type(error).__name__, where)


def _ending() -> RefusedError:
    return RefusedError(503, "this gateway is ending; try again")


def _too_large() -> RefusedError:
    return RefusedError(413, f"the body has more than {BODY_BYTES} bytes; send less")


class _Runs(_Handler):
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

    def read(self, kind: type[Kind]) -> Kind:
        """Return the body."""
        if self.settings[ENDING].is_set():  # while it came
            raise _ending()
        if self._body_bytes > BODY_BYTES:  # of pieces, whose sum was not announced
            raise _too_large()
        return read(kind, self._body)

    async def run(self, bound: BoundWorkflow, shape: RunShape, *, is_streamed: bool) -> None:
        """Run and answer."""
        self.set_header("X-Run-Id", bound.run_id)
        await self.while_connected(self._told(bound, shape, is_streamed))

    async def _told(self, bound: BoundWorkflow, shape: RunShape, is_streamed: bool) -> None:
        try:
            await (self._stream(bound, shape) if is_streamed else self._whole(bound, shape))
        except asyncio.CancelledError:
            if not self._has_gone and not self._finished:  # the gateway ends: said without waiting, for it does not
                if self._headers_written:
                    self.written(json_text(Fault.of(_ending()).body()), shape.error)
                    self.finish()
                else:
                    self.fail(Fault.of(_ending()))
            raise

    async def _whole(self, bound: BoundWorkflow, shape: RunShape) -> None:
        outcome = await self.gateway.outcome(bound)
        if outcome.error is not None:
            self._blame(bound, outcome.error)
            await self.fail(Fault.of(outcome.error))
        else:
            said = json_text(shape.whole(outcome))
            await self.taken(self.tell_text(said), len(said))

    async def _stream(self, bound: BoundWorkflow, shape: RunShape) -> None:
        pieces: AsyncGenerator[Chunk | Outcome, None]
        async with aclosing(self.gateway.pieces(bound)) as pieces:
            try:
                async for piece in pieces:
                    await self._piece(bound, shape, piece)
            except StreamClosedError:
                raise
            except Exception as error:
                if not self._headers_written:
                    raise
                self.log_exception(type(error), error, error.__traceback__)
                await self.event(json_text(Fault.ours(error).body()), shape.error)
        if not self._finished:
            await self.finish()

    async def _piece(self, bound: BoundWorkflow, shape: RunShape, piece: Chunk | Outcome) -> None:
        if isinstance(piece, Chunk) or piece.error is None:
            begun = [] if self._headers_written else shape.first()
            said = [shape.text(piece)] if isinstance(piece, Chunk) else shape.last(piece)
            for name, event in (*begun, *said):
                await self.event(event, name)
        else:
            self._blame(bound, piece.error)
            if self._headers_written:
                await self.event(json_text(Fault.of(piece.error).body()), shape.error)
            else:
                await self.fail(Fault.of(piece.error))

    def _blame(self, bound: BoundWorkflow, error: Exception) -> None:
        if not isinstance(error, FMwareError):  # of plain code; its words may hold a prompt
            logger.error("run %s of workflow '%s': %s", bound.run_id, bound.workflow.name, type(error).__name__)


class _Workflow(_Runs):
    """``POST /workflows/NAME``."""

    async def posted(self, name: str) -> None:
        if name not in self.gateway.workflows:
            raise RefusedError(404, f"no workflow '{shorten(name)}' here: see GET /workflows")
        body = self.read(RunBody)
        bound = self.gateway.bound(
            name, body.inputs, caller=self.caller, tenant=body.tenant, slo=body.slo, priority=body.priority
        )
        await self.run(bound, RunShape(name), is_streamed=body.stream)


def _no_model(name: str) -> RefusedError:
    return RefusedError(404, f"no workflow '{shorten(name)}' here, which the model is: see GET /v1/models")


class _Chat(_Runs):
    """``POST /v1/chat/completions``."""

    asks: ClassVar[str] = "POST with a body of JSON that has model and messages"

    async def posted(self) -> None:
        body = self.read(ChatBody)
        if body.model not in self.gateway.workflows:
            raise _no_model(body.model)
        inputs = inputs_of(self.gateway.workflows[body.model].workflow, body.messages)
        bound = self.gateway.bound(body.model, inputs, caller=self.caller)
        await self.run(bound, ChatShape(body.model, bound.run_id, body.wants_usage), is_streamed=bool(body.stream))


class _Workflows(_Handler):
    """``GET /workflows``."""

    def get(self) -> None:
        specs = [one.workflow for one in self.gateway.workflows.values()]
        self.tell({"workflows": [
            {
                "name": spec.name,
                "description": spec.description,
                "inputs": [item.model_dump(mode="json") for item in spec.inputs],
                "slo": None if spec.slo is None else spec.slo.model_dump(mode="json", exclude_none=True),
            }
            for spec in specs
        ]})  # fmt: skip


class _Models(_Handler):
    """``GET /v1/models``."""

    def get(self) -> None:
        self.tell(models([one.workflow for one in self.gateway.workflows.values()]))


class _Model(_Handler):
    """``GET /v1/models/NAME``."""

    def get(self, name: str) -> None:
        if name not in self.gateway.workflows:
            raise _no_model(name)
        self.tell(model(self.gateway.workflows[name].workflow))


class _Health(_Handler):
    """``GET /health``: whether there is a scheduler."""

    is_open: ClassVar[bool] = True

    def get(self) -> None:
        is_well = self.gateway.client.status == "running"
        self.set_status(200 if is_well else 503)
        self.tell({"status": "ok" if is_well else "no scheduler"})


class _Nothing(_Handler):
    """Whatever else is asked for."""

    is_open: ClassVar[bool] = True

    def admit(self) -> None:
        raise RefusedError(404, NO_PAGE)


def application(gateway: Gateway, ending: asyncio.Event, names: Collection[str] | None = None) -> Application:
    """Return the routes, which take no more requests when it is `ending`.

    Where there are `names`, callers without tokens must ask for a host of one of them, or of this machine.
    """
    own = {"gateway": gateway}
    return Application(
        [
            (r"/health", _Health, own),
            (r"/workflows", _Workflows, own),
            (r"/workflows/([^/]+)", _Workflow, own),
            (r"/v1/models", _Models, own),
            (r"/v1/models/([^/]+)", _Model, own),
            (r"/v1/chat/completions", _Chat, own),
        ],
        default_handler_class=_Nothing,
        default_handler_args=own,
        **{ENDING: ending, NAMES: names},
        log_function=lambda handler: None,  # each run is in the log of the runtime
    )
