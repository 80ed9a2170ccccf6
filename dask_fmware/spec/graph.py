"""The graph view of a workflow: order, critical path, and the nodes whose output is streamed.

A switch, map or loop stands before its inner nodes, since it decides whether and how often they run;
whoever uses its value comes after them. Inputs are no nodes of the graph. Weights come from the caller:
this module knows no speeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import networkx as nx

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.checks import check
from dask_fmware.spec.scopes import Place, inner, needs, places, uses
from dask_fmware.spec.workflow import AnyNode, Block, LoopNode, ModelNode, SwitchNode, Workflow

__all__ = ["answer_nodes", "check", "critical_path", "graph", "order", "output_nodes"]


def graph(workflow: Workflow) -> nx.DiGraph:
    """Return the workflow as a networkx graph.

    Nodes carry ``kind``, ``model`` (of model nodes, else None), ``parent`` (the switch, map or loop
    around it, or None) and ``label`` (which of the parent's blocks). Edges carry ``kind`` and ``label``:

    - ``data``: the value of one node is used by the other, in the field or argument `label`;
    - ``branch``: from a switch, map or loop to a node of its block `label`;
    - ``value``: from a node that ends a block to whoever uses the value of the switch, map or loop.
    """
    made = nx.DiGraph(name=workflow.name)
    found = places(workflow)
    for name, place in found.items():
        model = place.node.model if isinstance(place.node, ModelNode) else None
        made.add_node(name, kind=place.node.kind, model=model, parent=place.parent, label=place.label)
    for name, place in found.items():
        if place.parent is not None:
            made.add_edge(place.parent, name, kind="branch", label=place.label)
        for where, source in uses(place.node):
            if source in found:
                _join(made, source, name, "data", where)
                for end in _ends(source, found):
                    _join(made, end, name, "value", source)
    return made


def order(workflow: Workflow) -> tuple[str, ...]:
    """Names of all nodes so that each comes after what it waits for; ties keep the order of the document.

    The nodes inside a switch, map or loop follow it directly.

    Raises
    ------
    WorkflowError
        If the workflow has a cycle.
    """
    wanted = needs(workflow.block)

    def sort(block: Block) -> Iterator[str]:
        beside = {node.name: node for node in block.nodes}
        position = {name: i for i, name in enumerate(beside)}
        waits = nx.DiGraph()
        waits.add_nodes_from(beside)
        waits.add_edges_from((source, name) for name in beside for source in wanted[name] if source in beside)
        for name in nx.lexicographical_topological_sort(waits, key=position.__getitem__):
            yield name
            for held in inner(beside[name]):
                yield from sort(held.block)

    try:
        return tuple(sort(workflow.block))
    except nx.NetworkXUnfeasible:
        check(workflow)  # names the nodes of the cycle
        raise WorkflowError(f"workflow '{workflow.name}': the nodes wait for each other in a cycle") from None


def critical_path(workflow: Workflow, weight: Callable[[AnyNode], float] | None = None) -> tuple[str, ...]:
    """Names of the nodes on the path of greatest total weight, in order.

    Parameters
    ----------
    workflow
        A workflow that passes `check`.
    weight
        What one execution of a node counts; by default its ``max_tokens`` if it is a model node (1 of vectors), else 0.
        A node inside loops counts ``max_iterations`` times; items of a map run side by side and count once.
    """
    counts = weight or (lambda node: node.most_output_tokens if isinstance(node, ModelNode) else 0)
    found, waits = places(workflow), graph(workflow)
    total: dict[str, float] = {}
    before: dict[str, str | None] = {}
    for name in order(workflow):
        before[name] = max(waits.predecessors(name), key=total.__getitem__, default=None)
        earlier = before[name]
        total[name] = (0.0 if earlier is None else total[earlier]) + counts(found[name].node) * _repeats(name, found)
    step = max(total, key=total.__getitem__, default=None)
    path: list[str] = []
    while step is not None:
        path.append(step)
        step = before[step]
    return tuple(reversed(path))


def answer_nodes(workflow: Workflow) -> frozenset[str]:
    """Names of the model nodes that stream the answer: their output can be nothing else, and nothing else uses it.

    The output is followed into switches, but not out of a branch: what a branch passes on from outside, such as a
    draft, is the answer only once the switch has decided so. Maps and loops are not entered: a list of texts is no
    text to stream, and which iteration is the last is known only when it is over.
    """
    return frozenset(_answering(workflow.block))


def output_nodes(workflow: Workflow) -> frozenset[str]:
    """Names of the nodes whose value may be that of the workflow as it is; of a switch, those of its branches."""
    found = places(workflow)
    waiting, seen = [workflow.block.output.source], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in found:
            continue
        seen.add(name)
        if isinstance(node := found[name].node, SwitchNode):
            waiting.extend(held.block.output.source for held in inner(node))
    return frozenset(name for name in seen if not isinstance(found[name].node, SwitchNode))


def _answering(block: Block) -> Iterator[str]:
    """Model nodes of a block, and of branches within, that make the value of the block."""
    end = next((node for node in block.nodes if node.name == block.output.source), None)
    match end:
        case ModelNode() if not end.embeds:
            yield end.name
        case SwitchNode():
            for held in inner(end):
                yield from _answering(held.block)


def _join(made: nx.DiGraph, source: str, target: str, kind: str, label: str) -> None:
    """Add an edge, or a further label to an edge of the same kind; a data edge outranks a value edge."""
    if not made.has_edge(source, target):
        made.add_edge(source, target, kind=kind, label=label)
    elif made.edges[source, target]["kind"] == kind:
        labels = made.edges[source, target]["label"].split(", ")
        made.edges[source, target]["label"] = ", ".join(dict.fromkeys([*labels, label]))
    elif kind == "data":
        made.edges[source, target].update(kind=kind, label=label)


def _ends(source: str, found: dict[str, Place]) -> Iterator[str]:
    """Nodes inside a switch, map or loop that must be done before its value exists."""
    waiting, seen = [source], {source}
    while waiting:
        for held in inner(found[waiting.pop()].node):
            for end in held.ends:
                if end in found and end not in seen:
                    seen.add(end)
                    waiting.append(end)
                    yield end


def _repeats(name: str, found: dict[str, Place]) -> int:
    loops = (found[loop].node for loop in found[name].loops)
    return prod(loop.max_iterations for loop in loops if isinstance(loop, LoopNode))
