"""``dask fmware schema``: the JSON schema of our documents, for editors and validators."""

from __future__ import annotations

import json

import click

__all__ = ["schema"]


@click.command()
@click.argument("document", type=click.Choice(["deployment", "workflow", "scenario"]))
def schema(document: str) -> None:
    """Print the JSON schema of a document.

    Point your editor at it to get completion and checks while you write YAML.

    \b
    dask fmware schema deployment > deployment.schema.json
    """
    from dask_fmware.simulation.scenario import Scenario
    from dask_fmware.spec.deployment import Deployment
    from dask_fmware.spec.record import Record
    from dask_fmware.spec.workflow import Workflow

    kinds: dict[str, type[Record]] = {"deployment": Deployment, "workflow": Workflow, "scenario": Scenario}
    made = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **kinds[document].model_json_schema(by_alias=True),
    }
    click.echo(json.dumps(made, indent=2))
