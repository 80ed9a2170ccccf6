"""What the times of tokens say of engine steps: the steps of an experiment, and the points that a law is fitted to.

It knows what came of some requests that ran together, and not why they did (`experiments`) nor when.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf
from statistics import median

from dask_fmware.profile.law import chunk_pairs
from dask_fmware.profile.meter import MeteredStep, StepMeter
from dask_fmware.profile.points import StepPoint

__all__ = ["RequestTrace", "largest_batch", "points_of", "step_tokens_of", "steps_of", "without_bursts"]

WINDOW = 8  # steps whose mean makes a decode point: single tokens reach us in bursts
LEAST_WINDOW = 4
BURST = 1 / 3  # of what no more work takes: tokens that had waited somewhere came all at once
UNCUT = 0.85  # share of a prompt in one step from which on it counts as whole


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """What came of one request."""

    submitted_s: float
    prompt_tokens: int
    cached_tokens: int
    arrivals: tuple[tuple[float, int], ...]  # (when, tokens)
    finished: bool = True  # False: it was aborted when the experiment was over


def steps_of(traces: Sequence[RequestTrace], slots: int) -> list[MeteredStep]:
    """Return the steps of one experiment."""
    events: list[tuple[float, int, int, int]] = []  # when, what (submitted, token, ended), whose, tokens
    for n, trace in enumerate(traces):
        events.append((trace.submitted_s, 0, n, 0))
        events += [(at, 1, n, tokens) for at, tokens in trace.arrivals]
        if trace.finished and trace.arrivals:
            events.append((trace.arrivals[-1][0], 2, n, 0))
    meter = StepMeter(slots)
    for at, what, n, tokens in sorted(events):
        match what:
            case 0:
                meter.submitted(str(n), traces[n].prompt_tokens, at, traces[n].cached_tokens)
            case 1:
                meter.token(str(n), at, tokens)
            case _:
                meter.ended(str(n), at)
    for n in range(len(traces)):
        meter.ended(str(n), inf)
    return meter.take()


def largest_batch(experiments: Iterable[Sequence[MeteredStep]]) -> int | None:
    """Most sequences that were seen to decode together."""
    return max((step.batch for steps in experiments for step in steps), default=0) or None


def step_tokens_of(experiments: Iterable[Sequence[MeteredStep]]) -> int | None:
    """Most tokens of one step, from prompts that were prefilled beside a decoding batch; None: never cut.

    A prompt that is cut makes several steps longer. Prefill costs about the same for each token, so the longest of
    these steps shows which share of the prompt it took.
    """
    found: list[tuple[int, float]] = []  # tokens of the prompts, and of its largest share
    for steps in experiments:
        usual_s = _usual_s(steps)
        for episode in _episodes(steps):
            batch = episode[0].batch
            if batch not in usual_s or not episode[-1].firsts or len({step.batch for step in episode}) > 1:
                continue
            tokens = sum(computed for computed, _cached in episode[-1].firsts)
            more_s = [max(step.took_s - step.steps * usual_s[batch], 0.0) for step in episode]
            if sum(more_s) > 0:
                found.append((tokens, tokens * max(more_s) / sum(more_s) + batch))
    longest = max((tokens for tokens, _share in found), default=0)
    shares = [share for tokens, share in found if tokens > 0.8 * longest]
    if not shares or median(shares) >= UNCUT * longest:
        return None
    size = median(shares)
    power = 1 << round(size).bit_length()
    return min((power, power >> 1, round(size)), key=lambda c: (abs(c - size) > 0.15 * size, c & (c - 1) != 0))


def points_of(steps: Sequence[MeteredStep], step_tokens: int | None = None) -> list[StepPoint]:
    """Return what the steps of one experiment say: decode windows, and prefill beside what decodes.

    Prompts share their steps with a batch whose own time is known from the decode steps of the same
    experiment; what a step took beyond that is its prefill, evenly over the steps that a prompt is cut into.
    """
    points: list[StepPoint] = []
    usual_s = _usual_s(steps)
    for (batch, prefilling), run in groupby(steps, key=lambda step: (step.batch, bool(step.prefilling))):
        if not prefilling and batch:
            points += _decode_points(list(run))
    for episode in _episodes(steps):
        if (point := _prefill_point(episode, usual_s, step_tokens)) is not None:
            points.append(point)
    return points


def without_bursts(points: Sequence[StepPoint]) -> list[StepPoint]:
    """Leave out decode steps that are far quicker than steps with no more sequences and no more context.

    Errors are relative, so that one step of a few microseconds would weigh as much as a hundred sound ones.
    """
    decode = [point for point in points if not point.prefill_tokens]

    def is_burst(point: StepPoint) -> bool:
        lesser = [p.step_s for p in decode if p.batch <= point.batch and p.context_tokens <= point.context_tokens]
        return point.step_s < BURST * median(lesser)

    return [point for point in points if point.prefill_tokens or not is_burst(point)]


def _decode_points(run: list[MeteredStep]) -> list[StepPoint]:
    points = []
    for first in range(0, len(run), WINDOW):
        window = run[first : first + WINDOW]
        count = sum(step.steps for step in window)
        if count < LEAST_WINDOW:
            continue
        context = sum(s.steps * (s.context_tokens + s.batch * (s.steps - 1) / 2) for s in window) / count
        points.append(
            StepPoint(sum(step.took_s for step in window) / count, batch=float(window[0].batch), context_tokens=context)
        )
    return points


def _episodes(steps: Sequence[MeteredStep]) -> list[list[MeteredStep]]:
    """Stretches of prefill, each up to the step in which one or more prompts are done."""
    episodes: list[list[MeteredStep]] = []
    open_: list[MeteredStep] = []
    for step in steps:
        if step.prefilling:
            open_.append(step)
        if step.firsts:
            episodes.append(open_)
            open_ = []
    return [episode for episode in episodes if episode]


def _usual_s(steps: Sequence[MeteredStep]) -> dict[int, float]:
    """Median decode step of each batch size."""
    found: dict[int, list[float]] = {}
    for step in steps:
        if not step.prefilling and step.batch:
            found.setdefault(step.batch, []).append(step.took_s / step.steps)
    return {batch: median(times) for batch, times in found.items()}


def _prefill_point(
    episode: Sequence[MeteredStep], usual_s: dict[int, float], step_tokens: int | None
) -> StepPoint | None:
    last, batch = episode[-1], episode[-1].batch
    if not last.firsts or any(step.batch != batch for step in episode) or (batch and batch not in usual_s):
        return None
    tokens = sum(computed for computed, _cached in last.firsts)
    pairs = sum(chunk_pairs(computed, cached) for computed, cached in last.firsts)
    parts = 1 if step_tokens is None else max(1, -(-tokens // max(step_tokens - batch, 1)))
    decode_s = usual_s[batch] if batch else 0.0
    more_s = sum(step.took_s for step in episode) - sum(step.steps for step in episode) * decode_s
    if more_s <= 0:
        return None
    return StepPoint(
        decode_s + more_s / parts,
        tokens / parts,
        len(last.firsts) if parts == 1 else 1,
        float(batch),
        float(last.context_tokens),
        pairs / parts,
    )
