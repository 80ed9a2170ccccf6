"""What past calls say of the card time of a run."""

from __future__ import annotations

import pytest

from dask_fmware.model.plan import Guard
from dask_fmware.runtime.knowledge import Knowledge
from tests.runtime.builders import node, plan


def test_the_card_time_of_a_run_is_the_mean_over_branches_until_its_switch_has_decided() -> None:
    knowledge = Knowledge(lambda *_: (0.0, 0.0), lambda _model, prompt, output: prompt + output)
    guards = [(Guard("a", branch),) for branch in (0, 1)]
    branches = [node(f"r/{name}", after=("a",), guards=guard) for name, guard in zip("bc", guards, strict=True)]
    made = plan("r", [node("r/a"), *branches])
    for name, tokens in (("a", 1), ("b", 5), ("c", 10)):
        knowledge.observe_call(made.workflow, name, tokens, tokens)
    for branch in (0, 0, 1):
        knowledge.observe_branch(made.workflow, "a", branch)
    shape = knowledge.shape(made)
    odds = 2.5 / 4  # of branch 0, with half an observation for each before any
    assert knowledge.work(shape, frozenset()).total_s == pytest.approx(2 + odds * 10 + (1 - odds) * 20)
    assert knowledge.work(shape, frozenset({("a", 1)})).by_model == {"small": pytest.approx(22)}
