"""What the bodies of maps and loops hold, those of maps and loops within them included.

A plan of a workflow does not say it: it is learnt from the plans of the bodies, which extend a run. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from dask_fmware.model.plan import PlannedNode
from dask_fmware.runtime.learning.histories import plain_name

__all__ = ["Bodies"]

Place: TypeAlias = tuple[str, str]  # workflow, and map or loop among its own nodes
Nodes: TypeAlias = tuple[PlannedNode, ...]


class Bodies:
    """The bodies of all maps and loops; bounded in number: what was heard of first goes first.

    Parameters
    ----------
    most
        Maps and loops that are remembered.
    """

    def __init__(self, most: int) -> None:
        self._nodes: dict[Place, dict[str, Nodes]] = {}  # by name, of the map or loop and of those within it
        self._calls: dict[Place, Nodes] = {}
        self._most = most

    def calls(self, workflow: str, base: str) -> Nodes:
        """Calls of one body of a map or loop in order, with those of one body of each map and loop within it."""
        return self._calls.get((workflow, base), ())

    def observe(self, workflow: str, owner: str, nodes: Sequence[PlannedNode]) -> bool:
        """Take note of a body of a map or loop, itself maybe within another; True if it is another than before.

        Parameters
        ----------
        workflow
            Its name.
        owner
            Path of the map or loop, such as ``outer[1].pitches``.
        nodes
            Of the body.
        """
        base, name = owner.partition("[")[0], plain_name(owner)
        place = workflow, base
        known = self._nodes.get(place, {})
        if name in known and _plain(known[name]) == _plain(nodes):
            return False
        if not known and len(self._nodes) >= self._most:
            first = next(iter(self._nodes))
            del self._nodes[first], self._calls[first]
        others = {other: body for other, body in known.items() if not other.startswith(f"{name}.")}  # they come anew
        self._nodes[place] = made = {**others, name: tuple(nodes)}
        self._calls[place] = tuple(_calls(made, base))
        return True


def _calls(bodies: Mapping[str, Nodes], name: str) -> Iterator[PlannedNode]:
    for node in bodies.get(name, ()):
        if node.model is not None:
            yield node
        elif (inner := plain_name(node.name)).startswith(f"{name}."):
            yield from _calls(bodies, inner)


def _plain(nodes: Sequence[PlannedNode]) -> list[tuple[str, str | None, int]]:
    return [(plain_name(node.name), node.model, node.max_tokens) for node in nodes]
