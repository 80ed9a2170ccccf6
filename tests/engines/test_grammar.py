"""Choices as grammars; that llama.cpp obeys them is in the conformance suite."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware_workers.engines.grammar import choices_grammar


def test_plain_labels_stay_readable() -> None:
    assert choices_grammar(["yes", "no2"]) == 'root ::= "yes" | "no2"'


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1), min_size=1))
def test_every_label_can_be_read_back(choices: list[str]) -> None:
    literals = re.findall(r'"([^"]*)"', choices_grammar(choices).removeprefix("root ::= "))
    decoded = [re.sub(r"\\U([0-9A-F]{8})", lambda found: chr(int(found[1], 16)), literal) for literal in literals]
    assert decoded == choices
