"""A scheduler that runs: messages of its workers and its HTTP routes, fed while it serves."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from dask_fmware.errors import FMwareError
from dask_fmware.testing import deployment
from tests.cluster.flows import one, rag
from tests.cluster.test_dashboard import DashboardCluster
from tests.fuzz.targets import Feed, Target, message

__all__ = ["LIVE_TARGETS"]

PATIENCE_S = 120.0
CANARY = "<svg/onload=fuzz>"


class _Faults(logging.Handler):
    """Exceptions that were logged and are none of ours."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.refused: list[str] = []
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, FMwareError):
            self.refused.append(str(error))
        else:
            self.found.append(f"{record.getMessage()}: {error!r}")


class _Live:
    """A cluster in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.cluster = DashboardCluster(deployment("small", "large"), silence_logs=logging.CRITICAL)

    def __enter__(self) -> _Live:
        gc.collect()
        gc.freeze()  # Bokeh collects garbage for each session that ends, and what was fed before is none
        self._thread.start()
        self.call(self.cluster.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self.call(self.cluster.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()
        gc.unfreeze()

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine on the loop of the cluster."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def do(self, function: Callable[[], Any]) -> Any:
        """Call a function on the loop of the cluster."""
        done: Future[Any] = Future()

        def perform() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(perform)
        return done.result(PATIENCE_S)

    async def serves(self) -> None:
        """Whole workflows are served as if nothing had been, and nothing is left of them."""
        client = self.cluster.client
        future, other = client.compute(rag(question="x")), client.compute(one("x"))
        assert (await future).model == "large"
        assert (await other).model == "small"
        future.release()
        other.release()


@contextmanager
def _scheduler() -> Iterator[Feed]:
    faults = _Faults()
    logger = logging.getLogger("dask_fmware.router")
    logger.addHandler(faults)
    try:
        with _Live() as live:
            scheduler, router = live.cluster.scheduler, live.cluster.router
            workers = [*scheduler.workers, "tcp://127.0.0.1:1"]
            fed = 0

            def feed(given: tuple[str, dict[str, Any]]) -> str:
                nonlocal fed
                fed += 1
                (op, fields), before = given, len(faults.refused)
                worker = workers[-1] if op == "fmware-replica-failed" else workers[fed % len(workers)]
                live.do(lambda: scheduler.stream_handlers[op](**{**fields, "worker": worker}))
                assert not faults.found, faults.found[-1]
                if fed % 500 == 0:
                    live.call(live.serves())
                return "refused" if len(faults.refused) > before else "taken"

            yield feed
            live.call(live.serves())
            live.call(live.cluster.until(lambda: not router.machine.runs.calls))
            assert not router.machine.held
    finally:
        logger.removeHandler(faults)


# -- HTTP --------------------------------------------------------------------------------------------

METHODS = ("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "X")
PATHS = (
    "/fmware",
    "/fmware/",
    "/fmware/figures.json",
    "/fmware/figures.json",
    "/fmware/figures.json/",
    "/fmware/static/fmware.js",
    "/fmware/static/",
    "/fmware/static/../routes.py",
    "/fmware/static/%2e%2e/board.py",
    "/fmware/static//etc/passwd",
    "/individual-fmware-slack",
    "/metrics",
    "//fmware",
    "/fmware/figures.json;x",
    "/fmware%00",
)
NAMES = ("fleet", "graphs", "predictions", "fleet[]", "x", "", "theme")
VALUES = st.one_of(
    st.integers().map(str),
    st.sampled_from(["", "-1", "1e9", "NaN", "9" * 5000, "%00", "%ff", "%", "+", CANARY, "٣", "0x10", "[]", "null"]),
    st.text(max_size=8),
    st.text(max_size=8).map(quote),
)
HEADERS = st.sampled_from(
    [
        "",
        "If-None-Match: x",
        "Range: bytes=99999-",
        "Range: bytes=-1",
        "Accept-Encoding: gzip",
        "Content-Length: 0",
        "X: " + "y" * 300,
        "If-Modified-Since: never",
        "Origin: http://evil",
        "Upgrade: websocket",
        "Expect: 100-continue",
        "Host: evil",
    ]
)
requests = st.builds(
    lambda method, path, more, query, header: (method, path + more + ("?" + "&".join(query) if query else ""), header),
    st.sampled_from(METHODS),
    st.sampled_from(PATHS),
    st.just("") | st.sampled_from([CANARY, "/../..", "%0d%0aX: y", "\u00e9"]),
    st.lists(st.builds("{}={}".format, st.sampled_from(NAMES), VALUES), max_size=3),
    HEADERS,
)


@contextmanager
def _web() -> Iterator[Feed]:
    quiet = [logging.getLogger(name) for name in ("tornado.general", "tornado.access", "tornado.application", "bokeh")]
    levels = [logger.level for logger in quiet]
    for logger in quiet:
        logger.setLevel(logging.CRITICAL)
    try:
        with _Live() as live:
            live.call(live.serves())
            port = live.cluster.scheduler.http_server.port
            kept = live.do(lambda: live.cluster.client.submit(str, "kept", key="kept", pure=False))

            def feed(given: tuple[str, str, str]) -> str:
                method, path, header = given
                status, body = _answer(port, method, path, header)
                assert status < 500 or (status == 501 and method in ("TRACE", "X", "get")), f"{status} for {given}"
                assert CANARY not in body, f"the page gives back what was asked: {given}"
                assert method in ("GET", "HEAD", "OPTIONS") or status >= 400, f"{status} for {given}"
                assert not any(text in body for text in ("root:", "class Board")), f"a file is shown: {given}"
                return str(status)

            yield feed
            live.call(live.serves())
            assert live.do(lambda: kept.key in live.cluster.scheduler.tasks)
    finally:
        for logger, level in zip(quiet, levels, strict=True):
            logger.setLevel(level)


def _answer(port: int, method: str, path: str, header: str) -> tuple[int, str]:
    """Status and body of the answer to a raw request; 400 where the server hangs up on it."""
    line = f"{method} {path} HTTP/1.1".replace("\r", "").replace("\n", "").replace("\0", "")
    head = "\r\n".join([line, "Host: 127.0.0.1", "Connection: close", *([header] if header else []), "", ""])
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as line_, suppress(ConnectionError):
        line_.sendall(head.encode("utf-8", "surrogatepass"))
        while not received.startswith(b"HTTP/1.1 101") and (piece := line_.recv(1 << 16)):
            received += piece
    received = received.removeprefix(b"HTTP/1.1 100 (Continue)\r\n\r\n")
    if not received:
        return 400, ""
    text = received.decode("utf-8", "replace")
    return int(text.split(" ", 2)[1]), text


LIVE_TARGETS: dict[str, Target] = {
    "messages to a scheduler": Target(
        message(
            "fmware-first-token",
            "fmware-ended",
            "fmware-overdue",
            "fmware-steps",
            "fmware-branched",
            "fmware-carried",
            "fmware-replica-failed",
            "fmware-engine-state",
        ),
        _scheduler,
    ),
    "HTTP routes": Target(requests, _web, share=0.5),
}
