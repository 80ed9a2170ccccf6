"""What each scorer says of an answer."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

import dask_fmware as fm
from dask_fmware.errors import SpecError
from dask_fmware.evaluation.fingerprint.code import code_fingerprint, workflow_fingerprint
from dask_fmware.evaluation.given_scorers import as_scorers


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    item: str


@pytest.mark.parametrize(
    ("scorer", "answer", "expected", "score"),
    [
        (fm.scorers.exact(), " two  words\n", "two words", 1),
        (fm.scorers.exact(), "Two", "two", 0),
        (fm.scorers.exact(ignore_case=True), "STRASSE", "straße", 1),
        (fm.scorers.exact(), "5", 5, 1),
        (fm.scorers.fuzzy(), "abcd", "abcd", 1),
        (fm.scorers.fuzzy(), "abcd", "abxd", 0.75),
        (fm.scorers.fuzzy(), "", "", 1),
        (fm.scorers.is_json(), '{"item": "tent"}', "", 1),
        (fm.scorers.is_json(), '{"item": ', "", 0),
        (fm.scorers.is_json(), '{"price": NaN}', "", 0),
        (fm.scorers.is_json(Order), '{"item": "tent"}', "", 1),
        (fm.scorers.is_json(Order), '{"item": "tent", "more": 1}', "", 0),
        (fm.scorers.matches(r"^\d+$"), "42", "", 1),
        (fm.scorers.matches(r"^\d+$"), "42 tents", "", 0),
        (fm.scorers.similarity(lambda texts: [[len(t), 1.0] for t in texts]), "abc", "xyz", 1),
        (fm.scorers.similarity(lambda texts: [[0.0, 0.0] for _ in texts]), "abc", "xyz", 0),
    ],
)
def test_a_scorer_says(scorer: Any, answer: str, expected: Any, score: float) -> None:
    if scorer.name == "fuzzy":
        pytest.importorskip("rapidfuzz")
    assert scorer.score(answer, {"expected": expected}) == pytest.approx(score)


@pytest.mark.parametrize("kind", ["exact", "fuzzy", "similarity"])
@pytest.mark.parametrize("column", ["answer", "row"])
def test_right_answers_may_be_in_a_column_of_any_name(kind: str, column: str) -> None:
    given = {"similarity": (lambda texts: [[float(t == "Paris"), float(t != "Paris")] for t in texts],)}
    scorer = getattr(fm.scorers, kind)(*given.get(kind, ()), column)
    as_scorers(scorer, ["question", column])
    with pytest.raises(SpecError, match=f"takes column '{column}'"):
        as_scorers(scorer, ["question"])
    assert scorer.score("Paris", {column: "Paris"}) == 1
    assert scorer.score("London", {column: "Paris"}) < 1


def test_a_row_without_a_right_answer_has_no_score() -> None:
    scorer = fm.scorers.exact()
    assert scorer.score("None", {"expected": None}) is None
    assert scorer.score("London", {}) is None
    assert scorer.score("", {"expected": ""}) == 1  # of a CSV, where nothing can be told from an empty text


def test_a_judge_cannot_be_given_a_column_named_answer_for_the_answer() -> None:
    small = fm.Model("small")

    @fm.workflow
    def grade(answer, right):
        return small("{answer} {right}", answer=answer, right=right)

    judge = fm.scorers.judge(grade, inputs={"right": "answer"})
    with pytest.raises(SpecError, match="its inputs answer, right would all be what the model answered"):
        as_scorers(judge, ["question", "answer"])


def test_a_function_takes_what_its_arguments_name() -> None:
    def whole(row: dict[str, Any], answer: str, topic: str, weight: float = 2.0) -> float:
        return weight * (topic in answer) + len(row)

    (scorer,), judges = as_scorers(whole, ["topic", "text"])
    assert (scorer.name, scorer.columns, judges) == ("whole", ("topic",), [])
    assert scorer.score("of tents", {"topic": "tents", "text": ""}) == 4.0


def test_a_function_takes_arguments_that_can_only_be_named() -> None:
    def bounded(answer: str, least: int, topic: str) -> bool:
        return topic in answer and len(answer) >= least

    def starred(answer: str, *, topic: str) -> bool:
        return topic in answer

    for function in (partial(bounded, least=3), starred):
        (scorer,), _ = as_scorers({"named": function}, ["topic"])
        assert scorer.score("of tents", {"topic": "tents"}) == 1
        assert scorer.score("of tents", {"topic": "lamps"}) == 0


@pytest.mark.parametrize("value", ["1", float("nan"), float("inf"), [1]])
def test_a_score_is_a_finite_number(value: Any) -> None:
    (scorer,), _ = as_scorers({"bad": lambda answer: value}, [])
    with pytest.raises(TypeError, match="a score is a"):
        scorer.score("", {})


def test_none_says_nothing() -> None:
    (scorer,), _ = as_scorers({"shy": lambda answer: None}, [])
    assert scorer.score("", {}) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"a/b": len}, "is made of letters"),
        (lambda answer: 1, r"scorer '<lambda>': a name is made of .*; name it: scorers=\{'name': scorer\}"),
        (lambda: 1, "takes no argument"),
        (fm.scorers.exact, r"fm\.scorers\.exact makes a scorer; call it: fm\.scorers\.exact\(\.\.\.\)"),
        ({"number": fm.scorers.matches}, r"fm\.scorers\.matches makes a scorer; call it"),
        ("exact", "a scorer is a function"),
    ],
)
def test_what_is_no_scorer_is_refused(given: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        as_scorers(given, ["obj"])


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError, match="is no regular expression"):
        fm.scorers.matches("(")


def test_a_judge_looks_at_the_answer_and_says_a_label_or_a_number() -> None:
    small = fm.Model("small")

    @fm.workflow
    def blind(question):
        return small("{question}", question=question)

    @fm.workflow
    def grade(answer, question):
        return small("{answer} {question}", answer=answer, question=question)

    with pytest.raises(SpecError, match=r"judge 'blind' does not look at the answer \(inputs: question\)"):
        fm.scorers.judge(blind)
    made = fm.scorers.judge(grade, inputs={"question": "text"}, labels={"good": 1, "bad": 0}, name="quality")
    assert (made.name, made.columns) == ("quality", ("text",))
    assert made.read(" good ") == 1
    with pytest.raises(ValueError, match="none of the labels good, bad"):
        made.read("so so")
    assert fm.scorers.judge(grade).read("0.5") == 0.5


def test_fingerprints_change_with_code_and_prompts_and_with_nothing_else() -> None:
    small = fm.Model("small")

    def one(answer: str) -> float:
        # a comment
        return len(answer)

    def two(answer: str) -> float:
        return len(answer) + 1

    assert code_fingerprint(one) != code_fingerprint(two)

    def made(prompt: str, slo: Any = None) -> Any:
        @fm.workflow(name="w", slo=slo)
        def w(question):
            return small(prompt, question=question, name="n")

        return workflow_fingerprint(w)

    assert made("Say {question}") == made("Say {question}", fm.SLO(ttft_s=1))
    assert made("Say {question}") != made("Tell {question}")


def test_a_scorer_whose_library_is_missing_says_so_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_fmware.evaluation.scorers.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r'needs rapidfuzz; pip install "dask-fmware\[evaluate\]"'):
        fm.scorers.fuzzy()
