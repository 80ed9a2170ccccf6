"""What a cell asks of a system, and a whole cell on our own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise

import pytest

import benchmarks.support.card_engine  # noqa: F401 - makes the engine known
from benchmarks.support.card_server import ask
from benchmarks.support.dask_system import deployment, start
from benchmarks.support.trial import Cell, PlannedRun, drive, plan, scenario_of
from benchmarks.support.worker_protocol import _read
from dask_fmware.simulation.workload import Workload
from dask_fmware.testing import InProcessCluster


@pytest.mark.parametrize("workflow", ["rag", "shopping"])
def test_a_plan_is_what_the_simulator_draws(workflow: str) -> None:
    cell = Cell(workflow, 12, 7, "drawn", 0.5)  # type: ignore[arg-type]
    drawn = Workload(scenario_of(cell), cell.seed).runs()
    for run, sampled in zip(plan(cell), drawn, strict=True):
        assert (run.arrival_s, run.ttft_slo_s) == (sampled.arrival, sampled.deadline - sampled.arrival)
        assert run.ttft_slo_s == pytest.approx(sampled.unloaded_s + 0.5)
        taken = [call for node in sampled.nodes if node.taken for call in node.calls]
        assert [(call.prompt_tokens, call.output_tokens) for call in run.calls] == taken
        assert all(len(call.prompt) == 4 * call.prompt_tokens for call in run.calls)
        assert all(call.alone_s["A40"] > 2 * call.alone_s["A100"] for call in run.calls)


def test_runs_survive_the_way_to_another_process() -> None:
    runs = plan(Cell("shopping", 5, 1))
    assert _read(json.dumps([asdict(run) for run in runs])) == runs


async def test_a_slow_client_makes_a_system_no_faster() -> None:
    async def start(run: PlannedRun) -> AsyncIterator[str]:
        yield ""
        yield "answer"
        if run.run_id.endswith("r1"):
            raise RuntimeError("broken")

    runs = [replace(run, arrival_s=-1.0) for run in plan(Cell("rag", 2, 1))]
    (fine, failed), _ = await drive(runs, start, ahead_s=0.0)
    assert fine.submitted_s >= 1.0
    assert fine.first_s is not None
    assert fine.first_s >= fine.submitted_s
    assert failed.error == "RuntimeError: broken"
    assert failed.done_s is None


async def test_a_cell_runs_on_our_cluster_and_the_cards_have_the_record(socket: str) -> None:
    runs = [
        replace(run, arrival_s=0.05 * i, ttft_slo_s=60.0)
        for i, run in enumerate([*plan(Cell("shopping", 6, 3)), *plan(Cell("rag", 2, 3))])
    ]
    async with InProcessCluster(deployment(socket, "slack", time_scale=0.01)) as cluster:
        seen, _ = await drive(runs, partial(start, cluster.client))
        await cluster.settled()
    assert [one.error for one in seen] == [""] * len(runs)
    assert all(one.first_s is not None and one.done_s is not None and one.first_s <= one.done_s for one in seen)
    record = await ask(socket)
    assert sorted(turn["call"] for turn in record) == sorted(call.name for run in runs for call in run.calls)
    for card in ("A100", "A40"):
        turns = [turn for turn in record if turn["card"] == card]
        assert turns
        assert all(after["began"] >= before["ended"] for before, after in pairwise(turns))
