"""A pool of processes for a command that plays many simulations, which ends at once when the command is interrupted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from threading import Thread

from dask_fmware.errors import FMwareError

__all__ = ["cores", "pool"]

PATIENCE_S = 5.0  # with a thread of the executor, which has next to nothing to do


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor | None]:
    """Yield an executor; None where one process is all, which is this one.

    A Ctrl-C is for this process alone: the others are started deaf to it, and ended by any error here.

    Raises
    ------
    FMwareError
        If one of them was ended from outside.
    """
    if processes < 2:
        yield None
        return
    executor = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as what is started inherits it
        try:
            for _ in range(processes):
                executor.submit(int)
        finally:
            signal.signal(signal.SIGINT, heard)
        yield executor
    except BaseException as error:
        _end(executor)
        if isinstance(error, BrokenProcessPool):
            raise FMwareError(
                f"one of {processes} processes was ended from outside, for want of memory maybe; try --processes 1"
            ) from error
        raise
    executor.shutdown()


def _end(executor: ProcessPoolExecutor) -> None:
    """End the processes of an executor, whatever they do, and then its thread.

    The thread fails what was cancelled once more if a process is gone before the thread has dropped that, and ends in a
    traceback (`InvalidStateError`, CPython 3.11). It drops in the order of submission, so the last is waited for. The
    thread is waited for as well: an interpreter that ends while it closes its pipe writes to that (`OSError`).
    """
    last = None
    with suppress(BrokenProcessPool):
        last = executor.submit(int)
    ending = Thread(target=executor.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    ending.start()
    deadline = time.monotonic() + PATIENCE_S
    try:
        while last is not None and not (last.running() or last.done()) and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:  # also if it is interrupted again
        for process in multiprocessing.active_children():
            process.terminate()
    ending.join(PATIENCE_S)
