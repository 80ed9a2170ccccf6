"""Why a run missed its objective, in words: which node, which card, predicted and actual, what waited for what."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from dask_fmware.model.bounds import bounds, left_s
from dask_fmware.model.report import AttemptReport, CallReport, RunReport
from dask_fmware.observe.blame import Piece, critical_path, failed_call, node_pattern, promised_s
from dask_fmware.spec.columns import in_columns

__all__ = ["Explanation", "Neighbour", "Wait", "explain", "worst_wait"]

SHOWN = 4  # kinds of neighbours named
LEAST_S = 0.0005  # of a loss that is pointed at; less is shown as nothing


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Attempts of one node of one workflow, in all items of maps, that held slots while a call waited for one."""

    workflow: str
    node: str
    attempts: int
    busy_s: float  # of slots, while the call waited


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where the time of one run went; prints as sentences and a table."""

    report: RunReport
    headline: str
    sentences: tuple[str, ...]
    path: tuple[Piece, ...]
    worst: Piece | None  # what is to blame
    neighbours: tuple[Neighbour, ...]  # that the worst piece waited for, most time first

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The pieces of the critical path, one row for each."""
        return [
            {
                "from_s": piece.start_s,
                "what": _what(piece),
                "node": piece.node or "-",
                "card": piece.card or "-",
                "took_s": piece.actual_s,
                "predicted_s": piece.predicted_s,
                "idle_s": piece.ideal_s if piece.kind == "run" else None,
                "lost_s": piece.loss_s,
                "": "<- most" if piece is self.worst and piece.loss_s >= LEAST_S else "",
            }
            for piece in self.path
        ]

    def __str__(self) -> str:
        lines = [self.headline, *(f"  {sentence}" for sentence in self.sentences)]
        if self.path:
            names = list(self.rows[0])
            table = [names, *([_cell(row[name]) for name in names] for row in self.rows)]
            lines += ["", *in_columns(table)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in (self.rows or [{}])[0])
        body = "".join(
            f"<tr{' style=font-weight:bold' if row[''] else ''}>"
            + "".join(f"<td style='text-align:left'>{escape(_cell(value))}</td>" for value in row.values())
            + "</tr>"
            for row in self.rows
        )
        words = "".join(f"<p style='margin:.2em 0'>{escape(sentence)}</p>" for sentence in self.sentences)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if self.path else ""
        return f"<div><b>{escape(self.headline)}</b>{words}{table}</div>"


def explain(report: RunReport, neighbours: Sequence[Neighbour] = (), now: float | None = None) -> Explanation:
    """Explain a run from its report.

    Parameters
    ----------
    report
        Of the run, during it or after.
    neighbours
        Of its `worst_wait`, to say what the run waited for.
    now
        Seconds of the scheduler's clock, for a run that is under way.
    """
    since = None if now is None else now - report.submitted
    path = critical_path(report, since)
    worst = _worst(path)
    left = left_s(report, since) if report.state == "running" and since is not None else None
    late = (report.state == "finished" and report.met is False) or (left is not None and left < 0.0)
    sentences = [
        f"It had failed after {failed_at:.3f} s and was retried after {retried_at:.3f} s: {reason}."
        for reason, failed_at, retried_at in report.failures
    ]
    if report.state in ("failed", "rejected", "refused", "cancelled"):
        call = failed_call(report) if report.state in ("failed", "rejected") else None
        on = f" on card {call.last.card}" if call is not None and call.last is not None and call.last.card else ""
        where = f" at node '{call.node}'{on}" if call is not None else ""
        sentences.append(f"It {'was ' if report.state != 'failed' else ''}{report.state}{where}: {report.reason}.")
    if worst is not None and report.state != "refused":
        sentences += _words(report, path, worst, neighbours, late=late)
    return Explanation(report, _headline(report, left), tuple(sentences), tuple(path), worst, tuple(neighbours))


def _headline(report: RunReport, left: float | None) -> str:
    name = f"{report.workflow} {report.run_id[:8]}"
    if report.state == "running":
        if left is None:
            return f"{name} is under way"
        return (
            f"{name} is under way, {f'{left:.3f} s of its SLO left' if left >= 0.0 else f'already {-left:.3f} s late'}"
        )
    if report.state != "finished":
        return f"{name} was {report.state}" if report.state != "failed" else f"{name} failed"
    promised = bounds(report)
    if not promised:
        return f"{name} finished; it has no SLO"
    missed = [bound for bound in promised if not bound.is_met]
    told, verdict = (missed or promised)[0], "missed" if missed else "met"
    at = float("nan") if told.at_s is None else told.at_s
    return f"{name} {verdict} its SLO: {told.what} after {at:.3f} s, promised {told.promised_s:g} s"


