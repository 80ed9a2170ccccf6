"""Choices as grammars; that llama.cpp obeys them is in the conformance suite."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware_workers.engines.grammar import bounded_schema, choices_grammar


def test_plain_labels_stay_readable() -> None:
    assert choices_grammar(["yes", "no2"]) == 'root ::= "yes" | "no2"'


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1), min_size=1))
def test_every_label_can_be_read_back(choices: list[str]) -> None:
    literals = re.findall(r'"([^"]*)"', choices_grammar(choices).removeprefix("root ::= "))
    decoded = [re.sub(r"\\U([0-9A-F]{8})", lambda found: chr(int(found[1], 16)), literal) for literal in literals]
    assert decoded == choices


def test_a_list_is_bounded_by_what_an_answer_can_hold_wherever_it_is_in_a_schema() -> None:
    endless = {"type": "array", "items": {"type": "integer"}, "minItems": 10**9, "maxItems": 10**9}
    short = {"type": "array", "minItems": 1, "maxItems": 3}
    schema = {
        "properties": {"maxItems": {"type": "integer"}, "list": endless},
        "anyOf": [endless, short],
        "enum": [{"maxItems": 10**9}],
    }
    bounded = bounded_schema(schema, max_tokens=10)
    assert bounded["properties"]["list"] == endless | {"minItems": 160, "maxItems": 160}
    assert bounded["properties"]["maxItems"] == {"type": "integer"}
    assert bounded["anyOf"] == [bounded["properties"]["list"], short]
    assert bounded["enum"] == schema["enum"]
    assert schema["anyOf"] == [endless, short]
