"""Totals since the runtime began, as monitoring systems want them: counters and histograms that only grow."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict

from dask_fmware.model.messages import AttemptEnded
from dask_fmware.model.report import AttemptReport
from dask_fmware.observe.window import Culprit, Ended

__all__ = ["BOUNDS_S", "OTHERS", "Histogram", "Totals"]

OTHERS = "(others)"
CULPRITS = 2000  # told apart: nodes and cards come and go, series stay

# Those of the GenAI conventions of OpenTelemetry for server times, without the finest.
BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)


class Histogram:
    """Counts of durations by fixed upper bounds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, value_s: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(BOUNDS_S, value_s)] += 1
        self.sum_s += value_s


class Totals:
    """Counters and histograms of runs and attempts."""

    def __init__(self) -> None:
        self.submitted: Counter[tuple[str, str]] = Counter()  # (workflow, tenant)
        self.retried: Counter[tuple[str, str]] = Counter()  # the same; each retry leads to one more end
        self.runs: Counter[tuple[str, str, str]] = Counter()  # (workflow, tenant, state)
        self.verdicts: Counter[tuple[str, str, str]] = Counter()  # (workflow, tenant, "met" or "missed")
        self.misses: Counter[Culprit] = Counter()
        self.ttft: defaultdict[str, Histogram] = defaultdict(Histogram)  # workflow -> of its runs
        self.e2e: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.call_ttft: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)  # (model, accelerator)
        self.call_duration: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        self.prompt_tokens: Counter[tuple[str, str]] = Counter()  # (model, accelerator)
        self.output_tokens: Counter[tuple[str, str]] = Counter()
        self.cached_tokens: Counter[tuple[str, str]] = Counter()
        self.predicted_s: defaultdict[tuple[str, str], float] = defaultdict(
            float
        )  # sums, to compare with those of call_duration

    def promised(self, workflow: str, tenant: str) -> None:
        """Have both verdicts from the first run with an SLO: a share of a series that is not there is none."""
        for verdict in ("met", "missed"):
            self.verdicts[workflow, tenant, verdict] += 0

    def ended(self, workflow: str, tenant: str, state: str, ended: Ended) -> None:
        """Count a run that ended."""
        self.runs[workflow, tenant, state] += 1
        if ended.met is not None:
            self.verdicts[workflow, tenant, "met" if ended.met else "missed"] += 1
        if ended.ttft is not None and ended.e2e is not None:
            self.ttft[workflow].add(ended.ttft[1])
            self.e2e[workflow].add(ended.e2e[1])

    def missed(self, culprit: Culprit) -> None:
        """Count a run that missed its objective; culprits beyond the bound by workflow, cause and accelerator alone."""
        if culprit not in self.misses and len(self.misses) >= CULPRITS:
            culprit = culprit._replace(node=OTHERS, card=OTHERS)
        self.misses[culprit] += 1

    def attempt(self, model: str, accelerator: str, attempt: AttemptReport, event: AttemptEnded) -> None:
        """Count an attempt that finished; times are those that the scheduler saw."""
        key = model, accelerator
        if attempt.ended_at is not None:
            self.call_duration[key].add(attempt.ended_at - attempt.started_at)
        if attempt.first_token_at is not None:
            self.call_ttft[key].add(max(attempt.first_token_at - attempt.started_at, 0.0))
        self.prompt_tokens[key] += event.prompt_tokens
        self.output_tokens[key] += event.output_tokens
        self.cached_tokens[key] += event.cached_tokens
        if attempt.predicted_s is not None:
            self.predicted_s[key] += attempt.predicted_s
