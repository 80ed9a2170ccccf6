"""From workflows to classes of calls: how many calls of what size, and how much of the objective each may take.

The objective of a workflow is divided over the nodes of its longest path in proportion to their time on an idle
replica of the fastest kind, as the paper divides it; plain code takes what it takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import inf

from dask_fmware.provisioning.capacity import CallClass, least_s
from dask_fmware.provisioning.inventory import Inventory
from dask_fmware.provisioning.views import NodeDemand, WorkflowDemand

__all__ = ["call_classes", "unloaded_s"]


def call_classes(workflows: Iterable[WorkflowDemand], inventory: Inventory) -> list[CallClass]:
    """Return the calls that workflows make, by node; nodes that are never called are left out."""
    found = []
    for workflow in workflows:
        budgets, ends = _budgets(workflow, inventory), _budgets(_to_end(workflow), inventory)
        for node in workflow.nodes:
            if node.model is not None and workflow.rate * node.calls > 0:
                call, budget_s, end_s = _call(workflow, node), budgets.get(node.name, inf), ends.get(node.name, inf)
                if node.answers:
                    found.append(replace(call, budget_s=budget_s, end_budget_s=end_s))
                else:
                    found.append(replace(call, budget_s=min(budget_s, end_s)))
    return found


def _to_end(workflow: WorkflowDemand) -> WorkflowDemand:
    """The same with its second objective, for which no first token is enough."""
    nodes = tuple(replace(node, answers=False) for node in workflow.nodes)
    return replace(workflow, nodes=nodes, slo_s=workflow.end_s)


def unloaded_s(workflow: WorkflowDemand, inventory: Inventory) -> float:
    """Time to the answer of a workflow on idle replicas of the fastest kinds: the best objective there is."""
    return max((whole for _, whole in _paths(workflow, inventory).values()), default=0.0)


def _call(workflow: WorkflowDemand, node: NodeDemand) -> CallClass:
    return CallClass(
        workflow.name,
        node.name,
        node.model or "",
        workflow.rate * node.calls,
        max(node.prompt_tokens, 1.0),
        max(node.output_tokens, 1.0),
        inf,
        node.answers,
    )


def _alone_s(workflow: WorkflowDemand, node: NodeDemand, inventory: Inventory) -> float:
    call = _call(workflow, node)
    return min((least_s(kind, call) for kind in inventory.of(call.model) if kind.law is not None), default=0.0)


def _paths(workflow: WorkflowDemand, inventory: Inventory) -> dict[str, tuple[float, float]]:
    """Plain seconds and all seconds of the longest path through each node."""
    own: dict[str, tuple[float, float]] = {}
    for node in workflow.nodes:
        calls_s = _alone_s(workflow, node, inventory) * max(node.in_turn, 1.0) if node.model is not None else 0.0
        own[node.name] = (node.seconds, node.seconds + calls_s)
    before: dict[str, tuple[float, float]] = {}
    after: dict[str, tuple[float, float]] = {node.name: (0.0, 0.0) for node in workflow.nodes}
    none = (0.0, 0.0)
    for node in workflow.nodes:
        start = max((before[name] for name in node.after if name in before), key=lambda p: p[1], default=none)
        before[node.name] = (start[0] + own[node.name][0], start[1] + own[node.name][1])
    for node in reversed(workflow.nodes):
        rest = none if node.answers else after[node.name]
        whole = (rest[0] + own[node.name][0], rest[1] + own[node.name][1])
        for name in node.after:
            if name in after:
                after[name] = max(after[name], whole, key=lambda p: p[1])
    return {
        name: (before[name][0] + rest[0], before[name][1] + rest[1])
        for name, rest in ((node.name, none if node.answers else after[node.name]) for node in workflow.nodes)
    }


def _budgets(workflow: WorkflowDemand, inventory: Inventory) -> dict[str, float]:
    """Seconds that one call of each node may take."""
    if workflow.slo_s == inf:
        return {}
    budgets, paths = {}, _paths(workflow, inventory)
    for node in workflow.nodes:
        if node.model is None:
            continue
        plain_s, whole_s = paths[node.name]
        calls_s, mine_s = whole_s - plain_s, _alone_s(workflow, node, inventory)
        left_s = max(workflow.slo_s - plain_s, 1e-3)
        budgets[node.name] = left_s * mine_s / calls_s if calls_s > 0 else left_s
    return budgets
