"""``dask fmware draw``: the picture of a workflow."""

from __future__ import annotations

from html import escape
from pathlib import Path

import click

from dask_fmware.cli.named import workflow_named
from dask_fmware.cli.output import OutputFile, write

__all__ = ["draw"]

ENDINGS = {
    ".svg": "svg",
    ".html": "html",
    ".htm": "html",
    **dict.fromkeys(("", ".md", ".mmd", ".mermaid", ".txt"), "mermaid"),
}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name}</title></head><body style="margin:24px">{drawing}</body></html>
"""


@click.command()
@click.argument("workflow")
@click.option(
    "--format",
    "form",
    type=click.Choice(["mermaid", "svg", "html"]),
    help="Taken from the ending of FILE if not given, else mermaid.",
)
@click.option("-o", "--output", type=OutputFile(), help="Write to FILE.", metavar="FILE")
def draw(workflow: str, form: str | None, output: Path | None) -> None:
    """Draw WORKFLOW: a document (YAML or JSON), or module:name of a decorated function.

    \b
    dask fmware draw dask_fmware.demo.rag:rag
    dask fmware draw triage.yaml -o triage.svg
    """
    ending = output.suffix.lower() if output is not None else ""
    if form is None and ending not in ENDINGS:
        raise click.UsageError(
            f"{output}: no picture is written as '{ending}'; name it .svg, .html or .mmd, or give --format"
        )
    form = form or ENDINGS[ending]
    spec = workflow_named(workflow)
    picture = {"mermaid": spec.to_mermaid, "svg": spec.to_svg, "html": spec.to_html}[form]()
    if form == "html":
        picture = PAGE.format(name=escape(spec.name), drawing=picture)
    if output is None:
        click.echo(picture, nl=not picture.endswith("\n"))
    else:
        write(output, picture)
