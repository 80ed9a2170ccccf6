"""What a notebook shows: the answer as it comes, clusters and their state; and Dask's own progress bar."""

from __future__ import annotations

from typing import Any

import pytest
from distributed import Client, progress

import dask_fmware as fm
from dask_fmware.client.status import RuntimeStatus
from dask_fmware.testing import deployment
from tests.cluster.flows import one

CANARY = "<script>alert('canary')</script>"


def test_a_stream_as_the_last_line_of_a_cell_prints_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    document = deployment("small", text=f"so it is {CANARY}")
    with (
        fm.LocalModelCluster(document, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        fm.wait_ready(client)
        future = client.compute(one("x"))
        fm.stream(future)._ipython_display_()
        assert capsys.readouterr().out == f"{future.result().text}\n"
        assert "AnswerStream of run" in repr(fm.stream(future))
        shown = cluster._repr_html_()
        assert f'href="http://127.0.0.1:{cluster.scheduler.http_server.port}/fmware"' in shown
        assert "small-cpu-0" in shown
        assert "canary" not in shown
        progress(client.compute([one(str(n)) for n in range(5)]), notebook=False)
        assert "100% Completed" in capsys.readouterr().out


async def test_an_asynchronous_client_is_told_how_to_read_a_stream(
    serving: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving("small") as cluster:
        future = cluster.client.compute(one("x"))
        fm.stream(future)._ipython_display_()
        assert "async for" in capsys.readouterr().out
        await future
        future.release()


async def test_the_state_of_a_runtime_is_shown_as_a_table(serving: Any) -> None:
    async with serving() as cluster:
        state = await fm.status(cluster.client)
        assert isinstance(state, dict)
        html = state._repr_html_()
        assert "large-cpu-1" in html
        assert "0 of" in html
        first, names, *rows = str(state).splitlines()
        assert first == "runtime: 2 replicas ready · policy slack · 0 runs under way · 0 calls held · 1 light worker"
        assert names.split() == ["replica", "model", "card", "engine", "state", "running", "waiting", "ms/token"]
        assert [row.split()[0] for row in rows] == ["large-cpu-1", "small-cpu-0"]


def test_many_replicas_are_summed_up_and_troubles_are_shown_escaped() -> None:
    replica = {"model": "large", "accelerator": "L4", "slots": 8, "running": 3, "waiting": 1, "state": "ready"}
    state = RuntimeStatus(
        replicas=[{**replica, "name": f"large-{n}"} for n in range(1000)],
        policy="slack",
        held=5,
        runs=7,
        light_workers=1,
        failures={"transition": 2},
        failed_replicas=[{"name": "x", "model": "large", "will_retry": False, "error": CANARY}],
    )
    html = state._repr_html_()
    assert html.count("<tr>") == 2
    assert "3,000 of 8,000" in html
    assert "failed for good" in html
    assert "failed 2 times in transition" in html
    assert "<script" not in html
    assert str(state).splitlines()[2] == "large  L4           ready  1,000     3,000 of 8,000  1,000"


def test_a_runtime_without_replicas_is_shown_too() -> None:
    state = RuntimeStatus(replicas=[], policy="slack", held=0, light_workers=0, runs=0, failures={}, failed_replicas=[])
    assert str(state).startswith("runtime: 0 replicas ready")
    assert "<table" not in state._repr_html_()
