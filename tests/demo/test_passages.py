import sqlite3
from threading import Thread

import pytest

from dask_fmware.demo import passages
from dask_fmware.demo.inputs import MESSAGES, QUESTIONS
from dask_fmware.demo.rag import retrieve
from dask_fmware.demo.schedule import PlannedRun
from dask_fmware.demo.workload import ANSWERS, WORKFLOWS, bind
from dask_fmware.errors import RuntimeFaultError


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A database of three passages."""
    found = [
        ("dask.a", "LocalCluster starts workers as processes on this machine"),
        ("dask.b", "rechunk changes the chunks of an array"),
        ("dask.c", "A nanny watches a worker process and restarts it"),
    ]
    monkeypatch.setattr(passages, "_passages", lambda: iter(found))
    monkeypatch.setattr(passages, "database", lambda: tmp_path / "cache" / "passages.sqlite")
    assert passages.build(passages.database()) == 3


@pytest.mark.usefixtures("shelf")
def test_the_passage_that_fits_comes_first():
    assert passages.search("How do I rechunk an array?")[0].startswith("dask.b: rechunk")


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("query", ['" OR NEAR(', "", "* ^ : - + ( )", "nanny' AND NOT worker", "\x00"])
def test_any_text_is_a_query(query):
    assert isinstance(passages.search(query), list)


@pytest.mark.usefixtures("shelf")
def test_the_task_finds_by_question_even_if_the_query_is_salad():
    assert "restarts" in retrieve("What is a nanny?", "green under moon")


@pytest.mark.usefixtures("shelf")
def test_a_database_is_built_once(monkeypatch):
    monkeypatch.setattr(passages, "_passages", lambda: pytest.fail("built again"))
    assert passages.build(passages.database()) == 3


@pytest.mark.usefixtures("shelf")
def test_a_database_is_closed_with_its_thread_and_for_another(monkeypatch, tmp_path):
    opened = []

    def search():
        passages.search("worker")
        opened.append(passages._connection())

    thread = Thread(target=search)
    thread.start()
    thread.join()
    search()
    passages.build(tmp_path / "other.sqlite")
    monkeypatch.setattr(passages, "database", lambda: tmp_path / "other.sqlite")
    search()
    for connection in opened[:2]:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
    assert opened[2].execute("SELECT 1").fetchone() == (1,)


def test_a_database_that_was_never_built_says_how_to_build_it(monkeypatch, tmp_path):
    monkeypatch.setattr(passages, "database", lambda: tmp_path / "other.sqlite")
    with pytest.raises(
        RuntimeFaultError, match=r"other\.sqlite' of this machine; build them there once: .*passages\.build"
    ):
        passages.search("scale")


def test_half_a_database_is_never_left_behind(tmp_path, monkeypatch):
    def broken():
        yield "dask.a", "text"
        raise OSError("disk full")

    monkeypatch.setattr(passages, "_passages", broken)
    with pytest.raises(RuntimeFaultError, match="disk full"):
        passages.build(tmp_path / "passages.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_long_paragraphs_are_cut_and_short_docstrings_left_out():
    cut = list(passages.chunks("word " * 100))
    assert [len(chunk.split()) for chunk in cut] == [40, 40, 20]
    assert list(passages.chunks("Return it.")) == []


def test_questions_are_many_and_different():
    assert len(set(QUESTIONS)) >= 40
    assert len(set(MESSAGES)) >= 20


def test_a_path_of_the_chatbot_has_five_calls():
    nodes = WORKFLOWS["shopping"].workflow.nodes
    assert {"intent", "extract", "confirm", "pitch", "recommend", "draft", "judge"} <= set(nodes)
    assert set(ANSWERS) <= {name for function in WORKFLOWS.values() for name in function.workflow.nodes}


def test_lengths_of_a_trace_become_padding_and_bounds():
    bound = bind(PlannedRun(0, "rag", 0.0, "Why?", padding_tokens=100, answer_tokens=8))
    assert bound.workflow.nodes["answer"].max_tokens == 8
    assert bound.workflow.nodes["rewrite"].max_tokens == 16
    assert len(bound._inputs["question"].split()) > 40


def test_an_slo_replaces_that_of_the_workflow():
    import dask_fmware as fm

    bound = bind(PlannedRun(0, "shopping", 0.0, "Hello"), fm.SLO(ttft_s=9.0))
    assert bound.run_options.slo.ttft_s == 9.0
