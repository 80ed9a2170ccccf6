"""What one workflow asks for: how often its runs come, which calls they make, how long these are."""

from __future__ import annotations

from collections import Counter
from math import inf, log, prod
from typing import TypeAlias

from dask_fmware.model.plan import PlannedNode, RunPlan
from dask_fmware.provisioning.forecast import ArrivalRate
from dask_fmware.provisioning.usual import UsualLengths
from dask_fmware.provisioning.views import NodeDemand, WorkflowDemand
from dask_fmware.runtime.learning.histories import plain_name
from dask_fmware.runtime.learning.knowledge import Knowledge
from dask_fmware.runtime.learning.nodes import base_name
from dask_fmware.runtime.runs.records import RunRecord

__all__ = ["WatchedWorkflow"]

PRIOR_RUNS = 5.0  # what the plan says of a node weighs as much as so many runs
PRIOR_CALLS = 20.0  # what is known of lengths beforehand weighs as much as so many calls
MOST_RUNS = 300.0  # after which half of what was counted is forgotten
UNKNOWN = 1 << 30
ALIKE = 4.0  # times: objectives that differ by more are of two kinds
_Bounds: TypeAlias = tuple[float | None, float | None]  # seconds to the first token, and to the end


class _Asked:
    """Runs of one kind of objective: how often they come, how long their calls are, the objective of the latest."""

    __slots__ = ("end_s", "lengths", "rate", "slo_s", "to_end")

    def __init__(self) -> None:
        self.rate = ArrivalRate()
        self.lengths: dict[str, UsualLengths] = {}  # node, or node of a body -> of its calls
        self.slo_s = inf
        self.end_s = inf  # of the end, beside one of the first token
        self.to_end = False  # the objective is about the end and not the first token

    def submitted(self, bounds: _Bounds, now: float) -> None:
        """A run has come."""
        self.rate.observe(now)
        first_s, end_s = bounds
        self.slo_s = min((bound for bound in bounds if bound is not None), default=inf)
        self.to_end = first_s is None
        self.end_s = inf if self.to_end or end_s is None else end_s


