"""Replaying an event log: the same events into a fresh machine must give the same decisions."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from dask_fmware.errors import SpecError
from dask_fmware.policy import create_policy
from dask_fmware.runtime import Machine, ModelLimits
from dask_fmware.runtime.eventlog import Decision, Head, Line, decision, read_log
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.world import new_machine

__all__ = ["Difference", "Replayed", "open_log", "replay", "scenario_of"]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first event after which another thing was decided."""

    line: Line
    recorded: Decision | None  # None: nothing more was decided
    replayed: Decision | None
    replayed_reason: str = ""

    def __str__(self) -> str:
        recorded = self.recorded or "nothing"
        at = self.line.decisions.index(self.recorded) if self.recorded in self.line.decisions else -1
        reason = f" ({self.line.reasons[at]})" if at >= 0 else ""
        now = f"{self.replayed or 'nothing'}" + (f" ({self.replayed_reason})" if self.replayed_reason else "")
        event = type(self.line.event).__name__
        return f"line {self.line.number}, {event} at {self.line.now:.6f}: recorded {recorded}{reason}, replayed {now}"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to."""

    head: Head
    events: int
    decisions: int
    difference: Difference | None  # None: all decisions are the same


@contextmanager
def open_log(path: str | Path) -> Iterator[tuple[Head, Iterator[Line]]]:
    """Open an event log, plain or compressed by gzip (``.gz``).

    Raises
    ------
    SpecError
        The file cannot be read, or is no event log.
    """
    opened: Callable[..., Any] = gzip.open if str(path).endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            yield read_log(_lines(file), f"event log {path}")
    except (OSError, UnicodeError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"event log {path} cannot be read ({reason}); give a file that fm.record wrote") from error


def _lines(file: TextIO) -> Iterator[str]:
    try:
        yield from file
    except EOFError:
        return  # a compressed log that was cut short


def scenario_of(head: Head) -> Scenario | None:
    """Return the scenario of a simulated log."""
    if head.scenario is None:
        return None
    try:
        return Scenario.model_validate(head.scenario)
    except ValidationError as error:
        raise SpecError("the log's scenario cannot be read by this version; record it anew") from error


def replay(path: str | Path) -> Replayed:
    """Feed the events of a log to a fresh machine and compare its decisions with those recorded.

    Raises
    ------
    SpecError
        The log does not begin with the machine, so that nobody knows its state then; it can still be
        played under a policy in virtual time (`simulation.recorded`).
    """
    with open_log(path) as (head, lines):
        if not head.is_complete:
            raise SpecError(
                f"event log {path} begins in the middle of a machine's life, so its decisions cannot be repeated; set "
                "router.record in the deployment to record from the start, or replay it under a policy (--policy)"
            )
        machine = _machine(head)
        events = decisions = 0
        for line in lines:
            events += 1
            actions = machine.handle(line.event, line.now)
            made = [decision(action) for action in actions]
            decisions += len(made)
            for i, (recorded, replayed) in enumerate(zip_longest(line.decisions, made)):
                if recorded != replayed:
                    reason = actions[i].reason if replayed is not None else ""
                    return Replayed(head, events, decisions, Difference(line, recorded, replayed, reason))
        return Replayed(head, events, decisions, None)


def _machine(head: Head) -> Machine:
    scenario = scenario_of(head)
    if scenario is not None:
        return new_machine(scenario, head.policy, head.seed, head.hedge_budget, head.max_attempts, head.unhedged)
    return Machine(
        create_policy(head.policy, random.Random(head.seed).random),
        models={name: ModelLimits(*limits, name in head.embedders) for name, limits in head.models.items()},
        max_attempts=head.max_attempts,
        max_held=head.max_held,
        tenants=head.tenants,
        hedge_budget=head.hedge_budget,
        unhedged=head.unhedged,
    )
