"""Small results that arrive along with the news that they are there, so that a client fetches nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from threading import Lock
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

from distributed import Client, Future

from dask_fmware.client.dask_internals import (
    connection,
    ended,
    fetched_alone,
    holds,
    listen,
    listen_for_losses,
    write_promptly,
)
from dask_fmware.client.fetching import fetched
from dask_fmware.model.carrying import is_small, unpack
from dask_fmware.model.messages import PROTOCOL_VERSION, STREAM_INTERVAL_S, Carried

__all__ = ["ArrivedResults"]

TIDY_S = 1.0  # after which results are dropped whose futures others have released
AGAIN_S = 5.0  # between two questions for them where they do not come
RELEASE_S = 0.02  # after which futures that were done with are released together


class ArrivedResults:
    """Results that came to a client by themselves, for as long as it holds their futures."""

    _of: ClassVar[WeakKeyDictionary[Client, ArrivedResults]] = WeakKeyDictionary()
    _making: ClassVar[Lock] = Lock()  # of two that threads make at once, one would take no result

    def __init__(self, client: Client) -> None:
        self._client = ref(client)
        self._values: dict[str, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None  # until some of them are looked for whose futures are gone
        self._connection: Any = None
        self._is_understood = False
        self._asking: asyncio.Future[Any] | None = None
        self._asked_at = -inf
        self._done_with: list[Future] = []
        listen(client, Carried.op, self._take)
        listen_for_losses(client, self._drop)  # what is made anew may not come by itself

    @classmethod
    def of(cls, client: Client) -> ArrivedResults:
        """Return those of a client."""
        with cls._making:
            if (one := cls._of.get(client)) is None:
                one = cls._of[client] = cls(client)
            return one

    def ask(self, client: Client) -> Any:
        """Ask the scheduler for them, once for each connection; one that does not answer has them fetched.

        It is asked again where a small one had to be fetched: the runtime may have been installed since, or anew.
        Returned is the connection if the scheduler has answered, and understands our messages.
        """
        if (there := connection(client)) is not self._connection:
            self._connection, self._is_understood = there, False
            self._asked_at = asyncio.get_running_loop().time()
            write_promptly(client, STREAM_INTERVAL_S)
            self._asking = asyncio.ensure_future(self._greet(client, there))
        return there if self._is_understood else None

    async def _greet(self, client: Client, there: Any) -> None:
        try:
            version = await client.scheduler.fmware_greet(client=client.id)
        except Exception:  # no runtime, or the connection is lost, as the next message will find
            return
        self._is_understood = there is self._connection and version == PROTOCOL_VERSION

    def began(self, future: Future) -> None:
        """A task was submitted; what came of an earlier one of that name counts no more."""
        self._drop(future.key)

    def release(self, future: Future) -> None:
        """Release a future, and its result if nobody else holds one: at once if that cancels it or lets it run anew.

        One that has its result waits a little for others. Released by itself, it would have scheduler and worker forget
        it before they come to the next run of its caller.
        """
        if future.status != "finished":
            self._let_go([future])
            return
        if not self._done_with:
            asyncio.get_running_loop().call_later(RELEASE_S, self._let_go, self._done_with)
        self._done_with.append(future)

    def _let_go(self, futures: list[Future]) -> None:
        keys = [future.key for future in futures]
        for future in futures:
            future.release()  # in the next turn of the loop
        futures.clear()
        asyncio.get_running_loop().call_soon(self._released, keys)

    def _released(self, keys: list[str]) -> None:
        client = self._client()
        for key in keys:
            if client is None or not holds(client, key):
                self._drop(key)

    def _drop(self, key: str) -> None:
        self._values.pop(key, None)

    async def result(self, future: Future) -> Any:
        """Return the result of a task or raise its error, as ``await future.result()`` would.

        Results that callers wait for at the same time are fetched in one message. If one of them cannot be opened here,
        as its module is missing, none of that message can: then each is fetched by itself.
        """
        if await ended(future) and (value := self._values.get(future.key)) is not None:
            return unpack(value)
        try:
            result = await fetched(future.result())
        except Exception:
            if future.status != "finished":
                raise
            result = await fetched(fetched_alone(future))
        if is_small(result) and asyncio.get_running_loop().time() - self._asked_at >= AGAIN_S:
            self._connection = None
        return result

    async def results(self, futures: Sequence[Future]) -> list[Any]:
        """Return the results of tasks, or raise the error of the first that fails, which waits for no other."""
        results = [asyncio.ensure_future(self.result(future)) for future in futures]
        try:
            return await asyncio.gather(*results)
        finally:
            for result in results:
                result.cancel()

    def _take(self, **message: Any) -> None:
        """Take a result, ahead of the news (message of the scheduler)."""
        carried, client = Carried.from_wire(message), self._client()
        if client is not None and holds(client, carried.key):
            self._values[carried.key] = carried.value
            self._tidy_later()

    def _tidy_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TIDY_S, self._tidy)

    def _tidy(self) -> None:
        self._timer, client = None, self._client()
        held = [] if client is None else [key for key in self._values if holds(client, key)]
        self._values = {key: self._values[key] for key in held}
        if held:
            self._tidy_later()
