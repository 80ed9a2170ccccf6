"""What `dask_fmware.testing` promises beyond the conformance suite of engines."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from dask_fmware.errors import EngineCrashedError, EngineError, EngineLoadError
from dask_fmware.model.engine import Request
from dask_fmware.testing import ScriptedEngine


async def _started(**arguments: Any) -> ScriptedEngine:
    engine = ScriptedEngine(**arguments)
    await engine.start()
    return engine


async def _text(engine: ScriptedEngine, prompt: str, **fields: Any) -> str:
    request = Request(f"r{len(engine.requests)}", fields.pop("max_tokens", 64), prompt=prompt, **fields)
    async with aclosing(engine.generate(request)) as deltas:
        return "".join([delta.text async for delta in deltas])


async def _running(engine: ScriptedEngine) -> None:
    async with asyncio.timeout(30):
        while not engine.state().running:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)


async def test_the_first_rule_whose_text_is_in_the_prompt_answers() -> None:
    engine = await _started(text="else", rules=[{"when": "a", "text": "first"}, {"when": "ab", "echo": True}])
    assert [await _text(engine, prompt) for prompt in ("ab", "b")] == ["first", "else"]


async def test_a_document_or_the_smallest_that_fits_answers_a_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert await _text(await _started(), "x", json_schema=schema) == '{"n": 0}'
    assert await _text(await _started(document={"n": 7}), "x", json_schema=schema) == '{"n": 7}'


async def test_a_crash_ends_all_requests_until_the_engine_is_started_again() -> None:
    engine = await _started(rules=[{"when": "boom", "fault": "crash", "at_token": 2}])
    engine.pause()
    other = asyncio.create_task(_text(engine, "innocent"))
    await _running(engine)
    boom = asyncio.create_task(_text(engine, "boom"))
    engine.resume()
    results = await asyncio.gather(other, boom, return_exceptions=True)
    assert isinstance(results[1], EngineCrashedError)
    with pytest.raises(EngineCrashedError, match="not serving"):
        await _text(engine, "fine")
    await engine.start()
    assert await _text(engine, "fine")


async def test_a_fault_happens_as_often_as_its_rule_says() -> None:
    engine = await _started(rules=[{"when": "x", "fault": "error", "times": 1}])
    with pytest.raises(EngineError):
        await _text(engine, "x")
    assert await _text(engine, "x")
    assert engine.outcomes == {"failed": 1, "length": 1}


async def test_a_request_that_hangs_ends_when_it_is_aborted() -> None:
    engine = await _started(rules=[{"when": "x", "fault": "hang", "at_token": 1}])
    hanging = asyncio.create_task(_text(engine, "x"))
    await _running(engine)
    await engine.abort("r0")
    await asyncio.wait_for(hanging, 30)
    assert engine.outcomes == {"abort": 1}


async def test_it_can_refuse_to_load() -> None:
    with pytest.raises(EngineLoadError, match="no memory left"):
        await _started(load_error="no memory left")
