"""What is refused, when, and in which words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.errors import CapacityError, ContextOverflowError, DeadlineRejectedError, UnknownModelError
from dask_fmware.testing import deployment
from tests.cluster.flows import large, one, small


async def test_an_unknown_model_is_refused_with_node_and_next_step(serving: Any) -> None:
    @fm.workflow
    def astray(text):
        return fm.Model("nowhere")("{text}", text=small("{text}", text=text), name="lost")

    async with serving() as cluster:
        future = cluster.client.compute(astray("x"))
        with pytest.raises(
            UnknownModelError,
            match=r"workflow 'astray', node 'lost': no replica hosts model 'nowhere' \(hosted: large, small\); add it",
        ):
            await future
        assert cluster.requests() == 0  # the first node, which could be served, did not run either
        report = await fm.report(future)
        assert report.data.state == "refused"
        assert "no replica hosts" in report.data.reason
        future.release()


async def test_a_prompt_beyond_the_context_is_refused_at_submission_with_its_numbers(serving: Any) -> None:
    async with serving("small", context_tokens=256) as cluster:
        future = cluster.client.compute(one("word " * 1000))
        with pytest.raises(ContextOverflowError, match=r"node 'call': a prompt of at least 313 tokens.*256 tokens"):
            await future
        assert cluster.requests() == 0
        future.release()


async def test_a_prompt_that_grows_beyond_the_context_fails_with_the_engines_numbers(serving: Any) -> None:
    @fm.task
    def long(text: str) -> str:
        return text * 1000

    @fm.workflow
    def grows(text):
        return small("{text}", text=long(text), max_tokens=8, name="call")

    async with serving("small", context_tokens=256) as cluster:
        future = cluster.client.compute(grows("word "))
        with pytest.raises(ContextOverflowError, match="context of 256 tokens"):
            await future
        assert len((await fm.report(future)).data.calls[0].attempts) == 1  # no replica could do better
        future.release()


def _of_two_sizes() -> dict[str, Any]:
    document = deployment("small", "large", context_tokens=256, rules=[{"when": "Which", "text": "short"}])
    document["models"]["large"]["context_tokens"] = 4096
    return document


def _by_size(size: Any, text: Any) -> Any:
    return fm.switch(
        size,
        short=lambda: small("{text}", text=text, max_tokens=8, name="short"),
        long=lambda: large("{text}", text=text, max_tokens=8, name="long"),
    )


async def test_a_prompt_beyond_the_context_of_a_branch_that_is_not_taken_is_no_reason_to_refuse(serving: Any) -> None:
    by_input = fm.workflow(_by_size, name="by_input")
    async with serving(document=_of_two_sizes()) as cluster:
        taken, refused = (cluster.client.compute(by_input(size, "word " * 1000)) for size in ("long", "short"))
        assert (await taken).model == "large"
        with pytest.raises(ContextOverflowError, match=r"node 'short': a prompt of at least 313 tokens.*256 tokens"):
            await refused
        assert cluster.requests() == 1
        taken.release()
        refused.release()


async def test_a_branch_that_is_taken_later_fails_with_the_engines_numbers(serving: Any) -> None:
    @fm.workflow
    def by_label(text):
        return _by_size(large("Which size? {text}", text=text, choices=["short", "long"], name="size"), text)

    async with serving(document=_of_two_sizes()) as cluster:
        future = cluster.client.compute(by_label("word " * 1000))
        with pytest.raises(ContextOverflowError, match="context of 256 tokens"):
            await future
        calls = {call.node: call for call in (await fm.report(future)).data.calls}
        assert [len(calls[name].attempts) for name in ("size", "short", "long")] == [1, 1, 0]
        future.release()


async def test_runs_beyond_max_held_are_refused_and_those_before_are_served(serving: Any) -> None:
    async with serving("small", slots=1, router={"max_held": 3}) as cluster:
        engine = cluster.engines["small-cpu-0"]
        engine.pause()
        futures = []
        for n in range(4):
            futures.append(cluster.client.compute(one(f"{n}")))
            await cluster.until(lambda wanted=n: len(cluster.router.machine.runs.calls) == wanted + 1)
        await cluster.until(lambda: cluster.router.machine.held == 3)
        refused = cluster.client.compute(one("too much"))
        with pytest.raises(CapacityError, match=r"3 calls are held already, the bound is 3 \(router.max_held\)"):
            await refused
        engine.resume()
        assert len(await cluster.client.gather(futures)) == 4
        for future in [*futures, refused]:
            future.release()


async def test_a_run_that_is_late_is_rejected_only_if_it_asked_for_that(serving: Any) -> None:
    async with serving("small", slots=1) as cluster:
        engine = cluster.engines["small-cpu-0"]
        engine.pause()
        first = cluster.client.compute(one("first"))
        await cluster.until(lambda: engine.state().running == 1)
        slo = {"finish": fm.SLO(e2e_s=0.05), "reject": fm.SLO(e2e_s=0.05, on_miss="reject")}
        served = cluster.client.compute(one("late").options(slo=slo["finish"]))
        late = cluster.client.compute(_after_a_pause("late").options(slo=slo["reject"]))
        await cluster.until(lambda: cluster.router.machine.held >= 1)
        with pytest.raises(DeadlineRejectedError, match=r"node 'call': .* s past the deadline of its run"):
            await late
        told = await fm.report(late)
        assert (told.is_rejected, [row["state"] for row in told.rows]) == (True, ["rejected"])
        engine.resume()
        assert (await served).model == "small"
        assert (await fm.report(served)).met is False
        await first
        for future in (first, served, late):
            future.release()


async def test_a_run_whose_map_has_a_late_body_is_rejected_and_one_that_fails_is_not(serving: Any) -> None:
    @fm.task
    def broken(text: str) -> str:
        raise ValueError("it broke")

    @fm.workflow(slo=fm.SLO(e2e_s=0.05, on_miss="reject"))
    def fails(text):
        return small("{text}", text=broken(text))

    @fm.workflow(slo=fm.SLO(e2e_s=0.05, on_miss="reject"))
    def fans_out(texts):
        return fm.map(_after_a_pause, texts)

    async with serving("small", slots=1) as cluster:
        session = fm.Session(cluster.client)
        rejected = await session.outcome(fans_out(texts=["a", "b"]))
        failed = await session.outcome(fails("a"))
        assert (rejected.is_rejected, rejected.report.state) == (True, "rejected")
        assert (failed.is_rejected, failed.report.state) == (False, "failed")


@fm.task
async def _slow(text: str) -> str:
    await asyncio.sleep(0.2)  # longer than the objective of the run
    return text


@fm.workflow
def _after_a_pause(text):
    return small("{text}", text=_slow(text), name="call")
