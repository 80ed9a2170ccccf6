"""The emulated engine keeps to its law, whatever the loop does; what it draws is seeded."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import aclosing
from math import inf
from pathlib import Path
from typing import Any

import pytest

from dask_fmware.errors import DeploymentError, SpecError
from dask_fmware.model.engine import Sampling, Usage
from dask_fmware.profile.catalog import find
from dask_fmware.profile.emulation import FIRST, EmulatedBatch
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.replica import Limits
from dask_fmware.testing.asking import ask, text_of
from dask_fmware_workers.engines.emulated import EmulatedEngine
from dask_fmware_workers.engines.emulated_answer import Answers
from dask_fmware_workers.engines.emulated_streams import EARLY_S
from dask_fmware_workers.engines.prefix_blocks import PrefixBlocks
from tests.engines.jumping import run

LAW = {"w0": 0.010, "w1": 1e-5, "w2": 1e-3, "w3": 1e-6, "w4": 1e-9}
EXACT_S = EARLY_S + 1e-9

Times = dict[str, tuple[float, float]]


async def play(engine: EmulatedEngine, jobs: list[tuple[float, str, int, int]]) -> tuple[Times, list[tuple[Any, ...]]]:
    """Ask for every job at its time; return when first and last tokens came, and when each was asked for."""
    loop = asyncio.get_running_loop()
    times: Times = {}
    asked: list[tuple[Any, ...]] = []

    async def one(at: float, name: str, prompt_tokens: int, output_tokens: int) -> None:
        await asyncio.sleep(at)
        asked.append((loop.time(), name, prompt_tokens, output_tokens))
        prompt = f"{name:>8}" * (prompt_tokens // 2)
        first, made = inf, 0
        async with aclosing(engine.generate(ask(name, output_tokens, prompt=prompt))) as deltas:
            async for delta in deltas:
                first = min(first, loop.time()) if delta.tokens else first
                made += delta.tokens
        assert made == output_tokens
        times[name] = (first, loop.time())

    await engine.start()
    await asyncio.gather(*(one(*job) for job in jobs))
    assert engine.state().running == engine.state().waiting == 0
    await engine.close()
    return times, asked


def by_the_law(law: StepLaw, limits: Limits, asked: list[tuple[Any, ...]]) -> Times:
    batch, found = EmulatedBatch(law, limits), {}
    outputs = []
    for at, name, prompt_tokens, output_tokens in asked:
        outputs += batch.advance(at)
        batch.add(at, name, prompt_tokens, output_tokens)
    while batch.next_event_at < inf:
        outputs += batch.advance(batch.next_event_at)
    for at, kind, name in outputs:
        found[name] = (at, at) if kind == FIRST else (found[name][0], at)
    return found


@pytest.mark.parametrize("kv_tokens", [None, 6000])
@pytest.mark.parametrize("time_scale", [1.0, 0.05])
def test_64_concurrent_calls_come_when_the_law_says(kv_tokens: int | None, time_scale: float) -> None:
    draw = random.Random(3)
    jobs = [
        (draw.uniform(0, 20) * time_scale, f"c{i}", 2 * draw.randrange(5, 700), draw.randrange(1, 200))
        for i in range(160)
    ]
    engine = EmulatedEngine(
        law=LAW, time_scale=time_scale, slots=64, kv_tokens=kv_tokens, prefix_cache_tokens=0, stream_interval_s=0.5
    )
    times, asked = run(play(engine, jobs))
    expected = by_the_law(
        StepLaw.plain(*LAW.values()).scaled(time_scale, time_scale), Limits(64, 2048, kv_tokens), asked
    )
    for name, (first, last) in times.items():
        assert first == pytest.approx(expected[name][0], abs=EXACT_S)
        assert last == pytest.approx(expected[name][1], abs=EXACT_S)


def test_a_loop_that_was_held_up_gives_larger_pieces_and_moves_no_finish() -> None:
    async def scenario() -> tuple[list[int], float]:
        engine = EmulatedEngine(law={"w0": 0.010}, slots=1, stream_interval_s=0.010)
        await engine.start()
        loop: Any = asyncio.get_running_loop()
        start, sizes = loop.time(), []
        async for delta in engine.generate(ask(max_tokens=100)):
            sizes.append(delta.tokens)
            if sum(sizes) == 10 and delta.tokens:
                loop._own_selector.now += 0.5  # something else blocks the loop
        end = loop.time() - start
        await engine.close()
        return sizes, end

    sizes, end = run(scenario())
    assert sum(sizes) == 100
    assert max(sizes) == pytest.approx(50, abs=1)
    assert end == pytest.approx(1.0, abs=EXACT_S)


def test_a_stream_is_shown_in_pieces_of_the_interval() -> None:
    async def scenario(interval_s: float) -> int:
        engine = EmulatedEngine(law={"w0": 0.010}, slots=1, stream_interval_s=interval_s)
        await engine.start()
        pieces = [delta async for delta in engine.generate(ask(max_tokens=101))]
        await engine.close()
        return len(pieces)

    assert run(scenario(0.010)) >= 100
    assert run(scenario(0.100)) == pytest.approx(12, abs=1)


def test_an_aborted_request_frees_its_slot_after_the_step_under_way() -> None:
    async def scenario() -> tuple[float, Usage | None]:
        engine = EmulatedEngine(law={"w0": 0.100}, slots=1)
        await engine.start()
        loop = asyncio.get_running_loop()
        asyncio.get_running_loop().call_later(0.25, lambda: asyncio.ensure_future(engine.abort("a")))
        start = loop.time()
        deltas = [delta async for delta in engine.generate(ask("a", 500))]
        assert loop.time() - start == pytest.approx(0.25)
        assert engine.state().running == 1
        await asyncio.sleep(0.051)
        assert engine.state().running == 0
        await engine.close()
        return start, deltas[-1].usage

    assert run(scenario())[1] == Usage(6, 2, 0)


@pytest.mark.parametrize("late_s", [0.11, 0.21, 0.31, 0.41])
@pytest.mark.parametrize("given", [0, 1])
def test_a_reader_that_leaves_when_its_call_has_just_ended_harms_nobody(given: int, late_s: float) -> None:
    """The loop was held up, so the first token or the end is played only when the reader leaves."""

    async def scenario() -> int:
        engine = EmulatedEngine(law={"w0": 0.100}, slots=2, stream_interval_s=10.0)
        await engine.start()
        loop: Any = asyncio.get_running_loop()
        other = asyncio.ensure_future(_whole(engine, "b", 20))
        stream = engine.generate(ask("a", 4))
        for _ in range(given):
            await anext(stream)
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        reading.cancel()
        loop._own_selector.now += late_s  # something else blocks the loop
        [ended] = await asyncio.gather(reading, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError)
        tokens = await other
        assert engine.state().running == 0
        await engine.close()
        return tokens

    assert run(scenario()) == 20


async def _whole(engine: EmulatedEngine, request_id: str, tokens: int) -> int:
    return sum([delta.tokens async for delta in engine.generate(ask(request_id, tokens))])


def test_a_known_prefix_saves_its_prefill() -> None:
    async def ttft(engine: EmulatedEngine, name: str, prompt: str) -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        async for delta in engine.generate(ask(name, 1, prompt=prompt)):
            if delta.usage is None:
                return_s = loop.time() - start
        return return_s

    async def scenario() -> tuple[float, float, float]:
        engine = EmulatedEngine(law={"w0": 0.001, "w1": 0.001}, slots=1)
        await engine.start()
        prompt = "abcd" * 1000
        found = (
            await ttft(engine, "a", prompt + "tail"),
            await ttft(engine, "b", prompt + "another"),
            await ttft(engine, "c", "x" + prompt),
        )
        await engine.close()
        return found

    cold, warm, shifted = run(scenario())
    assert cold == pytest.approx(1.002, abs=EXACT_S)
    assert warm == pytest.approx(0.001 + 0.001 * (1002 - 992), abs=EXACT_S)
    assert shifted == pytest.approx(1.002, abs=EXACT_S)


def test_a_prefix_cache_forgets_the_ends_of_old_texts_first() -> None:
    cache = PrefixBlocks(6 * 16, 1)
    old, new = cache.blocks("a" * 64), cache.blocks("b" * 64)
    cache.remember(old)
    cache.remember(new)
    assert cache.ready_tokens(new) == 64
    assert cache.ready_tokens(old) == 32
    assert PrefixBlocks(0, 4).blocks("a" * 1000) == []


def test_lengths_follow_what_was_asked_for() -> None:
    def lengths(output_tokens: Any) -> list[int]:
        answers = Answers(output_tokens, None)
        return [len(answers.answer(ask(max_tokens=400), f"prompt {i}", 0).pieces) for i in range(300)]

    assert set(lengths(None)) == {400}
    assert set(lengths(12)) == {12}
    assert set(lengths([3, 700])) == {3, 400}
    drawn = sorted(lengths({"median": 100, "sigma": 0.5}))
    assert 85 < drawn[150] < 115
    assert drawn == sorted(lengths({"median": 100, "sigma": 0.5}))
    reasons = {Answers(n, None).answer(ask(max_tokens=400), "p", 0).finish_reason for n in (399, 400)}
    assert reasons == {"stop", "length"}


def test_labels_follow_their_odds() -> None:
    answers = Answers(None, {"order": 3, "search": 1})
    request = ask(choices=("order", "search", "chat"))
    drawn = Counter(answers.answer(request, f"prompt {i}", 0).text(0, 9) for i in range(400))
    assert drawn["chat"] == 0
    assert 0.65 < drawn["order"] / 400 < 0.85
    others = {answers.answer(ask(choices=("yes", "no")), f"prompt {i}", 0).text(0, 9) for i in range(50)}
    assert others == {"yes", "no"}


def test_requests_without_a_seed_differ_and_an_engine_repeats_itself() -> None:
    async def texts(seed: int) -> list[str]:
        engine = EmulatedEngine(law={"w0": 0.010}, seed=seed)
        await engine.start()
        found = []
        for i in range(3):
            found.append(text_of([d async for d in engine.generate(ask(f"r{i}", 8, sampling=Sampling()))]))
        await engine.close()
        return found

    first = run(texts(1))
    assert len(set(first)) == 3
    assert run(texts(1)) == first != run(texts(2))


def test_loading_takes_its_scaled_time() -> None:
    async def scenario() -> float:
        start = asyncio.get_running_loop().time()
        await EmulatedEngine(law={"w0": 0.010}, load_s=40, time_scale=0.5).start()
        return asyncio.get_running_loop().time() - start

    assert run(scenario()) == pytest.approx(20)


def test_the_law_comes_from_the_catalog_or_a_profile_document(tmp_path: Path) -> None:
    entry = {"model": "Llama-3.1-8B", "accelerator": "H100"}
    profile = find(**entry)
    path = tmp_path / "profile.json"
    path.write_text(profile.model_dump_json())
    times = [
        run(play(EmulatedEngine(**source, load_s=0, prefix_cache_tokens=0), [(0.0, "a", 100, 20)]))[0]["a"]
        for source in ({"catalog": entry}, {"profile": str(path)})
    ]
    assert times[0] == times[1]
    assert times[0][0] - 1000.0 == pytest.approx(profile.step_law.step_s(100, 0, 0), abs=EXACT_S)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no law": ({}, "exactly one of law, catalog and profile"),
    "two laws": ({"law": LAW, "profile": "x"}, "law and profile"),
    "unknown coefficient": ({"law": {"w9": 1.0}}, "w0, w1, w2, w3, w4"),
    "no time": ({"law": {"w1": 1.0}}, "take no time"),
    "milliseconds": ({"law": {"w0": 66.0, "w2": 1.0}}, "would take 67 s, and takes 60 s at most on any hardware"),
    "negative": ({"law": {"w0": -1.0}}, "at least 0"),
    "text": ({"law": {"w0": "1"}}, "must give seconds"),
    "missing file": ({"profile": "/nowhere/p.json"}, "cannot be read"),
    "unknown card": ({"catalog": {"model": "Llama-3.1-8B", "accelerator": "abacus"}}, "it has it on A100"),
    "an entry as scenarios have it": ({"catalog": ["Llama-3.1-8B", "A100"]}, "such as {model: Llama-3.1-8B"),
    "a law that is a number": ({"law": 0.01}, "law=0.01 must give seconds"),
    "half an entry": ({"catalog": {"model": "Llama-3.1-8B"}}, "model and accelerator"),
    "scale": ({"law": LAW, "time_scale": 0}, "time_scale=0"),
    "slots": ({"law": LAW, "slots": 0}, "slots must be at least 1"),
    "cache": ({"law": LAW, "context_tokens": 4096, "kv_tokens": 4000}, "raise kv_tokens"),
    "length": ({"law": LAW, "output_tokens": 0}, "output_tokens=0"),
    "lengths": ({"law": LAW, "output_tokens": {"mean": 3}}, "median"),
    "odds": ({"law": LAW, "labels": {"a": -1}}, "at least 0"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_wrong_arguments_are_refused_with_the_next_step(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeploymentError, match=message):
        EmulatedEngine(**arguments)


def test_a_file_that_is_no_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"format": 2}')
    with pytest.raises(SpecError, match="is no profile"):
        EmulatedEngine(profile=str(path))
