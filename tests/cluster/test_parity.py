"""A real cluster with emulated engines and the simulator on what it recorded."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

import dask_fmware as fm
from benchmarks.parity import chain, deployment
from dask_fmware.simulation.agreement import agreement
from dask_fmware.simulation.recorded import read_recorded
from dask_fmware.simulation.replay import replay

STALL_S = 0.03  # later than this, and the times that the router learns from are not the engines' own


class Lateness:
    """How late this process was at most, since it was asked; engines, router and client all run in it."""

    def __init__(self) -> None:
        self.most_s = 0.0
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            self.most_s = max(self.most_s, time.perf_counter() - began - 0.005)

    async def end(self) -> float:
        self._watching.cancel()
        await asyncio.wait([self._watching])
        return self.most_s


@pytest.mark.parametrize("policy", ["greedy", "slack"])
async def test_recorded_runs_are_simulated_to_the_same_decisions(policy: str, serving: Any, tmp_path: Path) -> None:
    for attempt in range(8):  # a machine that stalls slows the engines, which the router notices and the log does not
        log = tmp_path / f"run{attempt}.jsonl"
        async with serving(document=deployment(policy, log)) as cluster:
            lateness = Lateness()
            for number in range(6):  # one after the other, so that nothing hangs on the order of events
                run = chain(question=f"{number} " * (4 + number)).options(slo=fm.SLO(ttft_s=60.0))
                future = cluster.client.compute(run)
                await future
                future.release()
            late_s = await lateness.end()
            await cluster.settled()
        assert replay(log).difference is None
        found = agreement(read_recorded(log))
        is_same = (found.calls, found.same_replica, found.swapped) == (12, 1.0, 0.0)
        if is_same and found.goodput_simulated == found.goodput_recorded == 1.0:
            return
        assert late_s > STALL_S, f"apart, and the machine is not to blame: {found}"
    pytest.skip("this machine stalled every time")
