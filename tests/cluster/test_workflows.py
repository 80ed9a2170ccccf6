"""Workflows of every shape, end to end."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

import dask_fmware as fm
from dask_fmware.compile import graph
from dask_fmware.errors import EngineError, OutputFormatError, RuntimeFaultError, WorkflowError
from tests.cluster.flows import fan, large, one, rag, retrieve, shopping, small, where


async def test_a_rag_workflow_gives_the_completion_of_its_last_call(serving: Any) -> None:
    async with serving(rules=[{"when": "Answer", "text": "Use more workers."}]) as cluster:
        future = cluster.client.compute(rag(question="How do I scale?"))
        completion = await future
        assert (completion.text, completion.model, completion.finish_reason) == ("Use more workers.", "large", "stop")
        assert cluster.requests("Rewrite as a search query: How do I scale?") == 1
        assert cluster.requests("second passage on") == 1
        future.release()


@pytest.mark.parametrize(
    ("intent", "node", "requests"), [("order", "order", 2), ("search", "summary", 4), ("chat", "loop[2].turn", 4)]
)
async def test_the_label_decides_and_untaken_branches_cost_no_request(
    serving: Any, intent: str, node: str, requests: int
) -> None:
    async with serving(rules=[{"when": "Intent of", "text": intent}]) as cluster:
        future = cluster.client.compute(shopping(message="hello"))
        await future
        report = await fm.report(future)
        states = {call.node: call.state for call in report.data.calls}
        assert states[node] == "finished"
        untaken = {"order", "summary"} - {node}
        assert {states[name] for name in untaken if name in states} <= {"skipped"}
        assert cluster.requests() == requests
        assert sum(len(call.attempts) for call in report.data.calls) == requests  # no slot was taken for the others
        future.release()


async def test_a_label_without_a_branch_fails_the_run_and_takes_no_branch(serving: Any) -> None:
    @fm.workflow
    def strict(text):
        return fm.switch(small("{text}", text=text, name="label"), yes=lambda: large("yes", name="yes"), name="which")

    async with serving(rules=[{"when": "what", "text": "perhaps"}]) as cluster:
        future = cluster.client.compute(strict("what?"))
        with pytest.raises(WorkflowError, match=r"'which'.*7 characters matches none of its labels \(yes\)"):
            await future
        assert cluster.requests() == 1
        assert (await fm.report(future)).data.state == "failed"
        future.release()


class Guarded:
    """A value with something in it that cannot be sent."""

    def __init__(self) -> None:
        self.lock, self.text = threading.Lock(), "private words"


async def test_a_value_that_cannot_be_sent_fails_its_run_and_is_in_no_log(
    serving: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Dask would ask for it for ever, and the call that needs it would keep its slot."""

    @fm.task
    def guarded(text):
        return Guarded()

    @fm.workflow
    def needs(text):
        return small("About {x}", x=guarded(text), name="call")

    @fm.workflow
    def ends(text):
        return guarded(small("{text}", text=text, name="call"))

    async with serving() as cluster:
        for flow in (needs, ends):
            future = cluster.client.compute(flow("what"))
            with pytest.raises(WorkflowError, match=r"node 'guarded': its value \(a Guarded\) cannot be sent.*lock"):
                await asyncio.wait_for(future, 20)
            future.release()
    assert "private words" not in caplog.text


async def test_values_of_any_class_that_can_be_pickled_are_sent(serving: Any) -> None:
    made = np.arange(100_000)

    @fm.task
    def makes(text):
        return {"array": made, "function": lambda: text}

    @fm.task
    def takes(found, completion):
        return int(found["array"].sum()), found["function"](), completion

    @fm.workflow
    def arrays(text):
        found = makes(text)
        return takes(found, small("About {x}", x=text, name="call"))

    async with serving(rules=[{"when": "About", "text": "yes"}]) as cluster:
        future = cluster.client.compute(arrays("what"))
        assert await future == (int(made.sum()), "what", "yes")
        future.release()


async def test_a_switch_on_an_input_never_asks_for_a_slot_of_the_other_branch(serving: Any) -> None:
    @fm.workflow
    def by_input(kind, text):
        return fm.switch(
            kind,
            short=lambda: small("{text}", text=text, max_tokens=4, name="short"),
            long=lambda: large("{text}", text=text, max_tokens=8, name="long"),
        )

    async with serving() as cluster:
        future = cluster.client.compute(by_input("long", "x"))
        assert (await future).usage.output_tokens == 8
        calls = {call.node: call for call in (await fm.report(future)).data.calls}
        assert calls["short"].state == "skipped"
        assert not calls["short"].attempts
        future.release()


