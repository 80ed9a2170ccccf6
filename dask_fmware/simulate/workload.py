"""The runs of one simulation, drawn from a scenario by a seed: arrivals, paths, lengths and deadlines.

Every policy gets the same runs. What is drawn here is the truth that engines know and policies do not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf

from dask_fmware.model.plan import Guard, Objective, PlannedNode, RunPlan
from dask_fmware.profile.emulation import FIRST, EmulatedBatch
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.replica import Limits
from dask_fmware.simulate.arrivals import Arrival, arrivals
from dask_fmware.simulate.scenario import NodeScenario, Scenario, WorkflowScenario

__all__ = ["SampledNode", "SampledRun", "Workload", "alone_s"]


@dataclass(slots=True)
class SampledNode:
    """One node of one run, with what is true of it."""

    name: str
    model: str | None
    after: tuple[int, ...]  # indices of the nodes it waits for, deciding ones included
    taken: bool  # whether its branch is
    calls: tuple[tuple[int, int], ...]  # prompt and output tokens; several in a map or loop
    in_turn: bool  # a loop: one after the other
    seconds: float  # of plain code
    decides: int | None  # branch that it takes
    answers: bool


@dataclass(slots=True)
class SampledRun:
    """One run: what is submitted, and what will come of it."""

    run_id: str
    arrival: float
    workflow: str
    tenant: str
    plan: RunPlan
    nodes: tuple[SampledNode, ...]
    unloaded_s: float  # TTFT alone on the reference card
    deadline: float  # absolute; infinity without an SLO


@lru_cache(maxsize=200_000)
def alone_s(law: StepLaw, limits: Limits, calls: tuple[tuple[int, int], ...]) -> tuple[float, float]:
    """First token and completion of calls that start together on an idle replica; the last of each."""
    batch = EmulatedBatch(law, limits)
    for number, (prompt, output) in enumerate(calls):
        batch.add(0.0, str(number), prompt, output)
    outputs = batch.advance(inf) if not calls else []
    while batch.next_event_at < inf:
        outputs += batch.advance(batch.next_event_at)
    first_s = max((o.at for o in outputs if o.kind == FIRST), default=0.0)
    return first_s, max((o.at for o in outputs), default=0.0)


class Workload:
    """Draws runs of a scenario.

    Parameters
    ----------
    scenario
        What to draw from.
    seed
        Equal seeds give equal runs; arrivals, paths and lengths have generators of their own, so that
        the n-th run of a workflow is alike at every load.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self._lengths = random.Random(f"lengths {seed}")
        self._paths = random.Random(f"paths {seed}")
        self._templates = {name: _planned(name, workflow) for name, workflow in scenario.workflows.items()}

    def runs(self, *, rate: float | None = None) -> list[SampledRun]:
        """Return all runs, in order of arrival; `rate` replaces that of the scenario's arrivals."""
        shares = [workflow.share for workflow in self.scenario.workflows.values()]
        names = list(self.scenario.workflows)
        mix = random.Random(f"mix {self.seed}")
        made = []
        for number, arrival in enumerate(
            arrivals(self.scenario.arrivals, random.Random(f"arrivals {self.seed}"), rate)
        ):
            name = names[0] if len(names) == 1 else mix.choices(names, shares)[0]
            made.append(self.run(name, f"r{number}", arrival))
        return made

    def run(self, name: str, run_id: str, arrival: Arrival) -> SampledRun:
        """Draw one run."""
        workflow = self.scenario.workflows[name]
        nodes = self._nodes(workflow, arrival)
        slo = workflow.slo
        unloaded_s, ttft_s = 0.0, inf
        if slo is not None:
            if slo.ttft_s is not None:
                ttft_s = slo.ttft_s
            else:
                unloaded_s = self.unloaded_s(nodes, slo.on or next(iter(self.scenario.cards)))
                ttft_s = slo.factor * unloaded_s + slo.plus_s
        planned = tuple(
            replace(
                template,
                key=f"{run_id}/{template.name}",
                prompt_bytes=node.calls[0][0] if template.model is not None and not node.after and node.calls else 0,
            )
            for template, node in zip(self._templates[name], nodes, strict=True)
        )
        plan = RunPlan(
            run_id=run_id,
            workflow=name,
            nodes=planned,
            output=planned[-1].key,
            objective=Objective(ttft_s=ttft_s, on_miss=workflow.on_miss) if ttft_s < inf else None,
            tenant=workflow.tenant,
            priority=workflow.priority,
        )
        return SampledRun(run_id, arrival.at, name, workflow.tenant, plan, nodes, unloaded_s, arrival.at + ttft_s)

    def _nodes(self, workflow: WorkflowScenario, arrival: Arrival) -> tuple[SampledNode, ...]:
        index = {name: i for i, name in enumerate(workflow.nodes)}
        branches: dict[str, str] = {}
        taken: dict[str, bool] = {}
        made: list[SampledNode] = []
        for name, node in workflow.nodes.items():
            decided = None
            if node.decides is not None:
                branches[name] = self._paths.choices(list(node.decides), list(node.decides.values()))[0]
                decided = list(node.decides).index(branches[name])
            taken[name] = all(taken[d] and branches[d] == branch for d, branch in node.when.items())
            made.append(
                SampledNode(
                    name=name,
                    model=node.model,
                    after=tuple(dict.fromkeys(index[other] for other in (*node.after, *node.when))),
                    taken=taken[name],
                    calls=self._calls(node, arrival),
                    in_turn=node.rounds is not None,
                    seconds=self._number(node.seconds) if node.seconds is not None else 0.0,
                    decides=decided,
                    answers=node.answers,
                )
            )
        return tuple(made)

    def _calls(self, node: NodeScenario, arrival: Arrival) -> tuple[tuple[int, int], ...]:
        if node.model is None or node.prompt is None or node.output is None:
            return ()
        repeat = node.items or node.rounds
        count = max(1, round(self._number(repeat))) if repeat is not None else 1
        calls = []
        for _ in range(count):
            prompt, output = round(self._number(node.prompt)), round(self._number(node.output))
            if node.answers and arrival.prompt_tokens:
                prompt, output = arrival.prompt_tokens, arrival.output_tokens
            calls.append((max(prompt, 1), max(min(output, node.max_tokens or output), 1)))
        return tuple(calls)

    def _number(self, spread: object) -> float:
        from dask_fmware.simulate.distribution import Spread

        assert isinstance(spread, Spread)
        drawn = spread.draw(self._lengths)
        return spread.typical if self.scenario.lengths == "deterministic" else drawn

    def unloaded_s(self, nodes: Sequence[SampledNode], accelerator: str) -> float:
        """TTFT of a run's path, alone on a card of a type; of its completion if it ends in plain code."""
        done: list[float] = []
        first_s, last_s = 0.0, 0.0
        for node in nodes:
            start = max((done[i] for i in node.after), default=0.0)
            if not node.taken:
                done.append(start)
                continue
            if node.model is None:
                done.append(start + node.seconds)
            else:
                hosting = self.scenario.models[node.model].on[accelerator]
                groups = [(call,) for call in node.calls] if node.in_turn else [node.calls]
                spent_s = ttft_s = 0.0
                for group in groups:
                    ttft_s, all_s = alone_s(hosting.step_law, hosting.limits, group)
                    spent_s += all_s
                done.append(start + spent_s)
                if node.answers:
                    first_s = max(first_s, start + ttft_s)
            last_s = max(last_s, done[-1])
        return first_s or last_s


def _planned(name: str, workflow: WorkflowScenario) -> tuple[PlannedNode, ...]:
    """The nodes as a compiler plans them; maps and loops are plain nodes, whose calls come as plans of their own."""
    branch_index = {
        node_name: {branch: i for i, branch in enumerate(node.decides or {})}
        for node_name, node in workflow.nodes.items()
    }
    planned = []
    for node_name, node in workflow.nodes.items():
        repeated = node.items is not None or node.rounds is not None
        output = node.output.bound if node.output is not None else 0
        planned.append(
            PlannedNode(
                name=node_name,
                key="",
                after=tuple(dict.fromkeys((*node.after, *node.when))),
                model=None if repeated else node.model,
                max_tokens=node.max_tokens or round(output),
                guards=tuple(Guard(decider, branch_index[decider][branch]) for decider, branch in node.when.items()),
                answers=node.answers,
            )
        )
    return tuple(planned)
