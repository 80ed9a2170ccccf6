"""What came of one simulation, summed up run by run: it keeps a few numbers of each run and not the run.

Quantiles are exact. Work is counted as seconds that calls were on engines.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

from dask_fmware.simulation.course import Outcome
from dask_fmware.simulation.scenario import FleetScenario

__all__ = ["Measured", "Tally", "measure", "rank"]

SPANS = 40  # of the timeline


@dataclass(frozen=True, slots=True)
class Measured:
    """One simulation."""

    runs: int
    judged: int  # runs with an objective; all, where none has one
    goodput: float  # share of these whose answer began (or was complete, if that was promised) in time
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    latency_mean_s: float
    latency_p50_s: float
    latency_p95_s: float
    latency_p99_s: float
    latest_s: float  # the longest any run took
    scale_95: float  # times the SLO within which 95 % of the judged runs are
    scale_99: float
    finished_late: int  # runs that missed and were served all the same
    rejected: int  # runs that would have been late and asked to be rejected then
    failed: int  # other runs that ended without an answer
    never_ended: int  # runs that were under way at the end, as nothing could serve them any more
    parked_calls: int  # started although they were found too late
    late_work: float  # share of the engines' work that went to runs that missed
    makespan_s: float
    cost: float  # of the cards in use until the simulation ended, at the scenario's prices
    share: dict[str, float]  # of calls, by accelerator
    scale_curve: tuple[float, ...] = ()  # quantiles of the times the SLO that runs took, from 0 to 100 %
    timeline: tuple[tuple[float, int, int], ...] = ()  # middle of a span of arrivals, judged runs in it, those in time


class Tally:
    """Takes outcomes as they come.

    A run without an objective is never late, so it says nothing of goodput, as on a cluster. Where no run has one, all
    are judged by whether they have ended.

    Parameters
    ----------
    scenario
        Its cards have prices.
    """

    def __init__(self, scenario: FleetScenario) -> None:
        self._scenario = scenario
        self._ttft = array("d")
        self._latency = array("d")
        self._scale = array("d")
        self._arrival = array("d")
        self._in_time = bytearray()
        self._is_judging = False  # a run with an objective has come
        self._late = self._rejected = self._failed = self._parked = 0
        self.never_ended = 0  # of the runs taken so far
        self._work_s = self._late_work_s = self._end = 0.0
        self._calls = dict.fromkeys(scenario.cards, 0)

    @property
    def runs(self) -> int:
        """Runs taken so far."""
        return len(self._ttft)

    def add(self, outcome: Outcome) -> None:
        """Take the outcome of a run that has ended, or never will."""
        run, met = outcome.run, outcome.met
        arrival, allowed = run.arrival, run.deadline - run.arrival
        ttft, latency = outcome.first_token_at - arrival, outcome.finished_at - arrival
        self._ttft.append(ttft)
        self._latency.append(latency)
        scale = _times(latency if run.is_whole else ttft, allowed)
        if run.ends_by < inf:  # it has a bound on each, and is as late as the worse of both
            scale = max(scale, _times(latency, run.ends_by - arrival))
        self._judge(arrival, allowed < inf, inf if outcome.is_broken_off else scale, met)
        work_s, calls = 0.0, self._calls
        for _, accelerator, start, end in outcome.calls:
            calls[accelerator] = calls.get(accelerator, 0) + 1
            work_s += end - start
        self._work_s += work_s
        self._parked += outcome.parked
        if not met:
            self._late_work_s += work_s
        self.never_ended += outcome.never_ended
        if outcome.finished_at < inf:
            self._late += not met
            self._end = max(self._end, outcome.finished_at)
        elif outcome.is_rejected:
            self._rejected += not met
        elif not outcome.never_ended:
            self._failed += not met

    def _judge(self, arrival: float, has_objective: bool, scale: float, met: bool) -> None:
        """Take note of whether a run was in time, if it has an objective or none had one so far."""
        if has_objective and not self._is_judging:
            self._is_judging = True
            for taken in (self._arrival, self._scale, self._in_time):
                del taken[:]
        if has_objective == self._is_judging:
            self._arrival.append(arrival)
            self._scale.append(scale)
            self._in_time.append(met)

    def measured(self, card_seconds: Mapping[str, float] | None = None) -> Measured:
        """Sum up; at least one run has been taken.

        `card_seconds` is `World.card_seconds`; left out, all cards of the scenario were there all the time.
        """
        cards = self._scenario.cards
        if card_seconds is None:
            card_seconds = {name: card.count * self._end for name, card in cards.items()}
        ttft, latency, scale = (sorted(values) for values in (self._ttft, self._latency, self._scale))
        count, calls = len(ttft), sum(self._calls.values())
        return Measured(
            runs=count,
            judged=len(self._in_time),
            goodput=sum(self._in_time) / len(self._in_time),
            ttft_mean_s=sum(ttft) / count,
            ttft_p50_s=rank(ttft, 0.5),
            ttft_p95_s=rank(ttft, 0.95),
            ttft_p99_s=rank(ttft, 0.99),
            latency_mean_s=sum(latency) / count,
            latency_p50_s=rank(latency, 0.5),
            latency_p95_s=rank(latency, 0.95),
            latency_p99_s=rank(latency, 0.99),
            latest_s=latency[-1],
            scale_95=rank(scale, 0.95),
            scale_99=rank(scale, 0.99),
            finished_late=self._late,
            rejected=self._rejected,
            failed=self._failed,
            never_ended=self.never_ended,
            parked_calls=self._parked,
            late_work=self._late_work_s / self._work_s if self._work_s else 0.0,
            makespan_s=self._end,
            cost=sum(card_seconds[name] * card.price_per_hour for name, card in cards.items()) / 3600.0,
            share={name: number / max(calls, 1) for name, number in self._calls.items()},
            scale_curve=tuple(rank(scale, i / 100) for i in range(101)),
            timeline=self._timeline(),
        )

    def _timeline(self) -> tuple[tuple[float, int, int], ...]:
        """Runs by when they came, in spans of equal length."""
        span_s = (max(self._arrival) + 1e-9) / SPANS
        runs, met = [0] * SPANS, [0] * SPANS
        for arrival, in_time in zip(self._arrival, self._in_time, strict=True):
            span = min(int(arrival / span_s), SPANS - 1)
            runs[span] += 1
            met[span] += in_time
        return tuple(((i + 0.5) * span_s, runs[i], met[i]) for i in range(SPANS))


def measure(
    scenario: FleetScenario, outcomes: Iterable[Outcome], card_seconds: Mapping[str, float] | None = None
) -> Measured:
    """Sum up the outcomes of one simulation; see `Tally.measured`."""
    tally = Tally(scenario)
    for outcome in outcomes:
        tally.add(outcome)
    return tally.measured(card_seconds)


def _times(took: float, allowed: float) -> float:
    """How many times what is allowed something took."""
    if allowed == inf:
        return 0.0 if took < inf else inf
    return took / allowed if allowed > 0.0 else inf


def rank(ordered: Sequence[float], q: float) -> float:
    """Return the least of some values, in order, that a share `q` of them does not exceed."""
    return ordered[min(max(ceil(q * len(ordered)), 1), len(ordered)) - 1]
