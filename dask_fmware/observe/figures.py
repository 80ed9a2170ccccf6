"""Everything a screen shows of a machine, as plain values: one sentence, big numbers, series, tables.

Made only when somebody looks, from what `History` has counted; the cost is bounded by the number of replicas,
buckets and names, and by a sample of the calls that wait.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

from dask_fmware.observe.history import History
from dask_fmware.observe.late import Who
from dask_fmware.observe.verdict import CAUSES, RECENT_S, verdict
from dask_fmware.observe.window import ALL, Bucket, Group, Tally

__all__ = ["COLUMNS", "Figures", "slack_labels"]

SAMPLE = 400  # waiting calls looked at
SLACK_EDGES_S = (-10.0, -5.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SHOWN = 7  # culprits


class _Row(NamedTuple):
    """One bucket of the series: runs and tokens a second, shares, seconds."""

    time: float  # its start, in ms since the epoch
    met: float = 0.0
    missed: float = 0.0
    failed: float = 0.0
    rejected: float = 0.0
    unjudged: float = 0.0
    submitted: float = 0.0
    attainment: float | None = None
    ttft50: float | None = None
    ttft95: float | None = None
    e2e50: float | None = None
    e2e95: float | None = None
    held: float = 0.0
    tokens: float = 0.0


COLUMNS = _Row._fields


@dataclass(slots=True)
class _Node:
    """One node of a workflow: calls now, and what those were that ended lately."""

    node: str
    running: int = 0
    waiting: int = 0
    calls: int = 0
    waited_s: float | None = None  # mean
    ran_s: float | None = None  # mean
    slack_s: float | None = None  # mean, when they started
    misses: int = 0


NODE_COLUMNS = tuple(one.name for one in fields(_Node))


class Figures:
    """What a screen shows.

    Parameters
    ----------
    history
        Of the machine.
    prices
        Price of one card for one hour, by accelerator.
    kv_used
        Share of the KV cache that an engine says to be in use, by replica id; None where it does not say.
    """

    def __init__(
        self,
        history: History,
        prices: Mapping[str, float] | None = None,
        kv_used: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        self.history = history
        self._kv_used = kv_used
        self.prices = dict(prices or {})
        self._closed: dict[float, _Row] = {}  # start of a bucket that is over -> its series

    # -- what changes each second ----------------------------------------------------------------

    def live(self, now: float) -> dict[str, Any]:
        """Return what changes each second."""
        history, machine = self.history, self.history.machine
        recent = history.window.total(now - RECENT_S)
        tally, late = recent.tallies[ALL], history.late(now)
        late_runs = late.total()
        span_s = min(RECENT_S, now - next(iter(history.window)).start) if history.window.buckets else RECENT_S
        replicas = self._replicas(now, recent)
        serving = [state for state in machine.fleet if state.standing.serves(now)]
        slack = self._slack(now)
        ttft, e2e = tally.ttft.quantiles((0.5, 0.95)), tally.e2e.quantiles((0.5, 0.95))
        per_hour = self._price_per_hour()
        return {
            "now": now,
            "policy": machine.policy.name,
            "verdict": verdict(recent, late=late_runs, waiting=machine.held, serving=len(serving)),
            "tiles": {
                "attainment": tally.goodput(late_runs),
                "judged": tally.judged,
                "late": late_runs,
                "met": tally.met,
                "missed": tally.missed,
                "failed": tally.failed,
                "rejected": tally.rejected,
                "last_minute": history.window.goodput(now - 60.0, late_runs),
                "ended_per_s": tally.ended / max(span_s, 1.0),
                "met_per_s": tally.met / max(span_s, 1.0),
                "runs": history.live_runs,
                "ttft": ttft,
                "e2e": e2e,
                "held": machine.held,
                "parked": slack["parked_total"],
                "running": sum(state.begun for state in serving),
                "slots": sum(state.replica.slots for state in serving),
                "tokens_per_s": recent.output_tokens / max(span_s, 1.0),
                "price_per_hour": per_hour,
                "price_per_1000_met": None
                if per_hour is None or not tally.met
                else per_hour / 3600 * span_s / tally.met * 1000,
            },
            "series": self._series(now),
            "groups": _groups(recent, late),
            "culprits": _culprits(recent, tally),
            "nodes": self._nodes(recent),
            "slack": slack,
            "replicas": replicas,
            "provisioning": None,
        }

    def _price_per_hour(self) -> float | None:
        cards = {(s.replica.accelerator, s.replica.card) for s in self.history.machine.fleet}
        known = [self.prices[accelerator] for accelerator, _ in cards if accelerator in self.prices]
        return sum(known) if known else None

    def _series(self, now: float) -> dict[str, Any]:
        """Columns over time, one row for each bucket up to now, empty ones too; and when the history begins."""
        window, rows = self.history.window, list[_Row]()
        buckets = {bucket.start: bucket for bucket in window}
        last = now - now % window.step_s
        count = window.buckets.maxlen or 1
        for start in (last - window.step_s * (count - 1 - i) for i in range(count)):
            bucket = buckets.get(start)
            if bucket is None:
                rows.append(_Row(start * 1e3))
            elif start == last:
                rows.append(_row(bucket, max(now - start, 1.0)))
            else:
                if start not in self._closed:
                    self._closed[start] = _row(bucket, window.step_s)
                rows.append(self._closed[start])
        if len(self._closed) > 2 * count:
            self._closed = {start: row for start, row in self._closed.items() if start in buckets}
        columns: dict[str, Any] = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
        return {**columns, "since": max(min(buckets, default=last), last - window.step_s * count) * 1e3}

    def _nodes(self, recent: Bucket) -> dict[str, dict[str, list[Any]]]:
        """By workflow: columns over its nodes."""
        nodes: dict[str, dict[str, _Node]] = {}

        def of(workflow: str, node: str) -> _Node:
            return nodes.setdefault(workflow, {}).setdefault(node, _Node(node))

        for (workflow, node, state), count in self.history.census.counts.items():
            setattr(of(workflow, node), state, count)  # running or waiting
        for (workflow, node), tally in recent.nodes.items():
            row = of(workflow, node)
            row.calls = tally.calls
            if tally.calls:
                row.waited_s, row.ran_s = tally.waited_s / tally.calls, tally.ran_s / tally.calls
            if tally.with_slack:
                row.slack_s = tally.slack_s / tally.with_slack
        for culprit, (runs, _) in recent.misses.items():
            if culprit.node:
                of(culprit.workflow, culprit.node).misses += int(runs)
        return {
            workflow: {name: [getattr(row, name) for row in rows.values()] for name in NODE_COLUMNS}
            for workflow, rows in nodes.items()
        }

    def _slack(self, now: float) -> dict[str, Any]:
        """How much time waiting calls have until they must start, from a sample of them."""
        machine = self.history.machine
        held, parked = [0] * (len(SLACK_EDGES_S) + 1), [0] * (len(SLACK_EDGES_S) + 1)
        seen = without = 0
        for call_id in islice(machine.waiting.ids, SAMPLE):
            call = machine.runs.calls[call_id]
            seen += 1
            view = machine.view(call)
            if view.due is None:
                without += 1
                continue
            left_s = view.due - view.own_s - now
            (parked if call.parked else held)[bisect_right(SLACK_EDGES_S, left_s)] += 1
        scale = machine.held / seen if seen else 1.0
        return {
            "edges": SLACK_EDGES_S,
            "held": [round(count * scale) for count in held],
            "parked": [round(count * scale) for count in parked],
            "parked_total": round(sum(parked) * scale),
            "without": round(without * scale),
            "sampled": seen,
        }

    def _replicas(self, now: float, recent: Bucket) -> dict[str, Any]:
        """Columns over the replicas, in the order of `fleet`; misses are those of their cards."""
        misses: Counter[str] = Counter()
        for culprit, (runs, _) in recent.misses.items():
            misses[culprit.card] += int(runs)
        fleet, histories = self.history.machine.fleet, self.history.replicas
        states = list(fleet)
        words = [(index, state.standing) for index, state in enumerate(states)]
        known = [histories.get(state.replica.name) for state in states]
        used = [self._kv_used(state.replica.replica_id) for state in states]
        drifts = [(index, fleet.corrections.drift(state.replica.replica_id)) for index, state in enumerate(states)]
        return {
            "running": [state.begun for state in states],
            "waiting": [state.waiting for state in states],
            "busy_ms": [int(1e3 * replica.busy_s(now)) if replica is not None else 0 for replica in known],
            "kv": [round(100 * share) if share is not None else None for share in used],
            "standing": {index: one.in_words(now) for index, one in words if one.word(now) != "ready"},
            "misses": [misses[state.replica.card] for state in states],
            "drift": {index: drift.ratio for index, drift in drifts if drift is not None},
        }

    # -- what changes rarely ---------------------------------------------------------------------

    def fleet(self) -> list[list[Any]]:
        """Replicas: name, model, accelerator, card, slots, engine."""
        return [
            [r.name, r.model, r.accelerator, r.card, r.slots, f"{r.engine} {r.engine_version}".strip()]
            for r in (state.replica for state in self.history.machine.fleet)
        ]

    def graphs(self) -> dict[str, list[dict[str, Any]]]:
        """Nodes of the workflows, laid out."""
        return {
            workflow: [
                {
                    "name": node.name,
                    "model": node.model,
                    "after": node.after,
                    "answers": node.answers,
                    "column": node.column,
                    "row": node.row,
                }
                for node in nodes
            ]
            for workflow, nodes in self.history.graphs.items()
        }

    def predictions(self) -> dict[str, Any]:
        """Expected and measured durations of attempts, and the median error of each model on each accelerator."""
        points = self.history.predictions
        kinds = sorted({(p.model, p.accelerator) for p in points})
        index = {kind: i for i, kind in enumerate(kinds)}
        errors: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
        for p in points:
            if p.measured_s > 0:
                errors[p.model, p.accelerator].append(abs(p.predicted_s - p.measured_s) / p.measured_s)
        return {
            "kinds": [
                {"model": m, "accelerator": a, "error": median(errors[m, a]) if errors[m, a] else None}
                for m, a in kinds
            ],
            "predicted": [round(p.predicted_s, 4) for p in points],
            "measured": [round(p.measured_s, 4) for p in points],
            "kind": [index[p.model, p.accelerator] for p in points],
        }


def slack_labels() -> list[str]:
    """Names of the bins of slack, in seconds.

    >>> slack_labels()[:3]
    ['< -10', '-10', '-5']
    """
    return [f"< {SLACK_EDGES_S[0]:g}", *(f"{edge:g}" for edge in SLACK_EDGES_S)]


def _row(bucket: Bucket, span_s: float) -> _Row:
    tally = bucket.tallies[ALL]
    ttft50, ttft95 = tally.ttft.quantiles((0.5, 0.95))
    e2e50, e2e95 = tally.e2e.quantiles((0.5, 0.95))
    return _Row(
        time=bucket.start * 1e3,
        met=tally.met / span_s,
        missed=tally.missed / span_s,
        failed=tally.failed / span_s,
        rejected=tally.rejected / span_s,
        unjudged=tally.unjudged / span_s,
        submitted=bucket.submitted / span_s,
        attainment=tally.goodput(),
        ttft50=ttft50,
        ttft95=ttft95,
        e2e50=e2e50,
        e2e95=e2e95,
        held=float(bucket.held),
        tokens=bucket.output_tokens / span_s,
    )


def _groups(recent: Bucket, late: Mapping[Who, int]) -> list[dict[str, Any]]:
    runs: Counter[Group] = Counter()
    for (workflow, tenant), count in late.items():
        runs["workflow", workflow] += count
        runs["tenant", tenant] += count
    tallies = {**{group: Tally() for group in runs}, **recent.tallies}
    made = [_group(*group, tally, runs[group]) for group, tally in tallies.items() if group != ALL]
    return sorted(made, key=lambda group: (group["kind"] != "workflow", group["attainment"] or 0.0, -group["ended"]))


def _group(kind: str, name: str, tally: Tally, late: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "ended": tally.ended,
        "judged": tally.judged,
        "late": late,
        "attainment": tally.goodput(late),
        "ttft": tally.ttft.quantiles((0.5, 0.95)),
        "e2e": tally.e2e.quantiles((0.5, 0.95)),
    }


def _culprits(recent: Bucket, tally: Tally) -> list[dict[str, Any]]:
    missed = max(tally.judged - tally.met, 1)
    ranked = sorted(recent.misses.items(), key=lambda item: (-item[1][0], item[0]))
    return [
        {
            **culprit._asdict(),
            "cause": CAUSES.get(culprit.cause, culprit.cause),
            "runs": int(runs),
            "lost_s": lost_s / runs,
            "share": runs / missed,
        }
        for culprit, (runs, lost_s) in ranked[:SHOWN]
    ]
