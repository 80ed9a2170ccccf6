"""The Dask graph of one run: its keys, its plan, and what it shows of values."""

from __future__ import annotations

import asyncio
import pickle
import shutil
import sys
from typing import Any

import cloudpickle
import dask
import pytest
from dask._task_spec import Task

import dask_fmware as fm
from dask_fmware.compile.draft import PlanDraft
from dask_fmware.compile.steps import run_plain_async
from dask_fmware.compile.values import Private
from dask_fmware.errors import NotInstalledError, WorkflowError
from dask_fmware.model.plan import RunPlan

small, large = fm.Model("small"), fm.Model("large")
SECRET = "a text that nobody else may see"


@fm.task
def shout(text: Any) -> str:
    return str(text).upper()


@fm.task
async def whisper(text: Any) -> str:
    return str(text).lower()


@fm.workflow(slo=fm.SLO(ttft_s=2.0, e2e_s=9.0))
def flow(text, items=None):
    each = fm.map(lambda item: small("{item}", item=item, name="each"), items)
    return large("{text} {each}", text=shout(text), each=each, name="answer")


@fm.workflow
def plain(text):
    return shout(text)


def plan_of(bound: fm.BoundWorkflow) -> RunPlan:
    (draft,) = [t.kwargs["plan"] for t in bound.__dask_graph__().values() if "plan" in t.kwargs]
    assert isinstance(draft, PlanDraft)
    return draft.plan()


def test_every_step_is_one_task_and_the_output_is_its_own_key() -> None:
    bound = flow(SECRET, [SECRET])
    graph = bound.__dask_graph__()
    assert sorted(graph) == sorted(f"flow.{name}-{bound.run_id}" for name in ("shout", "map", "answer"))
    assert all(isinstance(task, Task) for task in graph.values())
    assert bound.__dask_keys__() == [f"flow.answer-{bound.run_id}"]


def test_dask_groups_the_tasks_of_all_runs_by_node() -> None:
    from dask.utils import key_split

    assert {key_split(key) for key in [*flow("a").__dask_graph__(), *flow("b").__dask_graph__()]} == {
        "flow.shout",
        "flow.map",
        "flow.answer",
    }


def test_neither_keys_nor_representations_show_values() -> None:
    bound = flow(SECRET, [SECRET, {"nested": SECRET}])
    graph = bound.__dask_graph__()
    shown = f"{bound!r} {list(graph)} {list(graph.values())!r} {[task.args for task in graph.values()]!r}"
    assert SECRET not in shown
    assert SECRET not in f"{plan_of(bound)!r}"
    assert SECRET not in repr(flow)


def test_a_graph_survives_pickling_and_so_do_its_values() -> None:
    bound = flow(SECRET, [SECRET])
    for dumps in (pickle.dumps, cloudpickle.dumps):
        try:
            again = pickle.loads(dumps(bound.__dask_graph__()))
        except (AttributeError, pickle.PicklingError):
            assert dumps is pickle.dumps  # lambdas of a workflow need cloudpickle, as Dask uses
            continue
        assert sorted(again) == sorted(bound.__dask_graph__())
        (draft,) = [t.kwargs["plan"] for t in again.values() if "plan" in t.kwargs]
        assert draft.plan() == plan_of(bound)


def test_the_plan_names_nodes_models_and_sizes() -> None:
    bound = flow(SECRET).options(tenant="lab", priority=7)
    plan = plan_of(bound)
    nodes = {node.name: node for node in plan.nodes}
    assert (plan.run_id, plan.workflow, plan.tenant, plan.priority) == (bound.run_id, "flow", "lab", 7)
    assert plan.objective is not None
    assert (plan.objective.ttft_s, plan.objective.e2e_s) == (2.0, 9.0)
    assert plan.output == nodes["answer"].key == bound.__dask_keys__()[0]
    assert (nodes["answer"].model, nodes["shout"].model) == ("large", None)
    assert set(nodes["answer"].after) == {"shout", "map"}
    assert nodes["answer"].answers


def test_text_inputs_count_in_the_prompts_that_hold_them() -> None:
    ask = fm.workflow(name="ask")(lambda text: small("Say {text}", text=text))
    sizes = [plan_of(ask(text)).nodes[0].prompt_bytes for text in ("", "äö", 5)]
    assert sizes == [4, 8, 4]


@pytest.mark.parametrize(("kind", "branch"), [("a", 0), ("b", 1), ("other", None)])
def test_a_switch_on_an_input_is_decided_in_the_plan(kind: str, branch: int | None) -> None:
    choose = fm.workflow(name="choose")(lambda kind: fm.switch(kind, a=lambda: small("a"), b=lambda: large("b")))
    assert plan_of(choose(kind)).decided == (("switch", branch),)


def test_two_runs_share_no_key() -> None:
    assert not set(flow("a").__dask_graph__()) & set(flow("a").__dask_graph__())


