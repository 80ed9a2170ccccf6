"""What came out of a load: goodput, latencies, shares of calls. Pure, from run reports to figures.

Goodput is the share of all runs that met their SLO; failed runs met nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import floor

from dask_fmware.model.report import CallReport, RunReport

__all__ = ["CallShares", "Percentiles", "Summary", "WorkflowSummary", "percentile", "percentiles", "summarise"]

PACED_TOKENS = 8  # a call with fewer tokens says little about the time of one


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds at three quantiles; None without values."""

    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class WorkflowSummary:
    """Runs of one workflow, or of all."""

    workflow: str
    runs: int
    finished: int
    met: int
    goodput: float  # 0..1
    ttft_s: Percentiles  # of finished runs, from submission to the first token of the answer
    latency_s: Percentiles  # of finished runs, from submission to the end


@dataclass(frozen=True, slots=True)
class CallShares:
    """Where the calls of one node ran."""

    node: str
    workflow: str
    calls: int
    by_accelerator: dict[str, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """All figures of one load."""

    total: WorkflowSummary
    workflows: tuple[WorkflowSummary, ...]
    nodes: tuple[CallShares, ...]
    calls: int  # that ran, skipped ones apart
    by_accelerator: dict[str, int]  # calls
    by_replica: dict[str, int]  # calls
    token_s: dict[str, float]  # median seconds from one token to the next, by accelerator
    retries: int  # attempts beyond the first of a call
    failures: tuple[str, ...]  # reasons of runs that did not finish


def percentile(values: Sequence[float], q: float) -> float | None:
    """Return the q-quantile, interpolated linearly between the two nearest values, or None without values.

    >>> percentile([1.0, 2.0, 4.0], 0.5), percentile([1.0, 2.0], 0.25), percentile([], 0.5)
    (2.0, 1.25, None)
    """
    if not values:
        return None
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def percentiles(values: Iterable[float]) -> Percentiles:
    """Return the three quantiles that we report."""
    held = list(values)
    return Percentiles(percentile(held, 0.5), percentile(held, 0.9), percentile(held, 0.99))


def summarise(runs: Sequence[RunReport], accelerators: Iterable[str] = ()) -> Summary:
    """Return the figures of these runs; `accelerators` are listed even if no call ran there."""
    names = sorted({run.workflow for run in runs})
    ran = [(run, call) for run in runs for call in run.calls if call.state != "skipped" and _tries(call)]
    nodes: dict[tuple[str, str], list[CallReport]] = {}
    for run, call in ran:
        nodes.setdefault((run.workflow, node_of(call)), []).append(call)
    return Summary(
        total=_workflow("all", runs),
        workflows=tuple(_workflow(name, [run for run in runs if run.workflow == name]) for name in names),
        nodes=tuple(
            CallShares(node, workflow, len(calls), _count(calls, "accelerator"))
            for (workflow, node), calls in sorted(nodes.items())
        ),
        calls=len(ran),
        by_accelerator={**dict.fromkeys(accelerators, 0), **_count([call for _, call in ran], "accelerator")},
        by_replica=_count([call for _, call in ran], "replica"),
        token_s=_token_s([call for _, call in ran]),
        retries=sum(_tries(call) - 1 for _, call in ran),
        failures=tuple(
            f"{run.workflow}: {run.state}{f', {run.reason}' if run.reason else ''}"
            for run in runs
            if run.state != "finished"
        ),
    )


def node_of(call: CallReport) -> str:
    """Name of the node in the workflow: ``map[2].pitch`` and ``map[0].pitch`` are calls of ``pitch``."""
    return call.node.rpartition(".")[2]


def _tries(call: CallReport) -> int:
    return sum(attempt.began for attempt in call.attempts)


def _workflow(name: str, runs: Sequence[RunReport]) -> WorkflowSummary:
    finished = [run for run in runs if run.state == "finished"]
    met = sum(run.met is True for run in runs)
    return WorkflowSummary(
        workflow=name,
        runs=len(runs),
        finished=len(finished),
        met=met,
        goodput=met / len(runs) if runs else 0.0,
        ttft_s=percentiles(_known(finished, lambda run: run.first_token_at)),
        latency_s=percentiles(_known(finished, lambda run: run.finished_at)),
    )


def _known(runs: Sequence[RunReport], value: Callable[[RunReport], float | None]) -> list[float]:
    return [found for run in runs if (found := value(run)) is not None]


def _token_s(calls: Sequence[CallReport]) -> dict[str, float]:
    """Pace of decoding, from calls that are long enough to tell."""
    paces: dict[str, list[float]] = {}
    for call in calls:
        last = call.last
        if last is None or last.first_token_at is None or last.ended_at is None or last.output_tokens < PACED_TOKENS:
            continue
        pace = (last.ended_at - last.first_token_at) / (last.output_tokens - 1)
        paces.setdefault(last.accelerator, []).append(pace)
    return {name: percentile(found, 0.5) or 0.0 for name, found in sorted(paces.items())}


def _count(calls: Sequence[CallReport], name: str) -> dict[str, int]:
    return dict(sorted(Counter(str(getattr(call.last, name)) for call in calls).items()))
