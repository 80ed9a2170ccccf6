from __future__ import annotations

from typing import Any

import numpy
import pytest

import dask_fmware as fm
from dask_fmware.errors import SpecError
from dask_fmware.profile.assumptions import Assumptions

small = fm.Model("small")


@fm.task
def good(text: str) -> bool:
    return bool(text)


@fm.workflow
def mend(texts):
    def better(text):
        kind = small("Kind of {t}", t=text, choices=["prose", "verse"], name="kind")
        return fm.switch(
            kind,
            prose=lambda: fm.loop(
                lambda t: small("Mend {t}", t=t, name="mended"), text, until=good, max_iterations=3, name="again"
            ),
            default=lambda: small("Sing {t}", t=text, name="sung"),
            name="form",
        )

    return fm.map(better, texts, name="each")


@fm.workflow
def greet(who):
    return small("Hello {who}", who=who, name="hello")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_tokens": {"mendet": 9}}, "output_tokens: no model node is called 'mendet'; did you mean 'mended'?"),
        ({"prompt_tokens": {"each": 9}}, r"prompt_tokens: no model node is called 'each' (known: kind, mended, sung)"),
        ({"task_s": {"god": 9}}, "task_s: no task node is called 'god'; did you mean 'good'? (known: good)"),
        ({"odds": {"from": {}}}, "odds: no switch is called 'from'; did you mean 'form'?"),
        ({"odds": {"form": {"pros": 1.0}}}, "odds: switch 'form' has no branch 'pros'; did you mean 'prose'?"),
        ({"rounds": {"agin": 2}}, "rounds: no loop is called 'agin'; did you mean 'again'?"),
        ({"items": {"eech": 2}}, "items: no map is called 'eech'; did you mean 'each'?"),
        ({"item": {"each": 2}}, "no assumption is called 'item'; did you mean 'items'?"),
    ],
)
def test_what_is_assumed_of_a_node_that_does_not_exist_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Assumptions.of(given, [mend.workflow])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_tokens": 10}, "output_tokens=10: give its numbers by node, such as output_tokens={'name': 3}"),
        ({"odds": {"form": 0.5}}, "give its numbers by node, such as odds={'switch': {"),
        ({"odds": {"form": {"prose": "all"}}}, "odds of 'form', branch 'prose' is 'all'; give a number"),
        ({"prompt_tokens": "many"}, "prompt_tokens is 'many'; give a number of tokens, or one for each node"),
        ({"items": {"each": float("nan")}}, "items of 'each' is nan; give a number of at least 0"),
        ({"task_s": {"good": -1}}, "task_s of 'good' is -1; give a number of at least 0"),
    ],
)
def test_an_assumption_that_is_no_number_is_blamed_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Assumptions.of(given, [mend.workflow])
    assert message in str(caught.value)


def test_what_is_assumed_may_be_about_any_of_several_workflows() -> None:
    given = {
        "prompt_tokens": {"hello": numpy.int64(40)},
        "output_tokens": {"hello": 9, "sung": 9},
        "odds": {"form": {"prose": 0.3, "default": 0.7}},
        "task_s": {"good": 0.1},
    }
    assert Assumptions.of(given, [greet.workflow, mend.workflow]).output_tokens == {"hello": 9, "sung": 9}
    with pytest.raises(SpecError, match="no model node is called 'hello'"):
        Assumptions.of(given, [mend.workflow])


def test_budgets_know_the_nodes_that_something_is_assumed_of() -> None:
    deployment = {"accelerators": {"a": {"cards": 1}}, "models": {"small": {"on": {"a": {}}}}}
    with pytest.raises(SpecError, match="no model node is called 'helo'; did you mean 'hello'"):
        greet.budgets(deployment, slo=fm.SLO(ttft_s=1.0), output_tokens={"helo": 3})
