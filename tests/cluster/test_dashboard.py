"""The page of the Dask dashboard, its routes, explanations and metrics, on a cluster in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from math import inf
from typing import Any

import dask.config
import pytest
from bokeh.server.tornado import BokehTornado
from distributed import Client
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

import dask_fmware as fm
from dask_fmware.errors import NotInstalledError
from dask_fmware.observe import History
from dask_fmware.observe.figures import Figures
from dask_fmware.observe.window import NodeTally
from dask_fmware.runtime import ReplicaGone
from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware_scheduler.dashboard import board
from dask_fmware_scheduler.dashboard.board import Board
from tests.cluster.flows import one, rag
from tests.runtime.builders import Driver, plan, replica

CANARY = "<script>alert('canary')</script><b>"
PANELS = ("overview", "slack")


class DashboardCluster(InProcessCluster):
    """A cluster in this process with a web server."""

    def _made(self) -> fm.LocalModelCluster:
        return fm.LocalModelCluster(
            self._deployment, processes=False, asynchronous=True, dashboard_address="127.0.0.1:0", **self._kwargs
        )

    async def get(self, path: str) -> HTTPResponse:
        """Answer of the scheduler's web server."""
        port = self.scheduler.http_server.port
        return await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/{path}", raise_error=False, request_timeout=60)

    async def figures(self) -> dict[str, Any]:
        return dict(json.loads((await self.get("fmware/figures.json")).body))


@pytest.fixture
async def cluster() -> AsyncIterator[DashboardCluster]:
    async with DashboardCluster(deployment("small", "large"), validate=True) as cluster:
        yield cluster


async def test_page_and_panels_are_served_named_and_taken_away_with_the_runtime(cluster: DashboardCluster) -> None:
    page = await cluster.get("fmware")
    assert page.code == 200
    text = page.body.decode()
    assert '<a href="fmware">Fmware</a>' in text
    assert all(f'data-panel="{panel}"' in text for panel in PANELS)
    assert '<a href="fmware">' in (await cluster.get("status")).body.decode()
    plots = json.loads((await cluster.get("individual-plots.json")).body)
    assert plots["Individual Fmware Slack"] == "/individual-fmware-slack"
    assert "Individual Task Stream" not in plots or plots["Individual Task Stream"] == "/individual-task-stream"
    for panel in PANELS:
        alone = await cluster.get(f"individual-fmware-{panel}")
        assert alone.code == 200
        assert f'data-panel="{panel}"' in alone.body.decode()
    for name in ("fmware.js", "panels.js", "theme.js", "fmware.css"):
        assert (await cluster.get(f"fmware/static/{name}")).code == 200
    await fm.uninstall(cluster.client)
    for path in ("fmware", "fmware/figures.json", "individual-fmware-slack"):
        assert (await cluster.get(path)).code == 404
    assert '<a href="fmware">' not in (await cluster.get("status")).body.decode()
    assert "Individual Fmware Slack" not in json.loads((await cluster.get("individual-plots.json")).body)


