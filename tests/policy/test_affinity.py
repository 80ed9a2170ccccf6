"""A call goes where its run was served, if what the cache has of its prompt is worth more than the wait."""

from __future__ import annotations

from dask_fmware.policy.kinds import RankedReplicas, candidates
from dask_fmware.policy.protocol import Bind
from dask_fmware.policy.slack import Slack
from dask_fmware.testing.views import SLOW, call, replica
from tests.runtime.builders import Driver, node, plan
from tests.runtime.builders import replica as ready

PROMPT = {"prompt_tokens": 2000, "deadline": 60.0, "own_s": 1.0, "answers": True, "begun": True}


def bound_to(chosen: object) -> str:
    assert isinstance(chosen, Bind)
    return chosen.replica_id


def test_slack_prefers_the_replica_that_has_the_prompt() -> None:
    idle, home = replica("a", slots=4), replica("b", slots=4, running=1)
    assert bound_to(Slack().choose(call(**PROMPT), [idle, home], 10.0)) == "tcp://a"
    known = call(**PROMPT, home="tcp://b", cached_tokens=1800)
    assert bound_to(Slack().choose(known, [idle, home], 10.0)) == "tcp://b"


def test_slack_does_not_wait_for_it_nor_take_a_slow_card_for_a_few_tokens() -> None:
    idle = replica("a", slots=4)
    known = call(**PROMPT, home="tcp://b", cached_tokens=1800)
    full = replica("b", slots=4, running=4, slot_free_at=20.0)
    assert bound_to(Slack().choose(known, [idle, full], 10.0)) == "tcp://a"
    few = call(**PROMPT, home="tcp://b", cached_tokens=100)
    assert bound_to(Slack().choose(few, [idle, replica("b", slots=4, latency=SLOW)], 10.0)) == "tcp://a"


def test_the_replica_of_a_run_is_looked_at_beside_the_best_of_its_kind() -> None:
    ranked = RankedReplicas([replica("a", slots=4), replica("b", slots=4, running=1)], Slack().rank)
    names = [view.name for view in candidates(call(home="tcp://b", cached_tokens=9), ranked, Slack().rank)]
    assert sorted(names) == ["a", "b"]
    assert len(list(candidates(call(home="tcp://gone", cached_tokens=9), ranked, Slack().rank))) == 1


def test_the_machine_learns_what_caches_have_of_a_run_that_they_served() -> None:
    d = Driver("slack")
    d.ready(ready("a", slots=2), ready("b", slots=2))
    for number in range(3):
        one, two = f"r{number}/one", f"r{number}/two"
        d.submit(plan(f"r{number}", [node(one), node(two, after=("one",), answers=True)]))
        for key, cached in ((one, 0), (two, 900)):
            d.runnable(key)
            view = d.machine.views.view(d.machine.runs.calls[key])
            assert (view.home is not None) == (key == two and number > 0)
            d.end(key, prompt_tokens=1000, output_tokens=20, cached_tokens=cached)
    assert view.cached_tokens == 900
    assert view.prompt_at(str(view.home)) == view.prompt_tokens - 900
    assert view.prompt_at("elsewhere") == view.prompt_tokens
