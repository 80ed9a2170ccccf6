"""``dask fmware status``: what a running cluster has and does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from dask_fmware.cli.clusters import CONNECT_S, connected
from dask_fmware.cli.numbers import ABOVE_0
from dask_fmware.cli.output import console

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

    \b
    dask fmware status tcp://127.0.0.1:8786
    """
    state = asyncio.run(_fetch(address, timeout_s))
    if as_json:
        click.echo(json.dumps(state, indent=2))
    else:
        _show(state)


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


def _show(state: RuntimeStatus) -> None:
    from rich.table import Table
    from rich.text import Text

    screen = console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("replica", "model", "accelerator", "card", "engine"):
        table.add_column(name, no_wrap=True)
    for name in ("running", "waiting", "slots", "KV cache", "prefix hits", "ms/token"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for item in sorted(state["replicas"], key=lambda replica: str(replica["name"])):
        table.add_row(
            *(Text(str(item[key])) for key in ("name", "model", "accelerator", "card", "engine")),
            *(str(item[key]) for key in ("running", "waiting", "slots")),
            *_cache(item["engine_state"] or {}),
            f"{1e3 * item['latency']['output_token_s']:.2f}",
            "draining" if item["draining"] else "rate limit" if item["shut"] else "ready",
        )
    screen.print(table)
    screen.print(
        f"\npolicy {state['policy']} · {state['held']} calls held · {state['runs']} runs under way · "
        f"{state['light_workers']} light workers"
    )
    for item in state["replicas"]:
        if item["drift"] is not None:
            screen.print(Text(item["drift"], style="yellow"))
    for trouble in state.troubles:
        screen.print(Text(trouble, style="red"))


def _cache(state: Mapping[str, Any]) -> tuple[str, str]:
    """Use of the KV cache, and the share of prompt tokens that the prefix cache answered."""
    used, queried = state.get("kv_used"), state.get("prefix_queried_tokens")
    hits = f"{state['prefix_hit_tokens'] / queried:.0%}" if queried else "-"
    return "-" if used is None else f"{used:.0%}", hits
