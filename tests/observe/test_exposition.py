"""Series for Prometheus: names and types as documented, values as counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dask_fmware.model.engine import EngineState
from dask_fmware.model.messages import AttemptEnded
from dask_fmware.observe import exposition
from dask_fmware.observe.exposition import Family
from dask_fmware.runtime import ReplicaDraining
from dask_fmware_scheduler.services.metrics import series
from dask_fmware_workers.loading import Labels
from dask_fmware_workers.metrics import WorkerMetrics
from tests.observe.test_history import driver, history, one_run
from tests.runtime.builders import Driver, replica

__all__ = ["driver"]  # a fixture

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def scraped(*sources: exposition.Source, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What Prometheus reads, by series."""
    monkeypatch.setattr(exposition, "_sources", list(sources))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(exposition._Collector())
    return {
        sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def worker_families() -> Iterator[Family]:
    metrics = WorkerMetrics(Labels("w0", "tcp://w0", "small", "L4", None), lambda: None)
    yield from metrics.series()
    yield from metrics._engine(EngineState(1, 2, 0.5, 10, 5, 1))


def test_names_types_and_labels_are_those_of_the_documentation(driver: Driver) -> None:
    documented = dict(re.findall(r"^\| `(fmware_\w+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE))
    made = {}
    for family in [*series(history(driver), 0.0, {}), *worker_families()]:
        name = family.name + ("_total" if family.kind == "counter" else "")
        made[name] = f"{family.kind} | {', '.join(family.labels) or '-'} | {family.help}"
    assert documented == made


def test_names_say_their_unit(driver: Driver) -> None:
    units = ("seconds", "ratio", "runs", "calls", "tokens", "attempts", "requests", "preemptions", "replicas", "slots")
    for family in [*series(history(driver), 0.0, {}), *worker_families()]:
        assert any(unit in family.name for unit in units) or family.name == "fmware_worker_engine_serves"


def test_a_workflow_whose_runs_all_miss_has_a_share_of_nothing_met(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.ready(replica("r0"))
    one_run(driver, "a", 10.0, 4.0)
    found = scraped(lambda: series(history(driver), 30.0, {}), monkeypatch=monkeypatch)
    judged = "fmware_runs_judged_total,tenant=default,verdict={},workflow=rag"
    assert [found.get(judged.format(verdict)) for verdict in ("met", "missed")] == [0, 1]


def test_runs_calls_and_replicas_are_counted(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.ready(replica("r0", slots=3))
    one_run(driver, "a", 10.0, 0.4)
    one_run(driver, "b", 20.0, 4.0)
    driver.start("c")
    failed = {"tcp://x": {"model": "large", "accelerator": "cpu"}}
    found = scraped(lambda: series(history(driver), 30.0, failed), monkeypatch=monkeypatch)
    assert found["fmware_runs_submitted_total,tenant=default,workflow=rag"] == 3
    assert found["fmware_runs_judged_total,tenant=default,verdict=missed,workflow=rag"] == 1
    missed = "fmware_runs_missed_total,accelerator=cpu,card=r0/0,cause=run,node=answer,workflow=rag"
    assert found[missed] == 1
    assert found["fmware_runs_under_way"] == 1
    assert found["fmware_run_duration_seconds_bucket,le=0.5,workflow=rag"] == 1
    assert found["fmware_run_duration_seconds_bucket,le=+Inf,workflow=rag"] == 2
    assert found["fmware_run_duration_seconds_sum,workflow=rag"] == pytest.approx(4.4)
    assert found["fmware_calls,node=c,state=running,workflow=rag"] == 1
    assert found["fmware_tokens_total,accelerator=cpu,kind=output,model=small"] == 20
    assert found["fmware_replicas,accelerator=cpu,model=large,state=failed"] == 1
    assert found["fmware_slots,accelerator=cpu,model=small"] == 3
    assert found["fmware_replica_busy_seconds_total,accelerator=cpu,model=small,replica=r0"] == pytest.approx(10.4)


def test_replicas_are_counted_by_how_they_stand_to_calls(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.ready(replica("r0"), replica("r1"), replica("r2"))
    driver.start("a")
    driver.end("a", "retry", is_sound=True, shut_s=30.0)
    driver.tell(ReplicaDraining("tcp://r1"))
    found = scraped(lambda: series(history(driver), 10.0, {}), monkeypatch=monkeypatch)
    states = {name.rpartition("=")[2]: count for name, count in found.items() if name.startswith("fmware_replicas,")}
    assert states == {"ready": 1, "draining": 1, "shut": 1}


def test_names_of_users_are_escaped(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.ready(replica('r"0\n\\'))
    found = scraped(lambda: series(history(driver), 30.0, {}), monkeypatch=monkeypatch)
    assert 'fmware_replica_running_calls,accelerator=cpu,model=small,replica=r"0\n\\' in found


def test_equal_series_of_two_sources_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def source(worker: str, value: float) -> exposition.Source:
        return lambda: [Family("fmware_x", "gauge", "help", ("worker",)).add_all({worker: value})]

    found = scraped(source("a", 1), source("b", 2), source("a", 3), monkeypatch=monkeypatch)
    assert found == {"fmware_x,worker=a": 3, "fmware_x,worker=b": 2}


def test_a_worker_counts_what_it_tells_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = WorkerMetrics(Labels("w0", "tcp://w0", "small", "L4", None), lambda: None)
    told: list[dict[str, object]] = []
    send = metrics.counting(told.append)
    send({"op": "fmware-first-token"})
    send(AttemptEnded("c", 1, "finished", 20, 10, 5, 0.2, 0.9).to_wire())
    send(AttemptEnded("d", 1, "aborted").to_wire())
    assert [message["op"] for message in told] == ["fmware-first-token", "fmware-ended", "fmware-ended"]
    found = scraped(metrics.series, monkeypatch=monkeypatch)
    who = "accelerator=L4,{}model=small,{}worker=w0"
    assert found["fmware_worker_attempts_total," + who.format("", "outcome=finished,")] == 1
    assert found["fmware_worker_tokens_total," + who.format("kind=cached,", "")] == 5
    assert found["fmware_worker_duration_seconds_count," + who.format("", "")] == 1
    assert found["fmware_worker_engine_serves," + who.format("", "")] == 0


def test_the_grafana_dashboard_asks_for_series_and_labels_that_there_are(driver: Driver) -> None:
    known: dict[str, set[str]] = {}
    for family in [*series(history(driver), 0.0, {}), *worker_families()]:
        suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[family.kind]
        known.update({family.name + suffix: {*family.labels, "le"} for suffix in suffixes})
    board = json.loads((PAGE.parent / "grafana.json").read_text())
    questions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(questions) > 15
    for question in questions:
        names = set(re.findall(r"fmware_\w+", question))
        assert names <= known.keys(), question
        used = {label for inside in re.findall(r"{([^}]*)}", question) for label in re.findall(r"(\w+)=", inside)}
        used |= {label.strip() for inside in re.findall(r"by \(([^)]*)\)", question) for label in inside.split(",")}
        assert used <= set.union(*(known[name] for name in names)), question
