"""What a worker tells of its engine's steps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dask_fmware.model.engine import Request, Usage
from dask_fmware.model.messages import StepsTimed
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.record import LawRecord, LiveProfile, fingerprint
from dask_fmware_workers import pace
from dask_fmware_workers.pace import EnginePace

LAW = StepLaw.plain(0.010, 1e-4, 1e-3, 0.0)
PROFILE = LiveProfile(law=LawRecord.of(LAW)).to_wire()


class Bench:
    """A pace on a clock of its own; `sent` holds its messages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, profile: str | None = PROFILE) -> None:
        self.now, self.sent = 0.0, []
        monkeypatch.setattr(pace, "perf_counter", lambda: self.now)
        monkeypatch.setattr(pace, "INTERVAL_S", 0.0)
        self.pace = EnginePace("tcp://a", self._send, 4, profile)

    def _send(self, wire: dict[str, Any]) -> None:
        self.sent.append(StepsTimed.from_wire(wire))

    def serve(self, request_id: str, tokens: int, slower: float, *, prompt_tokens: int = 100, cached: int = 0) -> None:
        """One call alone on an engine that runs `slower` times the law; 8 bytes of its prompt are a token."""
        self.pace.submitted(Request(request_id, tokens, "x" * 8 * prompt_tokens), "rag.answer", request_id, 1)
        self.now += slower * LAW.step_s(prompt_tokens - cached, 0, 0)
        self.pace.token(request_id, 1)
        for _ in range(tokens - 1):
            self.now += slower * LAW.step_s(0, 1, 0)
            self.pace.token(request_id, 1)
        self.pace.ended(request_id, Usage(prompt_tokens, tokens, cached))

    async def told(self) -> list[StepsTimed]:
        for _ in range(3):
            await asyncio.sleep(0)
        sent, self.sent = self.sent, []
        return sent


def ratio(messages: list[StepsTimed]) -> float:
    steps = [step for message in messages for step in message.steps]
    return sum(step[2] for step in steps) / sum(step[0] + step[1] for step in steps)


async def test_a_prompt_that_is_no_text_is_left_to_the_engine_to_refuse(monkeypatch) -> None:
    bench = Bench(monkeypatch)
    bench.pace.submitted(Request("r", 4, "half a pair: \ud83d"), "rag.answer", "r", 1)
    bench.pace.ended("r", None)


async def test_steps_are_told_beside_the_profile_with_the_prompt_in_tokens(monkeypatch) -> None:
    bench = Bench(monkeypatch)
    for n in range(3):  # until the tokens of a byte are known
        bench.serve(f"r{n}", 40, 1.5, cached=60)
    await bench.told()
    bench.serve("call", 40, 1.5, cached=60)
    (message,) = await bench.told()
    assert (message.replica_id, message.profile) == ("tcp://a", fingerprint(PROFILE))
    assert ratio([message]) == pytest.approx(1.5, rel=0.02)


async def test_progress_of_calls_under_way_is_told_without_a_profile(monkeypatch) -> None:
    bench = Bench(monkeypatch, None)
    bench.pace.submitted(Request("call#1", 9, "words"), "rag.answer", "call", 1)
    bench.pace.token("call#1", 3)
    (first, *_rest) = await bench.told()
    assert (first.steps, first.tokens) == ((), (("call", 1, 3),))
    bench.pace.ended("call#1", None)
    await bench.told()
    assert await bench.told() == []


async def test_what_was_timed_beside_an_old_profile_is_not_told_with_the_new(monkeypatch) -> None:
    bench = Bench(monkeypatch)
    bench.serve("a", 40, 1.5)
    other = LiveProfile(law=LawRecord.of(LAW.scaled(1.5, 1.5))).to_wire()
    bench.pace.profiled(other)
    assert await bench.told() == []
    bench.serve("b", 40, 1.5)
    (message,) = await bench.told()
    assert message.profile == fingerprint(other)
    assert ratio([message]) == pytest.approx(1.0, rel=0.02)


async def test_nothing_is_sent_after_the_end(monkeypatch) -> None:
    bench = Bench(monkeypatch)
    bench.serve("a", 40, 1.5)
    bench.pace.close()
    assert await bench.told() == []


async def test_messages_stay_small(monkeypatch) -> None:
    bench = Bench(monkeypatch)
    for n in range(300):
        bench.serve(f"r{n}", 40, 1.0)
    (message,) = await bench.told()
    assert len(message.steps) == pace.MOST


async def test_nodes_that_were_heard_of_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MOST_NODES", 2)
    bench = Bench(monkeypatch)
    for number, node in enumerate(("a", "b", "a", "c")):
        bench.pace.submitted(Request(str(number), 1, "x"), node, str(number), 1)
        bench.pace.ended(str(number), Usage(prompt_tokens=1))
    bench.pace.close()
    assert list(bench.pace._per_byte) == ["a", "c"]
