"""``dask fmware check``: is a document sound, does an event log keep the contract, and what does it say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dask_fmware.cli.stores import STORE
from dask_fmware.errors import EngineLoadError

if TYPE_CHECKING:
    from dask_fmware.spec.deployment import Deployment
    from dask_fmware.spec.workflow import Workflow

__all__ = ["check"]

SHOWN = 20  # breaches


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "kind",
    type=click.Choice(["deployment", "workflow", "scenario", "log"]),
    help="What the file is. Found out by its keys if not given.",
)
@STORE
@click.option("--live", is_flag=True, help="The log is of a runtime that still had work to do when it ended.")
def check(file: Path, kind: str | None, store: str | None, live: bool) -> None:
    """Check a deployment, workflow or scenario (YAML or JSON), or an event log, and print what it says.

    An error names the file, the line, the value and what to write instead. An event log (router.record, fm.record)
    is held against the contract of the runtime: every accepted run ends once, and once more after each retry, attempts
    are bounded, no call runs on a replica that is not ready or full, no late run is reported as in time, no slot leaks.
    Exits with 1 on a breach.

    \b
    dask fmware check deployment.yaml
    dask fmware check run.jsonl.gz
    """
    from dask_fmware.spec.documents import load_workflow

    kind = kind or _kind(file)
    if kind == "log":
        _show_log(file, is_over=not live)
    elif kind == "deployment":
        _show_deployment(file, store)
    elif kind == "scenario":
        _show_scenario(file)
    else:
        _show_workflow(load_workflow(file))


def _kind(file: Path) -> str:
    """Tell by the keys of a document; the reader of the kind then says what is wrong."""
    from dask_fmware.spec.documents import keys_of

    if file.suffix == ".gz" or file.suffix == ".jsonl":
        return "log"
    keys = keys_of(file)
    if "accelerators" in keys:
        return "deployment"
    return "workflow" if "block" in keys else "scenario" if {"arrivals", "cards"} <= keys else "deployment"


def _show_deployment(file: Path, store: str | None) -> None:
    from dask_fmware.policy import create_policy
    from dask_fmware.provisioning import inventory_of
    from dask_fmware.spec.documents import blaming, load_deployment

    deployment = load_deployment(file)
    with blaming(file, "router", "policy"):
        create_policy(deployment.router.policy, lambda: 0.0)  # the document only holds its name
    unchecked = _check_engines(file, deployment)
    with blaming(file):
        speeds = _speeds(deployment, store)
        if deployment.provisioning is not None:
            inventory_of(deployment)  # says what a provisioner could not begin with
    replicas = list(deployment.replicas())
    click.echo(f"deployment: {_many(deployment.models, 'model')}, {_many(replicas, 'replica')}, sound")
    width = max(map(len, deployment.models))
    for name, model in deployment.models.items():
        where = ", ".join(f"{placement.replicas} on {accelerator}" for accelerator, placement in model.on.items())
        embeds = ", embeds" if model.embeds else ""
        click.echo(f"  {name:<{width}}  {model.engine}, {where}, context {model.context_tokens:,} tokens{embeds}")
        for card in model.on:
            click.echo(f"  {'':<{width}}  speed on {card}: {speeds[name, card]}")
    for name, accelerator in deployment.accelerators.items():
        used = sum(replica.accelerator == name for replica in replicas)
        room = accelerator.cards * accelerator.replicas_per_card
        cards = "1 card" if accelerator.cards == 1 else f"{accelerator.cards} cards"
        click.echo(f"  accelerator {name}: {cards}, {used} of {room} places used")
    light = deployment.light_workers
    click.echo(f"  light workers: {light.count} with {light.threads} threads, policy: {deployment.router.policy}")
    for line in unchecked:
        click.echo(f"  not checked here: {line}")


def _many(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _check_engines(file: Path, deployment: Deployment) -> list[str]:
    """Make every engine, without starting it; return why that could not be done for some."""
    from dask_fmware.profile.arguments import engine_arguments
    from dask_fmware.spec.documents import blaming
    from dask_fmware_workers.engines import create_engine

    unchecked = {}
    for name, model in deployment.models.items():
        for accelerator in model.on:
            try:
                with blaming(file, "models", name, "on", accelerator):
                    create_engine(model.engine, engine_arguments(deployment, name, accelerator))
            except EngineLoadError as error:  # the workers may have what is missing here
                unchecked[model.engine] = str(error)
    return list(unchecked.values())


def _speeds(deployment: Deployment, store: str | None) -> dict[tuple[str, str], str]:
    """Where the speed of each model on each accelerator is known from."""
    from dask_fmware.compile.profiles import profiles_of
    from dask_fmware.profile.known import known_speed

    found, profiles = {}, profiles_of(store)
    for name, model in deployment.models.items():
        for accelerator in model.on:
            known = known_speed(deployment, name, accelerator, profiles)
            found[name, accelerator] = known.source if known else "not known before it is profiled or a replica runs"
    return found


def _show_workflow(workflow: Workflow) -> None:
    nodes = workflow.nodes
    kinds = Counter(node.kind for node in nodes.values())
    inputs = ", ".join(i.name if i.required else f"{i.name}={i.default!r}" for i in workflow.inputs) or "none"
    click.echo(f"workflow '{workflow.name}': {len(nodes)} nodes, sound")
    click.echo(f"  inputs: {inputs}")
    click.echo("  nodes: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    click.echo("  longest path: " + " > ".join(workflow.critical_path()))
    if workflow.slo is not None:
        bounds = workflow.slo.model_dump(mode="json", exclude_none=True)
        click.echo("  SLO: " + ", ".join(f"{key}={value}" for key, value in bounds.items()))


def _show_scenario(file: Path) -> None:
    from dask_fmware.simulation.arrivals import trace
    from dask_fmware.simulation.scenario import TraceArrivals, load_scenario
    from dask_fmware.spec.documents import blaming

    scenario = load_scenario(file)
    arrivals = scenario.arrivals
    with blaming(file, "arrivals", "path"):
        rows = trace(arrivals) if isinstance(arrivals, TraceArrivals) else []  # the document only holds its path
    for name, model in scenario.models.items():
        for card, hosting in model.on.items():
            with blaming(file, "models", name, "on", card, "catalog"):
                _ = hosting.step_law  # the document only holds names of the catalog
    list(scenario.placement())  # says where there are more replicas than cards
    click.echo(f"scenario '{scenario.name}': {_many(scenario.workflows, 'workflow')}, sound")
    for name, workflow in scenario.workflows.items():
        calls = [node for node in workflow.nodes.values() if node.model is not None]
        plain = len(workflow.nodes) - len(calls)
        click.echo(f"  workflow {name}: {_many(calls, 'model node')}, {plain} of plain code")
    for name, model in scenario.models.items():
        click.echo(f"  model {name}: on {', '.join(model.on)}, context {model.context_tokens:,} tokens")
    click.echo("  cards: " + ", ".join(f"{card.count} {name}" for name, card in scenario.cards.items()))
    if rows:
        click.echo(f"  arrivals: {len(rows):,} of a trace, in {rows[-1].at - rows[0].at:,.0f} s")


def _show_log(file: Path, *, is_over: bool) -> None:
    from dask_fmware.runtime.contract import check_log
    from dask_fmware.simulation.replay import open_log

    with open_log(file) as (head, lines):
        contract = check_log(head, lines, is_over=is_over)
    counts = contract.counts
    click.echo(f"event log of policy {head.policy}, {counts['events']:,} events")
    for kind, total in (("runs", counts["runs"]), ("attempts", counts["attempts"])):
        ends = [f"{n:,} {name.removeprefix(kind + ' ')}" for name, n in counts.items() if name.startswith(kind + " ")]
        click.echo(f"  {total:,} {kind}: {', '.join(ends) or 'none ended'}")
    click.echo(f"  {counts['replicas gone']:,} replicas gone")
    for breach in contract.breaches[:SHOWN]:
        click.echo(f"  breach of {breach}")
    if len(contract.breaches) > SHOWN:
        click.echo(f"  and {len(contract.breaches) - SHOWN:,} more")
    click.echo("the contract was broken" if contract.breaches else "the contract held")
    if contract.breaches:
        raise SystemExit(1)
