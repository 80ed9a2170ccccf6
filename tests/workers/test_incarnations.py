"""What was granted to an engine that died is not run by the one that is started after it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed import Reschedule

from dask_fmware.model.call import ModelCall
from dask_fmware.model.messages import Grant
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
    runner = CallRunner(lambda message: None, lambda engine, error: None)
    runner.engine_died()
    runner.grant(Grant("k", 1))
    run(runner)


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
