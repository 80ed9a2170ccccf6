"""``dask fmware serve``: workflows over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_fmware.cli.clusters import READY, served
from dask_fmware.cli.named import workflow_named
from dask_fmware.errors import RuntimeFaultError, SpecError

if TYPE_CHECKING:
    from dask_fmware.compile.collection import WorkflowFunction

__all__ = ["serve"]

LOOK_S = 0.5  # between two looks whether the scheduler is gone for good
LOCAL = ("127.0.0.1", "localhost", "::1")


@click.command()
@click.argument("workflows", nargs=-1, required=True)
@click.option("--address", metavar="ADDRESS", help="Run on the cluster at this scheduler.")
@click.option("--deployment", type=click.Path(path_type=Path), metavar="FILE", help="Or start this deployment here.")
@READY
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere, :: with IPv6."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 is any that is free.")
@click.option(
    "--tokens",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Lines of TENANT TOKEN: who brings none of them is refused.",
)
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="Without tokens: callers may ask by this name of a host, beside addresses and localhost.",
)
@click.option("--max-priority", type=click.IntRange(-1000, 1000), default=0, show_default=True, help="Of callers.")
def serve(
    workflows: tuple[str, ...],
    address: str | None,
    deployment: Path | None,
    ready_s: float,
    host: str,
    port: int,
    tokens: Path | None,
    names: tuple[str, ...],
    max_priority: int,
) -> None:
    """Answer HTTP requests with WORKFLOWS (module:name, or documents).

    \b
    POST /workflows/NAME        {"inputs": {...}, "stream": false, "slo": {"ttft_s": 2}}
    POST /v1/chat/completions   as OpenAI has it; the model is the name of a workflow
    POST /v1/embeddings         likewise, of a workflow that gives vectors
    GET  /workflows, /v1/models, /health

    A caller who hangs up cancels its run. Ctrl-C takes no new requests and waits 10 s for those under way.

    \b
    dask fmware serve flows:rag flows:shopping --deployment deployment.yaml
    """
    if (address is None) == (deployment is None):
        raise click.UsageError("give --address of a running cluster, or --deployment FILE to start one here")
    from dask_fmware.cluster.foreground import run_in_foreground
    from dask_fmware.compile.collection import WorkflowFunction
    from dask_fmware.gateway.server import check_free
    from dask_fmware.gateway.sites import checked_names

    sys.path.insert(0, str(Path.cwd()))  # modules that workflows come from, for this command's processes
    made = [WorkflowFunction(workflow_named(name)) for name in workflows]
    tenants = None if tokens is None else _tenants(tokens)
    checked_names(names)
    check_free(host, port)
    if deployment is not None:
        _check(made, deployment)
    if tenants is None and host not in LOCAL:
        click.secho(f"Whoever reaches {host}:{port} may run these workflows: see --tokens.", fg="yellow", err=True)
    run_in_foreground(lambda: _serve(made, address, deployment, ready_s, host, port, names, tenants, max_priority))


def _check(workflows: list[WorkflowFunction], deployment: Path) -> None:
    """Say what is missing before a cluster is started for it."""
    from dask_fmware.spec.documents import load_deployment

    deployed = load_deployment(deployment)
    for one in workflows:
        one.workflow.check_models(deployed)


def _tenants(path: Path) -> dict[str, str]:
    """Read tokens; an error shows none of them."""
    from dask_fmware.gateway.gateway import checked_tenants

    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise SpecError(f"{path} is no text in UTF-8; write lines of TENANT TOKEN") from None
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise SpecError(f"{path}, line {number}: write TENANT TOKEN")
        tenant, token = words
        if token in found:
            raise SpecError(f"{path}, line {number}: the token of tenant '{tenant}' was given to another above")
        found[token] = tenant
    if not found:
        raise SpecError(f"{path} has no token; write lines of TENANT TOKEN")
    return dict(checked_tenants(found))


async def _serve(
    workflows: list[WorkflowFunction],
    address: str | None,
    deployment: Path | None,
    ready_s: float,
    host: str,
    port: int,
    names: tuple[str, ...],
    tenants: dict[str, str] | None,
    max_priority: int,
) -> None:
    import asyncio

    from dask_fmware.client.install import installed_status
    from dask_fmware.gateway import Gateway, listening

    async with served(address, deployment, ready_s=ready_s) as client:
        await installed_status(client)  # or an error in words
        gateway = Gateway(client, workflows, tenants=tenants, max_priority=max_priority)
        async with listening(gateway, host, port, names=names) as taken:
            click.echo(_told(gateway, host, taken))
            while client.status != "closed":  # noqa: ASYNC110 - Dask tells nobody
                await asyncio.sleep(LOOK_S)
    raise RuntimeFaultError("the scheduler is gone; start the gateway again when there is one")


def _told(gateway: Any, host: str, port: int) -> str:
    """What is served, and how to ask."""
    where = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else f'[{host}]' if ':' in host else host}:{port}"
    name, one = next(iter(gateway.workflows.items()))
    inputs = ", ".join(f'"{item.name}": "..."' for item in one.workflow.inputs if item.required)
    token = " -H 'Authorization: Bearer TOKEN'" if gateway.needs_token else ""
    return (
        f"Serving {', '.join(gateway.workflows)} at {where} (Ctrl-C ends it). Try:\n"
        f"  curl {where}/workflows/{name}{token} -d '{{\"inputs\": {{{inputs}}}}}'"
    )
