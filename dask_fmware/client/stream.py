"""Streams the answer of a run while it is generated, from the worker that generates it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

from distributed import Client, Future
from distributed.comm import Comm, connect
from distributed.core import send_recv

from dask_fmware.client.asking import checked_future, not_installed, run_id_of, still_open
from dask_fmware.client.fetching import fetched
from dask_fmware.client.shown import Shown
from dask_fmware.errors import StreamLostError
from dask_fmware.model.completion import Chunk, Completion

__all__ = ["AnswerStream", "stream"]

PATIENCE_S = 20.0  # of one long poll; the next follows at once
LOOK_S = 0.2  # between two looks whether the run has been cancelled, or lost with the scheduler
CONNECT_S = 2.0  # Dask's 30 would be spent on a replica that has just died


class AnswerStream:
    """The answer of one run, piece by piece; iterate with ``for`` or ``async for``.

    The pieces are those of the model node that answers, as they come. If the workflow ends in plain
    code, a map or a loop, or its switch passes on what was made outside the branch, there is one piece, when it is
    done. Errors of the run are raised at the end, and `StreamLostError` if the scheduler is lost.
    Iterating once more starts from the beginning of the answer. As the last line of a notebook cell it prints itself as
    it comes; elsewhere `print` does.
    """

    def __init__(self, future: Future, as_text: Callable[[Any], str] = str) -> None:
        self._future = future
        self._as_text = as_text  # of what plain code returns
        self._client: Client = future.client

    def __repr__(self) -> str:
        return f"<AnswerStream of run {run_id_of(self._future)[:8]}: iterate, or call print()>"

    def print(self) -> None:
        """Print the answer as it comes, and return when it is done."""
        for chunk in self:
            print(chunk, end="", flush=True)
        print()

    def _ipython_display_(self) -> None:
        """Print it in the cell; as plain text, since model output is data and not markup."""
        if self._client.asynchronous:  # the cell's own loop: nothing may wait here
            print(f"{self!r}: 'async for chunk in ...', as the client is asynchronous")
        else:
            self.print()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        if not still_open(self._client, "stream").asynchronous:  # its loop is another than that of who asks
            raise TypeError("this client is synchronous: use 'for chunk in fm.stream(future)'")
        return self._chunks()

    def __iter__(self) -> Iterator[Chunk]:
        if self._client.asynchronous:
            raise TypeError("this client is asynchronous: use 'async for chunk in fm.stream(future)'")
        still_open(self._client, "stream")
        pieces: queue.SimpleQueue[Chunk | BaseException | None] = queue.SimpleQueue()

        async def pull() -> None:
            try:
                async for chunk in self._chunks():
                    pieces.put(chunk)
                pieces.put(None)
            except BaseException as error:
                pieces.put(error)
                if isinstance(error, asyncio.CancelledError):
                    raise

        running = asyncio.run_coroutine_threadsafe(pull(), self._client.loop.asyncio_loop)
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            running.cancel()

    async def _chunks(self) -> AsyncIterator[Chunk]:
        shown, attempt = Shown(), 0
        while True:
            done = self._future.done()
            where = await self._where(attempt, 0 if done else PATIENCE_S, shown)
            if "ended" in where or ("waiting" in where and done):
                break
            if "waiting" in where:
                continue
            attempt = where["attempt"]
            text, complete = "", False
            async with aclosing(_follow(self._client, where)) as pieces:  # who breaks off lets go of the worker too
                async for piece, ended in pieces:
                    text += piece
                    complete = ended == "finished"
                    if (chunk := shown.grown(text)) is not None:
                        yield chunk
            if complete:
                break
        result: Any = await fetched(self._client.gather(self._future, asynchronous=True))
        text = result.text if isinstance(result, Completion) else self._as_text(result)
        if (chunk := shown.whole(text)) is not None:
            yield chunk

    async def _where(self, after: int, patience_s: float, shown: Shown) -> dict[str, Any]:
        """Ask which attempt after another gives the answer, and on which worker; wait for so long if there is none."""
        asked = _asked(self._client, run_id=run_id_of(self._future), after=after, patience_s=patience_s)
        asking: asyncio.Future[dict[str, Any] | None] = asyncio.ensure_future(asked)
        try:
            while not asking.done():
                if self._future.cancelled():
                    if self._client.status != "running":  # it has lost its scheduler, for which the question goes on
                        raise self._lost(shown)
                    return {"ended": True}
                await asyncio.wait({asking}, timeout=LOOK_S)
            where = asking.result()
        except OSError as error:
            raise self._lost(shown) from error
        finally:
            asking.cancel()
        if where is None:
            raise not_installed(self._client)
        return where

    @staticmethod
    def _lost(shown: Shown) -> StreamLostError:
        return StreamLostError(
            f"the connection to the scheduler was lost after {len(shown.text)} characters of the answer; "
            "the run is lost with it, submit it again to a new client"
        )


async def _connection(address: str, **arguments: Any) -> Comm:
    """Connect; who stops waiting leaves no socket behind, as they would if `connect` itself were cancelled."""
    connecting = asyncio.ensure_future(connect(address, **arguments))
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_let_go)
        raise


def _let_go(connecting: asyncio.Future[Comm]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().abort()


async def _asked(client: Client, **question: Any) -> dict[str, Any] | None:
    """Ask the scheduler over a connection of its own: those that a client shares are few, and this waits for long."""
    comm = await _connection(client.scheduler.address, **client.connection_args)
    try:
        answer: dict[str, Any] | None = await send_recv(comm, op="fmware_answer", **question)
        return answer
    finally:
        comm.abort()


async def _follow(client: Client, where: dict[str, Any]) -> AsyncGenerator[tuple[str, str | None], None]:
    """Yield pieces of one attempt's text, and with the last how it ended; ends early if its worker is lost."""
    try:
        comm = await _connection(where["worker"], timeout=CONNECT_S, **client.connection_args)
    except OSError:
        return
    try:
        await comm.write(
            {"op": "fmware_stream", "call_id": where["call_id"], "attempt": where["attempt"], "reply": True}
        )
        while True:
            message = await comm.read()
            if not isinstance(message, dict) or "end" in message:
                yield "", message["end"] if isinstance(message, dict) else None
                return
            if not isinstance(text := message.get("text"), str):
                return  # its worker failed to send it
            yield text, None
    except OSError:
        return
    finally:
        comm.abort()


def stream(future: Future) -> AnswerStream:
    """Return the answer of a run as an iterator of chunks, while it is generated.

    Parameters
    ----------
    future
        From ``client.compute(bound_workflow)``.

    Returns
    -------
    AnswerStream
        Iterate over it with ``for``, or ``async for`` where the client is asynchronous; the other one is a `TypeError`.
        It raises what ended the run, `NotInstalledError` if the cluster has no runtime, and `RuntimeFaultError` if the
        client is closed.

    Examples
    --------
    >>> for chunk in fm.stream(future):  # doctest: +SKIP
    ...     print(chunk, end="", flush=True)
    >>> fm.stream(future).print()  # doctest: +SKIP
    """
    return AnswerStream(checked_future(future, "stream"))
