"""A real cluster with emulated engines and the simulator on what it recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dask_fmware as fm
from benchmarks.parity import chain, deployment
from dask_fmware.simulate.agreement import agreement
from dask_fmware.simulate.recorded import read_recorded
from dask_fmware.simulate.replay import replay


@pytest.mark.parametrize("policy", ["greedy", "slack"])
async def test_recorded_runs_are_simulated_to_the_same_decisions(policy: str, serving: Any, tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    async with serving(document=deployment(policy, log)) as cluster:
        for number in range(6):  # one after the other, so that a stall of this machine changes no decision
            run = chain(question=f"{number} " * (4 + number)).options(slo=fm.SLO(ttft_s=60.0))
            future = cluster.client.compute(run)
            await future
            future.release()
        await cluster.settled()
    assert replay(log).difference is None
    recorded = read_recorded(log)
    found = agreement(recorded)
    assert (found.calls, found.same_replica, found.swapped) == (12, 1.0, 0.0)
    assert found.goodput_simulated == found.goodput_recorded == 1.0
