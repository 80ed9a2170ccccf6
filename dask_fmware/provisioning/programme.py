"""A small integer programme, solved by SciPy's HiGHS: exactly where that is quick, else by rounding up.

The solver stops within a share of all that it minimises. So what is many times as dear as the rest, a penalty, is
counted apart: the least that cannot be avoided is found first, and only what goes beyond it is weighed with the costs.
It knows columns and rows, and nothing of what they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import inf
from typing import Any

import numpy as np

from dask_fmware.errors import SpecError

__all__ = ["InfeasibleError", "Programme"]

RELATIVE_GAP = 0.005
PENALTY_GAP = 1e-4  # of the least penalty, which is large beside the costs
NOTICED = 1.0  # penalty, as a share of the costs, from which on it is counted apart
NODES = 500  # of the search, and no time: a busy machine must not plan otherwise than an idle one
MANY = 40  # whole things, above which fractions are rounded up: less than one too many for each column in use


class InfeasibleError(Exception):
    """No solution keeps all bounds; says why, as the solver does."""


class Programme:
    """Columns from 0 up at the least cost, so that sums of them keep their bounds.

    Parameters
    ----------
    width
        Columns.
    whole
        Those that are counts of whole things.
    raised
        Those that are rounded up where whole numbers are not searched for.

    Attributes
    ----------
    cost, penalty, upper
        Of each column: its part of the cost, what it adds to that for what should not be, both 0 unless set, and its
        bound from above.
    """

    def __init__(self, width: int, whole: Sequence[int], raised: Sequence[int]) -> None:
        self.cost, self.penalty = np.zeros(width), np.zeros(width)
        self.upper = np.full(width, np.inf)
        self._whole, self._raised = list(whole), list(raised)
        self._rows: list[tuple[Mapping[int, float], float, float]] = []

    def row(self, factors: Mapping[int, float], least: float = -inf, most: float = inf) -> None:
        """Keep a sum of columns, each times its factor, within bounds."""
        self._rows.append((factors, least, most))

    def solved(self, *, is_small: bool) -> Any:
        """Return the columns of the best solution that is found.

        Parameters
        ----------
        is_small
            Whether to search for whole numbers at once; else fractions are looked at first.

        Raises
        ------
        InfeasibleError
            No solution keeps all bounds.
        SpecError
            SciPy is not installed.
        """
        first = self._best(self._system(self.cost + self.penalty), is_small)
        if self.penalty @ first <= NOTICED * (self.cost @ first):
            return first
        unavoidable = self._best(self._system(self.penalty, PENALTY_GAP), is_small)
        least = min(float(self.penalty @ unavoidable), float(self.penalty @ first))
        return self._best(self._beyond(least), is_small)[: len(self.cost)]

    def _best(self, system: _System, is_small: bool) -> Any:
        """The best solution of one system that is found."""
        if is_small and (exact := system.solved(whole=self._whole)).status == 0:
            return exact.x
        fractions = system.solved()
        if fractions.x is None:
            raise InfeasibleError(fractions.message)
        if fractions.x[self._whole].sum() > MANY and (found := self._rounded(system, fractions.x)) is not None:
            return found
        exact = system.solved(whole=self._whole)
        if exact.status == 0:
            return exact.x
        found = self._rounded(system, fractions.x)  # the search has ended early, what it has may be far off
        if found is None and exact.x is None:
            raise InfeasibleError(exact.message)
        candidates = [x for x in (found, exact.x) if x is not None]
        return min(candidates, key=lambda x: float(system.cost @ x))

    def _rounded(self, system: _System, fractions: Any) -> Any:
        """Fractions rounded up, or None where that breaks a bound; tried once more with room in each for it."""
        up = self._up(fractions)
        if system.holds(up):
            return up
        added = np.maximum(system.matrix[:, self._whole].toarray(), 0.0) @ np.ceil(
            np.maximum(fractions[self._whole], 0.0) % 1.0 - 1e-6
        )
        most = system.most
        tighter = np.where(np.isfinite(most), np.maximum(most - added, system.least), most)
        again = system.solved(most=tighter)
        if again.x is None:
            return None
        up = self._up(again.x)
        return up if system.holds(up) else None

    def _up(self, fractions: Any) -> Any:
        up = fractions.copy()
        up[self._raised] = np.ceil(fractions[self._raised] - 1e-6)
        return up

    def _system(self, cost: Any, gap: float = RELATIVE_GAP) -> _System:
        try:
            optimize, sparse = import_module("scipy.optimize"), import_module("scipy.sparse")
        except ImportError as error:
            raise SpecError("provisioning needs SciPy; install dask-fmware[provision]") from error
        entries = [(i, j, value) for i, (factors, _, _) in enumerate(self._rows) for j, value in factors.items()]
        i, j, values = zip(*entries, strict=True)
        at = np.array((i, j), np.int32)  # up to SciPy 1.14 the solver takes no other
        matrix = sparse.csr_array((values, tuple(at)), shape=(len(self._rows), len(cost)))
        least, most = np.array([row[1] for row in self._rows]), np.array([row[2] for row in self._rows])
        return _System(optimize, cost, self.upper, matrix, least, most, gap)

    def _beyond(self, least: float) -> _System:
        """The costs with, as one more column, what there is of the penalty beyond its least."""
        made = Programme(len(self.cost) + 1, self._whole, self._raised)
        made.upper[:-1] = self.upper
        penalty = {int(j): float(self.penalty[j]) for j in np.flatnonzero(self.penalty)}
        made._rows = [*self._rows, ({**penalty, len(self.cost): -1.0}, -inf, least)]
        return made._system(np.append(self.cost, 1.0))


@dataclass(frozen=True, slots=True)
class _System:
    """A programme as the solver takes it."""

    optimize: Any  # the solver's module
    cost: Any
    upper: Any
    matrix: Any  # rows x columns
    least: Any  # of the rows
    most: Any
    gap: float  # of what is minimised, within which the search ends

    def solved(self, *, whole: Sequence[int] = (), most: Any = None) -> Any:
        """Solve with the columns of `whole` whole; `most` replaces the bounds of the rows from above."""
        width = len(self.cost)
        integrality = np.zeros(width)
        integrality[list(whole)] = 1
        optimize, bound = self.optimize, self.most if most is None else most
        return optimize.milp(
            self.cost,
            integrality=integrality,
            bounds=optimize.Bounds(np.zeros(width), self.upper),
            constraints=optimize.LinearConstraint(self.matrix, self.least, bound),
            options={"mip_rel_gap": self.gap, "node_limit": NODES},
        )

    def holds(self, columns: Any) -> bool:
        """Whether columns keep the bounds of all rows."""
        sums = self.matrix @ columns
        return bool(np.all(sums >= self.least - 1e-6) and np.all(sums <= self.most + 1e-6))
