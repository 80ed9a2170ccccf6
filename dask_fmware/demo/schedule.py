"""What is submitted when: Poisson arrivals, or those of a trace, and the inputs of each run.

A pure function of its arguments: the same seed gives the same load on any machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dask_fmware.demo.inputs import MESSAGES, QUESTIONS
from dask_fmware.demo.trace import Lengths, TraceRow

__all__ = ["Kind", "PlannedRun", "poisson", "schedule", "stretch"]

Kind = Literal["rag", "shopping"]


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run to submit."""

    index: int
    workflow: Kind
    arrival_s: float  # since the start of the load
    text: str
    padding_tokens: int = 0  # appended to the input, for the prompt lengths of a trace
    answer_tokens: int | None = None  # bound of the answer, for the output lengths of a trace


def poisson(runs: int, rate: float, seed: int) -> list[float]:
    """Return arrival times of a Poisson process, the first at 0.

    >>> [round(at, 2) for at in poisson(3, 2.0, seed=1)]
    [0.0, 0.07, 1.01]
    """
    draw, at, times = random.Random(seed), 0.0, [0.0]
    while len(times) < runs:
        at += draw.expovariate(rate)
        times.append(at)
    return times


def stretch(times: Sequence[float], rate: float) -> tuple[list[float], float]:
    """Return times that begin at 0 and have a mean rate, with the factor by which they were stretched.

    >>> stretch([10.0, 12.0, 20.0], rate=4.0)
    ([0.0, 0.1, 0.5], 0.05)
    """
    span = times[-1] - times[0]
    factor = (len(times) - 1) / rate / span if span > 0 else 1.0
    return [(at - times[0]) * factor for at in times], factor


def schedule(
    runs: int, rate: float, seed: int, *, trace: Sequence[TraceRow] | None = None, lengths: Lengths | None = None
) -> list[PlannedRun]:
    """Plan runs of both workflows, in random alternation.

    Parameters
    ----------
    runs
        How many; a trace that has fewer rows gives fewer.
    rate
        Mean arrivals, runs per second.
    seed
        Of arrivals, workflows and inputs.
    trace
        Rows whose arrivals and lengths are taken instead of Poisson arrivals and the workflows' own.
    lengths
        How lengths of the trace fit into the context; needed with `trace`.
    """
    rows = trace[:runs] if trace is not None else None
    times = stretch([row.arrival_s for row in rows], rate)[0] if rows is not None else poisson(runs, rate, seed)
    draw = random.Random(seed + 1)  # the order of inputs stays when rate or trace change
    planned = []
    for index, at in enumerate(times):
        kind: Kind = "rag" if draw.random() < 0.5 else "shopping"
        text = draw.choice(QUESTIONS if kind == "rag" else MESSAGES)
        run = PlannedRun(index, kind, at, text)
        if rows is not None and lengths is not None:
            run = replace(
                run,
                padding_tokens=lengths.padding_tokens(rows[index]),
                answer_tokens=lengths.answer_tokens(rows[index]),
            )
        planned.append(run)
    return planned
