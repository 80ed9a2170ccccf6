"""``dask fmware evaluate``: a workflow over a data set, from the command line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_fmware.cli.clusters import READY, served
from dask_fmware.cli.named import import_named, is_named, workflow_named
from dask_fmware.cli.pairs import by_name
from dask_fmware.errors import SpecError

if TYPE_CHECKING:
    from dask_fmware.evaluation.summary import Evaluation

__all__ = ["evaluate"]

SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.argument("workflow")
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER")
@click.option("--address", metavar="ADDRESS", help="Run on the cluster at this scheduler.")
@click.option("--deployment", type=click.Path(path_type=Path), metavar="FILE", help="Or start this deployment here.")
@READY
@click.option("--input", "inputs", multiple=True, metavar="INPUT=COLUMN", help="Where names differ.")
@click.option("--score", "scores", multiple=True, metavar="[NAME=]SCORER", help="See above; several times if need be.")
@click.option("--judge", "judges", multiple=True, metavar="[NAME=]MODULE:NAME", help="A workflow that judges answers.")
@click.option("--id", "id_column", metavar="COLUMN", help="Names rows; their number by default.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Column of the data that the output has too.")
@click.option("--finish-by", metavar="WHEN", help="90s, 30m, 8h, or a moment: 2027-01-31T18:00+01:00.")
@click.option("--tenant", default="default", show_default=True, help="Who is accounted.")
@click.option("--limit", type=click.IntRange(0), help="Rows of the data to do.")
@click.option("--in-flight", type=click.IntRange(1), help="Rows under way at once; twice the slots by default.")
@click.option(
    "--max-errors",
    default=1000.0,
    show_default=True,
    help="Rows that may fail, and that scorers may fail on; below 1 a share.",
)
@click.option("--retry-errors", is_flag=True, help="Run rows again that failed, or that a scorer failed on.")
@click.option("--repair", is_flag=True, help="Put unreadable shards aside and run their rows again.")
@click.option("--overwrite", is_flag=True, help="Begin anew, whatever the output holds; leave it out to go on.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def evaluate(
    workflow: str,
    data: Path,
    output: Path,
    address: str | None,
    deployment: Path | None,
    ready_s: float,
    inputs: tuple[str, ...],
    scores: tuple[str, ...],
    judges: tuple[str, ...],
    finish_by: str | None,
    as_json: bool,
    keep: tuple[str, ...],
    **options: Any,
) -> None:
    """Run WORKFLOW (module:name) over the rows of DATA (.csv, .jsonl, .parquet) and record the answers.

    Run the same command again, without --overwrite, to go on after whatever ended it. Scorers: exact, exact:COLUMN,
    fuzzy, fuzzy:COLUMN, json, regex:PATTERN, or module:name of a function; NAME=exact:COLUMN names its scores.

    \b
    dask fmware evaluate flows:rag questions.csv -o answers.parquet --deployment deployment.yaml --score exact
    """
    if (address is None) == (deployment is None):
        raise click.UsageError("give --address of a running cluster, or --deployment FILE to start one here")
    from dask_fmware.cluster.foreground import run_in_foreground
    from dask_fmware.compile.collection import WorkflowFunction
    from dask_fmware.evaluation import scorers as ready
    from dask_fmware.evaluation.given_scorers import as_scorer

    sys.path.insert(0, str(Path.cwd()))  # modules that workflow and scorers come from, for this command's processes
    made = [as_scorer(_scorer(text), name) for name, text in map(_named, scores)]
    made += [ready.judge(WorkflowFunction(workflow_named(text)), name=name) for name, text in map(_named, judges)]
    given = {
        **options,
        "output": output,
        "scorers": made,
        "inputs": by_name("--input", (_pair(text) for text in inputs)),
        "keep": keep,
        "finish_by": _moment(finish_by),
        "progress": not as_json,
    }
    bound = WorkflowFunction(workflow_named(workflow))
    _check(bound, data, deployment, given)
    try:
        done = run_in_foreground(lambda: _evaluated(bound, data, address, deployment, ready_s, given))
    except KeyboardInterrupt:
        again = "again, without --overwrite," if options["overwrite"] else "again"
        click.echo(f"Rows recorded in {output} are safe; run the same command {again} to go on.", err=True)
        raise
    click.echo(json.dumps(done.to_dict(), indent=1) if as_json else str(done))


def _check(workflow: Any, data: Path, deployment: Path | None, given: Mapping[str, Any]) -> None:
    """Say what does not go together before a cluster is started for it."""
    from dask_fmware.evaluation.evaluate import check_given, finish_moment, output_folder
    from dask_fmware.evaluation.job import Job
    from dask_fmware.evaluation.output import check_output
    from dask_fmware.evaluation.sources.opening import open_source
    from dask_fmware.spec.documents import load_deployment

    check_given(given["max_errors"], given["limit"], given["in_flight"])
    finish_moment(given["finish_by"])
    output_folder(given["output"], data)
    asked = {name: given[name] for name in ("inputs", "id_column", "scorers", "keep", "tenant")}
    source = open_source(data, lambda part: part)
    job = Job.of(workflow, source, **asked)
    source.count()  # reads a text through: what is wrong far down is found here
    if deployment is not None:
        deployed = load_deployment(deployment)
        job.check_models(deployed)
        check_output(given["output"], job.manifest(deployed), overwrite=given["overwrite"])


async def _evaluated(
    workflow: Any, data: Path, address: str | None, deployment: Path | None, ready_s: float, given: dict[str, Any]
) -> Evaluation:
    from dask_fmware.evaluation.evaluate import evaluate as run

    async with served(address, deployment, ready_s=ready_s) as client:
        done: Evaluation = await run(workflow, data, client=client, **given)
        return done


def _named(text: str) -> tuple[str | None, str]:
    """Take NAME= off an option; what comes after a colon, of a pattern say, is no name."""
    name, equals, rest = text.partition("=")
    return (name, rest) if equals and ":" not in name else (None, text)


def _scorer(text: str) -> Any:
    from dask_fmware.evaluation import scorers as ready

    kind, _, rest = text.partition(":")
    match kind:
        case "exact":
            return ready.exact(rest or "expected")
        case "fuzzy":
            return ready.fuzzy(rest or "expected")
        case "json" if not rest:
            return ready.is_json()
        case "regex" if rest:
            return ready.matches(rest)
    if not is_named(text):
        raise SpecError(f"--score {text}: give exact, fuzzy, json, regex:PATTERN, or module:name of a function")
    return import_named(text)


def _pair(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not equals:
        raise SpecError(f"--input {text}: write INPUT=COLUMN")
    return name, column


def _moment(text: str | None) -> datetime | float | None:
    if text is None:
        return None
    if (span := SPAN.fullmatch(text.strip())) is not None:
        return float(span[1]) * SECONDS[span[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SpecError(f"--finish-by {text}: write 90s, 30m, 8h, or a moment: 2027-01-31T18:00+01:00") from None
    return moment if moment.tzinfo is not None else moment.astimezone()
