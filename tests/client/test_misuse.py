"""What was meant and what was given: everything that takes a client or a future says so, before anything is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from distributed import Client, Future, Scheduler

import dask_fmware as fm
from dask_fmware.demo.rag import rag
from dask_fmware.errors import DeploymentError, RuntimeFaultError, SpecError, WorkflowError

DEPLOYMENT = {"accelerators": {"a": {"cards": 1}}, "models": {"m": {"on": {"a": {}}}}}
PRICED = {
    "accelerators": {"a": {"cards": 2, "price_per_hour": 1.0}},
    "models": {
        name: {"on": {"a": {"latency": {"first_token_s": 0.1, "output_token_s": 0.01}}}} for name in ("small", "large")
    },
}
ADDRESS = "tcp://127.0.0.1:8786"


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("install", lambda: fm.install(ADDRESS, DEPLOYMENT)),
        ("uninstall", lambda: fm.uninstall(ADDRESS)),
        ("status", lambda: fm.status(ADDRESS)),
        ("wait_ready", lambda: fm.wait_ready(ADDRESS)),
        ("reports", lambda: fm.reports(ADDRESS)),
        ("scale", lambda: fm.scale(ADDRESS, None)),
        ("record", lambda: fm.record(ADDRESS, "run.jsonl")),
        ("profile_models", lambda: fm.profile_models(ADDRESS)),
        ("Session", lambda: fm.Session(ADDRESS)),
    ],
)
def test_an_address_is_not_a_client(name: str, call: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match=rf"fm\.{name} takes a distributed.Client, not a str; make one: client = "):
        call()


async def test_a_closed_client_is_said_to_be_closed() -> None:
    async with Scheduler(dashboard=False, port=0) as scheduler:
        client = await Client(scheduler.address, asynchronous=True)
        await client.close()
        for ask in (fm.status, fm.reports, fm.Session):
            with pytest.raises(
                RuntimeFaultError, match=r"the client is closed, by hand or since its scheduler was lost"
            ):
                ask(client)


async def test_an_asynchronous_client_records_with_async_with_and_never_nothing() -> None:
    async with Scheduler(dashboard=False, port=0) as scheduler, Client(scheduler.address, asynchronous=True) as client:
        with (
            pytest.raises(TypeError, match=r"this client is asynchronous: use 'async with fm\.record\(client, path\)'"),
            fm.record(client, "run.jsonl"),
        ):
            pass


async def test_a_synchronous_client_streams_with_for_while_it_is_open() -> None:
    async with Scheduler(dashboard=False, port=0) as scheduler:
        client = await asyncio.to_thread(Client, scheduler.address, set_as_default=False)
        stream = fm.stream(Future("answer", client))
        with pytest.raises(TypeError, match=r"this client is synchronous: use 'for chunk in fm\.stream\(future\)'"):
            aiter(stream)
        await asyncio.to_thread(client.close)
        with pytest.raises(RuntimeFaultError, match=r"^fm\.stream: the client is closed"):
            next(iter(stream))


@pytest.mark.parametrize("name", ["report", "stream", "explain"])
def test_a_bound_workflow_is_not_its_future(name: str) -> None:
    with pytest.raises(TypeError, match=rf"fm\.{name} takes the Future of client.compute\(...\), not a BoundWorkflow"):
        getattr(fm, name)(rag(question="?"))


async def test_reports_are_of_futures() -> None:
    async with Scheduler(dashboard=False, port=0) as scheduler, Client(scheduler.address, asynchronous=True) as client:
        for given in (rag(question="?"), [rag(question="?")]):
            with pytest.raises(TypeError, match=r"fm\.reports takes the Future of client.compute\(...\), not a Bound"):
                await fm.reports(client, given)


def test_a_misspelt_assumption_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(SpecError, match=r"no assumption is called 'prompt_token'; did you mean 'prompt_tokens'\?"):
        rag.budgets(DEPLOYMENT, prompt_token=3)


@pytest.mark.parametrize("rate", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_rate_is_a_finite_number_above_zero(rate: float) -> None:
    with pytest.raises(SpecError, match="give runs a second above 0"):
        fm.plan(PRICED, rag, rate=rate)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"slo": 2.0}, r"slo=2\.0: give an fm\.SLO"),
        ({"rate": "5"}, r"workflow 'rag': rate='5'; give runs a second, a number above 0"),
        ({"others": [rag]}, r"others=\[<workflow rag.*\]: give pairs of a workflow and its runs a second"),
        ({"others": (rag, 5.0)}, r"give pairs of a workflow and its runs a second"),
        ({"others": rag}, r"give pairs of a workflow and its runs a second"),
        ({"cards": 0}, r"cards=0: give the most cards of each type, a whole number of at least 1"),
    ],
)
def test_what_a_plan_cannot_be_made_of_is_blamed_in_one_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        fm.plan(PRICED, rag, **{"rate": 5.0, **given})  # type: ignore[arg-type]


def test_a_model_that_gives_something_else_than_is_asked_for_is_in_no_plan() -> None:
    embeds = {name: {**model, "embeds": name == "small"} for name, model in PRICED["models"].items()}  # type: ignore[dict-item]
    with pytest.raises(
        WorkflowError, match=r"workflow 'rag', node '.*': model 'small' embeds texts .* and writes none"
    ):
        fm.plan({**PRICED, "models": embeds}, rag, rate=5.0)


def test_an_objective_of_budgets_is_no_number() -> None:
    with pytest.raises(SpecError, match=r"slo=2\.0: give an fm\.SLO, e\.g\. fm\.SLO\(ttft_s=2\.0\)"):
        rag.budgets(PRICED, slo=2.0)  # type: ignore[arg-type]


async def test_a_session_runs_bound_workflows_and_says_how_one_is_bound() -> None:
    async with Scheduler(dashboard=False, port=0) as scheduler, Client(scheduler.address, asynchronous=True) as client:
        session = fm.Session(client)
        for method in (session.run, session.outcome):
            with pytest.raises(TypeError, match=r"bound to its inputs, such as rag\(question=\.\.\.\), not a Workflow"):
                method(rag)
            with pytest.raises(TypeError, match=r"bound to its inputs, such as rag\(question=\.\.\.\), not a int"):
                method(3)


def test_a_quantile_beyond_one_is_blamed_in_one_line() -> None:
    with pytest.raises(DeploymentError, match=r"^fm\.plan: quantile: input should be less than 1, not 2$"):
        fm.plan(DEPLOYMENT, rag, rate=1, quantile=2)


def test_options_of_a_run_are_blamed_in_one_line() -> None:
    with pytest.raises(WorkflowError, match=r"^workflow 'rag': priority: input should be .* 1000, not 5000$"):
        rag(question="?").options(priority=5000)


def test_the_objective_of_a_run_is_no_number() -> None:
    with pytest.raises(WorkflowError, match=r"^slo=3: give an fm\.SLO, e\.g\. fm\.SLO\(ttft_s=2\.0\)$"):
        rag(question="?").options(slo=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"scheduler_port": 99_999}, {"dashboard_address": ":99999"}])
def test_a_port_beyond_the_last_is_refused_before_anything_starts(wrong: dict[str, object]) -> None:
    with pytest.raises(DeploymentError, match=r"99999 is no port; give one in 1\.\.65535, or 0 for any free port"):
        fm.LocalModelCluster(DEPLOYMENT, **wrong)


def test_a_misspelt_name_is_blamed_with_the_module_so_that_python_can_suggest() -> None:
    with pytest.raises(AttributeError, match="no attribute 'evalute'") as caught:
        fm.evalute
    assert (caught.value.name, caught.value.obj) == ("evalute", fm)


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ("nowhere.yaml", r"^nowhere\.yaml: no such file; give the path of a scenario document"),
        ({"card": {}}, r"^scenario: card: unknown key 'card'; did you mean 'cards'\?"),
        ("cards: {a: {count: -1}}\nmodels: {}", r"^scenario, line 1, column 13: cards\.a\.count: input should be"),
    ],
)
def test_a_scenario_that_is_none_is_blamed_by_place_and_value(scenario: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        fm.simulate(scenario)
