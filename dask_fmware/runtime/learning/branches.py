"""Which branches the switches of workflows took, and in which ways those that are open may go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import TypeAlias

from dask_fmware.model.plan import PlannedNode

__all__ = ["Branches", "Decided", "is_taken"]

Decided: TypeAlias = frozenset[tuple[str, int | None]]  # switches and branches

MOST_OUTCOMES = 256  # combinations of branches that are told apart
MOST_COUNTED = 1000.0  # decisions of a switch, after which half of what was counted is forgotten


class Branches:
    """Counts of the branches of all switches; bounded in number: what was heard of first goes first.

    Parameters
    ----------
    most
        Switches that are remembered.
    """

    def __init__(self, most: int) -> None:
        self._counts: dict[tuple[str, str], dict[int | None, float]] = {}
        self._most = most

    def observe(self, workflow: str, switch: str, branch: int | None) -> None:
        """Take note of a branch that was taken."""
        if (workflow, switch) not in self._counts and len(self._counts) >= self._most:
            del self._counts[next(iter(self._counts))]
        counts = self._counts.setdefault((workflow, switch), {})
        counts[branch] = counts.get(branch, 0.0) + 1.0
        if sum(counts.values()) > MOST_COUNTED:
            for known in counts:
                counts[known] /= 2

    def outcomes(
        self, workflow: str, branches: Mapping[str, int], decided: Decided
    ) -> Iterator[tuple[float, Mapping[str, int | None]]]:
        """Probability and branches of each way in which the open switches may go.

        Parameters
        ----------
        workflow
            Its name.
        branches
            Its switches, and how many branches of each have nodes, as far as nodes say it.
        decided
            Switches that are open no more.
        """
        known = dict(decided)
        open_ = {name: self._odds(workflow, name, count) for name, count in branches.items() if name not in known}
        if prod(len(odds) for odds in open_.values()) > MOST_OUTCOMES:
            open_ = {}
        for outcome in product(*[odds.items() for odds in open_.values()]):
            weight = prod(chance for _, chance in outcome)
            yield weight, known | dict(zip(open_, [branch for branch, _ in outcome], strict=True))

    def _odds(self, workflow: str, switch: str, branches: int) -> dict[int | None, float]:
        """Chances of the branches that nodes are on, and of none of these (None), as where a value is passed on."""
        counts = self._counts.get((workflow, switch), {})
        weights: dict[int | None, float] = {branch: counts.get(branch, 0.0) + 0.5 for branch in range(branches)}
        others = sum(count for branch, count in counts.items() if branch not in weights)
        others += 0.5 if branches < 2 else 0.0  # a switch has two branches at least
        if others:
            weights[None] = others
        total = sum(weights.values())
        return {branch: weight / total for branch, weight in weights.items()}


def is_taken(taken: Mapping[str, int | None], node: PlannedNode) -> bool:
    """Whether a node is on no branch that was not taken."""
    return all(taken.get(guard.switch, guard.branch) == guard.branch for guard in node.guards)
