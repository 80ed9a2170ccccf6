"""What happened in the last minutes, in buckets of a few seconds: verdicts, latencies, blame, nodes.

It owns the arithmetic of a rolling window. Who feeds it and who looks is not its business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from dask_fmware.model.report import RunReport
from dask_fmware.observe.quantiles import QuantileSketch, bin_of

__all__ = ["ALL", "Bucket", "Culprit", "Ended", "Group", "NodeTally", "Tally", "Window"]

Group: TypeAlias = tuple[str, str]  # ("all", ""), ("workflow", name) or ("tenant", name)
ALL: Group = ("all", "")


class Culprit(NamedTuple):
    """What cost runs their objective."""

    workflow: str
    node: str
    cause: str  # of `dask_fmware.observe.blame.Blame`
    accelerator: str
    card: str


class Ended(NamedTuple):
    """What is counted of a run that ended; made once for all groups that it belongs to."""

    met: bool | None
    failed: bool  # or refused when it came
    rejected: bool  # as it would be late, see `on_miss`
    ttft: tuple[int, float] | None  # bin and seconds, of a run that finished
    e2e: tuple[int, float] | None

    @classmethod
    def of(cls, report: RunReport) -> Ended:
        """Return what is counted of a report."""
        met, end = report.met, report.finished_at
        failed, rejected = report.state in ("failed", "refused"), report.state == "rejected"
        if report.state != "finished" or end is None:
            return cls(met, failed, rejected, None, None)
        first = report.first_token_at if report.first_token_at is not None else end
        return cls(met, failed, rejected, (bin_of(first), first), (bin_of(end), end))


@dataclass(slots=True)
class Tally:
    """Runs that ended, and how."""

    met: int = 0
    missed: int = 0  # finished too late
    failed: int = 0  # failed or refused, with or without an SLO
    rejected: int = 0  # as they would be late, which they asked for
    judged: int = 0  # had an SLO and was not cancelled: met, missed, failed, rejected or refused
    ended: int = 0
    ttft: QuantileSketch = field(default_factory=QuantileSketch)
    e2e: QuantileSketch = field(default_factory=QuantileSketch)

    def add(self, ended: Ended) -> None:
        """Count a run that ended."""
        self.ended += 1
        self.judged += ended.met is not None
        self.met += ended.met is True
        if ended.failed:
            self.failed += 1
        elif ended.rejected:
            self.rejected += 1
        elif ended.met is False:
            self.missed += 1
        if ended.ttft is not None and ended.e2e is not None:
            self.ttft.add_to(*ended.ttft)
            self.e2e.add_to(*ended.e2e)

    def merge(self, other: Tally) -> None:
        """Count what another tally counts too."""
        self.met += other.met
        self.missed += other.missed
        self.failed += other.failed
        self.rejected += other.rejected
        self.judged += other.judged
        self.ended += other.ended
        self.ttft.merge(other.ttft)
        self.e2e.merge(other.e2e)

    @property
    def unjudged(self) -> int:
        """Finished without an SLO, or cancelled."""
        return self.ended - self.met - self.missed - self.failed - self.rejected

    def goodput(self, late: int = 0) -> float | None:
        """Share of runs with an SLO that met it, of those that ended and of some that are late before they end."""
        asked = self.judged + late
        return self.met / asked if asked else None


@dataclass(slots=True)
class NodeTally:
    """Calls of one node that ended, on all replicas."""

    calls: int = 0
    waited_s: float = 0.0  # sum
    ran_s: float = 0.0  # sum
    slack_s: float = 0.0  # sum over `with_slack` of what was left when it started
    with_slack: int = 0

    def merge(self, other: NodeTally) -> None:
        """Count what another tally counts too."""
        self.calls += other.calls
        self.waited_s += other.waited_s
        self.ran_s += other.ran_s
        self.slack_s += other.slack_s
        self.with_slack += other.with_slack


@dataclass(slots=True)
class Bucket:
    """A few seconds."""

    start: float
    submitted: int = 0
    calls: int = 0  # attempts that finished
    output_tokens: int = 0
    held: int = 0  # most calls that waited at once
    tallies: dict[Group, Tally] = field(default_factory=lambda: {ALL: Tally()})
    misses: dict[Culprit, list[float]] = field(default_factory=dict)  # -> [runs, seconds lost there]
    nodes: dict[tuple[str, str], NodeTally] = field(default_factory=dict)  # by (workflow, node)

    def tally(self, group: Group) -> Tally:
        """Tally of a group."""
        found = self.tallies.get(group)
        if found is None:
            found = self.tallies[group] = Tally()
        return found

    def miss(self, culprit: Culprit, loss_s: float, runs: float = 1) -> None:
        """Count a run that missed its objective, or some."""
        known = self.misses.setdefault(culprit, [0.0, 0.0])
        known[0] += runs
        known[1] += loss_s

    def merge(self, other: Bucket) -> None:
        """Count what another bucket counts too."""
        self.submitted += other.submitted
        self.calls += other.calls
        self.output_tokens += other.output_tokens
        self.held = max(self.held, other.held)
        for group, tally in other.tallies.items():
            self.tally(group).merge(tally)
        for culprit, (runs, loss_s) in other.misses.items():
            self.miss(culprit, loss_s, runs)
        for key, node in other.nodes.items():
            self.nodes.setdefault(key, NodeTally()).merge(node)


class Window:
    """Buckets of the last minutes.

    Parameters
    ----------
    step_s
        Seconds of a bucket.
    keep
        Buckets kept.
    """

    def __init__(self, step_s: float = 5.0, keep: int = 180) -> None:
        self.step_s = step_s
        self.buckets: deque[Bucket] = deque(maxlen=keep)
        self._until = 0.0  # end of the last bucket
        self._closed: tuple[tuple[float, float], Bucket] | None = None  # sum without the last bucket, and of what

    def __iter__(self) -> Iterator[Bucket]:
        return iter(self.buckets)

    def at(self, now: float) -> Bucket:
        """Return the bucket of a time; of the latest one, should clocks go backwards."""
        if now >= self._until:
            start = now - now % self.step_s
            self._until = start + self.step_s
            self.buckets.append(Bucket(start))
        return self.buckets[-1]

    def goodput(self, since: float, late: int = 0) -> float | None:
        """Share of runs with an SLO that met it, of those that ended since then and of some that are late before."""
        tallies = [bucket.tallies[ALL] for bucket in self.buckets if bucket.start >= since]
        asked = sum(tally.judged for tally in tallies) + late
        return sum(tally.met for tally in tallies) / asked if asked else None

    def total(self, since: float) -> Bucket:
        """Sum of the buckets that begin at `since` or later; what cannot change any more is added up once."""
        if not self.buckets:
            return Bucket(since)
        last = self.buckets[-1]
        begins = next((bucket.start for bucket in self.buckets if bucket.start >= since), last.start)
        if self._closed is None or self._closed[0] != (begins, last.start):
            closed = Bucket(begins)
            for bucket in self.buckets:
                if begins <= bucket.start < last.start:
                    closed.merge(bucket)
            self._closed = (begins, last.start), closed
        total = Bucket(since)
        total.merge(self._closed[1])
        if last.start >= since:
            total.merge(last)
        return total
