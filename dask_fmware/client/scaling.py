"""Scaling by hand: `fm.scale`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from distributed import Client

from dask_fmware.client.asking import checked_client, not_installed
from dask_fmware.errors import DeploymentError

__all__ = ["scale"]

FIRST_LOOK_S = 3.0


def scale(client: Client, replicas: Mapping[str, Mapping[str, int]] | None) -> Any:
    """Keep so many replicas of each model on each accelerator, whatever the load.

    What is too much is drained and then stopped, what is missing is started; other kinds keep what they have.
    Returns at once: `wait_ready` waits until they serve, ``fm.status(client)["provisioning"]`` tells how far it is.

    Parameters
    ----------
    client
        Of a cluster whose replicas are provisioned (``cluster.adapt`` or `fm.provision`).
    replicas
        ``{"large": {"L4": 2, "A100": 0}}``; None gives the decision back to the load.

    Raises
    ------
    NotInstalledError
        The cluster has no runtime.
    DeploymentError
        A model is not deployed there, the cards do not hold so many, or nothing provisions this cluster.
    """
    return checked_client(client, "scale").sync(_scale, client, replicas)


def _check_shape(replicas: Any) -> None:
    """Raise a `DeploymentError` for numbers that say nothing of an accelerator; what is deployed the router knows."""
    shape = "write {'model': {'accelerator': replicas}}, e.g. {'large': {'L4': 2}}"
    if not isinstance(replicas, Mapping):
        raise DeploymentError(f"scale: got a {type(replicas).__name__}; {shape}")
    for model, on in replicas.items():
        if not isinstance(on, Mapping):
            raise DeploymentError(f"scale: model '{model}' has a {type(on).__name__}; {shape}")


async def _scale(client: Client, replicas: Mapping[str, Mapping[str, int]] | None) -> None:
    wanted = None
    if replicas is not None:
        _check_shape(replicas)
        wanted = [[model, accelerator, count] for model, on in replicas.items() for accelerator, count in on.items()]
    if await client.scheduler.fmware_status() is None:
        raise not_installed(client)
    deadline = time.monotonic() + FIRST_LOOK_S
    while True:
        answer = await client.scheduler.fmware_scale(wanted=wanted)
        if not answer.get("is_early") or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.05)  # a provisioner that was made a moment ago has not asked yet
    if "error" in answer:
        raise DeploymentError(str(answer["error"]))
