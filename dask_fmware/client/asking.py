"""What all questions to the runtime have in common: who is asked, about which run, and if nobody answers."""

from __future__ import annotations

from typing import Any

from distributed import Client, Future

from dask_fmware.errors import NotInstalledError

__all__ = ["ask_about_run", "checked_client", "checked_future", "not_installed", "run_id_of"]


def run_id_of(future: Future) -> str:
    """Run that a future belongs to: the end of its key."""
    return str(future.key)[-32:]


def checked_client(client: Any, function: str) -> Client:
    """Return the client that a public function was given; `TypeError` if it is something else."""
    if not isinstance(client, Client):
        raise TypeError(
            f"fm.{function} takes a distributed.Client, not a {type(client).__name__}; "
            "make one: client = Client('tcp://scheduler:8786'), or Client(cluster)"
        )
    return client


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


async def ask_about_run(client: Client, question: str, run_id: str) -> dict[str, Any]:
    """Return the answer to an RPC of the runtime about a run.

    Raises
    ------
    NotInstalledError
        If the cluster has no runtime.
    KeyError
        If the run is not known, or no longer remembered.
    """
    answer: dict[str, Any] | None = await getattr(client.scheduler, question)(run_id=run_id)
    if answer is None:
        if await client.scheduler.fmware_status() is None:
            raise not_installed(client)
        raise KeyError(f"run {run_id[:8]} is not known to the runtime, or no longer remembered")
    return answer
