"""Which calls of a map or loop are not over, and which of them are looked at."""

from __future__ import annotations

from dask_fmware.runtime.runs.open_calls import OpenCalls


def _planned(count: int) -> OpenCalls:
    made = OpenCalls()
    for place in range(count):
        made.put(f"c{place}", place, "planned")
    return made


def test_a_call_is_where_it_stands_and_nowhere_once_it_is_over() -> None:
    open_ = _planned(1)
    for state in ("held", "queued"):
        open_.put("c0", 0, state)  # type: ignore[arg-type]
        assert (list(open_.planned), list(open_.runnable), list(open_.running)) == ([], ["c0"], [])
    open_.put("c0", 0, "running")
    assert (open_.to_start, list(open_.running)) == (0, ["c0"])
    open_.put("c0", 0, "finished")
    assert (open_.to_start, list(open_.running)) == (0, [])
    open_.put("c0", 0, "held")  # its result was lost
    assert list(open_.runnable) == ["c0"]
    open_.forget("c0")
    assert open_.to_start == 0


def test_few_are_looked_at_by_their_places_and_of_many_the_runnable_ones_first() -> None:
    open_ = _planned(5)
    for place in (3, 1):
        open_.put(f"c{place}", place, "held")
    assert open_.first(5) == ["c0", "c1", "c2", "c3", "c4"]
    assert open_.first(3) == ["c3", "c1", "c0"]


def test_a_call_that_waits_on_keeps_its_turn() -> None:
    open_ = _planned(3)
    for place in (1, 0, 1):
        open_.put(f"c{place}", place, "held")
    assert open_.first(2) == ["c1", "c0"]
