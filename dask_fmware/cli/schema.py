"""``dask fmware schema``: the JSON schema of our documents, for editors and validators."""

from __future__ import annotations

import json

import click

__all__ = ["schema"]


@click.command()
@click.argument("document", type=click.Choice(["deployment", "workflow"]))
def schema(document: str) -> None:
    """Print the JSON schema of a document.

    Point your editor at it to get completion and checks while you write YAML.
    """
    from dask_fmware.spec.deployment import Deployment
    from dask_fmware.spec.workflow import Workflow

    kind = Deployment if document == "deployment" else Workflow
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.model_json_schema(by_alias=True)}
    click.echo(json.dumps(made, indent=2))