async def test_a_map_gives_its_outputs_in_order(serving: Any) -> None:
    async with serving("small", echo=True) as cluster:
        prompts = [f"item {i}" for i in range(20)]
        future = cluster.client.compute(fan(prompts))
        assert await future == [prompt[:32] for prompt in prompts]
        future.release()


async def test_bodies_of_a_run_that_nobody_knows_any_more_fail_what_waits_for_them(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = graph.instantiate

    def late(*args: Any, part_of: str | None = None, **kwargs: Any) -> Any:
        return made(*args, part_of=part_of and "gone", **kwargs)

    monkeypatch.setattr(graph, "instantiate", late)
    async with serving("small") as cluster:
        future = cluster.client.compute(fan(["a", "b"]))
        with pytest.raises(RuntimeFaultError, match="a body of a map or loop came for run 'gone', which was dropped"):
            await asyncio.wait_for(future, 10)
        future.release()


async def test_a_map_runs_over_values_and_constants_that_another_workflow_gives_it(serving: Any) -> None:
    both = fm.workflow(lambda prompt: fan([prompt, "fixed"]), name="both")
    async with serving("small", echo=True) as cluster:
        future = cluster.client.compute(both("given"))
        assert await future == ["given", "fixed"]
        future.release()


async def test_a_map_over_nothing_is_an_empty_list(serving: Any) -> None:
    async with serving("small") as cluster:
        future = cluster.client.compute(fan([]))
        assert await future == []
        future.release()


async def test_a_map_over_what_is_no_list_or_too_long_fails_with_its_name(serving: Any) -> None:
    @fm.workflow
    def bounded(items):
        return fm.map(lambda x: small("{x}", x=x, name="each"), items, max_items=2, name="few")

    async with serving("small") as cluster:
        futures = [cluster.client.compute(bounded("text")), cluster.client.compute(bounded(["a", "b", "c"]))]
        with pytest.raises(WorkflowError, match=r"'few': fm.map runs over a list, got a str"):
            await futures[0]
        with pytest.raises(WorkflowError, match=r"'few': 3 items, the bound is max_items=2"):
            await futures[1]
        for future in futures:
            future.release()


async def test_many_more_maps_than_threads_wait_without_deadlock(serving: Any) -> None:
    document = _with_threads("small", threads=1)
    async with serving(document=document) as cluster:
        futures = [cluster.client.compute(fan([f"{n} {i}" for i in range(3)])) for n in range(12)]
        assert [len(result) for result in await cluster.client.gather(futures)] == [3] * 12
        for future in futures:
            future.release()


async def test_maps_in_maps_run_without_deadlock_on_one_thread(serving: Any) -> None:
    @fm.task
    def twice(text: str) -> list[str]:
        return [text + "a", text + "b"]

    @fm.workflow
    def nested(items):
        return fm.map(
            lambda x: fm.map(lambda y: small("{y}", y=y, name="leaf"), twice(x), name="inner"), items, name="outer"
        )

    async with serving(document=_with_threads("small", threads=1, echo=True)) as cluster:
        future = cluster.client.compute(nested(["p", "q", "r"]))
        assert await future == [["pa", "pb"], ["qa", "qb"], ["ra", "rb"]]
        names = {call.node for call in (await fm.report(future)).data.calls}
        assert "outer[2].inner[1].leaf" in names
        future.release()


async def test_a_loop_runs_on_its_own_output_until_its_condition_holds(serving: Any) -> None:
    @fm.task
    def is_done(text: str) -> bool:
        return "three" in text

    @fm.workflow
    def refine(text, hint):
        return fm.loop(
            lambda state: small("{hint} {state}", hint=hint, state=state, name="step"),
            text,
            max_iterations=9,
            until=is_done,
            name="refine",
        )

    rules = [
        {"when": "two", "text": "three"},
        {"when": "one", "text": "two"},
        {"when": "zero", "text": "one"},
    ]
    async with serving("small", rules=rules) as cluster:
        future = cluster.client.compute(refine("zero", "a hint"))
        assert (await future).text == "three"
        assert cluster.requests("a hint") == 3
        future.release()


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("no", "until is a text, and 'no' is true as well; compare"),
        ({"done": False}, "until is a dict, which is true whatever it says"),
    ],
    ids=["text", "object"],
)
async def test_a_loop_whose_condition_is_always_true_fails(serving: Any, says: Any, message: str) -> None:
    @fm.task
    def verdict(text: str) -> Any:
        return says

    @fm.workflow
    def refine(text):
        return fm.loop(lambda t: small("{t}", t=t, name="step"), text, max_iterations=3, until=verdict, name="again")

    async with serving("small") as cluster:
        future = cluster.client.compute(refine("zero"))
        with pytest.raises(fm.FMwareError, match=f"node 'again': {message}"):
            await future
        future.release()


