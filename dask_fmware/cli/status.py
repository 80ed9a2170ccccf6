"""``dask fmware status``: what a running cluster has and does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["status"]

PIPE_WIDTH = 200  # a pipe has no width, and cutting a table there loses data


@click.command()
@click.argument("address")
@click.option("--timeout", "timeout_s", default=10.0, show_default=True, help="Seconds to wait for the scheduler.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def status(address: str, timeout_s: float, as_json: bool) -> None:
    """Show the replicas of the cluster at ADDRESS with their load, held calls and failed replicas."""
    state = _fetch(address, timeout_s)
    if as_json:
        click.echo(json.dumps(state, indent=2))
    else:
        _show(state)


def _fetch(address: str, timeout_s: float) -> dict[str, Any]:
    from distributed import Client

    from dask_fmware.client.install import status as state_of
    from dask_fmware.errors import NotInstalledError, RuntimeFaultError

    try:
        client = Client(address, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        raise RuntimeFaultError(
            f"no Dask scheduler answers at '{address}' within {timeout_s:g} s; give its address, "
            "e.g. tcp://127.0.0.1:8786"
        ) from None
    with client:
        try:
            return dict(state_of(client))
        except NotInstalledError:
            raise
        except OSError as error:
            raise RuntimeFaultError(f"the scheduler at '{address}' went away ({error}); try again") from None


def _show(state: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
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
            "draining" if item["draining"] else "ready",
        )
    console.print(table)
    console.print(
        f"\npolicy {state['policy']} · {state['held']} calls held · {state['runs']} runs under way · "
        f"{state['light_workers']} light workers"
    )
    for item in state["replicas"]:
        if item["drift"] is not None:
            console.print(Text(item["drift"], style="yellow"))
    for item in state["failed_replicas"]:
        fate = "will be tried again" if item["will_retry"] else "failed for good"
        console.print(Text(f"replica {item['name']} of model {item['model']} {fate}: {item['error']}", style="red"))
    for hook, count in state["failures"].items():
        console.print(Text(f"the router failed {count} times in {hook}; see the scheduler's log", style="red"))


def _cache(state: Mapping[str, Any]) -> tuple[str, str]:
    """Use of the KV cache, and the share of prompt tokens that the prefix cache answered."""
    used, queried = state.get("kv_used"), state.get("prefix_queried_tokens")
    hits = f"{state['prefix_hit_tokens'] / queried:.0%}" if queried else "-"
    return "-" if used is None else f"{used:.0%}", hits
