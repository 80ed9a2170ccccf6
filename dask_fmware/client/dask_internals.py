"""What we touch in `distributed.Client` that carries no public promise, and nothing else.

Verified with distributed 2026.8; `tests/cluster/test_dask_result_internals.py` holds the contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dask
from dask._expr import LLGExpr
from distributed import Client, Future
from distributed.client import SpanMetadata
from distributed.protocol.pickle import dumps

from dask_fmware.model.messages import RunsAsked
from dask_fmware.streams import measure_no_messages, send_promptly

__all__ = ["connection", "ended", "fetched_alone", "holds", "listen", "listen_for_losses", "submit", "write_promptly"]

SMALL_BYTES = 2**20  # of tasks that the scheduler opens on its loop


def connection(client: Client) -> Any:
    """Return what stands for the present connection to the scheduler: another object after each (scheduler_comm)."""
    return client.scheduler_comm


def write_promptly(client: Client, interval_s: float) -> None:
    """Have what goes to the scheduler written at once; it has been serialized by then (scheduler_comm)."""
    if (stream := client.scheduler_comm) is not None:  # else the connection was lost
        send_promptly(stream, interval_s)
        measure_no_messages(stream)


def listen(client: Client, name: str, handler: Callable[..., None]) -> None:
    """Take messages of the scheduler in their order, among those of Dask (_stream_handlers)."""
    client._stream_handlers[name] = handler


def listen_for_losses(client: Client, told: Callable[[str], None]) -> None:
    """Hear of results that are lost, before Dask has their futures wait again (_stream_handlers, "lost-data")."""
    stock = client._stream_handlers["lost-data"]

    def lost(key: str) -> None:
        told(key)
        stock(key=key)

    client._stream_handlers["lost-data"] = lost


def holds(client: Client, key: str) -> bool:
    """Whether somebody has a future of a task (futures)."""
    return key in client.futures


async def ended(future: Future) -> bool:
    """Wait until a task has ended, and return whether it has a result (Future._state)."""
    await future._state.wait()
    return bool(future.status == "finished")


async def fetched_alone(future: Future) -> Any:
    """Return the result of a task, fetched with no other (RPC "gather" of the scheduler, as Client._gather_remote)."""
    answer = await future.client.scheduler.gather(keys=[future.key])
    if answer["status"] != "OK":  # it was lost meanwhile
        return await future.result()
    return answer["data"][future.key]


def submit(client: Client, graph: Mapping[str, Any], outputs: Sequence[str], over: Any = None) -> list[Future]:
    """Submit tasks that wait for nothing elsewhere, and return the futures of `outputs`.

    They have the priorities that their order says. `over` is the connection if the scheduler takes a message of ours
    there, and makes the tasks in the very turn of its loop; a graph of Dask it hands to another thread and back. What
    is large or cannot be pickled goes as a graph. If the connection is lost by the time that the message leaves, so are
    the futures, as Dask says then (Client._refcount_lock, loop, scheduler_comm, _reconnect).
    """
    tasks = _pickled(graph) if over is not None else None
    if tasks is None:
        return _submit_graph(client, graph, outputs)
    message = RunsAsked(tasks, tuple(outputs)).to_wire()

    def send() -> None:
        if client.scheduler_comm is over and not over.closed():
            over.send(message)

    with client._refcount_lock:
        futures = [Future(key, client) for key in outputs]
        client.loop.add_callback(send)  # behind what was said before
    return futures


def _pickled(graph: Mapping[str, Any]) -> bytes | None:
    """Tasks as one message takes them; None if it does not (dask.get_annotations)."""
    try:
        tasks: bytes = dumps((dict(graph), dask.get_annotations()))
    except Exception:  # Dask says what is wrong with it
        return None
    return tasks if len(tasks) <= SMALL_BYTES else None


def _submit_graph(client: Client, graph: Mapping[str, Any], outputs: Sequence[str]) -> list[Future]:
    """Submit tasks as ``Client.get`` does with no wait; one future for equal outputs.

    Given no priorities, Dask works some out, for which the scheduler hands the graph to another thread and back
    (Client._graph_to_futures, internal_priority).
    """
    futures: dict[str, Future] = client._graph_to_futures(
        LLGExpr(dict(graph)),
        set(outputs),
        span_metadata=SpanMetadata(collections=[{"type": "low-level-graph"}]),
        internal_priority={key: number for number, key in enumerate(graph)},
    )
    return [futures[key] for key in outputs]