async def test_plain_nodes_run_on_light_workers_only(serving: Any) -> None:
    @fm.workflow
    def spots(text):
        answer = small("{text}", text=text, name="call")
        return _pair(where(), _name_after(answer))

    async with serving("small", light_workers=2) as cluster:
        futures = [cluster.client.compute(spots(f"{i}")) for i in range(20)]
        for first, second in await cluster.client.gather(futures):
            assert first.startswith("light-")
            assert second.startswith("light-")
        for future in futures:
            future.release()


async def test_results_of_calls_are_moved_to_light_workers(serving: Any) -> None:
    async with serving("small") as cluster:
        future = cluster.client.compute(one("x"))
        await future
        light = cluster.workers["light-0"].address

        def holders() -> set[str]:
            return {worker.address for worker in cluster.scheduler.tasks[future.key].who_has}

        await cluster.until(lambda: holders() == {light})
        future.release()


async def test_an_engine_error_fails_only_its_run(serving: Any) -> None:
    async with serving("small", rules=[{"when": "bad", "fault": "error", "at_token": 2}]) as cluster:
        futures = [cluster.client.compute(one(f"{'bad' if n == 3 else 'good'} {n}")) for n in range(6)]
        done = await asyncio.gather(*(future.result() for future in futures), return_exceptions=True)
        assert [isinstance(answer, EngineError) for answer in done] == [n == 3 for n in range(6)]
        report = await fm.report(futures[3])
        assert report.data.state == "failed"
        assert report.data.calls[0].state == "failed"
        assert len(report.data.calls[0].attempts) == 1
        for future in futures:
            future.release()


async def test_an_answer_that_is_none_of_the_choices_fails_without_showing_it(serving: Any) -> None:
    async with serving(rules=[{"when": "Intent of", "text": "confidential"}]) as cluster:
        future = cluster.client.compute(shopping(message="x"))
        with pytest.raises(OutputFormatError, match="12 characters is none of the 3 choices") as caught:
            await future
        assert "confidential" not in str(caught.value)
        future.release()


async def test_an_error_of_plain_code_carries_the_nodes_name(serving: Any) -> None:
    @fm.task
    def fails(text: str) -> str:
        raise ZeroDivisionError("on purpose")

    @fm.task
    def then(text: str) -> str:  # joined with the one before
        return text

    @fm.workflow
    def breaks(text):
        return then(fails(small("{text}", text=text)))

    async with serving("small") as cluster:
        future = cluster.client.compute(breaks("x"))
        with pytest.raises(ZeroDivisionError, match="on purpose") as caught:
            await future
        assert "in workflow 'breaks', node 'fails'" in caught.value.__notes__
        assert (await fm.report(future)).data.reason == "in plain code up to 'then': ZeroDivisionError('on purpose')"
        future.release()


async def test_several_workflows_are_computed_persisted_and_annotated_like_any_collection(serving: Any) -> None:
    import dask

    async with serving() as cluster:
        with dask.annotate(retries=2):
            futures = cluster.client.compute([rag(question="a"), one("b")])
        assert [answer.model for answer in await cluster.client.gather(futures)] == ["large", "small"]
        persisted = cluster.client.persist(one("kept"))
        again = cluster.client.compute(persisted)
        assert (await again).model == "small"
        assert cluster.requests("kept") == 1
        for future in [*futures, again, *cluster.client.futures_of(persisted)]:
            future.release()
        del persisted


async def test_computing_a_bound_workflow_twice_runs_it_once(serving: Any) -> None:
    async with serving("small") as cluster:
        bound = one("x")
        first, second = cluster.client.compute(bound), cluster.client.compute(bound)
        assert (await first).text == (await second).text
        third = cluster.client.compute(bound)
        await third
        assert cluster.requests() == 1
        for future in (first, second, third):
            future.release()


async def test_a_bound_workflow_can_run_again_after_it_was_forgotten(serving: Any) -> None:
    async with serving("small") as cluster:
        bound = one("x")
        for n in range(2):
            future = cluster.client.compute(bound)
            await future
            future.release()
            await cluster.settled()
            assert cluster.requests() == n + 1


@fm.task
def _pair(first: str, second: str) -> tuple[str, str]:
    return first, second


@fm.task
def _name_after(value: str) -> str:
    return where()


def _with_threads(*models: str, threads: int, **arguments: Any) -> dict[str, Any]:
    from dask_fmware.testing import deployment

    document = deployment(*models, **arguments)
    document["light_workers"]["threads"] = threads
    return document


def test_the_helpers_of_these_tests_work_outside_a_workflow() -> None:
    assert len(retrieve("abc")) == 2
