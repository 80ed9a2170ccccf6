"""What we touch in `distributed.Client` that carries no public promise, and nothing else.

Verified with distributed 2026.8; `tests/cluster/test_dask_result_internals.py` holds the contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dask._expr import LLGExpr
from distributed import Client, Future
from distributed.client import SpanMetadata

__all__ = ["connection", "ended", "holds", "listen", "send_at_once", "submit"]


def connection(client: Client) -> Any:
    """Return what stands for the present connection to the scheduler: another object after each (scheduler_comm)."""
    return client.scheduler_comm


def send_at_once(client: Client, interval_s: float) -> None:
    """Lower the pause between two messages to the scheduler, and do not work out the size of each of them.

    The pause is 10 ms in stock Dask. Large messages are serialized in another thread there; a graph has been by then
    (Client.scheduler_comm; BatchedSend.interval, comm; Comm.allow_offload).
    """
    if (stream := client.scheduler_comm) is not None:  # else the connection was lost
        stream.interval = interval_s
        if stream.comm is not None:
            stream.comm.allow_offload = False


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


def submit(client: Client, graph: Mapping[str, Any], keys: Sequence[str]) -> list[Future]:
    """Submit tasks and return the futures of `keys`, one object for equal ones, as ``Client.get`` does with no wait.

    Tasks have the priorities that their order says. Otherwise Dask works some out, for which the scheduler hands the
    graph to another thread and back (Client._graph_to_futures, internal_priority).
    """
    futures: dict[str, Future] = client._graph_to_futures(
        LLGExpr(dict(graph)),
        set(keys),
        span_metadata=SpanMetadata(collections=[{"type": "low-level-graph"}]),
        internal_priority={key: number for number, key in enumerate(graph)},
    )
    return [futures[key] for key in keys]
