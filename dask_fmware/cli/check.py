"""``dask fmware check``: is a document sound, and what does it say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dask_fmware.spec.deployment import Deployment
    from dask_fmware.spec.workflow import Workflow

__all__ = ["check"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "kind",
    type=click.Choice(["deployment", "workflow"]),
    help="What the document is. Found out by its keys if not given.",
)
def check(file: Path, kind: str | None) -> None:
    """Check a deployment or workflow document (YAML or JSON) and print what it says.

    An error names the file, the line, the value and what to write instead.
    """
    from dask_fmware.spec.documents import load_deployment, load_workflow

    if (kind or _kind(file)) == "deployment":
        _show_deployment(load_deployment(file))
    else:
        _show_workflow(load_workflow(file))


def _kind(file: Path) -> str:
    """Guess from the keys at the start of lines; the reader of the kind then says what is wrong."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "deployment"
    keys = {line.strip().strip("{").split(":")[0].strip().strip('"') for line in text.splitlines()}
    return "workflow" if "block" in keys and "accelerators" not in keys else "deployment"


def _show_deployment(deployment: Deployment) -> None:
    from dask_fmware.policy import create_policy

    create_policy(deployment.router.policy, lambda: 0.0)  # the document only holds its name
    replicas = list(deployment.replicas())
    click.echo(f"deployment: {len(deployment.models)} models, {len(replicas)} replicas, sound")
    width = max(map(len, deployment.models))
    for name, model in deployment.models.items():
        where = ", ".join(f"{placement.replicas} on {accelerator}" for accelerator, placement in model.on.items())
        click.echo(f"  {name:<{width}}  {model.engine}, {where}, context {model.context_tokens:,} tokens")
    for name, accelerator in deployment.accelerators.items():
        used = sum(replica.accelerator == name for replica in replicas)
        room = accelerator.cards * accelerator.replicas_per_card
        click.echo(f"  accelerator {name}: {accelerator.cards} cards, {used} of {room} places used")
    light = deployment.light_workers
    click.echo(f"  light workers: {light.count} with {light.threads} threads, policy: {deployment.router.policy}")


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
