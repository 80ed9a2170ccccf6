"""Carries small results from the worker that made them to those who need them, who then fetch nothing.

They come ahead of the message that tells of their end and lie here until Dask releases them. A task that needs one
takes it along to its worker. A client that has asked for its results gets them along with the news of their end; others
are answered at once when they fetch them. Nobody opens them here. What is not here, Dask fetches.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dask_fmware.model.messages import Carried
from dask_fmware_scheduler.dask_internals import SchedulerInternals

__all__ = ["LIMIT_BYTES", "Carrier"]

LIMIT_BYTES = 64 * 2**20  # of all that lies here; above it the oldest go, and are fetched


class Carrier:
    """Small results that have not been released."""

    def __init__(self, dask: SchedulerInternals) -> None:
        self._dask = dask
        self._values: dict[str, bytes] = {}
        self._bytes = 0
        self._takers: set[str] = set()  # workers with a model host: others would close their stream at such a message
        self._askers: set[str] = set()  # clients that asked for them
        dask.answer_fetches(self.fetch)

    def __len__(self) -> int:
        return len(self._values)

    def expect(self, outputs: Collection[str], client: str) -> None:
        """Have results of runs that came in one message stay where they are made if they will be fetched together."""
        if len(outputs) > 1 and client not in self._askers:
            for key in outputs:
                self._dask.leave_result(key)

    def take(self, message: Carried, worker: str) -> None:
        """Take the result of a task from the worker that runs it, and from no other."""
        if self._dask.is_run_by(message.key, worker):
            self.drop(message.key)
            self._values[message.key] = message.value
            self._bytes += len(message.value)
            while self._bytes > LIMIT_BYTES:
                self.drop(next(iter(self._values)))

    def drop(self, key: str) -> None:
        """A result is not needed any more, or will be made anew."""
        self._bytes -= len(self._values.pop(key, b""))

    def send_ahead(self, task: Any) -> None:
        """Let what a task needs go ahead of it."""
        worker, lacking = self._dask.lacking(task)
        if worker in self._takers:
            for key in lacking:
                if (value := self._values.get(key)) is not None:
                    self._dask.send(worker, Carried(key, value).to_wire())

    def asked(self, client: str) -> None:
        """A client takes its results along with the news of them."""
        self._askers.add(client)

    def send_home(self, task: Any) -> None:
        """Let the result of a task go ahead of the news that it is there."""
        if (value := self._values.get(task.key)) is not None:
            for client in self._dask.wanted_by(task):
                if client in self._askers:
                    self._dask.tell_client(client, Carried(task.key, value).to_wire())

    def worker_came(self, worker: str) -> None:
        """A worker has a model host of our version."""
        self._takers.add(worker)

    def worker_left(self, worker: str) -> None:
        """A worker is gone; whoever comes at its address may be of another version."""
        self._takers.discard(worker)

    def client_left(self, client: str) -> None:
        """A client is gone; if it comes again, it asks again."""
        self._askers.discard(client)

    async def fetch(self, keys: Collection[str], serializers: list[str] | None = None) -> dict[str, Any]:
        """Answer a client that fetches results (RPC "gather"); keys that are not here are asked of their workers."""
        if serializers is not None and "pickle" not in serializers:
            return await self._dask.fetch(keys, serializers)
        here = {key: self._dask.pickled(value) for key in keys if (value := self._values.get(key)) is not None}
        away = [key for key in keys if key not in here]
        if not away:
            return {"status": "OK", "data": here}
        answer = await self._dask.fetch(away, serializers)
        if answer["status"] == "OK":
            answer["data"].update(here)
        return answer

    def close(self) -> None:
        """Carry nothing any more."""
        self._dask.answer_fetches(None)
        self._values.clear()
        self._bytes = 0
