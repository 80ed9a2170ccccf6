"""Servers that ask to wait: calls wait their limits out, which nobody takes for engines that hang."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.testing import deployment
from tests.cluster.flows import one
from tests.engines.openai_stub import STREAM, Asked, Handler, Write, answering, piece, usage, whole

pytest.importorskip("openai")


def limited(first: int, **headers: str) -> tuple[Handler, list[float]]:
    """A server that tells the first requests to wait; and when it was asked, in seconds."""
    asked_at: list[float] = []
    number = itertools.count()

    async def answer(asked: Asked, write: Write) -> None:
        asked_at.append(asyncio.get_running_loop().time())
        if next(number) < first:
            await write(whole(429, {"error": {"type": "rate_limit"}}, **headers))
        else:
            await write(STREAM + piece("fine", "stop") + usage(5, 1) + b"data: [DONE]\n\n")

    return answer, asked_at


def behind(address: str, router: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    """A deployment of a model behind this server."""
    made = deployment("small", router=router)
    made["models"]["small"] |= {"engine": "openai", "arguments": {"base_url": address, "model": "tiny", **arguments}}
    return made


async def call_of(future: Any) -> Any:
    (call,) = (await fm.report(future)).data.calls
    return call


async def test_calls_wait_out_a_limit_that_lasts_longer_than_an_engine_may_be_silent(serving: Any) -> None:
    answer, asked = limited(4, Retry_After="2")
    async with answering(answer) as address:
        document = behind(address, {"stall_s": 0.5}, rate_limit_wait_s=20)  # 1.3 s without a token are permitted
        async with serving(document=document) as cluster:
            engine = cluster.engines["small-cpu-0"]
            futures = [cluster.client.compute(one(f"{n}")) for n in range(4)]
            assert [completion.text for completion in await cluster.client.gather(futures)] == ["fine"] * 4
            calls = [await call_of(future) for future in futures]
            assert [[attempt.outcome for attempt in call.attempts] for call in calls] == [["finished"]] * 4
            assert all(call.ttft_s >= 1.9 for call in calls)  # a sign of life is no token
            assert cluster.engines["small-cpu-0"] is engine  # nobody has started it again
            assert len(asked) == 8
            for future in futures:
                future.release()


async def test_a_limit_beyond_the_bound_is_waited_out_and_ends_the_attempt_that_met_it(serving: Any) -> None:
    answer, asked = limited(1, Retry_After_Ms="1500")
    async with answering(answer) as address, serving(document=behind(address, rate_limit_wait_s=0.2)) as cluster:
        first = cluster.client.compute(one("first"))
        await cluster.until(lambda: cluster.router.machine.held == 1)
        second = cluster.client.compute(one("second"))
        await cluster.until(lambda: cluster.router.machine.held == 2)
        (replica,) = (await fm.status(cluster.client))["replicas"]
        assert (replica["shut"], replica["state"]) == (True, "shut")
        assert "no replica of model 'small' was within its rate limit" in str(await fm.report(first))
        assert [completion.text for completion in await cluster.client.gather([first, second])] == ["fine", "fine"]
        assert asked[1] - asked[0] >= 1.4  # by another clock
        assert [attempt.outcome for attempt in (await call_of(first)).attempts] == ["retry", "finished"]
        assert [attempt.outcome for attempt in (await call_of(second)).attempts] == ["finished"]
        (replica,) = (await fm.status(cluster.client))["replicas"]
        assert not replica["shut"]
        for future in (first, second):
            future.release()
