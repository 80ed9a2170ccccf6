"""Who watches the machine."""

from __future__ import annotations

from typing import Any

import pytest

from dask_fmware.runtime import CallRunnable
from tests.runtime.builders import Driver, assigned, plan, replica


class Broken:
    def observe(self, *told: Any) -> None:
        raise LookupError("of an observer")


class Seeing:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def observe(self, event: Any, actions: Any, now: float) -> None:
        self.seen.append(event)


def test_an_observer_that_raises_takes_neither_actions_nor_other_observers_along() -> None:
    d, broken, seeing, failed = Driver(), Broken(), Seeing(), []
    d.ready(replica("a"))
    d.submit(plan("x"))
    for observer in (broken, seeing):
        d.machine.observers.append(observer)
    d.machine.observers.failed = lambda observer, error: failed.append((observer, str(error)))
    assert assigned(d.runnable("x")) == [("x", "tcp://a", 1)]
    assert failed == [(broken, "of an observer")]
    assert seeing.seen == [CallRunnable("x")]


def test_an_observer_that_raises_is_heard_of_where_nobody_takes_its_errors() -> None:
    d = Driver()
    d.machine.observers.append(Broken())
    with pytest.raises(LookupError, match="of an observer"):
        d.ready(replica("a"))
