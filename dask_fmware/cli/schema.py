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
    if document == "deployment":
        from dask_fmware.spec.deployment import Deployment as Kind
    else:
        from dask_fmware.spec.workflow import Workflow as Kind
    click.echo(
        json.dumps(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **Kind.model_json_schema(by_alias=True)},
            indent=2,
        )
    )
