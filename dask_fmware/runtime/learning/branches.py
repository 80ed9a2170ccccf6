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
            Its switches, and how many branches each has.
        decided
            Switches that are open no more.
        """
        known = dict(decided)
        open_ = [switch for switch in branches if switch not in known]
        if prod(branches[switch] for switch in open_) > MOST_OUTCOMES:
            open_ = []
        odds = [self._odds(workflow, switch, branches[switch]) for switch in open_]
        for outcome in product(*[range(branches[switch]) for switch in open_]):
            weight = prod(chances[branch] for chances, branch in zip(odds, outcome, strict=True))
            yield weight, known | dict(zip(open_, outcome, strict=True))

    def _odds(self, workflow: str, switch: str, branches: int) -> list[float]:
        counts = self._counts.get((workflow, switch), {})
        weights = [counts.get(branch, 0.0) + 0.5 for branch in range(branches)]
        return [weight / sum(weights) for weight in weights]


def is_taken(taken: Mapping[str, int | None], node: PlannedNode) -> bool:
    """Whether a node is on no branch that was not taken."""
    return all(taken.get(guard.switch, guard.branch) == guard.branch for guard in node.guards)
