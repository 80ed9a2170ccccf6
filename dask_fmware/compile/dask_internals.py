"""What the collection of a run touches in Dask that carries no public promise: how collections are put together.

Verified with Dask 2026.8; `tests/compile/test_mixed.py` holds the contract tests.
"""

from __future__ import annotations

from typing import Any

from dask.delayed import Delayed

__all__ = ["AsDelayed"]


class AsDelayed:
    """The optimizer of bound workflows: it leaves a graph as the compiler made it, and equals that of delayed values.

    Dask puts collections together that have one optimizer, and hands results out in the order of these groups: with
    another, a workflow between two delayed values got the result of the second. The first of a group optimizes it.
    """

    def __call__(self, graph: Any, keys: Any, **kwargs: Any) -> Any:
        """Return the graph: Dask makes tasks of nothing that its keys do not need."""
        return graph

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsDelayed) or bool(other == Delayed.__dask_optimize__)

    def __hash__(self) -> int:
        return hash(Delayed.__dask_optimize__)
