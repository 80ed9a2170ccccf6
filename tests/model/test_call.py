from __future__ import annotations

import copy
import pickle
from enum import Enum

import pytest

from dask_fmware.model.call import SKIPPED, ModelCall, Skipped, Template
from dask_fmware.model.completion import Chunk, Completion, Timing
from dask_fmware.model.engine import Delta, Message, Request, Sampling, Usage
from dask_fmware.model.plan import SwitchRule

SECRET = "my bank account is 1234"


def model_call(*templates: Template, **changes: object) -> ModelCall:
    return ModelCall(workflow="rag", node="answer", model="small", templates=templates, max_tokens=9, **changes)  # type: ignore[arg-type]


def test_a_completion_request_has_a_prompt_with_its_fields_filled_in() -> None:
    call = model_call(Template("Answer {question} from:\n{passages}"), sampling=Sampling(seed=1), choices=("a", "b"))
    request = call.request({"question": "why?", "passages": ["x", "y"]}, request_id="k#1", priority=-2.0)
    assert request.prompt == "Answer why? from:\nx\ny"
    assert request.messages is None
    assert (request.request_id, request.max_tokens, request.priority) == ("k#1", 9, -2.0)
    assert (request.sampling.seed, request.choices) == (1, ("a", "b"))


def test_a_chat_request_has_a_message_for_each_turn() -> None:
    call = model_call(Template("Be brief.", "system"), Template("{question}", "user"), json_schema={"type": "object"})
    request = call.request({"question": "why?"}, request_id="k#1")
    assert request.prompt is None
    assert request.messages == (Message("system", "Be brief."), Message("user", "why?"))
    assert request.json_schema == {"type": "object"}


def test_braces_in_a_value_are_text() -> None:
    call = model_call(Template("{{json}}: {value}"))
    assert call.request({"value": "{question}"}, request_id="k").prompt == "{json}: {question}"


def test_messages_name_the_call() -> None:
    assert model_call().where == "workflow 'rag', node 'answer'"


def test_no_prompt_shows_in_a_repr() -> None:
    call = model_call(Template(SECRET), json_schema={"title": SECRET})
    chat = model_call(Template(SECRET, "user"))
    shown = [
        call,
        call.templates,
        call.request({}, request_id="k"),
        chat,
        chat.request({}, request_id="k"),
        Message("user", SECRET),
        Request("k", 9, prompt=SECRET, json_schema={"title": SECRET}),
        Delta(SECRET),
    ]
    assert SECRET not in repr(shown)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_skipped_is_one_object_in_every_process(again) -> None:
    assert again(SKIPPED) is SKIPPED
    assert Skipped() is SKIPPED
    assert repr(SKIPPED) == "SKIPPED"


def test_a_switch_takes_the_branch_that_its_value_names() -> None:
    rule = SwitchRule("s", ("order", "3"), has_default=False)
    assert [rule.branch(value) for value in ("order", 3, "other")] == [0, 1, None]


class Intent(str, Enum):  # noqa: UP042 - its text is "Intent.ORDER"
    ORDER = "order"


class Count(Enum):
    THREE = 3


class Loud(str):
    def __str__(self) -> str:
        return self.upper()


@pytest.mark.parametrize(
    ("value", "branch"), [(Intent.ORDER, 0), (Count.THREE, 1), (Loud("order"), 0), (True, 2), (None, None)]
)
def test_a_switch_reads_the_value_of_an_enum_and_the_text_of_the_rest(value: object, branch: int | None) -> None:
    assert SwitchRule("s", ("order", "3", "True"), has_default=False).branch(value) == branch


def test_a_switch_with_a_default_takes_it_for_any_other_value() -> None:
    assert SwitchRule("s", ("order", "search"), has_default=True).branch("other") == 2


COMPLETION = Completion("a <b> & c", "stop", Usage(7, 5), Timing(0.25, 1.5), "small")


def test_a_completion_reads_as_its_text() -> None:
    assert str(COMPLETION) == "a <b> & c"


def test_a_notebook_shows_an_answer_as_data_not_as_markup() -> None:
    shown = COMPLETION._repr_markdown_()
    assert "a &lt;b&gt; &amp; c" in shown
    assert "small: 7 + 5 tokens, first after 0.250 s, all after 1.500 s" in shown


def test_a_chunk_reads_as_its_text() -> None:
    assert str(Chunk("word")) == "word"


def test_a_chunk_that_starts_again_says_so() -> None:
    assert str(Chunk("word", restarted=True)) == "\n[the answer starts again]\nword"
