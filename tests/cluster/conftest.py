"""Clusters of scripted engines: in this event loop, and as processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware_scheduler.dask_internals import SchedulerInternals

Serving = Callable[..., AbstractAsyncContextManager[InProcessCluster]]


@pytest.fixture
def serving() -> Serving:
    """A cluster of scripted engines that is checked for leaks at its end.

    Arguments are those of `deployment`, and ``document`` for a whole deployment.
    """

    @asynccontextmanager
    async def context(*models: str, document: Any = None, **arguments: Any) -> AsyncIterator[InProcessCluster]:
        made = document if document is not None else deployment(*(models or ("small", "large")), **arguments)
        async with InProcessCluster(made, validate=True) as cluster:
            yield cluster
            await cluster.settled()

    return context


@pytest.fixture
async def cluster() -> Any:
    """A cluster with one replica and two light workers."""
    async with InProcessCluster(deployment("small", light_workers=2), validate=True) as cluster:
        yield cluster


@pytest.fixture
def dask(cluster: InProcessCluster) -> SchedulerInternals:
    return SchedulerInternals(cluster.scheduler)
