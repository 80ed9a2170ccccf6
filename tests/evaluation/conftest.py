"""The cluster that jobs run on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dask_fmware.testing import InProcessCluster, deployment


@pytest.fixture
async def cluster() -> AsyncIterator[InProcessCluster]:
    """One replica that says the same to every question, but for those that it fails on."""
    rules = [{"when": "engine-fault", "fault": "error"}]
    made = deployment("small", text="so it is", rules=rules)
    made["accelerators"]["cpu"]["price_per_hour"] = 3600.0
    async with InProcessCluster(made, validate=True) as cluster:
        yield cluster
        await cluster.settled()
