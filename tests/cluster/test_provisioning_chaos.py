"""Replicas on real worker processes that are killed while they start, while they drain, and again and again.

Every decision is recorded, and each record is held against the contract of the runtime: runs end once, calls go only to
ready replicas with a free slot, what was lost runs elsewhere.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import dask_fmware as fm
from dask_fmware.testing import deployment
from tests.cluster.chaos import PATIENCE_S, kept, until
from tests.cluster.chaos import pids as workers

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

m, n = fm.Model("m"), fm.Model("n")


@fm.workflow(slo=fm.SLO(ttft_s=2.0))
def ask(question: str) -> Any:
    return m("{question}", question=question, max_tokens=8)


@fm.workflow(slo=fm.SLO(ttft_s=2.0))
def ask_other(question: str) -> Any:
    return n("{question}", question=question, max_tokens=8)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[fm.LocalModelCluster, Client]]:
    made = deployment("m", on={"cpu": 1}, token_s=0.05, load_s=0.5)
    made["accelerators"]["cpu"]["cards"] = 4
    made["models"]["m"]["on"]["cpu"]["latency"] = {"first_token_s": 0.001, "output_token_s": 0.05}
    with kept(made, tmp_path) as (cluster, client):
        fm.wait_ready(client)
        cluster.adapt(fm.Provisioning(mode="manual", interval_s=0.2, cool_down_s=0, retry_s=1.0))
        yield cluster, client


def ready(client: Client) -> int:
    state = fm.status(client)["provisioning"]
    return sum(kind["ready"] for kind in state["replicas"]) if state else -1


def pids(client: Client) -> dict[str, int]:
    """Process of each replica's worker, by name."""
    return {name: pid for name, pid in workers(client).items() if name.startswith("m-")}


def kill(client: Client, name: str) -> None:
    os.kill(pids(client)[name], signal.SIGKILL)


def assert_all_answered(futures: list[Any]) -> None:
    until(lambda: all(future.done() for future in futures), "runs that end")
    for future in futures:
        assert future.status == "finished"
        assert fm.report(future).data.state == "finished"


def assert_all_answered_once(futures: list[Any]) -> None:
    assert_all_answered(futures)
    for future in futures:
        report = fm.report(future).data
        finished = [a for call in report.calls for a in call.attempts if a.outcome == "finished"]
        assert len(finished) == len(report.calls)


def test_replicas_killed_while_they_start_are_there_in_the_end(world: Any) -> None:
    _, client = world
    futures = [client.compute(ask(question=f"q{i}")) for i in range(30)]
    fm.scale(client, {"m": {"cpu": 3}})
    until(lambda: len(pids(client)) >= 2, "a worker comes")
    kill(client, next(name for name in pids(client) if name != "m-cpu-0"))
    until(lambda: ready(client) == 3, "three replicas serve")
    assert_all_answered_once(futures)


def test_a_replica_killed_while_it_drains_loses_no_run(world: Any) -> None:
    _, client = world
    fm.scale(client, {"m": {"cpu": 2}})
    until(lambda: ready(client) == 2, "two replicas serve")
    futures = [client.compute(ask(question=f"q{i}")) for i in range(40)]
    fm.scale(client, {"m": {"cpu": 1}})
    until(lambda: any(r["draining"] for r in fm.status(client)["replicas"]), "one drains")
    name = next(r["name"] for r in fm.status(client)["replicas"] if r["draining"])
    if name in pids(client):
        kill(client, name)
    assert_all_answered_once(futures)
    until(lambda: ready(client) == 1, "one replica is left")


def test_a_crash_loop_ends_in_a_pause_with_its_reason(world: Any) -> None:
    _, client = world
    fm.scale(client, {"m": {"cpu": 2}})
    until(lambda: ready(client) == 2, "two replicas serve")
    for _ in range(3):
        until(lambda: ready(client) == 2, "it is back")
        kill(client, "m-cpu-1")
        until(lambda: ready(client) < 2, "it is lost")
    until(lambda: "was lost 3 times" in str(fm.status(client)["provisioning"]["steps"]), "it is told")
    until(lambda: ready(client) == 2, "another takes its place")


def test_runs_during_a_step_up_and_down_are_each_answered_once(world: Any) -> None:
    cluster, client = world
    fm.scale(client, None)
    cluster.adapt(fm.Provisioning(interval_s=0.2, cool_down_s=0, idle_s=5, load_s=1))
    futures = [client.compute(ask(question=f"q{i}")) for i in range(200)]
    until(lambda: ready(client) >= 2, "more replicas come")
    assert_all_answered_once(futures)
    del futures
    until(lambda: ready(client) == 0, "all go when idle")
    assert client.compute(ask(question="wake")).result(timeout=PATIENCE_S) is not None


def test_the_plugin_is_installed_anew_while_replicas_start(world: Any) -> None:
    cluster, client = world
    fm.scale(client, {"m": {"cpu": 3}})
    until(lambda: len(pids(client)) >= 2, "a worker comes")
    fm.uninstall(client)
    fm.install(client, cluster.deployment)
    until(lambda: ready(client) >= 1, "a replica is known again")
    assert_all_answered_once([client.compute(ask(question=f"q{i}")) for i in range(20)])
    fm.scale(client, {"m": {"cpu": 3}})
    until(lambda: ready(client) == 3, "three replicas serve")


def test_two_models_that_want_the_last_card_are_both_served(tmp_path: Path) -> None:
    made = deployment("m", "n", token_s=0.02, load_s=0.5)
    made["accelerators"]["cpu"]["cards"] = 1
    made["models"]["n"]["on"]["cpu"]["replicas"] = 0
    with kept(made, tmp_path) as (cluster, client):
        cluster.adapt(fm.Provisioning(interval_s=0.2, cool_down_s=0, idle_s=3, load_s=1))
        asked = [client.compute(flow(question=f"q{i}")) for i in range(20) for flow in (ask, ask_other)]
        assert_all_answered_once(asked)
        served = {step["model"] for step in fm.status(client)["provisioning"]["steps"]}
        assert "n" in served


def test_a_card_that_vanishes_is_left_alone_and_another_taken(tmp_path: Path) -> None:
    made = deployment("m", on={"one": 1, "two": 1}, token_s=0.05, load_s=0.5)
    for name, price in (("one", 1.0), ("two", 3.0)):
        made["accelerators"][name] = {"cards": 2, "price_per_hour": price}
        made["models"]["m"]["on"][name]["latency"] = {"first_token_s": 0.001, "output_token_s": 0.05}
    made["models"]["m"]["on"]["two"]["replicas"] = 0
    with kept(made, tmp_path) as (cluster, client):
        fm.wait_ready(client)
        cluster.adapt(fm.Provisioning(interval_s=0.2, cool_down_s=0, idle_s=60, load_s=1, retry_s=60))
        until(lambda: ready(client) >= 1, "it serves")
        backend, make = cluster._adaptive.backend, cluster.replica_worker

        def without_one(replica: Any) -> Any:
            if replica.accelerator == "one":
                raise OSError("no such card")
            return make(replica)

        backend._worker_spec = without_one
        futures = [client.compute(ask(question=f"q{i}")) for i in range(30)]
        for name in [name for name in pids(client) if name.startswith("m-one")]:
            cluster.workers[name].auto_restart = False  # its nanny is gone with the machine
            kill(client, name)
        assert_all_answered(futures)  # a result that was lost with its worker is made once more
        kinds = {kind["accelerator"]: kind for kind in fm.status(client)["provisioning"]["replicas"]}
        assert kinds["two"]["ready"] >= 1
        assert "no such card" in str(fm.status(client)["provisioning"]["steps"])
