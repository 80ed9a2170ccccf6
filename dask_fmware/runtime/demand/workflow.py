"""What one workflow asks for: how often its runs come, which calls they make, how long these are."""

from __future__ import annotations

from collections import Counter
from math import inf, prod

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
        "_bodies", "_calls", "_end_s", "_knowledge", "_lengths", "_name", "_nodes", "_rate", "_rounds", "_runs",
        "_slo_s", "_to_end",
    )  # fmt: skip

    def __init__(self, name: str, knowledge: Knowledge) -> None:
        self._name, self._knowledge = name, knowledge
        self._rate = ArrivalRate()
        self._nodes: tuple[PlannedNode, ...] = ()
        self._slo_s = inf
        self._end_s = inf  # of the end, beside one of the first token
        self._to_end = False  # the objective is about the end and not the first token
        self._runs = 0.0
        self._calls: Counter[str] = Counter()  # node, or node of a body -> calls
        self._lengths: dict[str, UsualLengths] = {}  # the same
        self._bodies: dict[str, tuple[str, str]] = {}  # node of a body -> map or loop, model
        self._rounds: dict[str, float] = {}  # map or loop, also one within another -> bodies one after the other

    # -- what is counted -------------------------------------------------------------------------

    def submitted(self, plan: RunPlan, now: float) -> None:
        """A run has come."""
        self._rate.observe(now)
        self._nodes = plan.nodes
        if (objective := plan.objective) is not None:
            bounds = [b for b in (objective.ttft_s, objective.e2e_s) if b is not None]
            self._slo_s = min(bounds, default=inf)
            self._to_end = objective.ttft_s is None
            self._end_s = inf if self._to_end or objective.e2e_s is None else objective.e2e_s

    def finished(self, run: RunRecord, now: float) -> None:
        """A run has its result."""
        self._runs += 1
        for call in {call.node: call for call in run.report.calls}.values():  # of bodies that ran again the latest
            if call.state != "skipped":
                name = plain_name(call.node)
                self._calls[name] += 1
                if (last := call.last) is not None and last.prompt_tokens:
                    self._lengths.setdefault(name, UsualLengths()).observe(now, last.prompt_tokens, last.output_tokens)
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

    def demand(self, now: float) -> WorkflowDemand:
        """Return what it asks for at the moment."""
        rate = self._rate
        return WorkflowDemand(
            self._name, self._demands(), rate.now(now), self._slo_s, rate.trend(now), rate.burstiness(now), self._end_s
        )

    def _demands(self) -> tuple[NodeDemand, ...]:
        found = []
        branches = self._branches()
        for node in self._nodes:
            odds = 1.0  # before any run, all branches are alike
            for guard in node.guards:
                odds /= branches[guard.switch]
            if node.model is not None:
                found.append(self._demand(node.name, node.model, node, odds))
                continue
            parts = [name for name, (base, _) in self._bodies.items() if base == node.name]
            found.extend(self._demand(name, self._bodies[name][1], node, 0.0) for name in parts)
            found.append(NodeDemand(node.name, None, after=(*node.after, *parts)))
        return tuple(found)

    def _branches(self) -> dict[str, int]:
        """How many branches each switch has, as far as nodes say it; two at least."""
        found: dict[str, int] = {}
        for node in self._nodes:
            for guard in node.guards:
                found[guard.switch] = max(found.get(guard.switch, 2), guard.branch + 1)
        return found

    def _demand(self, name: str, model: str, node: PlannedNode, odds: float) -> NodeDemand:
        prompt, output = self._tokens(name, node)
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
            node.answers and not self._to_end,
        )

    def _in_turn(self, name: str) -> float:
        """How many calls of a node run one after the other, as the maps and loops around it do with their bodies."""
        parts = name.split(".")
        return prod([self._rounds.get(".".join(parts[:count]), 1.0) for count in range(1, len(parts))])

    def _tokens(self, name: str, node: PlannedNode) -> tuple[float, float]:
        """Prompt and output tokens of a call: those of late, with what was known before while they are few."""
        history = self._knowledge.nodes.of(self._name, name)
        prompt = history.prompt.within(UNKNOWN)
        prompt = prompt if prompt < UNKNOWN else max(node.prompt_bytes / 4, 1.0)
        output = history.output.within(max(node.max_tokens, 1))
        if (usual := self._lengths.get(name)) is None:
            return prompt, output
        calls, mean_prompt, mean_output = usual.means()
        before = PRIOR_CALLS / (calls + PRIOR_CALLS)
        return mean_prompt + before * (prompt - mean_prompt), mean_output + before * (output - mean_output)
