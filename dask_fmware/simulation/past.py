"""What the runtime knows when a simulation starts: finished calls of each node, as a profile or the past would say."""

from __future__ import annotations

from dask_fmware.runtime import Machine
from dask_fmware.runtime.learning.knowledge import THE_END
from dask_fmware.simulation.arrivals import Arrival
from dask_fmware.simulation.sampled import SampledNode, SampledRun
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload

__all__ = ["teach"]


def teach(machine: Machine, scenario: Scenario) -> None:
    """Let a machine know `scenario.history` runs of each workflow."""
    for run in _past(scenario):
        _teach_run(machine, run)
    machine.knowledge.settle()


def _teach_run(machine: Machine, run: SampledRun) -> None:
    knowledge = machine.knowledge
    for node in run.nodes:
        if not node.taken:
            continue
        for switch, branch in node.decides:
            knowledge.branches.observe(run.workflow, switch, branch)
        if node.bodies:
            knowledge.observe_body(run.workflow, node.name, node.bodies[0].plan.nodes)
            count = len(node.bodies)
            knowledge.nodes.observe_rounds(run.workflow, node.name, *((count, 1) if node.in_turn else (1, count)))
        for prompt, output in node.calls:
            knowledge.observe_call(run.workflow, node.name, prompt, output)
        if node.calls:
            knowledge.nodes.observe_pause(run.workflow, node.name, node.seconds + _pause_s(run.nodes, node))
    knowledge.nodes.observe_pause(run.workflow, THE_END, _tail_s(run.nodes))


_PAST: list[tuple[Scenario, list[SampledRun]]] = []  # the latest, since the seeds of a sweep share it


def _past(scenario: Scenario) -> list[SampledRun]:
    """Runs before the simulation, alike for all seeds, arrivals and policies."""
    for known, runs in _PAST:
        if (known.workflows, known.cards, known.models) == (scenario.workflows, scenario.cards, scenario.models) and (
            known.history,
            known.lengths,
        ) == (scenario.history, scenario.lengths):
            return runs
    past = Workload(scenario, -1)
    runs = [past.run(name, f"past{n}", Arrival(0.0)) for n in range(scenario.history) for name in scenario.workflows]
    _PAST.insert(0, (scenario, runs))
    del _PAST[4:]
    return runs


def _tail_s(nodes: tuple[SampledNode, ...]) -> float:
    """Longest chain of plain code after the last calls."""
    followed = {i for node in nodes if node.taken for i in node.after}
    last = [node for i, node in enumerate(nodes) if i not in followed and node.taken and not node.calls]
    return max((node.seconds + _pause_s(nodes, node) for node in last), default=0.0)


def _pause_s(nodes: tuple[SampledNode, ...], node: SampledNode) -> float:
    """Longest chain of plain code right before a node."""
    return max((
        nodes[i].seconds + _pause_s(nodes, nodes[i]) for i in node.after if not nodes[i].calls and nodes[i].taken
    ), default=0.0)  # fmt: skip
