"""Processes on hosts reached by SSH (`distributed.deploy.ssh`), to which somebody listens while they live.

Stock Dask reads what a process prints until it has started, and then no more: two megabytes later SSH takes nothing
from it, and it stands still in the middle of a line. Nor does Dask hear that it has ended, or say why it did not start.
Verified with distributed 2026.8 and asyncssh 2.24 (Process.proc, status; SpecCluster.scheduler, workers).
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from contextlib import suppress
from typing import Any, Self

from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.deploy.ssh import Process, Worker

from dask_fmware.errors import RuntimeFaultError
from dask_fmware.spec.record import shorten

__all__ = ["HostWorker", "listen_to"]

logger = logging.getLogger("dask_fmware.provisioning")

MOST_AT_ONCE = 65_536  # characters
MOST_SHOWN = 300
_heard: weakref.WeakKeyDictionary[Process, asyncio.Task[None]] = weakref.WeakKeyDictionary()


class HostWorker(Worker):  # type: ignore[misc]
    """The worker of a replica; takes what `distributed.deploy.ssh.Worker` does."""

    async def start(self) -> None:
        """Start the process and listen to it.

        Raises
        ------
        RuntimeFaultError
            The host cannot be reached, or its process ends; with what it said last.
        """
        try:
            await super().start()
        except Exception as error:
            why = (self.proc and self.proc.last_words) or f"{type(error).__name__}: {error}"
            raise RuntimeFaultError(f"host '{self.address}': {shorten(why, MOST_SHOWN)}") from error
        _heard[self] = asyncio.ensure_future(_until_over(self))

    @property
    def proc(self) -> Any:
        """The process on the host, or None."""
        return self._proc

    @proc.setter
    def proc(self, process: Any) -> None:
        self._proc = process and _Starting(process)


class _Starting:
    """A process of asyncssh to Dask, which takes an empty line for its end and keeps nothing of what it reads."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.last_words = ""

    @property
    def stderr(self) -> Self:
        return self

    async def readline(self) -> str:
        """The next line that is not empty; none when there is no more."""
        while (line := await self._process.stderr.readline()) and not line.strip():
            pass
        self.last_words = line.strip() or self.last_words
        return str(line)

    def read(self, most: int) -> Any:
        return self._process.stderr.read(most)

    def kill(self) -> None:
        """End it; asyncssh refuses that where it has ended already or cannot be reached any more."""
        with suppress(OSError):
            self._process.kill()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)


async def listen_to(cluster: SpecCluster) -> None:
    """Listen to the scheduler and the workers that an `SSHCluster` has started; does nothing on other clusters."""
    for process in (cluster.scheduler, *cluster.workers.values()):
        if isinstance(process, Process) and process.proc is not None and process not in _heard:
            _heard[process] = asyncio.ensure_future(_listen(process))


async def _until_over(worker: Any) -> None:
    await _listen(worker)
    code = worker.proc.returncode
    if worker.status == Status.running and code is not None:  # else it serves on, without a connection
        logger.warning("Worker %s on host %s has ended with %s", worker.name, worker.address, code)
        await worker.close()  # with its connection


async def _listen(process: Process) -> None:
    """Read what a process prints until it ends or its connection does."""
    said = process.proc
    try:
        await asyncio.gather(_read(said.stdout), _read(said.stderr))
        await said.wait_closed()
    except Exception as error:  # of asyncssh, which need not be installed where this is imported
        logger.warning("%r on %s cannot be listened to any more: %r", process, process.address, error)


async def _read(stream: Any) -> None:
    while await stream.read(MOST_AT_ONCE):
        pass
