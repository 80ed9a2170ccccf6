"""What is a key, and what an error says of an answer that is none."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from dask_fmware.errors import PolicyFaultError
from dask_fmware.policy.checked import CheckedPolicy
from dask_fmware.policy.keys import Keys
from dask_fmware.policy.round_robin import RoundRobin
from dask_fmware.testing.views import call, replica


@pytest.mark.parametrize("key", [(1,), (1.5,), (True,), (-inf,), (np.float32(2.0),), (np.int64(3),), (Fraction(1, 3),)])
def test_numbers_of_any_library_make_keys_of_one_order(key: tuple[Any, ...]) -> None:
    keys = Keys(has_texts=False)
    assert keys.wrong((0.0,)) == ""
    assert keys.wrong(key) == ""


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ([1.0, "a"], "which is no tuple"),
        ((nan, "a"), "in which a NaN is no number"),
        ((np.float64("nan"), "a"), "in which a NaN is no number"),
        ((1j, "a"), "in which a complex is no number or text"),
        (("a", 1.0), "which cannot be compared with those before it, (number, text)"),
        ((1.0,), "which cannot be compared with those before it, (number, text)"),
    ],
)
def test_a_key_must_be_like_those_before_it(key: object, why: str) -> None:
    keys = Keys(has_texts=True)
    assert keys.wrong((1, "first")) == ""
    assert keys.wrong(key) == why
    assert keys.wrong((2.0, "second")) == ""


def test_a_long_answer_is_shortened_in_its_error_and_one_that_cannot_be_shown_is_named() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise ValueError("not for you")

    class Talks(RoundRobin):
        def order(self, call: Any) -> Any:
            return "a" * 10_000 if call.call_id == "long" else Shy()

    policy = CheckedPolicy(Talks())
    with pytest.raises(PolicyFaultError, match=r"order answered 'a+\.\.\.a+', which is no tuple") as caught:
        policy.order(call("long"))
    assert len(str(caught.value)) < 300
    with pytest.raises(PolicyFaultError, match=r"order answered <Shy instance at .*>, which is no tuple"):
        policy.order(call("shy"))


def test_a_rank_that_is_none_is_the_least_and_its_error_comes_with_the_next_choice() -> None:
    class Unranked(RoundRobin):
        def rank(self, replica: Any) -> Any:
            return (replica.name, nan) if replica.waiting else (replica.name, 1.0)

    policy = CheckedPolicy(Unranked())
    assert policy.rank(replica("a", running=1, waiting=1)) < policy.rank(replica("b"))
    with pytest.raises(PolicyFaultError, match="'round_robin': rank answered"):
        policy.choose(call(), [replica("a"), replica("b")], 0.0)
    assert policy.choose(call(), [replica("b")], 0.0).replica_id == "tcp://b"
    assert policy.rank(replica("a")) == ("a", 1.0)
    assert policy.choose(call(), [replica("a")], 0.0).replica_id == "tcp://a"
