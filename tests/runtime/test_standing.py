"""How a replica stands to calls: one value that says what it takes and what it is called."""

from __future__ import annotations

from typing import Any

import pytest

from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.replicas.standing import READY, WHOEVER, Standing
from tests.runtime.builders import replica

NOW = 10.0


@pytest.mark.parametrize(
    ("parts", "word", "takes_calls", "is_offered", "slots"),
    [
        ({}, "ready", True, True, 8),
        ({"is_shaky": True}, "ready", True, True, 8),
        ({"is_on_trial": True}, "on trial", True, True, 1),
        ({"kept_for": WHOEVER}, "kept", True, False, 1),
        ({"kept_for": "a", "is_on_trial": True}, "kept", True, False, 1),
        ({"opens_at": 30.0, "kept_for": "a"}, "shut", False, False, 1),
        ({"opens_at": 30.0}, "shut", False, False, 8),
        ({"opens_at": 30.0, "is_draining": True}, "draining", False, False, 8),
        ({"is_draining": True, "is_on_trial": True}, "draining", False, False, 1),
    ],
)
def test_one_value_says_what_is_taken_and_what_that_is_called(
    parts: dict[str, Any], word: str, takes_calls: bool, is_offered: bool, slots: int
) -> None:
    standing = Standing(**parts)
    said = standing.word(NOW), standing.takes_calls, standing.is_offered, standing.slots(8)
    assert said == (word, takes_calls, is_offered, slots)
    assert standing.serves(NOW) is takes_calls


def test_a_limit_that_is_over_is_shown_no_more_although_the_machine_has_not_looked_again() -> None:
    standing = Standing(opens_at=30.0)
    assert standing.in_words(NOW) == "shut by its rate limit for 20 s"
    assert (standing.word(30.0), standing.in_words(30.0), standing.serves(30.0)) == ("ready", "ready", True)
    assert not standing.takes_calls


def test_whoever_keeps_something_by_a_standing_is_told_of_another() -> None:
    fleet = Fleet()
    fleet.distrust("a")
    state = fleet.add(replica("a", slots=4))
    (view,) = fleet.views("small")
    assert (view.slots, state.standing) == (1, Standing(is_on_trial=True))
    fleet.restate(state, is_on_trial=False)
    (view,) = fleet.views("small")
    assert (view.slots, state.standing) == (4, READY)
    fleet.shut(state, 30.0)
    fleet.shut(state, 20.0)
    assert (fleet.views("small"), fleet.comes_at, fleet.opens_at("small")) == ([], 30.0, 30.0)
    fleet.restate(state, is_draining=True)
    assert fleet.come(30.0) == [state]
    assert (fleet.views("small"), state.standing) == ([], Standing(is_draining=True))
    fleet.restate(state, is_draining=False)
    assert [view.slots for view in fleet.views("small")] == [4]


def test_a_replica_that_is_gone_opens_nothing() -> None:
    fleet = Fleet()
    state = fleet.add(replica("a"))
    fleet.shut(state, 30.0)
    fleet.remove("tcp://a", 1.0)
    fleet.restate(state, kept_for=None, is_draining=True)
    assert fleet.come(30.0) == []
