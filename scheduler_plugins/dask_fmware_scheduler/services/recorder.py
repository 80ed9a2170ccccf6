"""The recorder: writes the machine's event log to a file of the scheduler, on request.

A log that starts with the router (``router.record`` of the deployment) can be replayed to identical decisions; one
that starts later (`fm.record`) says which replicas there were and can be simulated. A full disk ends the log, not
the routing, and so does the removal of the file; whoever stops the log is told.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dask_fmware.errors import SpecError
from dask_fmware.runtime import ReplicaReady
from dask_fmware.runtime.eventlog import EventLog, Head

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["Recorder"]

logger = logging.getLogger("dask_fmware.recorder")

FLUSH_S = 1.0
KEPT = 10  # logs that ended, and which nobody has stopped


class Recorder:
    """Keeps at most one event log at a time."""

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router
        self._path: Path | None = None
        self._file: TextIO | None = None
        self._log: EventLog | None = None
        self._ended: dict[Path, dict[str, Any]] = {}  # what whoever stops them is told
        self._flushing: asyncio.TimerHandle | None = None

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """Starting and stopping a log."""
        return {"fmware_record": self.record, "fmware_record_stop": self.stop}

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """None."""
        return {}

    def start(self) -> None:
        """Begin the log that the deployment asks for."""
        asked = self._router.deployment.router.record
        if asked is not None:
            path = _unused(Path(asked))
            self._begin(path, is_complete=True)
            logger.info("The event log is written to %s", path)

    def close(self) -> None:
        """End the log under way."""
        self._end()

    def record(self, path: str) -> dict[str, Any]:
        """Begin a log; return its path on the scheduler's machine, or why there is none (RPC).

        What is wrong with a file is not raised: Dask would write its traceback to the log of the scheduler, too.
        """
        if self._path is not None:
            why = (
                f"the event log is being written to {self._path} already; stop that first, by whoever began it or by "
                f"fm.record(client, '{self._path}').stop()"
            )
            return {"error": why, "is_busy": True}
        wanted = Path(path).absolute()
        if wanted.exists():
            return {"error": f"{wanted} exists on the scheduler's machine; name another file"}
        try:
            self._begin(wanted, is_complete=False)
        except SpecError as error:
            return {"error": str(error)}
        return {"path": str(wanted)}

    def stop(self, path: str) -> dict[str, Any] | None:
        """End a log; return its path, its lines and why it had ended before, or None if it is not known (RPC)."""
        wanted = Path(path).absolute()
        if wanted == self._path:
            self._end()
        return self._ended.pop(wanted, None)

    # -- the file --------------------------------------------------------------------------------

    def _begin(self, path: Path, *, is_complete: bool) -> None:
        opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
        try:
            self._file = opened(path, "xt", encoding="utf-8")
        except OSError as error:
            raise _unwritable(path, _why(error)) from error
        self._path = path
        machine = self._router.machine
        head = Head(
            policy=machine.policy.name,
            seed=self._router.deployment.router.seed,
            max_attempts=machine.max_attempts,
            max_held=machine.max_held,
            models={name: (known.context_tokens, known.longest_token_bytes) for name, known in machine.models.items()},
            is_complete=is_complete,
            tenants=machine.tenants,
            hedge_budget=machine.hedging.budget,
            unhedged=tuple(sorted(machine.hedging.exempt)),
            started=self._router.clock(),
            embedders=tuple(sorted(self._router.deployment.embedders)),
        )
        log = EventLog(head, self._write)
        for state in machine.fleet:
            log.observe(ReplicaReady(state.replica, state.standing.is_draining), (), head.started)
        self._flush()
        if self._file is None:  # not even that could be written
            path.unlink(missing_ok=True)
            raise _unwritable(path, self._ended.pop(path)["fault"])
        self._log = log
        machine.observers.append(log)

    def _write(self, line: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(line)
        except OSError as error:
            self._end(_why(error))

    def _flush_later(self) -> None:
        self._flushing = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        if self._file is None:
            return
        try:
            _flush(self._file)
        except OSError as error:
            self._end(_why(error))
        else:
            self._flush_later()

    def _end(self, fault: str = "") -> None:
        """End the log under way, by itself if there is a fault: routing goes on without it."""
        if self._flushing is not None:
            self._flushing.cancel()
        if self._log is not None:
            self._router.machine.observers.remove(self._log)
        file, path, log = self._file, self._path, self._log
        self._file, self._path, self._log, self._flushing = None, None, None, None
        if file is None or path is None:
            return
        for do in (partial(_flush, file), file.close):
            try:
                do()
            except OSError as error:
                fault = fault or _why(error)
        if fault:
            self._router.failures["recorder"] += 1
            logger.error("The event log %s ends here: %s", path, fault)
        self._ended[path] = {"path": str(path), "lines": log.lines if log is not None else 0, "fault": fault}
        for forgotten in list(self._ended)[:-KEPT]:
            del self._ended[forgotten]


def _flush(file: TextIO) -> None:
    """Bring a log to the disk; one that was removed takes up the disk, and nobody can read it."""
    file.flush()
    if os.fstat(file.fileno()).st_nlink == 0:
        raise FileNotFoundError(errno.ENOENT, "the file was removed")


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _unwritable(path: Path, why: str) -> SpecError:
    return SpecError(f"event log {path}: {why}; name a file that can be written")


def _unused(path: Path) -> Path:
    """The path itself, or with the first number that makes it one that does not exist."""
    path = path.absolute()
    stem, dot, suffix = path.name.partition(".")
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{stem}-{number}{dot}{suffix}")
    return found
