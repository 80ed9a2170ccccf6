"""Nodes that embed, in documents, graphs and drawings."""

from __future__ import annotations

from typing import Any

import pytest

from dask_fmware.errors import UnknownModelError, WorkflowError
from dask_fmware.spec.checks import check_models
from dask_fmware.spec.documents import load_workflow, to_json, to_yaml
from dask_fmware.spec.drawing import to_mermaid
from dask_fmware.spec.graph import answer_nodes, critical_path
from dask_fmware.spec.picture import picture
from dask_fmware.spec.tracing import Model, loop, switch, task, trace
from dask_fmware.spec.workflow import Workflow

bge, small = Model("bge"), Model("small")
SECRET = "my bank account"


@task
def search(vector: list[float], *others: Any) -> list[str]: ...


def rag(question: Any) -> Any:
    return small("Answer {q} from {found}", q=question, found=search(bge.embed(question, name="asked")))


def document(texts: str, more: str = "") -> str:
    return f"""
name: flow
inputs: [{{name: question}}]
block:
  nodes:
    - {{kind: model, name: vector, model: bge, texts: {texts}{more}}}
  output: {{from: vector}}
"""


def test_a_node_that_embeds_is_read_as_it_is_written() -> None:
    workflow = trace(rag)
    for written in (to_json(workflow), to_yaml(workflow)):
        assert load_workflow(written) == workflow
        assert "max_tokens" not in written
    assert workflow.nodes["asked"].model_dump(exclude_defaults=True) == {
        "kind": "model", "name": "asked", "model": "bge", "texts": {"source": "question"}
    }  # fmt: skip


@pytest.mark.parametrize(
    "texts", ["{from: question}", "{value: Why?}", "{value: [a, b]}", "{list: [{from: question}, {value: a}]}"]
)
def test_a_text_and_a_list_of_texts_are_taken_given_or_computed(texts: str) -> None:
    assert load_workflow(document(texts)).nodes["vector"].embeds


def test_a_text_is_no_template() -> None:
    assert "{not_a_field}" in to_json(trace(lambda q: search(bge.embed([q, "{not_a_field}"])), name="flow"))


@pytest.mark.parametrize(
    ("texts", "more", "message"),
    [
        ("{value: Why?}", ", max_tokens: 9", "max_tokens is given and the node embeds texts"),
        ("{value: Why?}", ", choices: [a]", "choices is given and the node embeds texts"),
        ("{value: Why?}", ", temperature: 0", "temperature is given and the node embeds texts"),
        ("{value: Why?}", ", fields: {q: {from: question}}", "fields is given and the node embeds texts"),
        ("{value: Why?}", ", prompt: Why?", "both prompt and texts given; give one of them"),
        ("{value: 7}", "", "texts is neither a text nor a list of texts"),
        ("{dict: {a: {from: question}}}", "", "texts is neither a text nor a list of texts"),
        ("{value: []}", "", "texts is an empty list"),
        ('{value: [a, ""]}', "", "texts holds an empty text as item 1"),
        ("{list: [{from: question}, {value: 7}]}", "", "texts holds a int as item 1"),
    ],
)
def test_what_does_not_go_with_vectors_is_refused(texts: str, more: str, message: str) -> None:
    with pytest.raises(WorkflowError, match=f"node 'vector': {message}"):
        load_workflow(document(texts, more))


def test_a_text_where_a_binding_belongs_is_not_shown() -> None:
    with pytest.raises(WorkflowError, match="a binding is one of") as refused:
        load_workflow(document(f"[{SECRET}]"))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("embed", "key"),
    [
        (lambda q: bge.embed(q, max_tokens=9), "max_tokens"),
        (lambda q: bge.embed("Query: {question}", question=q), "question"),
        (lambda q: Model("bge", temperature=0).embed(q), "temperature"),
    ],
)
def test_an_embedding_takes_its_texts_alone(embed: Any, key: str) -> None:
    with pytest.raises(WorkflowError, match=f"node 'bge': '{key}' is given, and an embedding takes the texts alone"):
        trace(lambda q: search(embed(q)))


def test_vectors_are_no_answer_that_is_streamed() -> None:
    def routed(question: Any) -> Any:
        kind = small("Kind of {q}", q=question, choices=["text", "vector"])
        return switch(kind, text=lambda: small("{q}", q=question, name="said"), vector=lambda: bge.embed(question))

    assert answer_nodes(trace(lambda q: bge.embed(q), name="flow")) == frozenset()
    assert answer_nodes(trace(routed)) == {"said"}


def test_an_embedding_is_short_on_the_longest_path() -> None:
    def both(question: Any) -> Any:
        return search(bge.embed(question, name="vector"), small("{q}", q=question, max_tokens=2, name="written"))

    assert critical_path(trace(both)) == ("written",)


def test_drawings_say_that_it_gives_vectors() -> None:
    workflow = trace(rag)
    assert "bge · vectors" in picture(workflow)
    assert "bge · vectors" in to_mermaid(workflow)


def test_vectors_end_no_loop() -> None:
    with pytest.raises(WorkflowError, match="its value is a vector, which is always true"):
        trace(
            lambda q: loop(lambda q: small("{q}", q=q), q, until=lambda q: bge.embed(q), max_iterations=2), name="flow"
        )


def models(function: Any, *embedders: str, deployed: tuple[str, ...] = ("bge", "small")) -> Workflow:
    workflow = trace(function)
    check_models(workflow, deployed, embedders)
    return workflow


def test_models_are_checked_for_what_they_give() -> None:
    models(rag, "bge")
    with pytest.raises(UnknownModelError, match="calls model 'bge', which is not deployed"):
        models(rag, deployed=("small",))
    with pytest.raises(WorkflowError, match="node 'asked': model 'bge' writes text and is asked for vectors"):
        models(rag)
    with pytest.raises(WorkflowError, match=r"node 'small': model 'small' embeds texts .* and writes none"):
        models(rag, "bge", "small")
