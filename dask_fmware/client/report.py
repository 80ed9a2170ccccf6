"""Reports of runs, as tables for people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Any

from distributed import Client, Future

from dask_fmware.client.asking import (
    ask_about_run,
    checked_client,
    checked_future,
    not_installed,
    run_id_of,
    still_open,
    until_arrived,
)
from dask_fmware.model.bounds import bounds, first_token_s
from dask_fmware.model.report import CallReport, PackedReport, RunReport
from dask_fmware.spec.columns import in_columns

__all__ = ["Report", "report", "reports"]

COLUMNS = (
    "node",
    "model",
    "replica",
    "accelerator",
    "state",
    "queued_s",
    "ttft_s",
    "latency_s",
    "predicted_s",
    "tokens",
    "slack_s",
    "attempts",
)
ITEM = re.compile(r"\[(\d+)\]")
SOMETIMES = ("format_tokens", "cost")  # columns that are shown where a call has them


class Report:
    """What is known of one run; prints as a table.

    Attributes
    ----------
    data
        All of it (`RunReport`), times in seconds since the run was submitted.
    """

    def __init__(self, data: RunReport) -> None:
        self.data = data

    @property
    def met(self) -> bool | None:
        """Whether the SLO was met; None while the run goes on, without an SLO, or if it was cancelled."""
        return self.data.met

    @property
    def is_rejected(self) -> bool:
        """Whether it would have been late and asked to be rejected then (``on_miss="reject"``)."""
        return self.data.state == "rejected"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row for each call, durations in seconds since it became runnable.

        ``predicted_s`` is what ``latency_s`` was expected to be when the call was given to its replica, ``p90_s`` what
        nine of ten such calls stay within. ``slack_s`` is what was left when the call ended; of one that has not, what
        was left when the report was made for nine of ten such runs to be in time.
        ``format_tokens`` are output tokens that went into the format asked for: keys, brackets and blanks of
        documents (an estimate by characters) and answers that broke it. ``cost`` is in the currency of the prices.
        ``before_retry`` is true for items of a map or loop that ran again, as the run was retried.
        """
        rows = []
        for call in _in_order(self.data.calls):
            last = call.last
            ended = last.ended_at if last is not None else None
            rows.append(
                {
                    "node": call.node,
                    "model": call.model,
                    "replica": last.replica if last else None,
                    "accelerator": last.accelerator if last else None,
                    "state": call.state,
                    "queued_s": call.queued_s,
                    "ttft_s": call.ttft_s,
                    "latency_s": call.latency_s,
                    "predicted_s": _since(call, last.predicted_s if last else None),
                    "p90_s": _since(call, last.bound_s if last else None),
                    "tokens": f"{last.prompt_tokens}+{last.output_tokens}" if last else None,
                    "slack_s": call.live_slack_s if ended is None else self._left_s(call, ended),
                    "attempts": len(call.attempts),
                    "before_retry": call.before_retry,
                    "format_tokens": call.format_tokens,
                    "cost": call.cost,
                }
            )
        return rows

    def _left_s(self, call: CallReport, ended: float) -> float | None:
        """What was left of the tightest bound when a call had done its part: of one on the first token, to begin."""
        first = call.last.first_token_at if call.last is not None and call.answers else None
        began = ended if first is None else first
        return min(
            (bound.promised_s - (began if bound.what == "first token" else ended) for bound in bounds(self.data)),
            default=None,
        )

    @property
    def title(self) -> str:
        """The run in one line."""
        run = self.data
        verdict = (
            {True: "SLO met", False: "SLO missed", None: "no verdict"}[run.met]
            if run.deadline_s is not None
            else "no SLO"
        )
        first_s = first_token_s(run)
        first = f", first token {first_s:.3f} s" if first_s is not None else ""
        left = [call.live_slack_s for call in run.calls if call.live_slack_s is not None]
        slack = f", {min(left):.3f} s of slack left" if left else ""
        done = f", done {run.finished_at:.3f} s" if run.finished_at is not None else ""
        why = f" ({run.reason})" if run.reason else ""
        cost = f", cost {_cell(run.cost, 'cost')}" if run.cost is not None else ""
        return f"{run.workflow} {run.run_id[:8]}: {run.state}{why}{first}{done}{slack}, {verdict}{cost}"

    def _table(self) -> list[tuple[str, ...]]:
        """Head and rows, as text."""
        rows = self.rows
        columns = COLUMNS + tuple(name for name in SOMETIMES if any(row[name] is not None for row in rows))
        for row in rows:
            row["state"] += ", before the retry" if row["before_retry"] else ""
        return [columns, *(tuple(_cell(row[name], name) for name in columns) for row in rows)]

    def __str__(self) -> str:
        return "\n".join([self.title, *in_columns(self._table()), *self.notes])

    @property
    def notes(self) -> list[str]:
        """What no table cell says: how often it failed before, and what held calls up."""
        failed = [
            f"failed after {failed_at:.3f} s, retried after {retried_at:.3f} s: {reason}"
            for reason, failed_at, retried_at in self.data.failures
        ]
        return failed + [
            f"{call.node}: held for {call.queued_s:.3f} s, as {call.lacked}"
            if call.queued_s is not None
            else f"{call.node}: held, as {call.lacked}"
            for call in self.data.calls
            if call.lacked
        ]

    __repr__ = __str__

    def _repr_html_(self) -> str:
        columns, *rows = self._table()
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in columns)
        body = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        return (
            f"<div><b>{escape(self.title)}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"{'<br>'.join(map(escape, self.notes))}</div>"
        )


