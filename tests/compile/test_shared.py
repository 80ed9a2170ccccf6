"""Code of notebooks and scripts travels as it is, and is pickled again only if what it uses was bound anew."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.compile import shared
from dask_fmware.compile.shared import Shared

CELL = """
import functools
import dask_fmware as fm
from pydantic import BaseModel, field_validator
TIMES = 2
def shout(text):
    return text.upper()
class Proxy:
    def __getattr__(self, name):
        raise RuntimeError("nothing is bound")
proxy = Proxy()
def helped(text):
    proxy
    return [shout(text) for _ in range(TIMES)]
@fm.task
def retrieve(query):
    return helped(query)
@fm.workflow
def alone(query):
    return retrieve(query)
@fm.workflow
def each(queries):
    return fm.map(retrieve, queries)
class Reader:
    @fm.task
    def find(self, query):
        return helped(query)
    @fm.task
    def search(self, query):
        return self.read(query)
    def read(self, text):
        return shout(text)
reader = Reader()
@fm.workflow
def by_method(query):
    return reader.find(query)
@fm.task
def with_class(query):
    return Reader().read(query)
@fm.task
def with_object(query):
    return reader.read(query)
LIMIT = 3
def short(text, limit=None):
    return text[:LIMIT]
RULES = {"short": [short]}
fixed = functools.partial(short, limit=1)
class Table:
    def __init__(self):
        self.rules = RULES
table = Table()
LABELS = ["a", "b"]
class Label(BaseModel):
    text: str
    @field_validator("text")
    @classmethod
    def known(cls, text):
        assert text in LABELS
        return text
"""


@pytest.fixture
def notebook() -> dict[str, Any]:
    cells: dict[str, Any] = {"__name__": "__main__"}
    exec(CELL, cells)
    return cells


def travelled(workflow: Any) -> Any:
    """What the one step of a workflow gives where it arrives."""
    (step,) = workflow._template_with(()).steps
    payload = pickle.loads(pickle.dumps(step.shared)).value
    inner = payload if hasattr(payload, "operations") else payload.body.steps[0].shared.value
    return inner.operations[0].function("a")


@pytest.mark.parametrize("name", ["alone", "each", "by_method"])
def test_a_helper_or_constant_that_was_bound_anew_travels(notebook: dict[str, Any], name: str) -> None:
    assert travelled(notebook[name]) == ["A", "A"]
    exec("TIMES = 1", notebook)
    assert travelled(notebook[name]) == ["A"]
    exec("def shout(text):\n    return text + '!'", notebook)
    assert travelled(notebook[name]) == ["a!"]


@pytest.mark.parametrize("task", ["reader.search", "with_class", "with_object"])
def test_what_methods_use_is_seen(notebook: dict[str, Any], task: str) -> None:
    called = eval(task, notebook)
    (step,) = fm.workflow(lambda query: called(query), name="flow")._template_with(()).steps
    before = step.shared._as_bytes()
    assert step.shared._as_bytes() is before
    exec("def shout(text):\n    return text + '!'", notebook)
    assert step.shared._as_bytes() != before


@pytest.mark.parametrize("code", ["RULES['short'][0]", "fixed", "table.rules['short'][0]"])
def test_what_is_reached_through_containers_partials_and_objects_is_seen(notebook: dict[str, Any], code: str) -> None:
    exec(f"@fm.task\ndef cut(text):\n    return {code}(text)", notebook)
    made = fm.workflow(lambda text: notebook["cut"](text), name="flow")
    (step,) = made._template_with(()).steps

    def cut() -> str:
        return str(pickle.loads(pickle.dumps(step.shared)).value.operations[0].function("abcdef"))

    assert cut() == "abc"
    exec("LIMIT = 5", notebook)
    assert cut() == "abcde"


def test_what_validators_of_a_schema_use_is_seen(notebook: dict[str, Any]) -> None:
    small = fm.Model("small")
    made = fm.workflow(lambda text: small("{text}", text=text, schema=notebook["Label"]), name="flow")
    (step,) = made._template_with(()).steps
    before = step.shared._as_bytes()
    assert step.shared._as_bytes() is before
    exec("LABELS = ['c']", notebook)
    assert step.shared._as_bytes() != before


def test_an_index_of_documents_hides_no_constant(notebook: dict[str, Any]) -> None:
    exec("DOCUMENTS = [[str(n)] for n in range(50_000)]", notebook)
    exec("@fm.task\ndef cut(text):\n    return DOCUMENTS and short(text)", notebook)
    (step,) = fm.workflow(lambda text: notebook["cut"](text), name="flow")._template_with(()).steps
    before = step.shared._as_bytes()
    exec("LIMIT = 5", notebook)
    assert step.shared._as_bytes() != before
    assert len(step.shared._used) < 2000


def test_code_that_did_not_change_is_pickled_once(notebook: dict[str, Any]) -> None:
    (step,) = notebook["each"]._template_with(()).steps
    assert step.shared._as_bytes() is step.shared._as_bytes()


def test_functions_of_modules_are_not_looked_into() -> None:
    @fm.task
    def plain(text: str) -> str:
        return text

    assert Shared(1, [plain.function])._functions == ()


def test_what_is_kept_is_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = shared._Kept()
    monkeypatch.setattr(shared, "MOST", 3)
    monkeypatch.setattr(shared, "MOST_BYTES", 100)
    first = kept.of(b"first")
    assert kept.of(b"first") is first
    for data in (b"a", b"b", b"first", b"c"):
        kept.of(data)
    assert len(kept) == 3
    assert kept.of(b"first") is first  # it was used since
    large = kept.of(b"x" * 200)
    assert len(kept) == 1
    assert kept.of(b"x" * 200) is large
    assert kept.of(b"first") is not first
