"""``dask fmware status``: what a running cluster has and does."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import click

from dask_fmware.cli.clusters import CONNECT_S, connected
from dask_fmware.cli.numbers import ABOVE_0

if TYPE_CHECKING:
    from dask_fmware.client.status import RuntimeStatus

__all__ = ["status"]


@click.command()
@click.argument("address")
@click.option(
    "--timeout",
    "timeout_s",
    default=CONNECT_S,
    show_default=True,
    type=ABOVE_0,
    help="Seconds to wait for the scheduler.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def status(address: str, timeout_s: float, as_json: bool) -> None:
    """Show the replicas of the cluster at ADDRESS with their load, held calls and failed replicas.

    Many replicas are summed up by model and accelerator; --json has each of them.

    \b
    dask fmware status tcp://127.0.0.1:8786
    """
    state = asyncio.run(_fetch(address, timeout_s))
    if as_json:
        click.echo(json.dumps(state, indent=2))
    else:
        for line in state.lines:
            click.echo(line)
        for trouble in state.troubles:
            click.secho(trouble, fg="red")


async def _fetch(address: str, timeout_s: float) -> RuntimeStatus:
    from dask_fmware.client.install import installed_status
    from dask_fmware.errors import NotInstalledError, RuntimeFaultError

    async with connected(address, timeout_s) as client:
        try:
            return await installed_status(client)
        except NotInstalledError:
            raise
        except OSError as error:
            raise RuntimeFaultError(f"the scheduler at '{address}' went away ({error}); try again") from None
