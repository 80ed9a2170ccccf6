"""Begins the coroutines of steps: on a worker Dask awaits them, on a scheduler without workers they run here.

Dask's local schedulers await nothing: a step would hand its coroutine on as if that were its value.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dask._task_spec import Task

from dask_fmware.compile.bodies import run_loop, run_map
from dask_fmware.compile.steps import run_call, run_plain_async
from dask_fmware.errors import WorkflowError

__all__ = ["coroutine_task", "start_call", "start_loop", "start_map", "start_plain"]


def coroutine_task(key: str, start: Any, *args: Any, **kwargs: Any) -> Task:
    """Return a task whose function is one of those below."""
    task = Task(key, start, *args, **kwargs)
    task._is_coro = True  # what Dask finds out itself for `async def`
    return task


def start_call(*args: Any, **kwargs: Any) -> Any:
    """Begin a model call."""
    return _started(run_call(*args, **kwargs))


def start_plain(*args: Any, **kwargs: Any) -> Any:
    """Begin plain code made of coroutine functions."""
    return _started(run_plain_async(*args, **kwargs))


def start_map(*args: Any, **kwargs: Any) -> Any:
    """Begin a map."""
    return _started(run_map(*args, **kwargs))


def start_loop(*args: Any, **kwargs: Any) -> Any:
    """Begin a loop."""
    return _started(run_loop(*args, **kwargs))


def _started(step: Coroutine[Any, Any, Any]) -> Any:
    """Return the coroutine on a worker's event loop, and its result everywhere else.

    Raises
    ------
    WorkflowError
        In a thread of a worker: the task is a copy that Dask has made, of which the router knows nothing.
    """
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        with ThreadPoolExecutor(1) as thread:  # this one may have a loop that runs, in a notebook it has
            return thread.submit(asyncio.run, step).result()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        step.close()
        raise WorkflowError(
            "Dask has copied or fused the tasks of a workflow that is part of another collection, such as a "
            "dask.delayed value or a bag; give it the workflow's future, as in delayed(f)(client.compute(bound))"
        ) from None
    return step
