"""A pool of processes for a command that plays many simulations, which ends at once when the command is interrupted."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from dask_fmware.errors import FMwareError

__all__ = ["cores", "pool"]


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
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise FMwareError(
                f"one of {processes} processes was ended from outside, for want of memory maybe; try --processes 1"
            ) from error
        raise
    executor.shutdown()
