"""What all questions to the runtime have in common: who is asked, about which run, and if nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from distributed import Client, Future

from dask_fmware.errors import NotInstalledError, RuntimeFaultError

__all__ = [
    "CLOSED",
    "ask_about_run",
    "checked_client",
    "checked_future",
    "is_closed",
    "not_installed",
    "run_id_of",
    "still_open",
    "until_arrived",
]

T = TypeVar("T")

ARRIVAL_S = 5.0  # for which a run that was just submitted may be on its way: a question overtakes a graph
CLOSED = (
    "the client is closed, by hand or since its scheduler was lost, and so are its runs; make another: "
    "client = Client('tcp://scheduler:8786'), or Client(cluster)"
)
FIRST_LOOK_S, LAST_LOOK_S = 0.005, 0.25  # between two looks whether it has arrived


def run_id_of(future: Future) -> str:
    """Run that a future belongs to: the end of its key."""
    return str(future.key)[-32:]


def checked_client(client: Any, function: str) -> Client:
    """Return the client that a public function was given; `TypeError` if it is something else, or see `still_open`."""
    if not isinstance(client, Client):
        raise TypeError(
            f"fm.{function} takes a distributed.Client, not a {type(client).__name__}; "
            "make one: client = Client('tcp://scheduler:8786'), or Client(cluster)"
        )
    return still_open(client, function)


def still_open(client: Client, function: str) -> Client:
    """Return a client that has a scheduler to ask; `RuntimeFaultError` if it is closed, or about to be."""
    if is_closed(client):
        raise RuntimeFaultError(f"fm.{function}: {CLOSED}")
    return client


def is_closed(client: Client) -> bool:
    """Whether a client has no scheduler to ask any more: what it is given while it closes would wait for ever."""
    return client.status in ("closing", "closed")


def checked_future(future: Any, function: str) -> Future:
    """Return the future that a public function was given; `TypeError` if it is something else."""
    if not isinstance(future, Future):
        raise TypeError(f"fm.{function} takes the Future of client.compute(...), not a {type(future).__name__}")
    return future


def not_installed(client: Client) -> NotInstalledError:
    """Return the error for a cluster whose scheduler knows nothing of the runtime."""
    return NotInstalledError(
        f"the cluster at {client.scheduler.address} has no dask-fmware runtime; call fm.install(client, deployment)"
    )


async def until_arrived(ask: Callable[[], Awaitable[T]], is_missing: Callable[[T], bool]) -> T:
    """Ask until an answer misses no run that is on its way, or for `ARRIVAL_S`; return the last answer."""
    loop = asyncio.get_running_loop()
    deadline, pause_s = loop.time() + ARRIVAL_S, FIRST_LOOK_S
    while is_missing(answer := await ask()) and loop.time() < deadline:
        await asyncio.sleep(pause_s)
        pause_s = min(2.0 * pause_s, LAST_LOOK_S)
    return answer


async def ask_about_run(future: Future, question: str) -> dict[str, Any]:
    """Return the answer to an RPC of the runtime about a run; one that is on its way to the scheduler is waited for.

    Raises
    ------
    NotInstalledError
        If the cluster has no runtime.
    KeyError
        If the run is not known, has not arrived within `ARRIVAL_S`, or is no longer remembered.
    """
    client, run_id, was_pending = future.client, run_id_of(future), False

    async def ask() -> dict[str, Any] | None:
        nonlocal was_pending
        was_pending = future.status == "pending"  # before it is asked about: it may end meanwhile
        answer: dict[str, Any] | None = await getattr(client.scheduler, question)(run_id=run_id)
        if answer is None and await client.scheduler.fmware_reports(run_ids=[]) is None:
            raise not_installed(client)
        return answer

    answer = await until_arrived(ask, lambda answer: answer is None and was_pending)
    if answer is None and was_pending:
        raise KeyError(
            f"run {run_id[:8]} has not reached the scheduler within {ARRIVAL_S:g} s; ask again later, and if the "
            "future is not that of a workflow, there is no run"
        )
    if answer is None and future.status == "cancelled":
        raise KeyError(
            f"run {run_id[:8]} was cancelled, and the runtime does not know it: it was cancelled before it reached the "
            "scheduler, or is no longer remembered; if the future is not that of a workflow, there was no run"
        )
    if answer is None:
        raise KeyError(
            f"future '{future.key}' is not known to the runtime: it is not that of a workflow, or its run is no longer "
            "remembered; ask soon after its end, raise router.keep_reports in the deployment, or keep what happens "
            "with fm.record"
        )
    return answer
