"""Loads that change over a day, for comparing ways to provision: a sine, a measured day, a trace."""

from __future__ import annotations

import csv
import gzip
import random
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from statistics import median
from typing import Protocol

from dask_fmware.simulation.arrivals import Arrival

__all__ = ["Around", "Load", "MeasuredDay", "Sine", "Trace", "TraceOverDay"]

JITTER_S = 60.0  # over which the copies of one arrival of a trace are strewn
NEAR = 150  # arrivals of a trace, before and after, of which a copy has the lengths
PACE_S = 600.0  # in which the pace of a trace is counted


class Load(Protocol):
    """Arrivals over `length_s` seconds."""

    @property
    def title(self) -> str:
        """What it is."""
        ...

    @property
    def length_s(self) -> float:
        """How long it is."""
        ...

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Draw them, in order."""
        ...

    @property
    def mean_share(self) -> float:
        """Mean over peak of the rate: the share of static cards below which no scaler can go."""
        ...


@dataclass(frozen=True)
class Sine:
    """One period from a quarter of the peak to the peak and back."""

    peak: float  # runs a second
    length_s: float
    title: str = "a sine from a quarter of its peak to the peak"

    def share(self, part: float) -> float:
        """Rate at a part of the day, 0..1, relative to the peak."""
        return 0.25 + 0.75 * (0.5 - 0.5 * cos(2 * pi * part))

    @property
    def mean_share(self) -> float:
        """Five eighths."""
        return 0.625

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Draw a Poisson process of that rate."""
        yield from _poisson(self.peak, self.length_s, self.share, seed)


