"""Bound workflows beside other collections: everybody gets its own result.

The adapter is `dask_fmware/compile/dask_internals.py`.
"""

from __future__ import annotations

import operator
from typing import Any

import dask
import pytest
from dask import bag
from distributed import Client

import dask_fmware as fm


@fm.task
def shout(text: Any) -> str:
    return str(text).upper()


@fm.workflow
def plain(text):
    return shout(text)


def mixed() -> list[Any]:
    """Collections in turns."""
    return [dask.delayed(operator.add)(dask.delayed(0), 1), plain("abc"), dask.delayed(2), plain(dask.delayed("d"))]


VALUES = (1, "ABC", 2, "D")


@pytest.mark.parametrize("turns", [1, -1], ids=["delayed first", "workflow first"])
def test_workflows_and_delayed_values_have_their_own_results(turns: int) -> None:
    assert dask.compute(*mixed()[::turns]) == VALUES[::turns]
    assert [one.compute() for one in dask.persist(*mixed()[::turns])] == list(VALUES[::turns])


@pytest.mark.parametrize("turns", [1, -1], ids=["delayed first", "workflow first"])
async def test_so_they_have_on_a_cluster(turns: int) -> None:
    async with Client(processes=False, asynchronous=True, dashboard_address=None, set_as_default=False) as client:
        futures = client.compute(mixed()[::turns])
        assert await client.gather(futures) == list(VALUES[::turns])
        persisted = client.persist(mixed()[::turns])
        assert await client.gather(client.compute(persisted)) == list(VALUES[::turns])


def test_beside_bags_dask_keeps_the_order_where_it_does_not_optimize() -> None:
    both = [bag.from_sequence([1]), plain("abc"), bag.from_sequence([3])]
    assert dask.compute(*both, scheduler="sync", optimize_graph=False) == ([1], "ABC", [3])


def test_stock_dask_swaps_results_of_collections_of_several_kinds() -> None:
    """The fault of Dask's own; when it has mended it, `AsDelayed` and a warning in docs/workflows.md can go."""
    both = [dask.delayed(1), bag.from_sequence([2]), dask.delayed(3)]
    assert dask.compute(*both, scheduler="sync") == (1, 3, [2])
