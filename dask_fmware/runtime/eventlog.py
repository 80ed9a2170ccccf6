"""The machine's event log: every event with what the machine made of it, one line of JSON each.

A log holds names, ids, counts, sizes and times, never a prompt or an answer. It knows no file: who keeps one gives
a function that takes lines. The first line is the head; `FORMAT` grows with any change that old readers would misread.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from math import inf
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dask_fmware.errors import SpecError, VersionMismatchError
from dask_fmware.runtime.actions import Action, Assign, Fail, Move, Refuse
from dask_fmware.runtime.events import (
    AttemptEnded,
    Branched,
    CallDropped,
    CallRetried,
    CallRunnable,
    CallWithdrawn,
    Event,
    FirstToken,
    ModelAbandoned,
    Overdue,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
    RunEnded,
    RunRetried,
    RunSubmitted,
    StepsTimed,
    Tick,
)

__all__ = ["FORMAT", "Decision", "EventLog", "Head", "Line", "decision", "read_log"]

FORMAT = 1
MARK = "dask_fmware_log"

_EVENTS: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind)
    for kind in (
        RunSubmitted, CallRunnable, CallWithdrawn, CallRetried, CallDropped, RunEnded, RunRetried, RunDropped,
        ReplicaReady, ReplicaGone, ReplicaDraining, ModelAbandoned, Branched, FirstToken, AttemptEnded, Overdue,
        StepsTimed, Tick,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Head:
    """What a machine was made of, which its events do not say."""

    policy: str
    seed: int  # of the policy's draws
    max_attempts: int
    max_held: int
    models: dict[str, tuple[int, int]]  # context tokens and longest token in bytes
    is_complete: bool  # whether the log begins with the machine: only then can decisions be repeated
    started: float = 0.0  # on the machine's clock
    version: str = field(default_factory=lambda: version("dask-fmware"))
    tenants: dict[str, float] = field(default_factory=dict)  # their weights
    scenario: dict[str, Any] | None = None  # of a simulation, whose machine knew its past
    hedge_budget: float = 0.0
    unhedged: tuple[str, ...] = ()  # models
    embedders: tuple[str, ...] = ()  # models that give vectors


@dataclass(frozen=True, slots=True)
class Decision:
    """An action as it is compared: without its reason."""

    kind: str
    of: str  # call id, or run id
    replica_id: str = ""
    attempt: int = 0
    priority: float = 0.0
    wait_s: float = 0.0  # that it may be ahead of its slot

    def __str__(self) -> str:
        ahead = ", ahead" if self.wait_s else ""
        on = (
            f" on {self.replica_id} (attempt {self.attempt}, priority {self.priority:g}{ahead})"
            if self.replica_id
            else ""
        )
        return f"{self.kind} {self.of}{on}"


def decision(action: Action) -> Decision:
    """Return what was decided."""
    if isinstance(action, Assign):
        return Decision("Assign", action.call_id, action.replica_id, action.attempt, action.priority, action.wait_s)
    if isinstance(action, Move):
        return Decision("Move", action.call_id, action.replica_id, action.attempt)
    return Decision(type(action).__name__, action.run_id if isinstance(action, Refuse) else action.call_id)


@dataclass(frozen=True, slots=True)
class Line:
    """One event of a log."""

    number: int  # of its line
    now: float
    event: Event
    decisions: tuple[Decision, ...]
    reasons: tuple[str, ...] = field(default=(), compare=False)


class EventLog:
    """An observer that writes what it sees.

    Parameters
    ----------
    head
        The first line.
    write
        Takes lines, each with its line feed.
    """

    def __init__(self, head: Head, write: Callable[[str], object]) -> None:
        self.lines = 1
        self._write = write
        told = {f.name: getattr(head, f.name) for f in fields(head)}
        write(json.dumps({MARK: FORMAT, **told}) + "\n")

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """Write one line."""
        name = type(event).__name__
        told = _EVENTS[name].dump_json(event, exclude_defaults=True).decode()
        done = json.dumps([_action(action) for action in actions]) if actions else "[]"
        self.lines += 1
        self._write(f'{{"at": {now!r}, "event": "{name}", "is": {told}, "do": {done}}}\n')


def _action(action: Action) -> list[object]:
    made = decision(action)
    priority = made.priority if abs(made.priority) < inf else str(made.priority)
    told = [made.kind, made.of, made.replica_id, made.attempt, priority]
    error = f"{type(action.error).__name__}: " if isinstance(action, Fail | Refuse) else ""
    return [*told, error + action.reason, *([made.wait_s] if made.wait_s else [])]


def _why(error: Exception) -> str:
    match error:
        case KeyError():
            return f"no event '{error.args[0]}'"
        case ValidationError():
            first = error.errors(include_url=False, include_input=False)[0]
            return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        case _:
            return str(error).splitlines()[0]


def read_log(lines: Iterable[str], name: str = "log") -> tuple[Head, Iterator[Line]]:
    """Read a log: its head, and an iterator over its events.

    A last line that was cut short, as a crash leaves it, ends the log.

    Raises
    ------
    SpecError
        It is no event log, or a line of it is damaged; names the line. Lines are read as they are asked for.
    VersionMismatchError
        It is written in another format.
    """
    rest = iter(lines)
    try:
        told = json.loads(next(rest, ""))
        mark = told.pop(MARK)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise SpecError(
            f"{name} is no event log of dask-fmware: its first line is no head; record one with fm.record"
        ) from None
    if mark != FORMAT:
        raise VersionMismatchError(
            f"{name} is written in format {mark} (dask-fmware {told.get('version', '?')}), this version reads "
            f"{FORMAT}; read it with the version that wrote it"
        )
    known = {f.name for f in fields(Head)}
    try:
        head = Head(**{key: value for key, value in told.items() if key in known})
        if not all(isinstance(bound, int) and bound > 0 for bounds in head.models.values() for bound in bounds):
            raise TypeError("models: context and longest token of each are positive numbers")
        if not all(isinstance(weight, int | float) and 0 < weight < inf for weight in head.tenants.values()):
            raise TypeError("tenants: weights are positive numbers")
    except (TypeError, AttributeError) as error:
        raise SpecError(f"{name}: its head is damaged ({error})") from error
    return head, _events(rest, name)


def _events(lines: Iterator[str], name: str) -> Iterator[Line]:
    for number, text in enumerate(lines, start=2):
        try:
            told = json.loads(text)
            event = _EVENTS[told["event"]].validate_python(told["is"], strict=False)
            decisions = tuple(
                Decision(str(kind), str(of), str(on), int(attempt), float(p), *map(float, wait_s))
                for kind, of, on, attempt, p, _, *wait_s in told["do"]
            )
            reasons = tuple(done[5] for done in told["do"])
            line = Line(number, float(told["at"]), event, decisions, reasons)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, ValidationError) as error:
            if not text.endswith("\n"):
                return  # cut short while it was written
            raise SpecError(f"{name}, line {number}: not a line of an event log ({_why(error)})") from error
        yield line
