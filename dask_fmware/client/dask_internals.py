"""What we touch in `distributed.Client` that carries no public promise, and nothing else.

Verified with distributed 2026.8; `tests/cluster/test_dask_result_internals.py` holds the contract tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed import Client, Future

__all__ = ["connection", "ended", "holds", "listen"]


def connection(client: Client) -> Any:
    """Return what stands for the present connection to the scheduler: another object after each (scheduler_comm)."""
    return client.scheduler_comm


def listen(client: Client, name: str, handler: Callable[..., None]) -> None:
    """Take messages of the scheduler in their order, among those of Dask (_stream_handlers)."""
    client._stream_handlers[name] = handler


def holds(client: Client, key: str) -> bool:
    """Whether somebody has a future of a task (futures)."""
    return key in client.futures


async def ended(future: Future) -> bool:
    """Wait until a task has ended, and return whether it has a result (Future._state)."""
    await future._state.wait()
    return bool(future.status == "finished")
