"""Which JSON schemas are sound, and what is told of a document that breaks one."""

from __future__ import annotations

from typing import Any

import pytest

from dask_fmware.spec.json_schema import broken_rule, schema_fault

SURE: dict[str, Any] = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "words": {"type": "array", "items": {"$ref": "#/$defs/word"}}},
    "required": ["sure"],
    "additionalProperties": {"type": "integer"},
    "$defs": {"word": {"type": "string", "maxLength": 4}},
}


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        ({"sure": True}, None),
        ({"sure": True, "words": ["tide", "sea"], "more": 3}, None),
        ([1], "type"),
        ({"foo": 1}, "required"),
        ({"sure": "a secret"}, "properties/sure/type"),
        ({"sure": True, "words": ["a secret"]}, "properties/words/items/maxLength"),
        ({"sure": True, "a secret": "a secret"}, "additionalProperties/type"),
    ],
)
def test_the_rule_that_is_broken_is_named_and_no_word_of_the_document(document: Any, rule: str | None) -> None:
    assert broken_rule(SURE, document) == rule


@pytest.mark.parametrize(
    "schema",
    [
        {},
        SURE,
        {"type": "object", "properties": {"$ref": {"type": "string"}}},
        {"enum": [{"$ref": "#/nowhere"}]},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]},
        {"$schema": "https://example.com/of-my-own", "x-note": 1},
        {"$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "$ref": "#/$defs/tree"},
    ],
)
def test_sound_schemas_are_taken(schema: dict[str, Any]) -> None:
    assert schema_fault(schema) is None


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"type": "strin"}, "at type: 'strin'"),
        ({"properties": {"sure": {"required": "yes"}}}, "at properties/sure/required: 'yes'"),
        ({"properties": {"name": {"pattern": "("}}}, r"at properties/name/pattern: '\(' is not a 'regex'"),
        ({"$schema": 3}, r"at \$schema: 3"),
        ({"items": {"$ref": "#/$defs/word"}}, "it refers to '#/\\$defs/word', which is not in it"),
        ({"$ref": "https://example.com/schema.json"}, "it refers to 'https://example.com/schema.json'"),
        ({"$ref": "#/enum/x", "enum": [1]}, "it refers to '#/enum/x'"),
    ],
)
def test_what_is_wrong_with_a_schema_is_told_in_words(schema: dict[str, Any], fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        raise AssertionError(schema_fault(schema))


def test_a_reference_that_leads_nowhere_is_never_fetched() -> None:
    told = broken_rule({"$dynamicRef": "https://example.com/schema.json"}, {"a": 1})
    assert told == "a reference to 'https://example.com/schema.json', which is not in it"


def test_a_schema_of_any_depth_is_judged() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(5000):
        deep = {"items": deep}
    assert schema_fault(deep) == "it nests deeper than can be read"
