"""Switches whose value is lost and computed again: a run keeps to the branch that it took."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.model.plan import Guard
from dask_fmware.runtime import Branched
from dask_fmware_scheduler.choices import Choices
from tests.cluster.calls import local
from tests.cluster.flows import one, small
from tests.runtime.builders import Driver, node, plan


@fm.task
async def pick(text: str) -> str:
    from tests.cluster.calls import call_local

    return str(await call_local("pick"))


@fm.workflow
def forked(text):
    return fm.switch(
        pick(text),
        first=lambda: small("First {text}", text=text, max_tokens=4, name="first"),
        second=lambda: small("Second {text}", text=text, max_tokens=4, name="second"),
    )


async def test_a_run_keeps_to_its_branch_when_what_decided_is_lost_and_is_another_when_made_again(serving: Any) -> None:
    labels = ["first", "second"]  # of one pick after the other

    async def next_label() -> str:
        return labels.pop(0)

    local["pick"] = next_label
    rules = [{"when": "First", "text": "one"}, {"when": "Second", "text": "two"}]
    async with serving("small", slots=1, light_workers=2, rules=rules) as cluster:
        engine, dask = cluster.engines["small-cpu-0"], cluster.router.dask
        engine.pause()
        busy = cluster.client.compute(one("busy"))
        await cluster.until(lambda: engine.state().running == 1)
        bound = forked(text="x")
        future = cluster.client.compute(bound)
        picked, skipped = (f"forked.{name}-{bound.run_id}" for name in ("pick", "second"))
        await cluster.until(lambda: dask.holders(skipped) and cluster.router.machine.held == 1, "the other call waits")
        (lost,) = dask.holders(picked)
        (kept,) = set(cluster.router.placement.light) - {lost}
        dask.copy_results([skipped], kept, "test")
        await cluster.until(lambda: kept in dask.holders(skipped))
        await cluster.scheduler.remove_worker(lost, stimulus_id="test", expected=False)
        await cluster.until(lambda: not labels and dask.holders(picked), "it is decided once more")
        engine.resume()
        assert (await asyncio.wait_for(future, 20)).text == "one"
        calls = {call.node: call.state for call in (await fm.report(future)).data.calls}
        assert calls == {"first": "finished", "second": "skipped"}
        await busy
        for ended in (busy, future):
            ended.release()


class Books:
    """Values in memory, and the branches that tasks were told to take."""

    def __init__(self, *in_memory: str) -> None:
        self.in_memory = in_memory
        self.told: dict[tuple[str, str], int | None] = {}

    def holders(self, key: str) -> set[str]:
        return {"worker"} if key in self.in_memory else set()

    def take_branch(self, key: str, switch: str, branch: int | None) -> None:
        self.told[key, switch] = branch


@pytest.mark.parametrize(
    ("in_memory", "branch"), [(["r/b"], 0), (["r/pick", "r/other"], 1)], ids=["went by it", "nothing went by it"]
)
def test_the_first_choice_counts_as_long_as_something_was_done_or_skipped_by_it(
    in_memory: list[str], branch: int
) -> None:
    driver, books = Driver(), Books(*in_memory)
    guarded = [node(f"r/{name}", guards=(Guard("s", number),)) for number, name in enumerate("ab")]
    others = [node("r/pick", None), node("r/other", guards=(Guard("t", 0),))]
    driver.submit(plan("r", [*others, *guarded, node("r/s", None)]))
    choices = Choices(driver.machine, books)  # type: ignore[arg-type]
    for told in (Branched("r", "s", 0), Branched("r", "s", 0)):
        assert choices.settled(told) == told
        driver.tell(told)
    assert not books.told
    assert choices.settled(Branched("r", "s", 1)) == Branched("r", "s", branch)
    assert books.told == {(f"r/{name}", "s"): branch for name in ("pick", "other", "a", "b", "s")}
    assert choices.settled(Branched("gone", "s", 1)) == Branched("gone", "s", 1)
