"""What was granted to an engine that died is not run by the one that is started after it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Reschedule

from dask_fmware.model.call import ModelCall
from dask_fmware.model.messages import PROTOCOL_VERSION, AttemptEnded, Grant, ReplicaReady
from dask_fmware.model.replica import Replica
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_workers.attempt import Attempt
from dask_fmware_workers.runner import CallRunner

CALL = ModelCall("rag", "answer", "small", (), 16)


class Untouched:
    """An engine that must not be asked."""

    def generate(self, request: Any) -> Any:
        raise AssertionError("asked for what was not granted to it")


def run(runner: CallRunner) -> None:
    with pytest.raises(Reschedule, match="not granted here"):
        asyncio.run(runner.run(Untouched(), CALL, "k", {}))


def test_a_grant_is_void_when_the_engine_dies_before_its_call_begins() -> None:
    sent: list[dict[str, Any]] = []
    runner = CallRunner(sent.append, lambda engine, error: None)
    runner.grant(Grant("k", 1))
    runner.engine_died()
    run(runner)
    assert not sent, "the scheduler closes the attempts of an engine that died by itself"


def test_a_grant_that_was_on_its_way_meanwhile_is_void_too() -> None:
    sent: list[dict[str, Any]] = []
    runner = CallRunner(sent.append, lambda engine, error: None)
    runner.engine_died()
    runner.grant(Grant("k", 1))
    assert sent == [AttemptEnded("k", 1, "undelivered").to_wire()], "its slot is free again"
    run(runner)


def test_a_grant_that_another_takes_the_place_of_gives_its_slot_back() -> None:
    """The tasks of a run that is asked for again have the same names, and a worker has one of a name."""
    sent: list[dict[str, Any]] = []
    runner = CallRunner(sent.append, lambda engine, error: None)
    runner.grant(Grant("k", 1))
    runner.grant(Grant("k", 2))
    assert sent == [AttemptEnded("k", 1, "undelivered").to_wire()]
    runner.withdraw("k")
    assert sent[1:] == [AttemptEnded("k", 2, "aborted").to_wire()]


def test_the_next_engine_runs_what_is_granted_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def generate(attempt: Attempt, *_rest: Any) -> str:
        await asyncio.sleep(0)
        asked.append(attempt.call_id)
        return "answer"

    monkeypatch.setattr(Attempt, "generate", generate)
    runner = CallRunner(lambda message: None, lambda engine, error: None)
    runner.engine_died()
    runner.grant(Grant("k", 2, incarnation=1))
    asyncio.run(runner.run(Untouched(), CALL, "k", {}))  # type: ignore[arg-type]
    assert asked == ["k"]


class Router:
    """As much of a router as takes in replicas."""

    def __init__(self) -> None:
        self.taken: dict[str, Any] = {}
        self.dask = SimpleNamespace(is_known=lambda worker: True)
        self.machine = SimpleNamespace(fleet=self.taken)
        self.carrier = SimpleNamespace(worker_came=lambda worker: None)

    def is_offered(self, replica: Replica) -> bool:
        return True

    def take(self, event: Any) -> None:
        self.taken[event.replica.replica_id] = SimpleNamespace(replica=event.replica)

    def look_at(self, worker: str) -> None:
        pass

    def replica_gone(self, worker: str, reason: str) -> None:
        self.taken.pop(worker, None)


def announced(incarnation: int) -> dict[str, Any]:
    latency = {"first_token_s": 0.1, "prompt_token_s": 0.0, "output_token_s": 0.01}
    ready = ReplicaReady(
        "w", "small", "L4", "L4-0", 1, 2048, 16, "scripted", "1", latency, 1.0, incarnation=incarnation
    )
    message = ready.to_wire()
    del message["op"]
    return message


def fails(arrivals: Arrivals, incarnation: int) -> None:
    arrivals._on_failed("tcp://w", name="w", model="small", accelerator="L4", error="it died", incarnation=incarnation)


def test_an_announcement_that_the_death_of_its_engine_overtakes_brings_no_replica() -> None:
    router = Router()
    arrivals = Arrivals(router)  # type: ignore[arg-type]
    fails(arrivals, 0)
    arrivals.announce("tcp://w", PROTOCOL_VERSION, announced(0))
    assert (router.taken, list(arrivals.failed)) == ({}, ["tcp://w"])
    arrivals.announce("tcp://w", PROTOCOL_VERSION, announced(1))
    assert router.taken["tcp://w"].replica.incarnation == 1
    assert not arrivals.failed
    arrivals.announce("tcp://w", PROTOCOL_VERSION, announced(0))
    assert router.taken["tcp://w"].replica.incarnation == 1, "the older announcement comes even later"
