"""Labels and JSON schemas, of engines that take them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from dask_fmware.model.engine import Sampling
from dask_fmware.testing.asking import ask, collect, text_of, usage_of
from dask_fmware.testing.conformance.engine.serving import Serving

__all__ = ["Formats"]

AWKWARD_LABELS = ('say "yes"', "back\\slash", ".*[x](y){2}|z^$", "naïve ☃ 😀", "two\nlines\tand a tab", "-")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"enum": ["order", "search"]},
        "sure": {"type": "boolean"},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2},
    },
    "required": ["label", "sure", "words"],
    "additionalProperties": False,
}


class Formats:
    """An answer keeps to its format, or ends for want of tokens."""

    @pytest.mark.parametrize("choices", [("order", "search", "chat"), AWKWARD_LABELS, ("a", "ab", "abc"), ("only",)])
    async def test_the_text_is_one_of_the_choices(self, serving: Serving, choices: tuple[str, ...]) -> None:
        async with serving() as engine:
            if not engine.capabilities.choices:
                pytest.skip("the engine takes no choices")
            for seed in range(4):
                deltas = await collect(engine, ask(max_tokens=60, choices=choices, sampling=Sampling(seed=seed)))
                assert text_of(deltas) in choices
                assert deltas[-1].finish_reason == "stop"

    @pytest.mark.parametrize("label", AWKWARD_LABELS)
    async def test_every_awkward_label_can_be_the_answer(self, serving: Serving, label: str) -> None:
        async with serving() as engine:
            if not engine.capabilities.choices:
                pytest.skip("the engine takes no choices")
            assert text_of(await collect(engine, ask(max_tokens=60, choices=(label,)))) == label

    async def test_a_choice_that_max_tokens_cuts_off_says_so_and_what_it_took(self, serving: Serving) -> None:
        async with serving() as engine:
            if not engine.capabilities.choices:
                pytest.skip("the engine takes no choices")
            labels = ("xyzzy plugh", "plugh xyzzy")
            request = ask(max_tokens=1, choices=labels)
            deltas = await collect(engine, request)
            assert text_of(deltas) not in labels
            assert deltas[-1].finish_reason == "length"
            assert usage_of(deltas).prompt_tokens == await engine.count_tokens(request)
            assert usage_of(deltas).output_tokens == 1

    async def test_the_text_follows_the_json_schema(self, serving: Serving) -> None:
        async with serving() as engine:
            if not engine.capabilities.json_schema:
                pytest.skip("the engine takes no JSON schema")
            for seed in range(4):
                deltas = await collect(engine, ask(max_tokens=300, json_schema=SCHEMA, sampling=Sampling(seed=seed)))
                jsonschema.validate(json.loads(text_of(deltas)), SCHEMA)

    async def test_json_that_max_tokens_cuts_off_says_so_and_what_it_took(self, serving: Serving) -> None:
        async with serving() as engine:
            if not engine.capabilities.json_schema:
                pytest.skip("the engine takes no JSON schema")
            request = ask(max_tokens=2, json_schema=SCHEMA)
            deltas = await collect(engine, request)
            assert deltas[-1].finish_reason == "length"
            assert usage_of(deltas).prompt_tokens == await engine.count_tokens(request)
            assert usage_of(deltas).output_tokens == 2

    async def test_split_characters_are_held_back_until_complete(self, serving: Serving) -> None:
        label = "é☃😀日本👩‍👩‍👧"
        async with serving() as engine:
            if not engine.capabilities.choices:
                pytest.skip("the engine takes no choices")
            deltas = await collect(engine, ask(max_tokens=80, choices=(label,)))
        assert text_of(deltas) == label
        assert all("\ufffd" not in delta.text for delta in deltas)
        assert usage_of(deltas).output_tokens == sum(delta.tokens for delta in deltas)
