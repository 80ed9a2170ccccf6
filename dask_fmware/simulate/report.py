"""What came of simulated runs: goodput, latencies and shares, with confidence intervals over seeds.

Numbers only, from `world.Outcome`; equal outcomes give equal reports, as the bootstrap's draws are seeded.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf
from typing import Any

from dask_fmware.simulate.course import Outcome
from dask_fmware.simulate.scenario import FleetScenario

__all__ = ["Cell", "Interval", "Measured", "crossing", "interval", "measure", "paired"]

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One simulation."""

    runs: int
    goodput: float  # share of runs whose answer began in time
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    latency_mean_s: float
    latency_p99_s: float
    latest_s: float  # the longest any run took
    scale_95: float  # times the SLO within which 95 % of runs are
    scale_99: float
    finished_late: int  # runs that missed and were served all the same
    makespan_s: float
    cost: float  # of the cards in use until the last run ended, at the scenario's prices
    share: dict[str, float]  # of calls, by accelerator


@dataclass(frozen=True, slots=True)
class Cell:
    """All seeds of one policy at one load."""

    policy: str
    load: float
    measured: tuple[Measured, ...]  # one for each seed, in order

    @property
    def goodput(self) -> Interval:
        """Over seeds."""
        return interval([one.goodput for one in self.measured])

    def record(self) -> dict[str, Any]:
        """Return one row of a table: means over seeds."""
        goodput = self.goodput
        row: dict[str, Any] = {"policy": self.policy, "load": self.load, "seeds": len(self.measured)}
        row |= {"goodput": goodput.mean, "goodput_low": goodput.low, "goodput_high": goodput.high}
        for name, first in asdict(self.measured[0]).items():
            if name not in ("goodput", "share") and isinstance(first, int | float):
                row[name] = sum(getattr(one, name) for one in self.measured) / len(self.measured)
        row["latest_s"] = max(one.latest_s for one in self.measured)
        for accelerator in self.measured[0].share:
            row[f"share_{accelerator}"] = sum(one.share[accelerator] for one in self.measured) / len(self.measured)
        return row


def measure(
    scenario: FleetScenario, outcomes: Sequence[Outcome], card_seconds: Mapping[str, float] | None = None
) -> Measured:
    """Sum up one simulation of at least one run.

    `card_seconds` is `World.card_seconds`; left out, all cards of the scenario were there all the time.
    """
    ttft = sorted(o.first_token_at - o.run.arrival for o in outcomes)
    latency = sorted(o.finished_at - o.run.arrival for o in outcomes)
    scale = sorted(
        (o.first_token_at - o.run.arrival) / (o.run.deadline - o.run.arrival) if o.run.deadline < inf else 0.0
        for o in outcomes
    )
    met = sum(o.met for o in outcomes)
    end = max((o.finished_at for o in outcomes if o.finished_at < inf), default=0.0)
    calls = Counter(call[1] for o in outcomes for call in o.calls)
    if card_seconds is None:
        card_seconds = {name: card.count * end for name, card in scenario.cards.items()}
    cost = sum(card_seconds[name] * card.price_per_hour for name, card in scenario.cards.items()) / 3600.0
    return Measured(
        runs=len(outcomes),
        goodput=met / len(outcomes),
        ttft_mean_s=sum(ttft) / len(ttft),
        ttft_p50_s=_rank(ttft, 0.5),
        ttft_p99_s=_rank(ttft, 0.99),
        latency_mean_s=sum(latency) / len(latency),
        latency_p99_s=_rank(latency, 0.99),
        latest_s=latency[-1],
        scale_95=_rank(scale, 0.95),
        scale_99=_rank(scale, 0.99),
        finished_late=sum(not o.met and o.finished_at < inf for o in outcomes),
        makespan_s=end,
        cost=cost,
        share={accelerator: calls[accelerator] / max(calls.total(), 1) for accelerator in scenario.cards},
    )


def _rank(ordered: Sequence[float], q: float) -> float:
    return ordered[min(max(ceil(q * len(ordered)), 1), len(ordered)) - 1]


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % percentile-bootstrap interval.

    >>> interval([1.0, 1.0, 1.0])
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    draw = random.Random(len(values))
    count = len(values)
    means = sorted(sum(draw.choices(values, k=count)) / count for _ in range(RESAMPLES))
    return Interval(sum(values) / count, means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1])


def paired(one: Cell, other: Cell) -> Interval:
    """Goodput of `one` above that of `other`, seed by seed."""
    return interval([a.goodput - b.goodput for a, b in zip(one.measured, other.measured, strict=True)])


def crossing(loads: Sequence[float], goodput: Sequence[float], level: float = 0.7) -> float:
    """Return the largest load with this goodput: the last down-crossing, interpolated; infinity if there is none.

    >>> crossing([1, 2, 3], [1.0, 0.8, 0.6])
    2.5
    """
    found = inf if goodput[-1] >= level else 0.0
    for i in range(len(loads) - 1):
        if goodput[i] >= level > goodput[i + 1]:
            share = (goodput[i] - level) / (goodput[i] - goodput[i + 1])
            found = loads[i] + (loads[i + 1] - loads[i]) * share
    return round(found, 9)
