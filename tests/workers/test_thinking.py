"""A model that thinks before it answers: its user sees nothing of that, and its engine is alive."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dask_fmware.model.call import ModelCall, Template
from dask_fmware.model.messages import AttemptEnded, FirstToken, GiveUp, Grant
from dask_fmware.testing.asking import until
from dask_fmware_workers.runner import CallRunner
from tests.engines.openai_stub import STREAM, Asked, Write, answering, event, piece, started, usage

pytest.importorskip("openai")

OVERDUE_S, PAUSE_S = 0.1, 0.4
THOUGHT = event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": None}]})


async def told(last: bytes, *, answers: bool = True) -> list[dict[str, Any]]:
    """What a worker tells of a call whose model thinks three times, pauses and ends so."""

    async def think(asked: Asked, write: Write) -> None:
        await write(STREAM + 3 * THOUGHT)
        await until(lambda: runner._attempts["k"].ttft_s is not None)  # however long the way of the first thought was
        sent.clear()  # it may have been overdue before that
        runner.give_up(GiveUp("k", 1))
        await asyncio.sleep(PAUSE_S)
        await write(last + usage(5, 9) + b"data: [DONE]\n\n")

    sent: list[dict[str, Any]] = []
    runner = CallRunner(sent.append, lambda engine, error: None)
    call = ModelCall("rag", "answer", "tiny", (Template("why?"),), 16, answers=answers)
    async with answering(think) as address, started(address) as engine:
        runner.grant(Grant("k", 1, overdue_s=OVERDUE_S))
        await runner.run(engine, call, "k", {})
    return sent


async def test_the_first_token_of_a_run_is_the_first_that_is_seen() -> None:
    first, ended = await told(piece("fi") + piece("ne", "stop"))
    assert (first.pop("op"), ended.pop("op")) == (FirstToken.op, AttemptEnded.op)
    attempt = AttemptEnded.from_wire(ended)
    assert (attempt.outcome, attempt.output_tokens) == ("finished", 9)
    assert attempt.ttft_s is not None
    assert attempt.hidden_s >= 0.9 * PAUSE_S, "what comes before is of the engine, for laws"
    assert FirstToken.from_wire(first).ttft_s == pytest.approx(attempt.ttft_s + attempt.hidden_s)


async def test_who_thinks_and_says_nothing_is_seen_when_that_is_over() -> None:
    (ended,) = await told(piece("", "length"))
    assert ended["outcome"] == "finished"
    assert ended["hidden_s"] >= 0.9 * PAUSE_S


async def test_nobody_waits_for_the_text_of_a_call_that_answers_nobody() -> None:
    (ended,) = await told(piece("fine", "stop"), answers=False)
    assert ended["latency_s"] - ended["ttft_s"] >= 0.9 * PAUSE_S
    assert ended["hidden_s"] == 0.0
