"""Tasks defined inside a workflow: what they may take from around them, and what is refused."""

from __future__ import annotations

import functools

import pytest

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.tracing import task, trace


def _closure(v):
    def retrieve(query):
        return {"q": v, "query": query}

    return retrieve


def _default(v):
    def retrieve(query, question=v):
        return {"q": question, "query": query}

    return retrieve


def _keyword(v):
    def retrieve(query, *, question=v):
        return {"q": question, "query": query}

    return retrieve


def _helper(v):
    kept = {"questions": [v]}

    def questions():
        return kept["questions"]

    def retrieve(query):
        return {"q": questions(), "query": query}

    return retrieve


def _other_task(v):
    other = task(_closure(v))

    def retrieve(query):
        return other(query)

    return retrieve


def _partial(v):
    both = functools.partial(dict, q=v)

    def retrieve(query):
        return both(query=query)

    return retrieve


@pytest.mark.parametrize("define", [_closure, _default, _keyword, _helper, _other_task, _partial])
def test_a_task_that_uses_a_value_from_around_it_is_refused(define):
    with pytest.raises(
        WorkflowError, match=r"task 'retrieve' uses the value of 'text' from around it; pass it as an argument"
    ):
        trace(lambda text: task(define(text))("query"), name="wf")


def test_a_task_may_use_itself_and_constants_from_around_it():
    constant, table = "x", {"a": [1]}

    def count(n):
        return (later and n and count(n - 1)) or (constant, table)

    made = trace(lambda text: task(count)(text), name="wf")
    later = True
    assert list(made.functions) == ["count"]


class Proxy:
    """Stands for an object that is not there yet."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError("nothing is bound")


def test_large_data_and_proxies_around_a_task_are_left_alone():
    proxy, table = Proxy(), Counted(range(20_000))

    def look_up(query):
        return table, proxy

    trace(lambda text: task(look_up)(text), name="wf")
    assert table.read <= 10_000


class Counted(list):
    read = 0

    def __iter__(self):
        for item in super().__iter__():
            self.read += 1
            yield item
