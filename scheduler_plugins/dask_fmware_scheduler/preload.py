"""Preload for schedulers that are started by hand.

.. code-block:: console

    dask scheduler --preload dask_fmware_scheduler.preload --fm-deployment deployment.yaml

The document is checked while the command line is read, so that a wrong one ends the command with a
message; Dask would log a failing preload and start without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from distributed import Scheduler

from dask_fmware.errors import DeploymentError
from dask_fmware.policy import create_policy
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.documents import load_deployment
from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["dask_setup"]


def _deployment(ctx: click.Context, option: click.Parameter, path: Path | Deployment) -> Deployment:
    if isinstance(path, Deployment):  # Dask reads the command line twice
        return path
    try:
        deployment = load_deployment(path)
        create_policy(deployment.router.policy, lambda: 0.0)
    except DeploymentError as error:
        raise click.BadParameter(str(error)) from None
    return deployment


@click.command()
@click.option(
    "--fm-deployment",
    "deployment",
    type=click.Path(path_type=Path),
    callback=_deployment,
    required=True,
    help="Deployment document, YAML or JSON.",
)
@click.option(
    "--fm-stream-interval",
    "stream_interval_s",
    type=click.FloatRange(0),
    help="Seconds between two messages to a worker or client, e.g. 50e-6; Dask's own (2 to 5 ms) if not given.",
)
def dask_setup(scheduler: Any, deployment: Deployment, stream_interval_s: float | None) -> None:
    """Route model calls of workflows on this scheduler."""
    _install(scheduler, deployment, stream_interval_s)


def _install(scheduler: Scheduler, deployment: Deployment, stream_interval_s: float | None) -> None:
    """Add the router; the scheduler awaits the start of its plugins right after its preloads, once for each."""
    scheduler.add_plugin(ReplicaRouter(deployment, stream_interval_s=stream_interval_s), idempotent=True)
