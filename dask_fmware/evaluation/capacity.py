"""How many rows are kept under way: enough that no slot waits for the client, few enough that little is held."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client

from dask_fmware.client.install import installed_status
from dask_fmware.errors import RuntimeFaultError
from dask_fmware.evaluation.costs import Prices
from dask_fmware.spec.deployment import Deployment

__all__ = ["Capacity", "asked_status"]

LEAST, MOST = 8, 4096


async def asked_status(client: Client) -> Mapping[str, Any]:
    """Return the runtime's status; RuntimeFaultError if the scheduler is lost."""
    try:
        return await installed_status(client)
    except OSError as error:
        address = client.scheduler.address if client.scheduler is not None else "the scheduler"
        raise RuntimeFaultError(f"the connection to {address} was lost") from error


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a cluster has for a job at a moment."""

    slots: int  # of ready replicas of its models
    deployment: Deployment
    missing: tuple[str, ...]  # models of the job without a ready replica
    prices: Prices

    @classmethod
    def of(cls, status: Mapping[str, Any], models: Collection[str]) -> Capacity:
        """Read it from the runtime's status."""
        deployment = Deployment.model_validate(status["deployment"])
        ready = [r for r in status["replicas"] if r["model"] in models and not r["draining"]]
        there = {r["model"] for r in ready}
        return cls(
            sum(r["slots"] for r in ready),
            deployment,
            tuple(sorted(set(models) - there)),
            Prices.of(deployment),
        )

    @property
    def window(self) -> int:
        """Rows under way: two for each slot, so that the next call is there when one ends."""
        return min(max(2 * self.slots, LEAST), MOST)
