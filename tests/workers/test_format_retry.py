"""An answer that breaks its format is asked for once more, if asking again can help; both are reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from distributed import Reschedule

from dask_fmware.errors import OutputFormatError
from dask_fmware.model.call import ModelCall
from dask_fmware.model.engine import Delta, FinishReason, Request, Sampling, Usage
from dask_fmware.model.messages import AttemptEnded, Grant
from dask_fmware_workers.runner import CallRunner


class Says:
    """As much of an engine as a runner uses."""

    def __init__(self, text: str, finish_reason: FinishReason = "stop") -> None:
        self.text, self.finish_reason = text, finish_reason

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        yield Delta(self.text, 3)
        yield Delta("", 0, self.finish_reason, Usage(5, 3))


def run(engine: Any, attempt: int = 1, prices: Any = None, **fields: Any) -> tuple[Any, AttemptEnded]:
    """One attempt: what it gave or raised, and the message that ended it."""
    sent: list[dict[str, Any]] = []
    runner = CallRunner(sent.append, lambda engine, error: None)
    runner.prices = prices
    call = ModelCall("triage", "judge", "small", (), 16, choices=("order", "search"), **fields)

    async def scenario() -> Any:
        runner.grant(Grant("k", attempt))
        try:
            return await runner.run(engine, call, "k", {})
        except (Reschedule, OutputFormatError) as error:
            return error

    result = asyncio.run(scenario())
    return result, AttemptEnded.from_wire(sent[-1])


@pytest.fixture(autouse=True)
def no_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelCall, "request", lambda self, values, request_id, priority: Request(request_id, 16, "p"))


def test_a_mended_answer_is_used_and_counted() -> None:
    completion, ended = run(Says('"Order".'))
    assert (completion.value, completion.text) == ("order", '"Order".')
    assert (ended.outcome, ended.is_repaired) == ("finished", True)
    completion, ended = run(Says("order"))
    assert (ended.outcome, ended.is_repaired) == ("finished", False)


def test_a_broken_answer_is_tried_once_more_and_no_more() -> None:
    error, ended = run(Says("what?"))
    assert isinstance(error, Reschedule)
    assert (ended.outcome, ended.is_sound) == ("retry", True)
    assert "none of the 2 choices" in ended.error
    error, ended = run(Says("what?"), attempt=2)
    assert isinstance(error, OutputFormatError)
    assert ended.outcome == "failed"


@pytest.mark.parametrize("sampling", [Sampling(seed=1), Sampling(temperature=0)])
def test_what_would_say_the_same_again_is_not_tried_again(sampling: Sampling) -> None:
    error, ended = run(Says("what?"), sampling=sampling)
    assert isinstance(error, OutputFormatError)
    assert ended.outcome == "failed"


def test_an_answer_that_broke_its_format_has_cost_all_its_tokens() -> None:
    assert run(Says("what?"))[1].format_tokens == 3
    assert run(Says("order"))[1].format_tokens == 0


def test_an_answer_is_priced_where_the_engine_has_prices() -> None:
    assert run(Says("order"))[1].cost is None
    assert run(Says("order"), prices={"input": 2.0, "output": 10.0})[1].cost == pytest.approx(40e-6)


def test_an_answer_that_max_tokens_cut_is_not_tried_again() -> None:
    error, ended = run(Says("orde", "length"))
    assert isinstance(error, OutputFormatError)
    assert "raise it" in ended.error
