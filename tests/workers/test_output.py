"""From texts to values: what is mended, what is refused, and that nothing is invented."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from dask_fmware.errors import OutputFormatError
from dask_fmware.model.call import ModelCall
from dask_fmware.spec.nesting import DEEPEST
from dask_fmware_workers.output import Output, format_tokens, output_of
from dask_fmware_workers.repair import LONGEST_REPAIR, repaired_documents, repaired_label


class Verdict(BaseModel):
    """What a judge says."""

    sure: bool
    score: int = 0
    why: str = ""


def call(**fields: Any) -> ModelCall:
    return ModelCall("triage", "judge", "small", (), 64, **fields)


LABELS = call(choices=("order", "search", "Order all"))
DOCUMENT = call(json_schema=Verdict.model_json_schema(), schema=Verdict)
SURE = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
DICTIONARY = call(json_schema=SURE)


def test_plain_text_is_its_own_value() -> None:
    assert output_of(call(), ' {"a": ', "length") == Output(' {"a": ')


@pytest.mark.parametrize("text", ["order", " order\n"])
def test_a_label_is_taken_as_it_is(text: str) -> None:
    assert output_of(LABELS, text, "stop") == Output("order")


def test_a_label_that_was_cut_may_be_the_beginning_of_another() -> None:
    numbers = call(choices=("1", "2", "10"))
    assert output_of(numbers, "1", "stop") == Output("1")
    assert output_of(numbers, "2", "length") == Output("2")
    assert output_of(numbers, "10", "length") == Output("10")
    with pytest.raises(OutputFormatError, match="max_tokens=64: raise it"):
        output_of(numbers, "1", "length")


@pytest.mark.parametrize("text", ["Order", '"order"', "**order**.", "ORDER!\n", "<order>"])
def test_a_label_is_freed_of_case_and_of_what_stands_around_it(text: str) -> None:
    assert output_of(LABELS, text, "stop") == Output("order", is_repaired=True)


@pytest.mark.parametrize("text", ["not order", "order or search", "", "...", "orders", "x" * (LONGEST_REPAIR + 1)])
def test_what_is_no_label_stays_none(text: str) -> None:
    with pytest.raises(OutputFormatError, match=rf"'judge'.*{len(text)} characters is none of the 3 choices") as caught:
        output_of(LABELS, text, "stop")
    assert "max_tokens" not in str(caught.value)


def test_a_label_that_could_be_two_is_none() -> None:
    assert repaired_label("YES", ["yes", "Yes"]) is None


def test_a_label_that_was_cut_is_not_guessed() -> None:
    with pytest.raises(OutputFormatError, match="cut at max_tokens=64: raise it"):
        output_of(LABELS, "Order", "length")


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"sure": true, "score": 3}\n```',
        "{'sure': True, 'score': 3}",
        '{"sure": true, "score": 3,}',
        'Here you are: {"sure": true, "score": 3}. Anything else?',
        "{sure: true, score: 3}",
        '{"sure": true "score": 3}',
        '// my answer\n{"sure": true, /* well */ "score": 3}',
    ],
)
def test_a_document_that_is_almost_json_is_mended_and_counted(text: str) -> None:
    assert output_of(DOCUMENT, text, "stop") == Output(Verdict(sure=True, score=3), is_repaired=True)


def test_a_sound_document_is_not_touched() -> None:
    assert output_of(DOCUMENT, '{"sure": false}', "stop") == Output(Verdict(sure=False))
    assert output_of(call(json_schema={"type": "object"}), '{"a": [1]}', "stop") == Output({"a": [1]})


@pytest.mark.parametrize("asked", [DOCUMENT, DICTIONARY], ids=["class", "dictionary"])
@pytest.mark.parametrize(
    "text",
    [
        'As in [1]: {"sure": true}',
        '[1][2] and {"a": 1} say: {"sure": true}, [3]',
        "As in [note 1]: {'sure': True}",
        "As in [1]: {'sure': True}",
    ],
)
def test_the_first_document_in_the_text_that_fits_is_taken(asked: ModelCall, text: str) -> None:
    found = output_of(asked, text, "stop")
    assert found.is_repaired
    assert found.value == (Verdict(sure=True) if asked.schema is not None else {"sure": True})


@pytest.mark.parametrize("asked", [DOCUMENT, DICTIONARY], ids=["class", "dictionary"])
@pytest.mark.parametrize(
    "text",
    [
        '{"foo": 1}',
        "[1]",
        'As in [1]: {"foo": true}',
        '[{"sure": true}, {"sure": false}]',
        '{"answer": {"sure": true}}',
        '{"answer": {"sure": true}, "why": }',
    ],
)
def test_what_does_not_fit_its_schema_is_refused_and_no_part_of_it_is_taken(asked: ModelCall, text: str) -> None:
    with pytest.raises(OutputFormatError, match="'judge'"):
        output_of(asked, text, "stop")


def test_a_document_that_breaks_a_schema_is_told_by_the_rule() -> None:
    with pytest.raises(OutputFormatError, match=r"'judge': the answer breaks a rule of its schema: required$"):
        output_of(DICTIONARY, '{"foo": "a secret"}', "stop")
    with pytest.raises(OutputFormatError, match=r"properties/sure/type \(cut at max_tokens=64: raise it\)$"):
        output_of(DICTIONARY, '{"sure": "a secret"}', "length")


@pytest.mark.parametrize("text", ['{"sure": true, "why": }', '{"sure": , "score": 3}'])
def test_nothing_is_put_where_a_value_is_missing(text: str) -> None:
    with pytest.raises(OutputFormatError, match="json_invalid"):
        output_of(DOCUMENT, text, "stop")


@pytest.mark.parametrize("text", ['{"sure": true, "score": 3', '{"sure": tr', '{"sure": true}{'])
def test_a_document_that_was_cut_is_never_completed(text: str) -> None:
    with pytest.raises(OutputFormatError, match="cut at max_tokens=64"):
        output_of(DOCUMENT, text, "length")


def test_a_document_of_another_shape_stays_an_error_that_names_the_place() -> None:
    with pytest.raises(OutputFormatError, match=r"at sure: missing"):
        output_of(DOCUMENT, "{'score': 3}", "stop")
    with pytest.raises(OutputFormatError, match=r"at score"):
        output_of(DOCUMENT, '{"sure": true, "score": "a secret"}', "stop")


@pytest.mark.parametrize(
    "text", ["", "no idea", "null and void", "[" * 5000, '{"a":' * 3000, "{}" * 40_000, "{ nothing"]
)
def test_what_is_no_document_is_an_error_without_the_text(text: str) -> None:
    with pytest.raises(OutputFormatError, match="'judge'") as caught:
        output_of(DOCUMENT, text, "stop")
    assert "idea" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["[" * 50_000 + "]" * 50_000, "[" * 8000 + "]" * 8000, 20_000 * "1"])
def test_what_no_reader_takes_is_refused_and_harms_nobody(text: str) -> None:
    with pytest.raises(OutputFormatError, match=r"nests deeper|no JSON that can be read"):
        output_of(call(json_schema={}), text, "stop")


def test_a_document_that_is_read_can_be_sent() -> None:
    """Pickle gives up at fewer levels than the reader of JSON, and both at other ones in each version of Python."""
    deepest = output_of(call(json_schema={}), "[" * DEEPEST + "]" * DEEPEST, "stop").value
    assert pickle.loads(pickle.dumps(deepest)) == deepest
    for levels in (DEEPEST // 2 + 1, 490):
        with pytest.raises(OutputFormatError, match="nests deeper than can be read and sent"):
            output_of(call(json_schema={}), '[{"a":' * levels + "1" + "}]" * levels, "stop")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text("abc \n'\"{}[],:", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=100)
@given(document=st.dictionaries(st.text("abc", min_size=1, max_size=3), JSON, min_size=1, max_size=3))
def test_a_fence_around_sound_json_changes_nothing(document: dict[str, Any]) -> None:
    mended = next(repaired_documents(f"Sure!\n```json\n{json.dumps(document, indent=1)}\n```\nThat is {{all}}."), None)
    assert mended is not None
    assert json.loads(mended) == document


@settings(max_examples=200)
@given(text=st.text("{}[]\",:'ab1 \n\\`/*", max_size=60))
def test_any_text_is_mended_into_sound_json_or_not_at_all(text: str) -> None:
    assert all(isinstance(json.loads(mended), dict | list) for mended in repaired_documents(text))


@pytest.mark.parametrize(
    ("asked", "text", "tokens", "format_cost"),
    [
        (call(), "free text", 9, None),
        (LABELS, "order", 3, 0),
        (LABELS, "order", 16, 10),  # it came inside a document
        (DOCUMENT, '{"sure": true}', 14, 10),  # 4 of 14 characters are content
        (DOCUMENT, '{"sure": true, "why": "because of the long tail"}', 49, 21),
        (call(json_schema={}), "[]", 2, 2),
        (DOCUMENT, "Here: {'sure': True}", 8, 0),
    ],
)
def test_what_a_format_costs_is_told_in_tokens(
    asked: ModelCall, text: str, tokens: int, format_cost: int | None
) -> None:
    assert format_tokens(asked, text, tokens) == format_cost