def _in_order(calls: list[CallReport]) -> list[CallReport]:
    """Calls with the bodies of each map and loop in the order of their items; they become known in any."""
    first: dict[str, int] = {}
    for i, call in enumerate(calls):
        first.setdefault(call.node.partition("[")[0], i)

    def place(call: CallReport) -> tuple[int, list[int]]:
        return first[call.node.partition("[")[0]], [int(item) for item in ITEM.findall(call.node)]

    return sorted(calls, key=place)


def _since(call: CallReport, seconds: float | None) -> float | None:
    """Seconds from the start of its last attempt, as seconds since a call became runnable."""
    queued_s = call.queued_s
    return None if seconds is None or queued_s is None else queued_s + seconds


def _cell(value: Any, name: str) -> str:
    if value is None:
        return "-"
    if name == "cost":
        return f"{value:.3g}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def report(future: Future) -> Any:
    """Return the `Report` of a run, during it or after.

    Parameters
    ----------
    future
        From ``client.compute(bound_workflow)``; with an asynchronous client, await the result.

    Returns
    -------
    Report
        Prints as a table; ``report.data`` holds all of it (`RunReport`), ``report.rows`` a dictionary for each call.
        Times are seconds since the run was submitted, on the scheduler's clock.

    Raises
    ------
    NotInstalledError
        If the cluster has no runtime.
    KeyError
        If the run is not known, has not reached the scheduler within 5 s, or is no longer remembered.
    """
    client = still_open(checked_future(future, "report").client, "report")
    return client.sync(_report, future)


async def _report(future: Future) -> Report:
    return Report(RunReport.from_wire(await ask_about_run(future, "fmware_report")))


def reports(client: Client, futures: Future | list[Future] | None = None) -> Any:
    """Return reports of the runs of these futures, or of all runs that the runtime remembers.

    Parameters
    ----------
    client
        Of the cluster; with an asynchronous one, await the result.
    futures
        Or one of them. Runs that are not known, or no longer, are left out; those on their way to the scheduler are
        waited for, up to 5 s.

    Returns
    -------
    list of Report
        Runs under way, and the last that ended: 10,000, or as many as ``router.keep_reports`` of the deployment says.

    Raises
    ------
    NotInstalledError
        If the cluster has no runtime.
    """
    given = futures if futures is None or isinstance(futures, Iterable) else [futures]
    asked = None if given is None else [checked_future(future, "reports") for future in given]
    return checked_client(client, "reports").sync(_reports, client, asked)


async def _reports(client: Client, futures: list[Future] | None) -> list[Report]:
    async def known(run_ids: list[str] | None) -> list[RunReport]:
        packed: list[PackedReport] | None = await client.scheduler.fmware_reports(run_ids=run_ids)
        if packed is None:
            raise not_installed(client)
        return [RunReport.unpacked(one) for one in packed]

    if futures is None:
        return [Report(one) for one in await known(None)]
    run_ids = [run_id_of(future) for future in futures]
    found: dict[str, RunReport] = {}

    async def ask() -> set[str]:
        """Ask about those that are not known yet; return those of them that may be on their way."""
        pending = {run_id_of(future) for future in futures if future.status == "pending"}
        found.update({report.run_id: report for report in await known([one for one in run_ids if one not in found])})
        return pending - found.keys()

    await until_arrived(ask, bool)
    return [Report(found[run_id]) for run_id in run_ids if run_id in found]
