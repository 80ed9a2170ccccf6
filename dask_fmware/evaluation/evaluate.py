"""`fm.evaluate`: a workflow over a data set."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from math import isnan
from numbers import Integral, Real
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from distributed import Client, default_client

from dask_fmware.errors import NotInstalledError, RuntimeFaultError, SpecError
from dask_fmware.evaluation.capacity import asked_status
from dask_fmware.evaluation.driver import Driver, Limits
from dask_fmware.evaluation.failures import EvaluationStopped
from dask_fmware.evaluation.job import Job
from dask_fmware.evaluation.output import Manifest, Output, OutputError
from dask_fmware.evaluation.partitions import Partitions
from dask_fmware.evaluation.progress import Progress, progress_bar
from dask_fmware.evaluation.sources import Source, open_source
from dask_fmware.evaluation.summary import Evaluation, summarize
from dask_fmware.evaluation.threads import to_its_end
from dask_fmware.spec.deployment import Deployment

if TYPE_CHECKING:
    from dask_fmware.compile.collection import WorkflowFunction

__all__ = ["check_given", "evaluate", "finish_moment", "output_folder"]

OTHER_FORMATS = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xlsx", ".html"})


def evaluate(
    workflow: WorkflowFunction,
    data: Any,
    *,
    output: str | os.PathLike[str],
    scorers: Any = None,
    inputs: Mapping[str, str] | None = None,
    id_column: str | None = None,
    keep: str | Sequence[str] = (),
    finish_by: datetime | float | None = None,
    tenant: str = "default",
    limit: int | None = None,
    in_flight: int | None = None,
    max_errors: float = 1000,
    shard_rows: int = 10_000,
    retry_errors: bool = False,
    repair: bool = False,
    overwrite: bool = False,
    progress: bool | Callable[[Progress], None] = True,
    client: Client | None = None,
) -> Any:
    """Run a workflow over every row of a data set, score the answers, and record them as Parquet.

    Run the same again to go on after whatever ended it, but without `overwrite`: rows that are recorded are not run
    again. Rows run in the background, on capacity that nobody waits for, unless `finish_by` asks for more.

    Parameters
    ----------
    workflow
        A function decorated with `fm.workflow`.
    data
        A path of a CSV, JSON lines or Parquet file or a folder of them, requests of OpenAI's batch format, a pandas or
        Dask data frame, a Dask bag of mappings, a Hugging Face data set, or a list of mappings. It is read as it is
        needed, not loaded.
    output
        A folder of Parquet shards, made if it is not there.
    scorers
        A scorer, a list, or a mapping of names to scorers: functions of ``answer`` and columns of the data, those of
        `fm.scorers`, or workflows that judge.
    inputs
        Column of each input of the workflow, where their names differ. An input with a default takes that in rows
        that have no value for it: no such column, None, NaN, or a blank cell of CSV.
    id_column
        Column that names rows; their number by default.
    keep
        Columns of the data that the output has too, or one of them.
    finish_by
        When all rows shall be done: a moment with a time zone, or seconds from now. It takes as much capacity as
        that needs.
    tenant
        Who is accounted.
    limit
        Rows of the data to do; all by default. A larger limit later goes on from there.
    in_flight
        Rows under way at once; twice the slots of the cluster by default.
    max_errors
        Rows that may end in an error before the evaluation stops, and rows that scorers or judges may fail on; below 1
        a share of the rows.
    shard_rows
        Rows of a shard.
    retry_errors
        Run rows again that ended in an error, or that a scorer or judge failed on.
    repair
        Put unreadable shards aside, and run their rows again.
    overwrite
        Begin anew, whatever the output holds; to go on after that, leave it out.
    progress
        Whether a bar is shown, or a function that is told figures.
    client
        Of the cluster; the one made last by default. With an asynchronous client, await the result.

    Returns
    -------
    Evaluation
        Figures with 95 % intervals; its `to_pandas` gives the rows.

    Raises
    ------
    SpecError
        If workflow, data, scorers and output do not go together; it names what is there.
    EvaluationStopped
        If more than `max_errors` rows failed, or could not be scored.
    OutputError
        If the output cannot be written or read.
    RuntimeFaultError
        If the cluster is lost.

    Examples
    --------
    >>> fm.evaluate(rag, "questions.csv", output="answers.parquet", scorers=fm.scorers.exact())  # doctest: +SKIP
    """
    check_given(max_errors, limit, in_flight, shard_rows)
    finish_at = finish_moment(finish_by)
    client = client or _default_client()
    folder = output_folder(output, data)

    def described(source: Source, deployment: Deployment) -> tuple[Job, Manifest]:  # reads the data
        job = Job.of(workflow, source, inputs=inputs, id_column=id_column, scorers=scorers, keep=keep, tenant=tenant)
        return job, job.manifest(deployment)

    async def work() -> Evaluation:
        with Partitions(client) as partitions:
            source = await asyncio.to_thread(open_source, data, partitions.compute)
            deployment = Deployment.model_validate((await asked_status(client))["deployment"])
            job, manifest = await asyncio.to_thread(described, source, deployment)
            opened = await to_its_end(
                lambda: Output(
                    folder,
                    manifest,
                    shard_rows=shard_rows,
                    repair=repair,
                    retry_errors=retry_errors,
                    overwrite=overwrite,
                ),
                undo=Output.close,
            )
            name = job.workflow.workflow.name
            with opened, _advice(overwrite), progress_bar(name, shown=progress is True) as bar:
                total = await asyncio.to_thread(_total, source, limit, finish_at)
                told = progress if callable(progress) else bar
                limits = Limits(in_flight, max_errors, limit, finish_at)
                await Driver(client, job, opened, limits, total, told).run()
                await to_its_end(opened.finish)
        return Evaluation(folder, await asyncio.to_thread(summarize, folder))

    return client.sync(work)


@contextmanager
def _advice(overwrite: bool) -> Iterator[None]:
    """Add to what ends an evaluation, which says to run the same again, that `overwrite` would begin anew."""
    try:
        yield
    except (EvaluationStopped, OutputError, RuntimeFaultError) as error:
        if overwrite:
            error.args = (f"{error}; to go on, leave overwrite out: it deletes what is recorded",)
        raise


def output_folder(output: str | os.PathLike[str], data: Any) -> Path:
    """Refuse the data's own folder, and the name of another format: what is written is a folder of Parquet."""
    folder = Path(output)
    if isinstance(data, (str, os.PathLike)):
        read, written = Path(data).resolve(), folder.resolve()
        if read == written or written in read.parents or (read.is_dir() and read in written.parents):
            raise SpecError(f"output='{output}' and the data, {data}, are in one another; name another output")
    if folder.suffix.lower() in OTHER_FORMATS and not folder.is_dir():
        raise SpecError(
            f"output='{output}': what is written is a folder of Parquet shards, not a {folder.suffix} file; name it "
            f"{folder.with_suffix('.parquet').name}, and to_pandas() of the result gives the rows"
        )
    return folder


