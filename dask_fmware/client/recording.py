"""Recording what the router of a running cluster sees and decides."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from distributed import Client

from dask_fmware.client.asking import checked_client
from dask_fmware.client.install import installed_status
from dask_fmware.errors import RuntimeFaultError, SpecError

__all__ = ["Recording", "record"]


class Recording:
    """An event log that is being written; use it with ``with`` (``async with`` an asynchronous client).

    Attributes
    ----------
    path
        Of the log, on the scheduler's machine.
    lines
        Written when it was stopped.
    """

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self.path = path
        self.lines = 0

    def start(self) -> Any:
        """Begin."""
        return self._client.sync(self._start)

    def stop(self) -> Any:
        """End; the file is complete then. Again is harmless. `RuntimeFaultError` if the log had ended before."""
        return self._client.sync(self._stop)

    async def _start(self) -> None:
        await installed_status(self._client)  # raises if there is no runtime
        told = await self._client.scheduler.fmware_record(path=self.path)
        if "error" in told:
            raise (RuntimeFaultError if told.get("is_busy") else SpecError)(told["error"])
        self.path = told["path"]

    async def _stop(self) -> None:
        told = await self._client.scheduler.fmware_record_stop(path=self.path)
        if told is None:
            return
        self.lines = told["lines"]
        if told["fault"]:
            raise RuntimeFaultError(
                f"the event log {told['path']} is not complete: {told['fault']}, after {self.lines} lines at most; "
                "record again to a file that stays and has room"
            )

    def __enter__(self) -> Self:
        if self._client.asynchronous:
            raise TypeError("this client is asynchronous: use 'async with fm.record(client, path)'")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()


def record(client: Client, path: str) -> Recording:
    """Record every event of the runtime with what was decided, to replay it or to ask what if.

    Parameters
    ----------
    client
        Of a cluster with the runtime.
    path
        A new file on the scheduler's machine; compressed if it ends in ``.gz``. It holds names, sizes and times, no
        prompt and no answer.

    Returns
    -------
    Recording
        Start it with ``with``, or `start` and `stop`.

    Raises
    ------
    NotInstalledError
        When it starts: the cluster has no runtime.
    SpecError
        When it starts: the file exists, or cannot be written.
    RuntimeFaultError
        When it starts: another log is being written. When it stops: the log ended before, as its disk was full or its
        file was removed.

    Examples
    --------
    >>> with fm.record(client, "run.jsonl.gz"):  # doctest: +SKIP
    ...     client.gather(client.compute(runs))
    """
    return Recording(checked_client(client, "record"), str(path))
