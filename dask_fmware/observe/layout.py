"""The graph of a workflow as the machine knows it, laid out in columns for a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dask_fmware.model.plan import PlannedNode

__all__ = ["GraphNode", "graph_of"]


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One node: where it stands, and what it waits for."""

    name: str
    model: str | None  # None: plain code, a map or a loop
    after: tuple[str, ...]
    answers: bool
    column: int  # the longest chain of nodes before it
    row: int


def graph_of(nodes: Sequence[PlannedNode]) -> tuple[GraphNode, ...]:
    """Lay out the nodes of a plan: a column for each step of the longest chain, rows near what they wait for.

    Parameters
    ----------
    nodes
        In topological order, as in a plan.
    """
    column: dict[str, int] = {}
    row: dict[str, int] = {}
    used: dict[int, set[int]] = {}
    made = []
    for node in nodes:
        after = tuple(dict.fromkeys(name for name in node.after if name in column))
        column[node.name] = 1 + max((column[name] for name in after), default=-1)
        taken = used.setdefault(column[node.name], set())
        wanted = min((row[name] for name in after), default=0)
        row[node.name] = next(r for r in range(wanted, wanted + len(nodes) + 1) if r not in taken)
        taken.add(row[node.name])
        made.append(GraphNode(node.name, node.model, after, node.answers, column[node.name], row[node.name]))
    return tuple(made)