def check_given(
    max_errors: float = 1000, limit: int | None = None, in_flight: int | None = None, shard_rows: int = 10_000
) -> None:
    """Raise SpecError for numbers that say nothing, and where a package is missing: before a cluster is started."""
    for name, value, least in (("limit", limit, 0), ("in_flight", in_flight, 1), ("shard_rows", shard_rows, 1)):
        if value is not None and not (isinstance(value, Integral) and value >= least):
            raise SpecError(f"{name}={value!r} must be a whole number of at least {least}")
    if not (isinstance(max_errors, Real) and max_errors >= 0):
        raise SpecError(f"max_errors={max_errors!r} must be a number of rows, or a share below 1")
    from importlib.util import find_spec

    for package in ("pyarrow", "scipy"):
        if find_spec(package) is None:
            raise SpecError(f'fm.evaluate needs {package}; pip install "dask-fmware[evaluate]"')


def finish_moment(finish_by: datetime | float | None) -> float | None:
    """Return when all rows shall be done, in seconds since 1970; SpecError for what is no moment to come."""
    if finish_by is None:
        return None
    if isinstance(finish_by, datetime):
        if finish_by.tzinfo is None:
            raise SpecError("finish_by needs a time zone, e.g. datetime(..., tzinfo=timezone.utc), or give seconds")
        moment = finish_by.timestamp()
    elif not isinstance(finish_by, Real) or isnan(finish_by):
        raise SpecError(f"finish_by={finish_by!r}: give seconds from now, or a moment with a time zone")
    else:
        moment = time() + finish_by
    if moment <= time():
        raise SpecError(f"finish_by={finish_by} is in the past; give seconds from now, or a moment to come")
    return moment


def _default_client() -> Client:
    try:
        return default_client()
    except ValueError:
        raise NotInstalledError(
            "there is no Dask client; make one first: client = Client(fm.LocalModelCluster('deployment.yaml'))"
        ) from None


def _total(source: Source, limit: int | None, finish_at: float | None) -> int | None:
    rows = source.count()
    if rows is None and finish_at is not None and limit is None:
        raise SpecError(
            f"finish_by needs to know how many rows {source.name} has, and only reading them would tell; give limit="
        )
    return limit if rows is None else rows if limit is None else min(rows, limit)
