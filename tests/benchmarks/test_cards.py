"""Cards that processes share, and the engine that runs on them."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from benchmarks.support.card_engine import CardEngine, arguments, planned_prompt
from benchmarks.support.card_server import Cards, ask, holders, turn
from dask_fmware.model.engine import Request
from dask_fmware.testing.asking import WAIT_S, until

LAW = {"w0": 0.01}


async def hold(socket: str, card: str, call: str, begun: list[str], release: asyncio.Event) -> None:
    async with turn(socket, card, call):
        begun.append(call)
        await release.wait()


async def test_a_card_is_held_by_one_call_at_a_time_in_order_of_arrival(cards: Cards, socket: str) -> None:
    begun: list[str] = []
    events = [asyncio.Event() for _ in range(3)]
    tasks = []
    for number, event in enumerate(events):
        tasks.append(asyncio.create_task(hold(socket, "a", f"c{number}", begun, event)))
        await until(lambda wanted=number: begun and len(cards._queues["a"]) == wanted)
    assert begun == ["c0"]
    assert {card: (held["call"], held["pid"]) for card, held in (await holders(socket)).items()} == {
        "a": ("c0", os.getpid())
    }
    for task, event in zip(tasks, events, strict=True):
        event.set()
        await task
    assert begun == ["c0", "c1", "c2"]
    assert [turn["call"] for turn in await ask(socket)] == ["c0", "c1", "c2"]
    assert await ask(socket) == []


async def test_cards_are_independent(socket: str) -> None:
    async with turn(socket, "a", "x"), turn(socket, "b", "y"):
        pass
    assert {turn["card"] for turn in await ask(socket)} == {"a", "b"}


@pytest.mark.parametrize("while_waiting", [True, False])
async def test_whoever_goes_away_gives_the_card_back(cards: Cards, socket: str, while_waiting: bool) -> None:
    reader, writer = await asyncio.open_unix_connection(socket)
    if while_waiting:
        holding = turn(socket, "a", "first")
        await holding.__aenter__()
    writer.write(json.dumps({"op": "turn", "card": "a", "call": "gone", "pid": 0}).encode() + b"\n")
    if while_waiting:
        await until(lambda: len(cards._queues["a"]) == 1)
        writer.close()
        await holding.__aexit__()
    else:
        assert await reader.readline() == b"go\n"
        writer.transport.abort()  # as the kernel does for a process that is killed
    async with asyncio.timeout(WAIT_S), turn(socket, "a", "next"):
        pass
    assert [turn["call"] for turn in await ask(socket)][-1:] == ["next"]


async def test_nonsense_ends_only_its_connection(socket: str) -> None:
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(b"nonsense\n")
    assert await reader.read() == b""
    writer.close()
    async with turn(socket, "a", "x"):
        pass


async def generated(engine: CardEngine, prompt: str, **more: object) -> tuple[str, int, int]:
    text, usage = "", None
    async for delta in engine.generate(Request("r", 100, prompt, **more)):  # type: ignore[arg-type]
        text += delta.text
        usage = delta.usage or usage
    assert usage is not None
    return text, usage.prompt_tokens, usage.output_tokens


async def test_an_answer_has_the_length_or_label_that_its_prompt_plans() -> None:
    engine = CardEngine(**arguments({"w0": 1e-4}, socket=None, card="a"))
    await engine.start()
    _, prompt_tokens, output_tokens = await generated(engine, planned_prompt("r1/answer", 40, 7))
    assert (prompt_tokens, output_tokens) == (40, 7)
    text, _, _ = await generated(
        engine, planned_prompt("r1/intent", 30, "search shop"), choices=("place order", "search shop")
    )
    assert text == "search shop"
    assert (await generated(engine, "no plan"))[2] == 100
    await engine.close()


async def test_engines_on_one_card_run_one_call_after_the_other(socket: str) -> None:
    engines = [CardEngine(**arguments(LAW, socket=socket, card="a")) for _ in range(2)]
    for engine in engines:
        await engine.start()
    prompts = [planned_prompt(f"r{i}/x", 20, 5) for i in range(2)]
    await asyncio.gather(*(generated(engine, prompt) for engine, prompt in zip(engines, prompts, strict=True)))
    first, second = await ask(socket)
    assert {first["call"], second["call"]} == {"r0/x", "r1/x"}
    assert second["began"] >= first["ended"]
    for engine in engines:
        await engine.close()


def test_a_prompt_too_short_for_its_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        planned_prompt("a-long-name", 2, 5)
