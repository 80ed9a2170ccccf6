"""Preload for workers that are started by hand.

.. code-block:: console

    dask worker ADDRESS --preload dask_fmware_workers.preload --fm-deployment deployment.yaml \\
        --fm-model small --fm-accelerator fast --nthreads 6 --memory-limit 0
    dask worker ADDRESS --preload dask_fmware_workers.preload --fm-deployment deployment.yaml

The first becomes a replica, the second a light worker; a cluster needs both. A replica takes at least
as many threads as it has slots, and no memory limit, as Dask would count its engine's memory. The same
labels can be given by hand: ``--resources "fm-model:small=1 fm-accelerator:fast=1"``. Give the address, not
``--scheduler-file``: without it Dask takes the first of our options for the address.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from distributed import Worker

from dask_fmware.errors import DeploymentError
from dask_fmware.model.replica import ACCELERATOR_LABEL, CARD_LABEL, MODEL_LABEL, label
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.documents import load_deployment
from dask_fmware_workers.dask_internals import WorkerInternals
from dask_fmware_workers.host import ModelHost

__all__ = ["dask_setup"]


def _deployment(ctx: click.Context, option: click.Parameter, path: Path | Deployment) -> Deployment:
    if isinstance(path, Deployment):  # Dask reads the command line twice
        return path
    try:
        return load_deployment(path)
    except DeploymentError as error:
        raise click.BadParameter(str(error)) from None


def _model(ctx: click.Context, option: click.Parameter, model: str | None) -> str | None:
    deployment: Deployment = ctx.params["deployment"]
    if model is not None and model not in deployment.models:
        raise click.BadParameter(f"'{model}' is not deployed (deployed: {', '.join(deployment.models)})")
    return model


def _accelerator(ctx: click.Context, option: click.Parameter, accelerator: str | None) -> str | None:
    deployment: Deployment = ctx.params["deployment"]
    model: str | None = ctx.params.get("model")
    if model is None:
        if accelerator is not None:
            raise click.BadParameter("it says where --fm-model runs; give that too")
        return None
    on = deployment.models[model].on
    if accelerator is None:
        if len(on) > 1:
            raise click.BadParameter(
                f"model '{model}' is deployed on {', '.join(on)}; say which of them this worker has"
            )
        return next(iter(on))
    if accelerator not in on:
        raise click.BadParameter(f"model '{model}' is not deployed on '{accelerator}' (deployed on: {', '.join(on)})")
    return accelerator


@click.command()
@click.option(
    "--fm-deployment",
    "deployment",
    type=click.Path(path_type=Path),
    callback=_deployment,
    is_eager=True,
    required=True,
    help="Deployment document, YAML or JSON.",
)
@click.option("--fm-model", "model", callback=_model, help="Model to host; none for a light worker.")
@click.option(
    "--fm-accelerator", "accelerator", callback=_accelerator, help="Type of its card, where the model has several."
)
@click.option(
    "--fm-card",
    "card",
    help="Its card, e.g. fast-0: where cards have devices or cores of their own, or replicas share one.",
)
@click.option(
    "--fm-stream-interval",
    "stream_interval_s",
    type=click.FloatRange(0),
    help="Seconds between two messages to the scheduler, e.g. 50e-6; Dask's own (2 ms) if not given.",
)
async def dask_setup(
    worker: Any,
    deployment: Deployment,
    model: str | None,
    accelerator: str | None,
    card: str | None,
    stream_interval_s: float | None,
) -> None:
    """Host models on this worker."""
    await _install(worker, deployment, model, accelerator, card, stream_interval_s)


async def _install(
    worker: Worker,
    deployment: Deployment,
    model: str | None,
    accelerator: str | None,
    card: str | None,
    stream_interval_s: float | None,
) -> None:
    """Label the worker before it registers, so that the router knows what it is from the start, and add the host."""
    named = {MODEL_LABEL: model, ACCELERATOR_LABEL: accelerator, CARD_LABEL: card}
    dask = WorkerInternals(worker)
    dask.declare({label(kind, name): 1 for kind, name in named.items() if name is not None})
    await dask.add_plugin(ModelHost(deployment, stream_interval_s=stream_interval_s))