class WatchedWorkflow:
    """Counts of the runs of one workflow.

    Parameters
    ----------
    name
        Of the workflow.
    knowledge
        Of the machine: lengths and pauses that were learnt, or known beforehand.
    """

    __slots__ = (
        "_asked", "_bodies", "_calls", "_knowledge", "_name", "_nodes", "_rounds", "_runs",
    )  # fmt: skip

    def __init__(self, name: str, knowledge: Knowledge) -> None:
        self._name, self._knowledge = name, knowledge
        self._asked: dict[object, _Asked] = {}  # by kind of objective
        self._nodes: tuple[PlannedNode, ...] = ()
        self._runs = 0.0
        self._calls: Counter[str] = Counter()  # node, or node of a body -> calls
        self._bodies: dict[str, tuple[str, str]] = {}  # node of a body -> map or loop, model
        self._rounds: dict[str, float] = {}  # map or loop, also one within another -> bodies one after the other

    # -- what is counted -------------------------------------------------------------------------

    def submitted(self, plan: RunPlan, now: float) -> None:
        """A run has come; one without an objective asks for no replica beyond the first."""
        self._nodes = plan.nodes
        if (o := plan.objective) is not None:
            bounds = _bounds(o.ttft_s, o.e2e_s, None if o.finish_by is None else o.finish_by - now)
            self._asked.setdefault(_kind(bounds), _Asked()).submitted(bounds, now)

    def finished(self, run: RunRecord, now: float) -> None:
        """A run has its result."""
        self._runs += 1
        report = run.report
        asked = self._asked.get(_kind(_bounds(report.ttft_slo_s, report.e2e_slo_s, report.finish_by_s)))
        for call in {call.node: call for call in report.calls}.values():  # of bodies that ran again the latest
            if call.state != "skipped":
                name = plain_name(call.node)
                self._calls[name] += 1
                if asked is not None and (last := call.last) is not None and last.prompt_tokens:
                    usual = asked.lengths.setdefault(name, UsualLengths())
                    usual.observe(now, last.prompt_tokens, last.output_tokens)
                if "[" in call.node:
                    self._bodies[name] = (base_name(call.node), call.model)
        for owner, rounds in run.rounds.items():
            name = plain_name(owner)
            known = self._rounds.get(name, rounds)
            self._rounds[name] = known + 0.1 * (rounds - known)
        if self._runs > MOST_RUNS:
            self._runs /= 2
            for name in self._calls:
                self._calls[name] /= 2  # type: ignore[assignment]

    # -- what is said ----------------------------------------------------------------------------

    def demands(self, now: float) -> list[WorkflowDemand]:
        """Return what it asks for with each kind of objective; which calls a run makes is known from all runs."""
        kinds = self._asked.values() or [_Asked()]
        return [self._asked_for(asked, number, now) for number, asked in enumerate(kinds, 1)]

    def _asked_for(self, asked: _Asked, number: int, now: float) -> WorkflowDemand:
        name, rate = self._name if number == 1 else f"{self._name} (objective {number})", asked.rate
        return WorkflowDemand(
            name, self._nodes_for(asked), rate.now(now), asked.slo_s, rate.trend(now), rate.burstiness(now), asked.end_s
        )

    def _nodes_for(self, asked: _Asked) -> tuple[NodeDemand, ...]:
        found = []
        branches = self._branches()
        for node in self._nodes:
            odds = 1.0  # before any run, all branches are alike
            for guard in node.guards:
                odds /= branches[guard.switch]
            if node.model is not None:
                found.append(self._demand(node.name, node.model, node, odds, asked))
                continue
            parts = [name for name, (base, _) in self._bodies.items() if base == node.name]
            found.extend(self._demand(name, self._bodies[name][1], node, 0.0, asked) for name in parts)
            found.append(NodeDemand(node.name, None, after=(*node.after, *parts)))
        return tuple(found)

    def _branches(self) -> dict[str, int]:
        """How many branches each switch has, as far as nodes say it; two at least."""
        found: dict[str, int] = {}
        for node in self._nodes:
            for guard in node.guards:
                found[guard.switch] = max(found.get(guard.switch, 2), guard.branch + 1)
        return found

    def _demand(self, name: str, model: str, node: PlannedNode, odds: float, asked: _Asked) -> NodeDemand:
        prompt, output = self._tokens(name, node, asked)
        calls = (self._calls[name] + PRIOR_RUNS * odds) / (self._runs + PRIOR_RUNS)
        return NodeDemand(
            name,
            model,
            node.after,
            calls,
            self._in_turn(name),
            prompt,
            output,
            self._knowledge.nodes.pause_s(self._name, node.name),
            node.answers and not asked.to_end,
        )

    def _in_turn(self, name: str) -> float:
        """How many calls of a node run one after the other, as the maps and loops around it do with their bodies."""
        parts = name.split(".")
        return prod([self._rounds.get(".".join(parts[:count]), 1.0) for count in range(1, len(parts))])

    def _tokens(self, name: str, node: PlannedNode, asked: _Asked) -> tuple[float, float]:
        """Prompt and output tokens of a call: the means of its kind, and what is known of all while these are few."""
        history = self._knowledge.nodes.of(self._name, name)
        prompt = history.prompt.within(UNKNOWN)
        prompt = prompt if prompt < UNKNOWN else max(node.prompt_bytes / 4, 1.0)
        output = history.output.within(max(node.max_tokens, 1))
        if (usual := asked.lengths.get(name)) is None:
            return prompt, output
        calls, mean_prompt, mean_output = usual.means()
        before = PRIOR_CALLS / (calls + PRIOR_CALLS)
        return mean_prompt + before * (prompt - mean_prompt), mean_output + before * (output - mean_output)


def _bounds(first_s: float | None, end_s: float | None, finish_by_s: float | None) -> _Bounds:
    """Bounds of an objective as seconds since the run was submitted; of two for its end the first."""
    return first_s, min((bound for bound in (end_s, finish_by_s) if bound is not None), default=None)


def _kind(bounds: _Bounds) -> object:
    """Which bounds an objective has, and how long they are, about: rows of a job have others than its users."""
    return tuple(None if bound is None else round(log(max(bound, 1e-3), ALIKE)) for bound in bounds)
