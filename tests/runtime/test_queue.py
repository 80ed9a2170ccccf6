from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.runtime.replicas.queue import CallQueue, Cursor


def ticket(call_id: str, order: float = 0.0, arrival: int = 0):
    return (order,), arrival, call_id


def test_calls_leave_in_the_order_of_the_policy_then_of_their_arrival() -> None:
    queue = CallQueue()
    for t in (ticket("late", 0, 2), ticket("early", 0, 1), ticket("urgent", -1, 3)):
        queue.push(t)
    assert [queue.pop()[2] for _ in range(3)] == ["urgent", "early", "late"]  # type: ignore[index]
    assert queue.pop() is None


def test_a_call_can_be_taken_out_from_anywhere() -> None:
    queue = CallQueue()
    for i in range(3):
        queue.push(ticket(str(i), arrival=i))
    assert queue.remove("0")
    assert not queue.remove("0")
    assert "0" not in queue
    assert "1" in queue
    assert queue.first() == ticket("1", arrival=1)
    assert len(queue) == 2


def test_a_call_that_comes_back_with_an_equal_ticket_is_served_once() -> None:
    queue = CallQueue()
    queue.push(ticket("a"))
    queue.remove("a")
    queue.push(ticket("a"))
    assert queue.pop() is not None
    assert queue.pop() is None


@given(st.lists(st.tuples(st.sampled_from(["push", "remove", "pop"]), st.integers(0, 5), st.integers(-2, 2))))
def test_a_queue_serves_as_a_sorted_list_does(steps: list[tuple[str, int, int]]) -> None:
    queue, model = CallQueue(), dict[str, tuple[tuple[float], int, str]]()
    for arrival, (step, call, order) in enumerate(steps):
        call_id = str(call)
        if step == "push" and call_id not in model:
            model[call_id] = ticket(call_id, order, arrival)
            queue.push(model[call_id])
        elif step == "remove":
            assert queue.remove(call_id) == (model.pop(call_id, None) is not None)
        elif step == "pop":
            first = min(model.values(), default=None)
            assert queue.pop() == first
            if first is not None:
                del model[first[2]]
        assert len(queue) == len(model)
        assert queue.first() == min(model.values(), default=None)


@given(st.permutations(range(80)), st.sets(st.integers(0, 79), max_size=40))
def test_looking_past_calls_shows_them_in_order_and_leaves_them(orders: list[int], gone: set[int]) -> None:
    queue = CallQueue()
    for order in orders[:50]:
        queue.push(ticket(str(order), order))
    cursor = Cursor(queue)
    for _ in range(8):
        cursor.skip()
    cursor.ticket()  # the first are kept in order from now on
    for order in orders[50:]:
        queue.push(ticket(str(order), order))
    for order in gone:
        assert queue.remove(str(order))
    left, cursor, seen = sorted(set(range(80)) - gone), Cursor(queue), []
    for place in range(10):
        shown = cursor.ticket()
        assert shown is not None
        seen.append(shown[2])
        if place % 2:
            cursor.take()
        else:
            cursor.skip()
    assert seen == [str(order) for order in left[:10]]
    waiting = [str(order) for place, order in enumerate(left) if place >= 10 or place % 2 == 0]
    assert [queue.pop()[2] for _ in waiting] == waiting  # type: ignore[index]
