"""Clusters that a command works on: one that runs already, or one that it starts here for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dask_fmware.cli.numbers import ABOVE_0
from dask_fmware.errors import RuntimeFaultError, SpecError

if TYPE_CHECKING:
    from distributed import Client

    from dask_fmware.spec.deployment import Deployment

__all__ = ["CONNECT_S", "READY", "connected", "served"]

CONNECT_S = 10.0
EXAMPLE = "tcp://127.0.0.1:8786"
READY = click.option(
    "--timeout",
    "ready_s",
    default=900.0,
    show_default=True,
    type=ABOVE_0,
    help="Seconds to wait for the engines of --deployment to load.",
)


@asynccontextmanager
async def connected(address: str, timeout_s: float = CONNECT_S) -> AsyncIterator[Client]:
    """Connect to the scheduler at an address.

    Raises
    ------
    SpecError
        If that is no address of a scheduler.
    RuntimeFaultError
        If no scheduler answers there in time.
    """
    from distributed import Client
    from distributed.comm.addressing import get_address_host_port, normalize_address

    try:
        get_address_host_port(normalize_address(address))
    except ValueError as error:
        raise SpecError(f"'{address}' is no address of a scheduler ({error}); write it like {EXAMPLE}") from None
    client = Client(address, asynchronous=True, timeout=timeout_s, set_as_default=False)
    try:
        await client
    except BaseException as error:  # whoever gives up closes it too, or it complains as the process ends
        await client.close()
        if not isinstance(error, (OSError, ValueError)):
            raise
        raise RuntimeFaultError(
            f"no Dask scheduler answers at '{address}' within {timeout_s:g} s; give its address, e.g. {EXAMPLE}"
        ) from None
    async with client:
        yield client


@asynccontextmanager
async def served(address: str | None, deployment: Deployment | Path | None, *, ready_s: float) -> AsyncIterator[Client]:
    """Connect to a cluster with the runtime: the one at an address, else one that is started here and ended after use.

    Parameters
    ----------
    address
        Of a scheduler, or None.
    deployment
        What to start where no address is given.
    ready_s
        Seconds in which its replicas must serve.

    Raises
    ------
    RuntimeFaultError
        If they do not.
    """
    from distributed import Client
    from rich.console import Console

    from dask_fmware.client.install import wait_ready
    from dask_fmware.cluster.local import LocalModelCluster
    from dask_fmware.spec.documents import load_deployment

    if address is not None:
        async with connected(address) as client:
            yield client
        return
    assert deployment is not None
    wanted = load_deployment(deployment)
    starting = Console(stderr=True).status(f"starting {len(list(wanted.replicas()))} replicas")  # shown on a terminal
    starting.start()
    try:
        async with (
            LocalModelCluster(wanted, dashboard_address=None, asynchronous=True) as cluster,
            Client(cluster, asynchronous=True, set_as_default=False) as client,
        ):
            try:
                await wait_ready(client, timeout_s=ready_s)
            except TimeoutError as error:
                raise RuntimeFaultError(f"{error}; models that take longer to load need a larger --timeout") from None
            starting.stop()
            yield client
    finally:
        starting.stop()
