"""The runs of a log with all that was true of them, so that they can be played again.

Between nodes a run waits for plain code, which no event tells of: what passes between the end of all that a call
waits for and its being runnable is taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

from dask_fmware.model.plan import Objective, PlannedNode, RunPlan
from dask_fmware.simulation.course import Outcome
from dask_fmware.simulation.recorded.facts import CallFacts, Facts
from dask_fmware.simulation.sampled import Body, SampledNode, SampledRun

__all__ = ["rebuilt"]


def rebuilt(facts: Facts, plan: RunPlan) -> tuple[SampledRun, Outcome] | None:
    """Return a run and what came of it, or None if it did not finish."""
    ended, plans = facts.finished.get(plan.run_id), [plan, *facts.parts.get(plan.run_id, ())]
    if ended is None:
        return None
    calls: list[tuple[PlannedNode, CallFacts]] = []
    for node in [node for one in plans for node in one.nodes if facts.is_call(one, node)]:
        found = facts.calls.get(node.key)
        if found is None or found.ended_at == inf:
            return None
        calls.append((node, found))
    run = _run(facts, plan, plans[1:], ended)
    answers = [facts.calls[n.key].first_at for n in plan.nodes if n.answers and facts.is_call(plan, n)]
    first = max(answers, default=ended)
    outcome = Outcome(run, first if first < inf else ended, ended)
    outcome.calls += [(node.name, found.accelerator, found.started_at, found.ended_at) for node, found in calls]
    return run, outcome


def _run(facts: Facts, plan: RunPlan, parts: Sequence[RunPlan], ended: float) -> SampledRun:
    arrival, objective = facts.submitted[plan.run_id], plan.objective
    bodies: dict[str, list[RunPlan]] = {}
    for part in parts:
        if part.nodes:
            bodies.setdefault(_owner(part), []).append(part)
    nodes, ends = _Nodes(facts, bodies).of(plan, arrival)
    if nodes and nodes[-1].model is None and not nodes[-1].bodies:
        nodes[-1].seconds = max(ended - max(ends), 0.0)  # code that makes the result
    if objective is None:
        return SampledRun(plan.run_id, arrival, plan.workflow, plan.tenant, plan, tuple(nodes), 0.0, inf)
    if objective.finish_by is not None:  # a time of the machine's clock, which the simulation's is not
        objective = replace(objective, finish_by=objective.finish_by - (facts.begin or 0.0))
        plan = replace(plan, objective=objective)
    first_by, ends_by = _bounds(objective, arrival)
    is_whole = first_by == inf
    deadline, ends_by = (ends_by, inf) if is_whole else (first_by, ends_by)
    return SampledRun(
        plan.run_id, arrival, plan.workflow, plan.tenant, plan, tuple(nodes), 0.0, deadline, is_whole, ends_by
    )


def _bounds(objective: Objective, arrival: float) -> tuple[float, float]:
    """When a run must have its first token and when it must have ended; infinity for what is not promised."""
    first_by = inf if objective.ttft_s is None else arrival + objective.ttft_s
    ends = [] if objective.e2e_s is None else [arrival + objective.e2e_s]
    ends += [] if objective.finish_by is None else [max(objective.finish_by, arrival)]
    return first_by, min(ends, default=inf)


def _owner(part: RunPlan) -> str:
    """Path of the map or loop whose body a plan is: ``outer[1].pitches`` of ``outer[1].pitches[3].small``."""
    return part.nodes[0].name.rpartition("[")[0]


class _Nodes:
    """The nodes of one run, those of bodies within those of maps and loops.

    Parameters
    ----------
    facts
        Of its calls.
    bodies
        Path of a map or loop -> plans of its bodies, in order.
    """

    def __init__(self, facts: Facts, bodies: Mapping[str, Sequence[RunPlan]]) -> None:
        self._facts = facts
        self._bodies = bodies

    def of(self, plan: RunPlan, begin: float) -> tuple[list[SampledNode], list[float]]:
        """Return the nodes of a plan that began some time, and when each was over."""
        index = {node.name: i for i, node in enumerate(plan.nodes)}
        nodes: list[SampledNode] = []
        ends: list[float] = []
        for planned in plan.nodes:
            after = tuple(index[name] for name in planned.after if name in index)
            ready = max((ends[i] for i in after), default=begin)
            taken = self._facts.is_taken(plan, planned)
            node = SampledNode(planned.name, planned.model, after, taken, answers=planned.answers)
            ends.append(self._fill(node, planned, ready) if taken else ready)
            nodes.append(node)
        self._decide(plan, nodes, ends)
        return nodes, ends

    def _fill(self, node: SampledNode, planned: PlannedNode, ready: float) -> float:
        """Say of a node what it did once what it waits for was over; return when it was over itself."""
        if planned.model is not None:
            facts = self._facts.calls[planned.key]
            node.call, node.seconds = facts.tokens, max(facts.runnable_at - ready, 0.0)
            return facts.ended_at
        plans = self._bodies.get(planned.name, ())
        if not plans:
            return ready
        begins = [self._facts.submitted[plan.run_id] for plan in plans]
        ends: list[float] = []
        bodies: list[Body] = []
        for plan, begin in zip(plans, begins, strict=True):
            since = ends[-1] if ends and begin >= ends[-1] else begin  # code between rounds is of the next
            bodies.append(Body(plan, tuple(self.of(plan, since)[0])))
            ends.append(self._last_end(plan, begin))
        node.seconds = max(begins[0] - ready, 0.0)
        node.in_turn = len(plans) > 1 and all(begins[i + 1] >= ends[i] for i in range(len(plans) - 1))
        node.bodies = tuple(bodies)
        return max(ends)

    def _last_end(self, plan: RunPlan, begin: float) -> float:
        """When the last call of a body, and of those within, was over."""
        last = begin
        for node in plan.nodes:
            if self._facts.is_call(plan, node):
                last = max(last, self._facts.calls[node.key].ended_at)
            for inner in self._bodies.get(node.name, ()):
                last = max(last, self._last_end(inner, begin))
        return last

    def _decide(self, plan: RunPlan, nodes: Sequence[SampledNode], ends: Sequence[float]) -> None:
        """Let the node that decided a switch say so: the last to end of those that all its branches wait for."""
        branches = self._facts.branches
        already = {switch for switch, _ in plan.decided}
        for switch in dict.fromkeys(guard.switch for node in plan.nodes for guard in node.guards):
            if switch in already or (plan.run_id, switch) not in branches:
                continue
            guarded = [i for i, node in enumerate(plan.nodes) if any(guard.switch == switch for guard in node.guards)]
            shared = set.intersection(*[set(nodes[i].after) for i in guarded]) - set(guarded)
            if shared:
                decider = max(shared, key=lambda i: (ends[i], i))
                nodes[decider].decides += ((switch, branches[plan.run_id, switch]),)
