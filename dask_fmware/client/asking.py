"""Asks the runtime about one run."""

from __future__ import annotations

from typing import Any

from distributed import Client

from dask_fmware.client.install import installed_status

__all__ = ["ask_about_run"]


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
        await installed_status(client)  # raises NotInstalledError if that is why
        raise KeyError(f"run {run_id[:8]} is not known to the runtime, or no longer remembered")
    return answer