def test_plain_workflows_run_on_any_dask_scheduler() -> None:
    assert plain("abc").compute() == "ABC"
    assert dask.compute(plain("a"), plain("b"), scheduler="sync") == ("A", "B")
    assert fm.workflow(name="quiet")(lambda text: whisper(text))("ABC").compute(scheduler="sync") == "abc"


def test_a_run_without_a_cluster_says_what_to_start() -> None:
    with pytest.raises(NotInstalledError, match=r"node 'small': .*LocalModelCluster\(deployment\) or call fm.install"):
        fm.workflow(name="alone")(lambda text: small("{text}", text=text))("x").compute()
    with pytest.raises(NotInstalledError, match=r"node 'map': maps and loops need"):
        flow("x", ["y"]).compute()


def test_a_branch_that_was_not_taken_needs_no_cluster() -> None:
    choose = fm.workflow(name="choose")(
        lambda kind: fm.switch(kind, a=lambda: small("{k}", k=kind), b=lambda: shout(kind))
    )
    assert choose("b").compute() == "B"


def test_persisting_keeps_the_run() -> None:
    bound = plain("abc")
    persisted = bound.persist()
    assert persisted.run_id == bound.run_id
    assert persisted.compute() == "ABC"


def test_it_is_a_collection_that_dask_knows_and_annotates() -> None:
    bound = plain("abc")
    assert dask.is_dask_collection(bound)
    with dask.annotate(priority=3):
        assert bound.compute() == "ABC"
    assert dask.base.tokenize(bound) == dask.base.tokenize(bound) != dask.base.tokenize(plain("abc"))


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_it_can_be_drawn_by_dask(tmp_path: Any) -> None:
    pytest.importorskip("graphviz")
    flow("x").visualize(filename=str(tmp_path / "graph.svg"))
    assert SECRET not in (tmp_path / "graph.svg").read_text()


def test_a_function_that_gives_a_coroutine_or_generator_instead_of_a_value_is_named() -> None:
    async def later(text: str) -> str:
        return text

    @fm.task
    def wrapped(text):
        return later(text)

    @fm.task
    def pairs(text):
        return ((letter, text) for letter in text)

    for task, message in ((wrapped, "coroutine; decorate the async def itself"), (pairs, "generator; return a list")):
        bound = fm.workflow(lambda text: task(text), name="flow")("abc")  # noqa: B023 - traced at once
        with pytest.raises(WorkflowError, match=rf"workflow 'flow', node '\w+': its function returned a {message}"):
            bound.compute(scheduler="sync")


def test_plain_code_that_exits_fails_its_run_and_ends_no_worker() -> None:
    @fm.task
    def leave(text):
        sys.exit(text)

    @fm.task
    async def leave_later(text):
        sys.exit(text)

    for task in (leave, leave_later):
        bound = fm.workflow(lambda text: task(text), name="flow")(SECRET)  # noqa: B023 - traced at once
        with pytest.raises(WorkflowError, match=r"'flow', node '\w+': its function called sys\.exit") as caught:
            bound.compute(scheduler="sync")
        assert SECRET not in str(caught.value)


class Loud:
    """Says that it was made anew."""

    def __setstate__(self, state: object) -> None:
        raise RuntimeError("opened")

    def __getstate__(self) -> str:
        return "state"


def test_values_are_opened_where_they_are_used_alone() -> None:
    private = Private([Loud(), SECRET])
    for _ in range(2):  # from the client to the scheduler, and on to a worker
        private = pickle.loads(pickle.dumps(private))
    assert repr(private) == "<private list of length 2>"
    with pytest.raises(RuntimeError, match="opened"):
        _ = private.value
    assert pickle.loads(pickle.dumps(Private({"a": [1]}))).value == {"a": [1]}
    assert len(pickle.dumps(Private("short"))) < 100


def test_plain_code_that_raises_a_cancellation_fails_its_run() -> None:
    @fm.task
    def stop(text):
        raise asyncio.CancelledError(text)

    @fm.task
    async def stop_later(text):
        await asyncio.sleep(0)
        raise asyncio.CancelledError(text)

    for task in (stop, stop_later):
        bound = fm.workflow(lambda text: task(text), name="flow")("abc")  # noqa: B023 - traced at once
        with pytest.raises(WorkflowError, match=r"'flow', node '\w+': its function raised CancelledError, by which"):
            bound.compute(scheduler="sync")


async def test_a_step_that_is_cancelled_is_cancelled() -> None:
    @fm.task
    async def wait(text):
        await asyncio.sleep(60)

    (step,) = fm.workflow(lambda text: wait(text), name="flow")("abc").__dask_graph__().values()
    running = asyncio.ensure_future(run_plain_async(*step.args))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_an_interrupt_by_the_user_is_none_of_the_code() -> None:
    @fm.task
    def interrupted(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fm.workflow(lambda text: interrupted(text), name="flow")("abc").compute(scheduler="sync")
