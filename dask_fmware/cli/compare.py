"""``dask fmware compare``: two outputs of evaluations, side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dask_fmware.cli.output import OutputFile

__all__ = ["compare"]


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--score", "scores", multiple=True, metavar="NAME", help="Only this one; may be given several times.")
@click.option("--html", type=OutputFile(), metavar="FILE", help="Write a report.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def compare(a: Path, b: Path, scores: tuple[str, ...], html: Path | None, as_json: bool) -> None:
    """Compare outputs A and B of evaluations over the same data, row by row, with a test of each difference.

    \b
    dask fmware compare small.parquet large.parquet --html report.html
    """
    from dask_fmware.evaluation.compare import compare as compared

    made = compared(a, b, scores=scores or None)
    if html is not None:
        made.to_html(html)
    click.echo(json.dumps(made.to_dict(), indent=1) if as_json else str(made))
