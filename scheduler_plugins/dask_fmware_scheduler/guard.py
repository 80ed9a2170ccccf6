"""What may go wrong in the scheduler without taking anything along: logged, counted, and shown by ``fm.status``.

Dask hides errors of plugins in its INFO log, and a handler of messages that raises costs a worker its stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Protocol, TypeVar

__all__ = ["Guard", "guarded"]

logger = logging.getLogger("dask_fmware.router")

F = TypeVar("F", bound=Callable[..., Any])


class Guard:
    """Runs what must not fail its caller.

    Attributes
    ----------
    failures
        How often what failed, by name.
    """

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def failed(self, name: str) -> None:
        """Count and log the error that is being handled."""
        self.failures[name] += 1
        logger.exception("Replica router: %s failed", name)

    def observer_failed(self, observer: object, error: BaseException) -> None:
        """Count an observer of the machine that has raised; only its first error is logged: it sees all events."""
        self._often(f"observer {type(observer).__name__}", error)

    def policy_failed(self, error: BaseException) -> None:
        """Count a policy that has raised; only its first error is logged: each call asks it."""
        self._often("policy", error)

    def _often(self, name: str, error: BaseException) -> None:
        self.failures[name] += 1
        if self.failures[name] == 1:
            logger.error("Replica router: %s failed; more of its errors are only counted", name, exc_info=error)

    def around(self, name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Return a handler that does not fail."""

        def handle(*args: Any, **kwargs: Any) -> Any:  # no partial: Dask looks into those for each message
            try:
                return handler(*args, **kwargs)
            except Exception:
                return self.failed(name)

        return handle

    def later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background until `close`."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures["background"] += 1
            logger.error("Replica router: %s", error, exc_info=error)

    def close(self) -> None:
        """Give up what runs in the background."""
        for task in self._tasks:
            task.cancel()


class _Guarded(Protocol):
    guard: Guard


def guarded(hook: F) -> F:
    """Let a method of something that has a `Guard` never fail."""

    @wraps(hook)
    def run(self: _Guarded, *args: Any, **kwargs: Any) -> Any:
        try:
            return hook(self, *args, **kwargs)
        except Exception:
            return self.guard.failed(hook.__name__)

    return run  # type: ignore[return-value]