@dataclass(frozen=True)
class MeasuredDay:
    """The day of one workload, from the rates of its clients in windows; scaled to a peak and a length.

    The file is a gzipped CSV with the columns workload, window_start_s and rate_rps, as ServeGen's are.
    """

    path: Path
    workload: str
    peak: float
    length_s: float
    hours: tuple[float, float] = (0.0, 24.0)  # the part of the day
    title: str = ""
    shares: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        sums: dict[float, float] = {}
        with gzip.open(self.path, "rt") as text:
            for row in csv.DictReader(text):
                if row["workload"] == self.workload:
                    at = float(row["window_start_s"])
                    sums[at] = sums.get(at, 0.0) + float(row["rate_rps"])
        if not sums:
            raise SystemExit(f"{self.path} has no workload '{self.workload}'")
        kept = [sums[at] for at in sorted(sums) if self.hours[0] <= at / 3600 < self.hours[1]]
        object.__setattr__(self, "shares", tuple(rate / max(kept) for rate in kept))
        part = "" if len(kept) == len(sums) else f", {self.hours[0]:g} to {self.hours[1]:g} h"
        object.__setattr__(self, "title", f"measured day of {self.workload}{part}")

    def share(self, part: float) -> float:
        """Rate at a part of the day, 0..1, relative to the peak; between windows by a straight line."""
        at = part * len(self.shares)
        left = int(at) % len(self.shares)
        right = (left + 1) % len(self.shares)
        return self.shares[left] + (at - int(at)) * (self.shares[right] - self.shares[left])

    @property
    def mean_share(self) -> float:
        """Mean over the largest window."""
        return sum(self.shares) / len(self.shares)

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Draw a Poisson process of that rate."""
        yield from _poisson(self.peak, self.length_s, self.share, seed)


@dataclass(frozen=True)
class Around:
    """The part of a load around its busiest minutes: what is enough there is enough."""

    load: Load
    length_s: float

    @property
    def title(self) -> str:
        """What it is."""
        return f"{self.load.title}, {self.length_s:g} s around its peak"

    @property
    def mean_share(self) -> float:
        """Of the load."""
        return self.load.mean_share

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Those of the load, as if it began here."""
        minutes: dict[int, int] = {}
        for arrival in self.load.arrivals(seed):
            minutes[int(arrival.at // 600)] = minutes.get(int(arrival.at // 600), 0) + 1
        middle_s = 600 * max(minutes, key=lambda m: minutes[m]) + 300
        begin_s = min(max(middle_s - self.length_s / 2, 0.0), self.load.length_s - self.length_s)
        for arrival in self.load.arrivals(seed):
            if 0 <= arrival.at - begin_s < self.length_s:
                yield arrival._replace(at=arrival.at - begin_s)


class Trace:
    """A recorded trace, begun at a drawn moment and turned around; each arrival `times` times, as of more users.

    The copies come within a minute, with the lengths of others of that time: the same chat six times at once would be a
    burst that nobody recorded. The file is a CSV with arrival_s, prompt_tokens and output_tokens, which may be gzipped.
    """

    def __init__(self, path: Path, times: int = 1) -> None:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        self.rows = [
            Arrival(float(row["arrival_s"]), int(row["prompt_tokens"]), int(row["output_tokens"]))
            for row in csv.DictReader(text.splitlines())
        ]
        self._times = times
        self._ats = [row.at for row in self.rows]
        self.title = f"trace {path.name.partition('.')[0]}" + (f", {times} times" if times > 1 else "")
        self.length_s = self.rows[-1].at

    @property
    def medians(self) -> tuple[float, float]:
        """Prompt and output tokens."""
        return median(row.prompt_tokens or 1 for row in self.rows), median(row.output_tokens or 1 for row in self.rows)

    @property
    def mean_share(self) -> float:
        """Mean over the largest minute."""
        minutes: dict[int, int] = {}
        for row in self.rows:
            minutes[int(row.at // 60)] = minutes.get(int(row.at // 60), 0) + 1
        return len(self.rows) / (self.length_s / 60) / max(minutes.values())

    def pace(self, at: float) -> float:
        """Recorded arrivals a second in the ten minutes around a time of the trace."""
        begin_s = min(max(at - PACE_S / 2, 0.0), self.length_s - PACE_S)
        return (bisect(self._ats, begin_s + PACE_S) - bisect(self._ats, begin_s)) / PACE_S

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Turn the trace by a drawn time."""
        draw = random.Random(f"trace {seed}")
        shift_s = draw.uniform(0.0, self.length_s)
        rows = self.rows
        yield from sorted(
            (row if not copy else rows[(i + draw.randint(-NEAR, NEAR)) % len(rows)])._replace(
                at=(row.at - shift_s + (draw.uniform(-0.5, 0.5) * JITTER_S if copy else 0.0)) % self.length_s
            )
            for i, row in enumerate(rows)
            for copy in range(self._times)
        )


@dataclass(frozen=True)
class TraceOverDay:
    """The arrivals of a trace, over and over, at the rates of a day.

    Each gap of the trace is made longer or shorter by the trace's pace at the time over the day's rate: what is kept of
    the trace are lengths, their order, and how arrivals clump within minutes; its pace over ten minutes is the day's.
    """

    trace: Trace
    day: MeasuredDay

    @property
    def title(self) -> str:
        """What it is."""
        return f"{self.trace.title} over the {self.day.title}"

    @property
    def length_s(self) -> float:
        """Of the day."""
        return self.day.length_s

    @property
    def mean_share(self) -> float:
        """Of the day."""
        return self.day.mean_share

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Begin the trace at a drawn arrival."""
        rows, at = self.trace.rows, 0.0
        i = random.Random(f"trace {seed}").randrange(len(rows))
        while True:
            gap_s = (rows[i].at - rows[i - 1].at) if i else 1 / self.trace.pace(0.0)
            at += gap_s * self.trace.pace(rows[i].at) / (self.day.peak * self.day.share(at / self.day.length_s))
            if at >= self.day.length_s:
                return
            yield rows[i]._replace(at=at)
            i = (i + 1) % len(rows)


def _poisson(peak: float, length_s: float, share: object, seed: int) -> Iterator[Arrival]:
    assert callable(share)
    draw, at = random.Random(f"day {seed}"), 0.0
    while (at := at + draw.expovariate(peak)) < length_s:
        if draw.random() < share(at / length_s):
            yield Arrival(at)