def _words(
    report: RunReport, path: list[Piece], worst: Piece, neighbours: Sequence[Neighbour], *, late: bool
) -> list[str]:
    said = []
    ideal = sum(piece.ideal_s for piece in path)
    lead = "To blame is" if late else "Most time was lost by"
    lost = f"{worst.loss_s:.3f} s of {path[-1].end_s:.3f} s"
    match worst.kind:
        case "wait":
            where = (
                f"a slot of {worst.replica} on card {worst.card}"
                if worst.card
                else f"a replica of model '{worst.model}'"
            )
            said.append(f"{lead} node '{worst.node}': it waited {worst.actual_s:.3f} s for {where} ({lost}).")
            if neighbours:
                named = ", ".join(f"{n.workflow}.{n.node} x{n.attempts}" for n in neighbours[:SHOWN])
                rest = sum(n.attempts for n in neighbours[SHOWN:])
                who = "that card" if worst.card else "its replicas"
                said.append(f"Meanwhile {who} ran {named}{f' and {rest} more' if rest else ''}.")
            if worst.lacked:
                said.append(f"When it began to wait, {worst.lacked}.")
            if worst.reason and worst.reason not in report.reason:
                said.append(f"The router said: {worst.reason}.")
        case "run":
            predicted = f", predicted {worst.predicted_s:.3f} s to its end" if worst.predicted_s is not None else ""
            said.append(
                f"{lead} node '{worst.node}' on card {worst.card} ({worst.accelerator}): "
                f"it took {worst.actual_s:.3f} s where an idle replica of the fastest kind takes "
                f"{worst.ideal_s:.3f} s{predicted} ({lost} lost)."
            )
            if worst.reason and worst.reason not in report.reason:
                said.append(f"It was put there since: {worst.reason}.")
        case "lost":
            said.append(
                f"{lead} an attempt of node '{worst.node}' on card {worst.card} that did not count ({worst.reason}): "
                f"{lost} were lost with it."
            )
        case "between":
            no_node = "after the last call" if any(piece.node for piece in path) else "before any call of a model"
            what = f"before node '{worst.node}'" if worst.node else no_node
            said.append(f"{lead} plain code and hops {what}: {lost}.")
        case "failed":
            said.append(f"{lead} what came before it was retried: {lost}.")
    promised = promised_s(report, path)
    if late and promised is not None and ideal > promised:
        said.append(
            f"Even an idle cluster would need {ideal:.3f} s for these calls, more than the "
            f"{promised:g} s promised: the SLO is tighter than these cards allow."
        )
    return said


def _worst(path: Sequence[Piece]) -> Piece | None:
    return max(path, key=lambda piece: piece.loss_s, default=None)


class Wait:
    """The wait that cost a run most, and who held the card, or the replicas of the model, meanwhile.

    Attributes
    ----------
    begins_at, ends_at
        Seconds of the scheduler's clock.
    """

    def __init__(self, piece: Piece, submitted: float) -> None:
        self.begins_at, self.ends_at = submitted + piece.start_s, submitted + piece.end_s
        self._card, self._model = piece.card, piece.model
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._busy_s: defaultdict[tuple[str, str], float] = defaultdict(float)

    def add(self, other: RunReport, calls: Iterable[CallReport]) -> None:
        """Count what some calls of a run had of it."""
        if other.submitted >= self.ends_at:
            return
        for call in calls:
            for attempt in call.attempts:
                there = attempt.card == self._card if self._card else call.model == self._model
                if there and attempt.began:
                    self._count((other.workflow, node_pattern(call.node)), attempt, other.submitted)

    def _count(self, node: tuple[str, str], attempt: AttemptReport, submitted: float) -> None:
        over = self.ends_at if attempt.ended_at is None else submitted + attempt.ended_at
        shared_s = min(over, self.ends_at) - max(submitted + attempt.started_at, self.begins_at)
        if shared_s > 0:
            self._attempts[node] += 1
            self._busy_s[node] += shared_s

    @property
    def neighbours(self) -> tuple[Neighbour, ...]:
        """Who held slots, most time first."""
        found = [Neighbour(*node, count, self._busy_s[node]) for node, count in self._attempts.items()]
        return tuple(sorted(found, key=lambda n: (-n.busy_s, n.workflow, n.node)))


def worst_wait(report: RunReport, now: float | None = None) -> Wait | None:
    """Return the wait of a run that is to blame; None if something else is.

    Parameters
    ----------
    report
        Of the run.
    now
        Seconds of the scheduler's clock, for a run that is under way.
    """
    worst = _worst(critical_path(report, None if now is None else now - report.submitted))
    return Wait(worst, report.submitted) if worst is not None and worst.kind == "wait" else None


def _what(piece: Piece) -> str:
    words = {
        "wait": "waited",
        "run": "ran",
        "lost": "ran in vain",
        "between": "plain code",
        "failed": "before the retry",
    }
    return words[piece.kind]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
