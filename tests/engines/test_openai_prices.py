"""What calls of a server are counted and priced as."""

from __future__ import annotations

from typing import Any

import pytest

from dask_fmware.errors import OutputFormatError
from dask_fmware.model.call import ModelCall, Template
from dask_fmware.model.engine import Usage
from dask_fmware.model.messages import AttemptEnded, Grant
from dask_fmware.testing.asking import ask, collect
from dask_fmware_workers.loading import Labels
from dask_fmware_workers.metrics import WorkerMetrics
from dask_fmware_workers.runner import CallRunner
from tests.engines.openai_stub import SCHEMA, STREAM, Asked, Write, answering, event, piece, started, usage

pytest.importorskip("openai")


async def test_tokens_are_priced_and_cached_ones_have_their_own_price() -> None:
    async def cached(asked: Asked, write: Write) -> None:
        await write(STREAM + piece("a", "stop") + usage(1000, 100, cached=400) + b"data: [DONE]\n\n")

    prices = {"input": 2.0, "cached_input": 0.5, "output": 10.0}
    async with answering(cached) as address, started(address, price_per_million_tokens=prices) as engine:
        told = (await collect(engine, ask()))[-1].usage
        assert engine.capabilities.price_per_million_tokens == prices
    assert told == Usage(1000, 100, 400)
    assert told.cost(prices) == pytest.approx((600 * 2 + 400 * 0.5 + 100 * 10) / 1e6)


async def test_an_answer_that_is_cut_out_of_its_format_is_reported_with_its_tokens_and_cost() -> None:
    async def cut(asked: Asked, write: Write) -> None:
        await write(STREAM + piece('{"su', "length") + usage(8000, 5, cached=1000) + b"data: [DONE]\n\n")

    prices = {"input": 2.0, "cached_input": 0.5, "output": 10.0}
    call = ModelCall("triage", "judge", "tiny", (Template("Is it?"),), 5, json_schema=SCHEMA)
    sent: list[dict[str, Any]] = []
    runner = CallRunner(sent.append, lambda engine, error: None)
    async with answering(cut) as address, started(address, price_per_million_tokens=prices) as engine:
        runner.prices = engine.capabilities.price_per_million_tokens
        runner.grant(Grant("k", 1))
        with pytest.raises(OutputFormatError, match=r"'judge'.*cut at max_tokens=5: raise it"):
            await runner.run(engine, call, "k", {})
    ended = AttemptEnded.from_wire(sent[-1])
    assert (ended.outcome, ended.format_tokens) == ("failed", 5)
    assert (ended.prompt_tokens, ended.output_tokens, ended.cached_tokens) == (8000, 5, 1000)
    assert ended.cost == pytest.approx((7000 * 2 + 1000 * 0.5 + 5 * 10) / 1e6)


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        ({"prompt_tokens": 12.0, "completion_tokens": 5.0}, (12, 5, 0)),
        ({"prompt_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 90}}, (12, 5, 12)),
        ({"prompt_tokens": -1, "completion_tokens": -1}, (6, 1, 0)),  # no usage: estimated, and counted by events
        ({"prompt_tokens": "12"}, (6, 1, 0)),
        ({}, (6, 1, 0)),
    ],
)
async def test_whatever_a_server_counts_the_slot_is_given_back_with_whole_numbers(
    told: dict[str, Any], counts: tuple[int, int, int]
) -> None:
    async def odd(asked: Asked, write: Write) -> None:
        await write(STREAM + piece("fine", "stop") + event({"choices": [], "usage": told}) + b"data: [DONE]\n\n")

    sent: list[dict[str, Any]] = []
    metrics = WorkerMetrics(Labels("w", "tcp://w", "tiny", "api", None), lambda: None)
    runner = CallRunner(metrics.counting(sent.append), lambda engine, error: None)
    call = ModelCall("triage", "judge", "tiny", (Template("Tell me about the sea"),), 5)
    async with answering(odd) as address, started(address) as engine:
        runner.grant(Grant("k", 1))
        await runner.run(engine, call, "k", {})
    ended = AttemptEnded.from_wire(sent[-1])
    assert ended.outcome == "finished"
    assert (ended.prompt_tokens, ended.output_tokens, ended.cached_tokens) == counts
    assert all(type(count) is int for count in (ended.prompt_tokens, ended.output_tokens, ended.cached_tokens))
    assert "fmware_worker_attempts" in {family.name for family in metrics.series()}
