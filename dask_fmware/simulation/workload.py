"""The runs of one simulation, drawn from a scenario by a seed: arrivals, paths, lengths and deadlines.

Every policy gets the same runs. What is drawn here is the truth that engines know and policies do not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from dask_fmware.model.plan import Guard, Objective, PlannedNode, RunPlan
from dask_fmware.simulation.alone import alone_s
from dask_fmware.simulation.arrivals import Arrival, arrivals
from dask_fmware.simulation.distribution import Spread
from dask_fmware.simulation.sampled import Body, Lengths, SampledNode, SampledRun
from dask_fmware.simulation.scenario import NodeScenario, Scenario, WorkflowScenario

__all__ = ["Workload"]


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
        self._templates = {name: self._template(name, workflow) for name, workflow in scenario.workflows.items()}

    def runs(self, *, rate: float | None = None) -> list[SampledRun]:
        """Return all runs, in order of arrival; `rate` replaces that of the scenario's arrivals."""
        return list(self.drawn(rate=rate))

    def drawn(self, *, rate: float | None = None) -> Iterator[SampledRun]:
        """Draw the runs of `runs` one by one, for simulations that would fill the memory."""
        shares = [workflow.share for workflow in self.scenario.workflows.values()]
        names = list(self.scenario.workflows)
        mix = random.Random(f"mix {self.seed}")
        for number, arrival in enumerate(
            arrivals(self.scenario.arrivals, random.Random(f"arrivals {self.seed}"), rate)
        ):
            name = names[0] if len(names) == 1 else mix.choices(names, shares)[0]
            yield self.run(name, f"r{number}", arrival)

    def run(self, name: str, run_id: str, arrival: Arrival) -> SampledRun:
        """Draw one run."""
        workflow = self.scenario.workflows[name]
        planned, nodes = self._nodes(self._templates[name], run_id, arrival)
        slo = workflow.slo
        unloaded_s, bound_s, is_whole = 0.0, inf, False
        if slo is not None:
            is_whole = slo.whole or slo.e2e_s is not None
            reference = slo.reference(self.scenario.cards)
            if reference is not None:
                unloaded_s = self.unloaded_s(nodes, reference, whole=slo.whole)
                bound_s = slo.factor * unloaded_s + slo.plus_s
            else:
                bound_s = slo.ttft_s or slo.e2e_s or inf
        bound = {"e2e_s" if is_whole else "ttft_s": bound_s}
        plan = RunPlan(
            run_id=run_id,
            workflow=name,
            nodes=planned,
            output=planned[-1].key,
            objective=Objective(**bound, on_miss=workflow.on_miss) if bound_s < inf else None,
            tenant=workflow.tenant,
            priority=workflow.priority,
        )
        due = arrival.at + bound_s
        return SampledRun(run_id, arrival.at, name, workflow.tenant, plan, nodes, unloaded_s, due, is_whole)

    def _nodes(
        self, templates: Sequence[_Template], run_id: str, arrival: Arrival
    ) -> tuple[tuple[PlannedNode, ...], tuple[SampledNode, ...]]:
        planned: list[PlannedNode] = []
        nodes: list[SampledNode] = []
        branches: list[int | None] = []  # taken by each node, if it decides
        for template in templates:
            branch: int | None = None
            decides: tuple[tuple[str, int | None], ...] = ()
            if template.odds:
                branch = self._paths.choices(range(len(template.odds)), template.odds)[0]
                decides = ((template.name, branch),)
            branches.append(branch)
            taken = True
            for decider, wanted in template.when:
                taken = taken and nodes[decider].taken and branches[decider] == wanted
            key = f"{run_id}/{template.name}"
            call: Lengths | None = None
            bodies: tuple[Body, ...] = ()
            model, prompt_bytes = template.model, 0
            if model is not None:
                repeat = template.repeat
                if repeat is None:
                    call = self._call(template, arrival)
                    prompt_bytes = call[0] if not template.after else 0
                else:
                    count = max(1, round(repeat()))
                    bodies = tuple([self._body(template, run_id, key, number, arrival) for number in range(count)])
                    model = None
            planned.append(
                PlannedNode(
                    template.name, key, template.after_names, model, template.max_tokens, prompt_bytes,
                    template.guards, template.answers,
                )
            )  # fmt: skip
            seconds = template.seconds() if template.seconds is not None else 0.0
            nodes.append(
                SampledNode(
                    template.name, model, template.after, taken, call, bodies, template.in_turn, seconds, decides,
                    template.answers,
                )
            )  # fmt: skip
        return tuple(planned), tuple(nodes)

    def _body(self, template: _Template, run_id: str, key: str, number: int, arrival: Arrival) -> Body:
        name, key = f"{template.name}[{number}]", f"{key}[{number}]"
        call = PlannedNode(name, key, (), template.model, template.max_tokens)
        plan = RunPlan(key, template.workflow, (call,), key, part_of=run_id)
        return Body(plan, (SampledNode(name, template.model, (), call=self._call(template, arrival)),))

    def _call(self, template: _Template, arrival: Arrival) -> Lengths:
        assert template.prompt is not None
        assert template.output is not None
        prompt, output = round(template.prompt()), round(template.output())
        if template.answers and arrival.prompt_tokens:
            prompt, output = arrival.prompt_tokens, arrival.output_tokens
        if template.bound:
            output = min(output, template.bound)
        return max(prompt, 1), max(output, 1)

    def _template(self, name: str, workflow: WorkflowScenario) -> tuple[_Template, ...]:
        index = {node_name: i for i, node_name in enumerate(workflow.nodes)}
        branches = {node_name: list(node.decides or ()) for node_name, node in workflow.nodes.items()}
        guards: dict[str, tuple[Guard, ...]] = {}  # of each node, those of the switches around its own first
        after: dict[str, tuple[str, ...]] = {}
        for node_name, node in workflow.nodes.items():
            around = [guard for decider in node.when for guard in guards[decider]]
            own = [Guard(decider, branches[decider].index(branch)) for decider, branch in node.when.items()]
            guards[node_name] = tuple(dict.fromkeys([*around, *own]))
            after[node_name] = tuple(dict.fromkeys([*node.after, *(guard.switch for guard in guards[node_name])]))
        return tuple(
            _Template(
                workflow=name,
                name=node_name,
                model=node.model,
                after=tuple(index[other] for other in after[node_name]),
                after_names=after[node_name],
                when=tuple((index[decider], branches[decider].index(branch)) for decider, branch in node.when.items()),
                guards=guards[node_name],
                odds=tuple(node.decides.values()) if node.decides else (),
                prompt=self._sampler(node.prompt),
                output=self._sampler(node.output),
                repeat=self._sampler(node.items or node.rounds),
                seconds=self._sampler(node.seconds),
                bound=node.max_tokens or 0,
                max_tokens=_max_tokens(node),
                in_turn=node.rounds is not None,
                answers=node.answers,
            )
            for node_name, node in workflow.nodes.items()
        )

    def _sampler(self, spread: Spread | None) -> Callable[[], float] | None:
        """What draws the next value; also where lengths are deterministic, so that the others stay as they are."""
        if spread is None:
            return None
        draw = spread.sampler(self._lengths)
        if self.scenario.lengths != "deterministic":
            return draw
        typical = spread.typical
        return lambda: (draw(), typical)[1]

    def unloaded_s(self, nodes: Sequence[SampledNode], accelerator: str, *, whole: bool = False) -> float:
        """TTFT of a run's path, alone on a card of a type; its end if that is asked for, or it ends in plain code."""
        done: list[float] = []
        first_s, last_s = 0.0, 0.0
        for node in nodes:
            start = max([done[i] for i in node.after]) if node.after else 0.0
            if not node.taken:
                done.append(start)
                continue
            calls = node.calls
            if not calls:
                done.append(start + node.seconds)
            else:
                model = node.model or node.bodies[0].nodes[0].model or ""
                hosting = self.scenario.models[model].on[accelerator]
                groups = [(call,) for call in calls] if node.in_turn else [calls]
                spent_s = ttft_s = 0.0
                for group in groups:
                    ttft_s, all_s = alone_s(hosting.step_law, hosting.limits, group)
                    spent_s += all_s
                start += node.seconds  # of plain code right before
                done.append(start + spent_s)
                if node.answers:
                    first_s = max(first_s, start + ttft_s)
            last_s = max(last_s, done[-1])
        return last_s if whole or not first_s else first_s


@dataclass(frozen=True, slots=True)
class _Template:
    """A node of a workflow, ready to draw from."""

    workflow: str
    name: str
    model: str | None
    after: tuple[int, ...]
    after_names: tuple[str, ...]
    when: tuple[tuple[int, int], ...]  # deciding node and the branch on which this node is
    guards: tuple[Guard, ...]
    odds: tuple[float, ...]
    prompt: Callable[[], float] | None
    output: Callable[[], float] | None
    repeat: Callable[[], float] | None  # how many bodies
    seconds: Callable[[], float] | None
    bound: int  # of the output; 0: none but its distribution
    max_tokens: int
    in_turn: bool
    answers: bool


def _max_tokens(node: NodeScenario) -> int:
    return node.max_tokens or (round(node.output.bound) if node.output is not None else 0)
