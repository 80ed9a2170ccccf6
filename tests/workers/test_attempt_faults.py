"""What becomes of an attempt whose engine has no room, or that fails in a way which nobody has foreseen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from distributed import Reschedule

from dask_fmware.errors import CapacityError, EngineError
from dask_fmware.model.call import ModelCall
from dask_fmware.model.engine import Delta, Request
from dask_fmware.model.messages import AttemptEnded, Grant
from dask_fmware_workers.engine_slots import EngineSlots
from dask_fmware_workers.runner import CallRunner

SECRET = "the patient's diagnosis"


class Raises:
    """As much of an engine as a runner uses."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        yield Delta("a", 1)
        raise self.fault


def run(fault: Exception) -> tuple[Exception, AttemptEnded, list[Any]]:
    """One attempt: what it raised, the message that ended it, and engines that were told to be dead."""
    sent: list[dict[str, Any]] = []
    dead: list[Any] = []
    runner = CallRunner(sent.append, lambda engine, error: dead.append(engine))

    async def scenario() -> Exception:
        runner.grant(Grant("k", 1))
        with pytest.raises(Exception) as caught:  # noqa: PT011 (which one is what is asked)
            await runner.run(Raises(fault), ModelCall("w", "n", "small", (), 16), "k", {})  # type: ignore[arg-type]
        return caught.value

    error = asyncio.run(scenario())
    return error, AttemptEnded.from_wire(sent[-1]), dead


@pytest.fixture(autouse=True)
def no_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelCall, "request", lambda self, values, request_id, priority: Request(request_id, 16, "p"))


def test_a_call_for_which_one_engine_has_no_room_is_tried_elsewhere() -> None:
    error, ended, dead = run(CapacityError("over the quota of its key", shut_s=7.0))
    assert isinstance(error, Reschedule)
    assert (ended.outcome, ended.error, dead) == ("retry", "CapacityError: over the quota of its key", [])
    assert (ended.is_sound, ended.shut_s) == (True, 7.0)
    assert run(CapacityError("no room"))[1].shut_s == 0.0


def test_a_fault_that_is_not_ours_is_told_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    error, ended, dead = run(KeyError(SECRET))
    assert isinstance(error, EngineError)
    assert str(error).endswith("KeyError; where it was raised is in the log of the worker")
    assert (ended.outcome, ended.error, dead) == ("failed", "KeyError", [])
    assert "raise self.fault" in caplog.text
    assert SECRET not in f"{error!r} {error.__cause__} {caplog.text}"
    assert error.__suppress_context__


async def test_an_answer_is_not_lost_with_the_message_of_its_end(caplog: pytest.LogCaptureFixture) -> None:
    class Answers:
        async def generate(self, request: Request) -> AsyncIterator[Delta]:
            yield Delta("fine", 1, "stop")

    def fails(message: dict[str, Any]) -> None:
        raise OSError(SECRET)

    runner = CallRunner(lambda message: None, lambda engine, error: None, fails)
    runner.slots = EngineSlots(1)
    for name in "ab":
        runner.grant(Grant(name, 1))
        completion = await runner.run(Answers(), ModelCall("w", "n", "small", (), 16), name, {})  # type: ignore[arg-type]
        assert completion.text == "fine"
    assert "the end of attempt 1 could not be told (OSError)" in caplog.text
    assert SECRET not in caplog.text
