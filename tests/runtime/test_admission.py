from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.errors import CapacityError, ContextOverflowError, UnknownModelError, WorkflowError
from dask_fmware.model.plan import Guard
from dask_fmware.runtime import Refuse, ReplicaGone
from dask_fmware.runtime.runs.admission import ModelLimits, least_prompt_tokens, refusal
from tests.runtime.builders import Driver, node, plan, replica

LIMITS = {"small": ModelLimits(100, 4)}


def refused(p, **options):
    return refusal(p, limits=LIMITS.get, hosted=lambda: LIMITS, **options)


@given(st.text(min_size=0, max_size=200), st.integers(1, 16))
def test_no_prompt_has_fewer_tokens_than_its_lower_bound(text: str, longest: int) -> None:
    size = len(text.encode())
    bound = least_prompt_tokens(size, ModelLimits(100, longest))
    assert (bound - 1) * longest < size <= bound * longest or (size == 0 == bound)


def test_a_run_that_fits_is_accepted() -> None:
    assert refused(plan("r", [node("r/a"), node("r/code", None, max_tokens=10**9)])) is None


def test_an_unknown_model_is_named_with_those_that_are_hosted() -> None:
    error = refused(plan("r", [node("r/judge", "llama")]))
    assert isinstance(error, UnknownModelError)
    assert str(error).startswith("workflow 'rag', node 'judge': no replica hosts model 'llama' (hosted: small)")


@pytest.mark.parametrize("embeds", [True, False])
def test_a_model_is_asked_for_what_it_gives_where_that_is_known(embeds: bool) -> None:
    run = plan("r", [replace(node("r/a"), embeds=embeds)])
    for known, is_refused in ((embeds, False), (None, False), (not embeds, True)):
        error = refusal(run, limits=lambda model, known=known: ModelLimits(100, 4, known), hosted=lambda: ("small",))  # type: ignore[misc]
        assert isinstance(error, WorkflowError) == is_refused
        assert not is_refused or str(error).startswith("workflow 'rag', node 'a': model 'small'")


def test_an_empty_cluster_says_that_it_hosts_nothing() -> None:
    error = refusal(plan("r"), limits=lambda model: None, hosted=lambda: ())
    assert "(hosted: none)" in str(error)


@pytest.mark.parametrize(("max_tokens", "fits"), [(90, True), (91, False)])
def test_prompt_and_output_must_fit_the_context(max_tokens: int, fits: bool) -> None:
    error = refused(plan("r", [node("r/a", prompt_bytes=40, max_tokens=max_tokens)]))
    if fits:
        assert error is None
    else:
        assert isinstance(error, ContextOverflowError)
        assert "at least 10 tokens" in str(error)
        assert "100 tokens" in str(error)


@pytest.mark.parametrize(
    ("decided", "fits"),
    [
        ((), True),
        ((("size", 1),), True),
        ((("size", None),), True),
        ((("size", 0),), True),
        ((("size", 0), ("kind", 2)), False),
    ],
    ids=["undecided", "another branch", "no branch", "one of two", "taken"],
)
def test_a_call_that_may_never_be_made_need_not_fit_the_context(
    decided: tuple[tuple[str, int | None], ...], fits: bool
) -> None:
    guards = (Guard("size", 0), Guard("kind", 2))
    error = refused(plan("r", [node("r/a", prompt_bytes=400, guards=guards)], decided=decided))
    assert (error is None) if fits else isinstance(error, ContextOverflowError)


def test_a_model_that_may_never_be_called_has_to_be_there() -> None:
    error = refused(plan("r", [node("r/a", "llama", guards=(Guard("size", 0),))], decided=(("size", 1),)))
    assert isinstance(error, UnknownModelError)


def test_a_run_is_refused_when_too_many_calls_are_held() -> None:
    assert refused(plan("r"), held=4, max_held=5) is None
    error = refused(plan("r"), held=5, max_held=5)
    assert isinstance(error, CapacityError)
    assert "router.max_held" in str(error)


def test_a_body_of_an_accepted_run_is_never_refused_for_calls_that_are_held() -> None:
    assert refused(plan("r[0]", part_of="r"), held=5, max_held=5) is None


def test_how_long_tokens_are_replicas_know_better_than_the_deployment() -> None:
    driver = Driver(models={"small": ModelLimits(100)})
    long = plan("a", [node("a/call", prompt_bytes=1600, answers=True)])
    assert not any(isinstance(action, Refuse) for action in driver.submit(long))  # nobody knows the vocabulary yet
    driver.ready(replace(replica("r1"), longest_token_bytes=4))
    (refused,) = driver.submit(replace(long, run_id="b"))
    assert "a prompt of at least 400 tokens" in str(refused.error)
    driver.ready(replace(replica("r2"), longest_token_bytes=32))  # another engine, with longer tokens
    assert not any(isinstance(action, Refuse) for action in driver.submit(replace(long, run_id="c")))
    driver.tell(ReplicaGone("tcp://r2"))
    assert any(isinstance(action, Refuse) for action in driver.submit(replace(long, run_id="d")))
