"""Which call on which card cost a run its objective: its critical path, and the piece that lost most.

A run's time is split, without a gap, from its submission to the moment that its objective is about. Each piece is
compared with what an idle cluster would have needed: the call on the fastest kind of replica at once, with no wait
and nothing between calls. The piece that lost most is to blame.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal, NamedTuple, TypeAlias

from dask_fmware.model.bounds import bounds, first_token_s
from dask_fmware.model.report import AttemptReport, CallReport, RunReport

__all__ = [
    "Blame",
    "Piece",
    "PieceKind",
    "blame",
    "critical_path",
    "decisive_at",
    "failed_call",
    "node_pattern",
    "promised_s",
]

PieceKind: TypeAlias = Literal["wait", "run", "lost", "between", "failed"]
CLOSE_S = 1e-6  # two times of one event


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a run's critical path; times are seconds since the run was submitted."""

    # lost: an attempt that did not count; between: plain code and hops before a node; failed: all before the last retry
    kind: PieceKind
    node: str  # of the call, or that the plain code is before; "" after the last call
    model: str
    start_s: float
    end_s: float
    ideal_s: float = 0.0  # on an idle cluster
    predicted_s: float | None = None  # when the call was given to its replica
    replica: str = ""
    accelerator: str = ""
    card: str = ""
    replica_id: str = ""
    reason: str = ""  # why it waited, or how the attempt ended
    lacked: str = ""  # of a wait: what was missing when it began, if that was a replica

    @property
    def actual_s(self) -> float:
        """How long it was."""
        return self.end_s - self.start_s

    @property
    def loss_s(self) -> float:
        """How much longer than on an idle cluster."""
        return max(self.actual_s - self.ideal_s, 0.0)


@dataclass(frozen=True, slots=True)
class Blame:
    """What cost a run its objective."""

    cause: Literal["wait", "run", "lost", "between", "failed", "rejected", "refused"]
    node: str  # without the item path of maps and loops
    card: str
    accelerator: str
    replica: str
    loss_s: float


def node_pattern(node: str) -> str:
    """Name of a node for all items of a map and rounds of a loop.

    >>> node_pattern("pitches[3].small")
    'pitches[].small'
    """
    if "[" not in node:
        return node
    kept, depth = [], 0
    for character in node:
        depth -= character == "]"
        if depth == 0:
            kept.append(character)
        depth += character == "["
    return "".join(kept)


def decisive_at(report: RunReport, now: float | None = None) -> float | None:
    """When a run had done, or failed to do, what its objective asks, in seconds since its submission.

    The first token if the bound on it was missed or is the only one, else the end; `now`, in the same seconds, for
    one that is still under way.
    """
    first, end, ttft = first_token_s(report), report.finished_at, report.ttft_slo_s
    other = report.e2e_slo_s if report.e2e_slo_s is not None else report.finish_by_s
    if ttft is not None and first is not None and (first > ttft or other is None):
        return first
    return end if end is not None else now


def promised_s(report: RunReport, path: Sequence[Piece]) -> float | None:
    """Return the least bound on what a critical path leads to; None if that was promised for no time.

    A path that leads past the first token says nothing of the bound on it.
    """
    first, answers = first_token_s(report), {call.node for call in report.calls if call.answers}
    begins_answer = any(piece.node in answers for piece in path)
    to_token = not begins_answer or (first is not None and abs(path[-1].end_s - first) < CLOSE_S)
    of = [bound.promised_s for bound in bounds(report) if to_token or bound.what == "done"]
    return min(of, default=None)


def critical_path(report: RunReport, now: float | None = None) -> list[Piece]:
    """Return the pieces from submission to the decisive moment, in order; all that failed before a retry is one."""
    at = decisive_at(report, now)
    if at is None:
        return []
    pieces = _path(report, at)
    failure = next((f for f in reversed(report.failures) if f.retried_at <= at), None)
    if failure is None:
        return pieces
    since = failure.retried_at
    later = [replace(piece, start_s=max(piece.start_s, since)) for piece in pieces if piece.end_s - since > CLOSE_S]
    return [Piece("failed", "", "", 0.0, since, reason=failure.reason), *later]


def _path(report: RunReport, at: float) -> list[Piece]:
    known = [call for call in report.calls if call.state not in ("skipped", "planned") and call.runnable_at is not None]
    calls = [_as_of(call, at) for call in known]
    # a workflow that ends in plain code, a map or a loop has its first token at its end, from no call
    first = first_token_s(report)
    ends_at_token = first is not None and abs(at - first) < CLOSE_S and any(call.answers for call in calls)
    call = _last(calls, at, ends_at_token)
    if call is None:
        return [Piece("between", "", "", 0.0, at)]
    pieces: list[Piece] = []
    end = _end(call, ends_at_token)
    if end is None or end > at:
        end = at
    if at - end > CLOSE_S:
        pieces.append(Piece("between", "", "", end, at))
    ends, seen = _Ends(calls), set[str]()
    while True:
        seen.add(call.call_id)
        pieces.extend(reversed(_pieces(call, end, ends_at_token)))
        begin = call.runnable_at or 0.0
        before = ends.before(call, begin, seen)
        end = before.last.ended_at if before is not None and before.last and before.last.ended_at is not None else 0.0
        if begin - end > CLOSE_S:
            pieces.append(Piece("between", call.node, "", end, begin))
        if before is None:
            return pieces[::-1]
        call, ends_at_token = before, False