async def test_a_bokeh_that_does_not_wait_in_the_event_loop_is_taken_out(
    cluster: DashboardCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As since Bokeh 3.10, which wants Python 3.12."""
    stop = BokehTornado.stop

    def refusing(app: BokehTornado, wait: bool = True) -> None:
        if wait:
            raise RuntimeError("Cannot synchronously wait on a running event loop; use 'await stop_async()'")
        stop(app, wait=False)

    with monkeypatch.context() as patch:
        patch.setattr(BokehTornado, "stop", refusing)
        await fm.uninstall(cluster.client)
    assert (await cluster.get("fmware")).code == 404


async def test_figures_are_those_of_the_runs_and_names_of_users_reach_no_html(
    cluster: DashboardCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "FRESH_S", 0.0)
    empty = await cluster.figures()
    assert empty["live"]["verdict"]["state"] == "idle"
    assert sorted(row[0] for row in empty["fleet"]["data"]) == ["large-cpu-1", "small-cpu-0"]
    futures = [cluster.client.compute(rag(question=CANARY).options(tenant=CANARY)) for _ in range(3)]
    await cluster.client.gather(futures)
    shown = await cluster.figures()
    assert shown["live"]["tiles"]["met"] == 3
    assert shown["live"]["nodes"]["rag"]["calls"] == [3, 3]
    assert [node["name"] for node in shown["graphs"]["data"]["rag"]] == ["rewrite", "retrieve", "answer"]
    assert CANARY in [group["name"] for group in shown["live"]["groups"]]
    answer = await cluster.get("fmware/figures.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for path in ("fmware", *(f"individual-fmware-{panel}" for panel in PANELS), "status"):
        assert "canary" not in (await cluster.get(path)).body.decode()
    seen = shown["fleet"]["version"], shown["graphs"]["version"]
    again = json.loads((await cluster.get(f"fmware/figures.json?fleet={seen[0]}&graphs={seen[1]}")).body)
    assert "fleet" not in again
    assert "graphs" not in again
    for future in futures:
        future.release()


def test_a_page_left_open_takes_nothing_of_the_router_before_for_that_of_the_next() -> None:
    boards = [board_of(name, began) for name, began in (("old", 1_795_000_000.0), ("new", 1_795_000_001.0))]
    shown = [json.loads(board.json()) for board in boards]
    seen = {part: shown[0][part]["version"] for part in ("fleet", "graphs", "predictions")}
    assert set(json.loads(boards[0].json(**seen))) == {"live"}
    assert json.loads(boards[1].json(**seen)) == shown[1]
    assert shown[1]["fleet"]["data"][0][0] == "new"
    assert all(0 < version < 1e15 for version in seen.values())  # digits that the route reads and JavaScript keeps


async def test_a_replica_that_is_lost_is_named_as_missing(cluster: DashboardCluster) -> None:
    assert (await cluster.figures())["live"]["missing"] == []
    await cluster.workers["small-cpu-0"].close()
    await cluster.until(lambda: len(cluster.router.machine.fleet) == 1, "the replica is gone")
    async with asyncio.timeout(30):
        while not (missing := (await cluster.figures())["live"]["missing"]):  # noqa: ASYNC110 - made once a second
            await asyncio.sleep(0.1)
    assert missing == ["1 of small on cpu"]


def test_columns_over_replicas_are_in_the_order_of_the_fleet_that_a_page_gets_with_them() -> None:
    driver, now = Driver(), 1_795_000_000.0
    history = History(driver.machine)
    driver.machine.observers.append(history)
    driver.ready(replica("a", slots=2), replica("b"))
    driver.start("x", "y", "z")
    board = Board(Figures(history), lambda: now)
    first = json.loads(board.json())
    assert first["live"]["fleet"] == first["fleet"]["version"]
    driver.tell(ReplicaGone("tcp://a"))
    driver.ready(replica("c", slots=3))
    driver.start("v", "w")
    seen = first["fleet"]["version"]
    now += 0.5  # what was made is fresh for a while: nothing of it is of another moment
    assert set(json.loads(board.json(fleet=seen))["live"]["replicas"]["running"]) == {2, 1}
    assert "fleet" not in json.loads(board.json(fleet=seen))
    now += 0.5
    later = json.loads(board.json(fleet=seen))
    assert later["live"]["fleet"] == later["fleet"]["version"] > seen
    names = [row[0] for row in later["fleet"]["data"]]
    assert dict(zip(names, later["live"]["replicas"]["running"], strict=True)) == {"b": 1, "c": 2}


def board_of(name: str, now: float) -> Board:
    """A router with one replica of this name that was sent one run."""
    driver = Driver()
    history = History(driver.machine)
    driver.machine.observers.append(history)
    driver.ready(replica(name))
    driver.submit(plan(name))
    return Board(Figures(history), lambda: now)


def test_what_is_no_number_is_null_on_the_page() -> None:
    board = board_of("r0", 1_795_000_000.0)
    board.figures.history.window.at(1_795_000_000.0).nodes["rag", "a"] = NodeTally(calls=1, slack_s=inf, with_slack=1)
    assert json.loads(board.json())["live"]["nodes"]["rag"]["slack_s"] == [None]


async def test_routes_bear_strange_queries_and_only_read(cluster: DashboardCluster) -> None:
    for query in ("fleet=x", "fleet=1e99999", "fleet=" + "9" * 400, "fleet=%00", "fleet=--1", "fleet=-1"):
        answer = await cluster.get("fmware/figures.json?" + query)
        assert answer.code == 200
        assert "fleet" in json.loads(answer.body)
    port = cluster.scheduler.http_server.port
    for method in ("POST", "PUT", "DELETE"):
        sent = await AsyncHTTPClient().fetch(
            f"http://127.0.0.1:{port}/fmware/figures.json",
            method=method,
            body=None if method == "DELETE" else "x",
            raise_error=False,
        )
        assert sent.code == 405
    assert (await cluster.get("fmware/static/..%2f..%2f..%2frouter.py")).code in (403, 404)


async def test_the_page_can_be_switched_off() -> None:
    with dask.config.set({"fmware.dashboard.enabled": False}):
        async with DashboardCluster(deployment("small")) as cluster:
            assert (await cluster.get("fmware")).code == 404
            assert (await cluster.get("status")).code == 200


async def test_nothing_is_made_while_nobody_looks(cluster: DashboardCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from dask_fmware.observe.figures import Figures

    made: list[float] = []
    live = Figures.live
    monkeypatch.setattr(Figures, "live", lambda self, now: made.append(now) or live(self, now))
    await cluster.client.compute(one("x"))
    assert not made
    await asyncio.gather(*(cluster.figures() for _ in range(5)))
    assert len(made) == 1


async def test_metrics_are_on_the_schedulers_own_page(cluster: DashboardCluster) -> None:
    await cluster.client.compute(rag(question=CANARY).options(tenant='a "quoted" \\ name'))
    text = (await cluster.get("metrics")).body.decode()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    submitted = found["fmware_runs_submitted"].samples
    assert ('a "quoted" \\ name', 1.0) in [(s.labels["tenant"], s.value) for s in submitted]
    assert {s.labels["model"] for s in found["fmware_slots"].samples} == {"small", "large"}
    ended = found["fmware_worker_attempts"].samples  # its workers are in this process
    assert sum(s.value for s in ended if s.labels["outcome"] == "finished") == 2
    assert "canary" not in text
    assert any(name.startswith("dask_scheduler") for name in found)


async def test_a_miss_is_explained_with_node_card_and_what_it_waited_for() -> None:
    async with DashboardCluster(deployment("small", slots=1)) as cluster:
        engine = cluster.engines["small-cpu-0"]
        engine.pause()
        first = cluster.client.compute(one("x").options(slo=fm.SLO(e2e_s=600)))
        await cluster.until(lambda: engine.state().running == 1)
        late = cluster.client.compute(one("y").options(slo=fm.SLO(e2e_s=0.02)))
        await cluster.until(lambda: cluster.router.machine.held == 1)
        await asyncio.sleep(2)  # longer than the call itself takes on a busy machine
        waiting = await fm.explain(late)
        assert "is under way, already" in waiting.headline
        engine.resume()
        await cluster.client.gather([first, late])
        why = await fm.explain(late)
        assert "missed its SLO" in why.headline
        assert why.worst is not None
        assert (why.worst.kind, why.worst.node, why.worst.card) == ("wait", "call", "cpu-0")
        assert "it waited" in str(why)
        assert "Meanwhile that card ran one.call x1" in str(why)
        assert "card cpu-0" in why._repr_html_()
        met = await fm.explain(first)
        assert "met its SLO" in met.headline
        assert met.path[0].predicted_s is None or met.path[-1].predicted_s is not None
        late.release()
        first.release()


async def test_explain_wants_a_future_of_a_run_and_a_runtime(cluster: DashboardCluster) -> None:
    with pytest.raises(TypeError, match=r"fm\.explain takes the Future"):
        fm.explain("no future")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="not known to the runtime"):
        await fm.explain(cluster.client.submit(len, "no run"))
    await fm.uninstall(cluster.client)
    async with Client(cluster.cluster, asynchronous=True, set_as_default=False) as client:
        with pytest.raises(NotInstalledError):
            await fm.explain(client.submit(len, "no runtime"))


async def test_the_page_shows_three_numbers_of_replicas_and_why(cluster: DashboardCluster) -> None:
    assert (await cluster.figures())["live"]["provisioning"] is None
    cluster.cluster.adapt(fm.Provisioning(mode="manual", interval_s=0.05))
    await fm.scale(cluster.client, {"small": {"cpu": 1}})
    async with asyncio.timeout(30):
        while not (live := (await cluster.figures())["live"])["provisioning"]:  # noqa: ASYNC110 - it is served once a second
            await asyncio.sleep(0.1)
    shown = {kind["model"]: kind for kind in live["provisioning"]}
    assert [shown["small"][name] for name in ("desired", "requested", "ready")] == [1, 1, 1]
    assert "by hand" in shown["small"]["reason"]
    assert live["provisioner"]["mode"] == "manual"
