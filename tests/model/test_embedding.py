"""Texts in, vectors out: one for one."""

from __future__ import annotations

import pytest

from dask_fmware.errors import EngineError, WorkflowError
from dask_fmware.model.call import ModelCall
from dask_fmware.model.embedding import MOST_TEXTS, embedded, texts_of
from dask_fmware.model.engine import Delta, Request

SECRET = "my bank account is 1234"
CALL = ModelCall(workflow="rag", node="question", model="bge", templates=(), max_tokens=1, embeds=True)


@pytest.mark.parametrize(("value", "texts"), [("a", ("a",)), (["a", "b"], ("a", "b")), (("a",), ("a",))])
def test_a_call_that_embeds_asks_for_its_texts_and_one_token(value: object, texts: tuple[str, ...]) -> None:
    request = CALL.request({"texts": value}, request_id="k#1", priority=-2.0)
    assert request == Request("k#1", 1, texts=texts, priority=-2.0)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (7, "not a int; make texts of it"),
        (None, "not a NoneType; make texts of it"),
        ({"a": SECRET}, "not a dict; make texts of it"),
        ([SECRET, None], "not a list that holds a NoneType"),
        ([], "0 texts in one call, which takes 1 to 2,048"),
        (["a"] * (MOST_TEXTS + 1), "2,049 texts in one call"),
    ],
)
def test_what_is_no_text_is_refused_and_not_shown(value: object, what: str) -> None:
    with pytest.raises(WorkflowError, match=f"workflow 'rag', node 'question': .*{what}") as refused:
        CALL.request({"texts": value}, request_id="k#1")
    assert SECRET not in str(refused.value)


def test_a_text_has_a_vector_and_a_list_a_list_of_them() -> None:
    assert embedded("a", [(0.6, 0.8)], "here") == [0.6, 0.8]
    assert embedded(["a"], [(0.6, 0.8)], "here") == [[0.6, 0.8]]
    assert texts_of(["a"] * MOST_TEXTS, "here") == ("a",) * MOST_TEXTS


@pytest.mark.parametrize("vectors", [None, [], [(1.0,)], [(1.0,), ()], [(1.0,)] * 3])
def test_an_engine_that_gives_another_number_of_vectors_is_told_of(vectors: object) -> None:
    with pytest.raises(EngineError, match=r"here: the engine gave . vectors for 2 texts"):
        embedded(["a", "b"], vectors, "here")  # type: ignore[arg-type]


def test_neither_texts_nor_vectors_show_in_a_repr() -> None:
    assert SECRET not in repr(Request("k", 1, texts=(SECRET,)))
    assert "0.125" not in repr(Delta("", vectors=[(0.125,)]))