def _as_of(call: CallReport, at: float) -> CallReport:
    """A call at a moment: one that ran again later, as its result was lost after the run's end, as it first ran."""
    first = [attempt for attempt in call.attempts if attempt.started_at <= at + CLOSE_S]
    if not first or (call.runnable_at or 0.0) <= at + CLOSE_S:
        return call
    return replace(call, runnable_at=first[0].started_at, attempts=first)


def _end(call: CallReport, at_token: bool) -> float | None:
    last = call.last
    if last is None:
        return None
    return last.first_token_at if at_token and call.answers else last.ended_at


def _last(calls: Sequence[CallReport], at: float, at_token: bool) -> CallReport | None:
    """The call that the decisive moment waited for: one that is under way then, else the latest that ended."""
    begun = [call for call in calls if (call.runnable_at or 0.0) <= at + CLOSE_S and (call.answers or not at_token)]

    def rank(call: CallReport) -> tuple[bool, float]:
        end = _end(call, at_token)
        return (True, call.runnable_at or 0.0) if end is None or end > at + CLOSE_S else (False, end)

    return max(begun, key=rank, default=None)


class _Ended(NamedTuple):
    ended_at: float
    place: int  # negative, among the calls of the run: of those that ended at one time the first is the latest
    call: CallReport


class _Ends:
    """When the calls of a run ended, in order: a run may have thousands, one after the other."""

    def __init__(self, calls: Sequence[CallReport]) -> None:
        self._all = sorted(
            _Ended(call.last.ended_at, -place, call)
            for place, call in enumerate(calls)
            if call.last is not None and call.last.ended_at is not None
        )
        self._named: defaultdict[str, list[_Ended]] = defaultdict(list)  # by node, and by map or loop
        for ended in self._all:
            for name in {ended.call.node, ended.call.node.partition("[")[0]}:
                self._named[name].append(ended)

    def before(self, call: CallReport, begin: float, seen: Collection[str]) -> CallReport | None:
        """The call whose end made this one runnable: the latest of those it takes values from."""
        named = [_latest(self._named[name], begin, seen) for name in call.after if name in self._named]
        found = max((ended for ended in named if ended is not None), default=None)
        if found is None and "[" in call.node:  # what a body takes from outside is known to its map or loop only
            found = _latest(self._all, begin, seen)
        return found.call if found is not None else None


def _latest(ended: Sequence[_Ended], begin: float, seen: Collection[str]) -> _Ended | None:
    """The last that ended by a time, of those that have not been seen."""
    place = bisect_right(ended, (begin + CLOSE_S, inf))
    while place and ended[place - 1].call.call_id in seen:
        place -= 1
    return ended[place - 1] if place else None


def _pieces(call: CallReport, end: float, at_token: bool) -> list[Piece]:
    """What a call did from when it was runnable until `end`."""
    pieces: list[Piece] = []
    clock = call.runnable_at or 0.0
    for attempt in call.attempts:
        if not attempt.began or (attempt.ended_at is not None and attempt.ended_at < clock):
            continue  # the latter was before the result was lost
        if attempt.started_at - clock > CLOSE_S:
            pieces.append(_wait(call, clock, attempt.started_at, attempt))
            clock = attempt.started_at
        stop = min(end, attempt.ended_at if attempt.ended_at is not None else end)
        counts = attempt is call.last
        ideal = attempt.ideal_ttft_s if at_token and call.answers else attempt.ideal_s
        pieces.append(
            Piece(
                "run" if counts else "lost",
                call.node,
                call.model,
                clock,
                max(stop, clock),
                (ideal or 0.0) if counts else 0.0,
                attempt.predicted_s,
                attempt.replica,
                attempt.accelerator,
                attempt.card,
                attempt.replica_id,
                attempt.reason if counts else attempt.error or attempt.outcome,
            )
        )
        clock = max(stop, clock)
    if end - clock > CLOSE_S:
        pieces.append(_wait(call, clock, end, None))
    return pieces


def _wait(call: CallReport, start: float, end: float, attempt: AttemptReport | None) -> Piece:
    where = (attempt.replica, attempt.accelerator, attempt.card, attempt.replica_id) if attempt else ("", "", "", "")
    why = attempt.reason if attempt else call.reason
    lacked = call.lacked if attempt is None or attempt is call.last else ""  # it is of the last wait
    return Piece("wait", call.node, call.model, start, end, 0.0, None, *where, why, lacked)


def failed_call(report: RunReport) -> CallReport | None:
    """Return the call that ended a run which failed or was rejected, the last of several; None if it was none."""
    since = report.failures[-1].retried_at if report.failures else 0.0  # bodies of before do not run again
    failed = [
        call
        for call in report.calls
        if call.state == report.state and (call.runnable_at is None or call.runnable_at >= since)
    ]
    return failed[-1] if failed else None


def blame(report: RunReport, now: float | None = None) -> Blame | None:
    """Return what cost a run its objective; None if it met it, has none or nothing is known yet."""
    if report.state == "refused":
        return Blame("refused", "", "", "", "", 0.0)
    if report.state in ("failed", "rejected"):
        call = failed_call(report)
        last, node = (call.last, node_pattern(call.node)) if call is not None else (None, "")
        if last is not None:
            return Blame(report.state, node, last.card, last.accelerator, last.replica, 0.0)
        return Blame(report.state, node, "", "", "", 0.0)
    if report.met is True or report.deadline_s is None or report.state == "cancelled":
        return None
    worst = max(critical_path(report, now), key=lambda piece: piece.loss_s, default=None)
    if worst is None:
        return None
    return Blame(worst.kind, node_pattern(worst.node), worst.card, worst.accelerator, worst.replica, worst.loss_s)
