"""What all requests have in common: a token, a caller who may go, errors as JSON."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Collection, Coroutine
from typing import Any, ClassVar

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from dask_fmware.errors import FMwareError
from dask_fmware.gateway.answers import Fault, RefusedError, json_text
from dask_fmware.gateway.gateway import Gateway
from dask_fmware.gateway.sites import is_named
from dask_fmware.spec.record import shorten

__all__ = ["ENDING", "NAMES", "Handler", "ending"]

logger = logging.getLogger("dask_fmware.gateway")

TAKEN_S = 60.0  # in which a caller must take an event or an answer, and as long again for each MiB of it
ENDING, NAMES = "ending", "names"  # settings of the application
ONCE = ("X-Should-Retry", "false")  # OpenAI's clients would have such a run again, with whatever its code does
HEADERS = {  # of errors, by their status
    401: ("WWW-Authenticate", "Bearer"),
    500: ONCE,
    502: ONCE,
    503: ("Retry-After", "1"),
}


def ending() -> RefusedError:
    """Return what callers are told once no more requests are taken."""
    return RefusedError(503, "this gateway is ending; try again")


@stream_request_body  # or Tornado reads it before it asks for a token, and takes curl's JSON for a form
class Handler(RequestHandler):  # type: ignore[misc]
    """A request."""

    is_open: ClassVar[bool] = False  # to callers without a token
    methods: ClassVar[str] = "GET, HEAD"  # that are answered
    asks: ClassVar[str] = "GET"  # method, and what it is to bring

    def initialize(self, gateway: Gateway) -> None:
        """Keep whose request it is."""
        self.gateway = gateway
        self.caller: str | None = None
        self._work: asyncio.Task[None] | None = None
        self._has_gone = False  # the caller
        self.refusal: RefusedError | None = None

    def set_default_headers(self) -> None:
        """Say what is true of all answers."""
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")

    def prepare(self) -> None:
        """Admit the caller, before the body has come."""
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
        """Answer what was posted by who was admitted."""
        if self.refusal is not None:
            raise self.refusal
        await self.posted(*path)

    async def posted(self, *_args: Any, **_kwargs: Any) -> None:
        """Answer what was posted."""
        raise HTTPError(405)

    def admit(self) -> None:
        """Raise `RefusedError` for who may not ask this."""
        if self.settings[ENDING].is_set():  # over a connection from before
            raise ending()
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
        if self._has_gone:  # while its request was read
            work.close()
            return
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
        """End the work for a caller who has gone."""
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

    async def taken(self, written: asyncio.Future[None], size: int) -> None:
        """Wait until something of so many bytes is sent; a caller who takes nothing any more has gone."""
        try:
            async with asyncio.timeout(TAKEN_S * (1 + size / (1 << 20))):
                await written
        except TimeoutError:
            self.request.connection.stream.close()
            raise StreamClosedError from None

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
