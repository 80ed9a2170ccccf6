"""What every engine promises, whatever is behind it.

A test that needs something an engine may lack asks its `Capabilities`, never its name. How engines start and end is in
`test_conformance_life.py`.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import jsonschema
import pytest

from dask_fmware.errors import ContextOverflowError, SpecError
from dask_fmware.model.engine import Engine, Message, Request, Sampling, Usage
from tests.engines.asking import LONG, WAIT_S, ask, collect, is_idle, text_of, until

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


async def test_it_is_an_engine_and_says_what_it_can_do(serving: Any) -> None:
    async with serving(slots=3, context_tokens=512) as engine:
        assert isinstance(engine, Engine)
        assert engine.capabilities.slots == 3
        assert engine.capabilities.context_tokens == 512
        assert engine.capabilities.engine
        assert engine.capabilities.engine_version
        assert engine.capabilities.longest_token_bytes >= 1
        assert is_idle(engine)


async def test_only_the_last_delta_has_a_finish_reason_and_usage(serving: Any) -> None:
    async with serving() as engine:
        *body, last = await collect(engine, ask())
    assert body
    assert all(delta.finish_reason is None and delta.usage is None for delta in body)
    assert last.finish_reason == "length"
    assert last.usage is not None


async def test_usage_is_the_sum_of_the_deltas_and_the_counted_prompt(serving: Any) -> None:
    async with serving() as engine:
        request = ask(max_tokens=30)
        counted = await engine.count_tokens(request)
        deltas = await collect(engine, request)
    assert deltas[-1].usage.output_tokens == sum(delta.tokens for delta in deltas)
    assert deltas[-1].usage.prompt_tokens == counted
    assert all(delta.tokens >= 0 for delta in deltas)


@pytest.mark.parametrize("max_tokens", [1, 2, 17])
async def test_max_tokens_is_reached_and_never_passed(serving: Any, max_tokens: int) -> None:
    async with serving() as engine:
        deltas = await collect(engine, ask(max_tokens=max_tokens))
    assert deltas[-1].usage.output_tokens == max_tokens
    assert deltas[-1].finish_reason == "length"


async def test_generation_ends_before_a_stop_string(serving: Any) -> None:
    async with serving() as engine:
        whole = text_of(await collect(engine, ask(max_tokens=40)))
        stop = whole[len(whole) // 2 :][:4]
        deltas = await collect(engine, ask(max_tokens=40, sampling=Sampling(seed=7, stop=("\x00never", stop))))
    assert text_of(deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish_reason == "stop"
    assert deltas[-1].usage.output_tokens < 40


async def test_equal_seeds_give_equal_text_and_others_do_not(serving: Any) -> None:
    async with serving() as engine:
        same = [text_of(await collect(engine, ask(f"a{i}", 24))) for i in range(3)]
        other = [text_of(await collect(engine, ask(f"b{i}", 24, sampling=Sampling(seed=i)))) for i in range(3)]
    assert len(set(same)) == 1
    assert len(set(other)) == 3


async def test_seeds_of_any_size_are_taken(serving: Any) -> None:
    async with serving() as engine:
        for seed in (0, 2**32 - 1, 2**63):
            texts = {text_of(await collect(engine, ask(sampling=Sampling(seed=seed)))) for _ in range(2)}
            assert len(texts) == 1


async def test_greedy_decoding_ignores_the_seed(serving: Any) -> None:
    async with serving() as engine:
        texts = {
            text_of(await collect(engine, ask(sampling=Sampling(temperature=0.0, seed=seed)))) for seed in (1, 2, 3)
        }
    assert len(texts) == 1


async def test_top_k_of_one_is_greedy_and_top_p_is_taken(serving: Any) -> None:
    async with serving() as engine:
        greedy = text_of(await collect(engine, ask(sampling=Sampling(temperature=0.0))))
        assert text_of(await collect(engine, ask(sampling=Sampling(top_k=1, temperature=1.0)))) == greedy
        assert text_of(await collect(engine, ask(sampling=Sampling(top_p=1e-6, temperature=1.0)))) == greedy


async def test_an_aborted_stream_ends_with_abort_and_frees_its_slot(serving: Any) -> None:
    async with serving() as engine:
        deltas = []
        async with asyncio.timeout(WAIT_S):
            async for delta in engine.generate(ask("long", LONG)):
                deltas.append(delta)
                if len(deltas) == 3:
                    await engine.abort("long")
        await until(lambda: engine.state().running == 0)
        assert deltas[-1].finish_reason == "abort"
        assert deltas[-1].usage.output_tokens == sum(delta.tokens for delta in deltas) < LONG
        assert (await collect(engine, ask("next")))[-1].finish_reason == "length"


async def test_closing_the_iterator_aborts(serving: Any) -> None:
    async with serving() as engine:
        async with aclosing(engine.generate(ask(max_tokens=LONG))) as stream:
            await anext(stream)
            assert engine.state().running == 1
        await until(lambda: is_idle(engine))


async def test_cancelling_the_consumer_aborts(serving: Any) -> None:
    async with serving() as engine:
        consumer = asyncio.create_task(collect(engine, ask(max_tokens=LONG)))
        await until(lambda: engine.state().running == 1)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        await until(lambda: is_idle(engine))


async def test_requests_beyond_the_slots_wait_and_are_served(serving: Any) -> None:
    async with serving(slots=2) as engine:
        blockers = [asyncio.create_task(collect(engine, ask(f"b{i}", LONG))) for i in range(2)]
        await until(lambda: engine.state().running == 2)
        consumers = [asyncio.create_task(collect(engine, ask(f"r{i}", 20))) for i in range(3)]
        await until(lambda: engine.state().waiting == 3)
        assert not any(consumer.done() for consumer in consumers)
        for i in range(2):
            await engine.abort(f"b{i}")
        running = []
        while not all(consumer.done() for consumer in consumers):
            running.append(engine.state().running)
            await asyncio.sleep(0.001)
        await asyncio.gather(*blockers)
    assert max(running) <= 2
    assert [consumer.result()[-1].usage.output_tokens for consumer in consumers] == [20] * 3


async def test_a_waiting_request_can_be_aborted(serving: Any) -> None:
    async with serving(slots=1) as engine:
        first = asyncio.create_task(collect(engine, ask("first", LONG)))
        await until(lambda: engine.state().running == 1)
        second = asyncio.create_task(collect(engine, ask("second", LONG)))
        await until(lambda: engine.state().waiting == 1)
        await engine.abort("second")
        (only,) = await second
        assert only.finish_reason == "abort"
        assert only.usage.output_tokens == 0
        assert not first.done()
        await engine.abort("first")
        assert (await first)[-1].finish_reason == "abort"


async def test_lower_priority_values_are_served_first(serving: Any) -> None:
    async with serving(slots=1) as engine:
        if not engine.capabilities.priority:
            pytest.skip("the engine takes no priorities")
        blocker = asyncio.create_task(collect(engine, ask("blocker", LONG)))
        await until(lambda: engine.state().running == 1)
        order: list[str] = []

        async def serve(name: str, priority: float) -> None:
            await collect(engine, ask(name, 2, priority=priority))
            order.append(name)

        waiting = []
        for count, (name, priority) in enumerate([("last", 5.0), ("first", -1.0), ("second", -1.0), ("third", 0.0)]):
            waiting.append(asyncio.create_task(serve(name, priority)))
            await until(lambda wanted=count + 1: engine.state().waiting == wanted)
            await engine.count_tokens(ask("flush"))  # its prompt is counted too, so it is in the queue
        await engine.abort("blocker")
        await asyncio.gather(blocker, *waiting)
    assert order == ["first", "second", "third", "last"]


async def test_a_repeated_prefix_is_credited(serving: Any) -> None:
    async with serving(slots=1) as engine:
        if not engine.capabilities.prefix_cache:
            pytest.skip("the engine reports no prefix cache")
        prompt = "the people of the world and the sea " * 20
        cold = (await collect(engine, ask("cold", 1, prompt=prompt + "one")))[-1].usage
        warm = (await collect(engine, ask("warm", 1, prompt=prompt + "two")))[-1].usage
    assert cold.cached_tokens == 0
    assert warm.prompt_tokens // 2 < warm.cached_tokens < warm.prompt_tokens


async def test_state_counts_prefix_hits_and_what_the_cache_holds(serving: Any) -> None:
    async with serving(slots=1) as engine:
        if engine.state().prefix_queried_tokens is None:
            pytest.skip("the engine counts no prefix hits")
        before = engine.state()
        prompt = "the people of the world and the sea " * 20
        usages = [(await collect(engine, ask(f"r{i}", 2, prompt=prompt)))[-1].usage for i in range(2)]
        after = engine.state()
        queried = after.prefix_queried_tokens - before.prefix_queried_tokens
        assert queried == sum(usage.prompt_tokens for usage in usages)
        hits = after.prefix_hit_tokens - before.prefix_hit_tokens
        assert hits == sum(usage.cached_tokens for usage in usages) > 0
        assert after.preemptions == 0
        running = asyncio.create_task(collect(engine, ask("long", LONG // 4)))
        await until(lambda: engine.state().kv_used > after.kv_used)
        await engine.abort("long")
        await running


@pytest.mark.parametrize("choices", [("order", "search", "chat"), AWKWARD_LABELS, ("a", "ab", "abc"), ("only",)])
async def test_the_text_is_one_of_the_choices(serving: Any, choices: tuple[str, ...]) -> None:
    async with serving() as engine:
        if not engine.capabilities.choices:
            pytest.skip("the engine takes no choices")
        for seed in range(4):
            deltas = await collect(engine, ask(max_tokens=60, choices=choices, sampling=Sampling(seed=seed)))
            assert text_of(deltas) in choices
            assert deltas[-1].finish_reason == "stop"


@pytest.mark.parametrize("label", AWKWARD_LABELS)
async def test_every_awkward_label_can_be_the_answer(serving: Any, label: str) -> None:
    async with serving() as engine:
        if not engine.capabilities.choices:
            pytest.skip("the engine takes no choices")
        assert text_of(await collect(engine, ask(max_tokens=60, choices=(label,)))) == label


async def test_a_choice_that_max_tokens_cuts_off_ends_with_that_reason_and_what_it_took(serving: Any) -> None:
    async with serving() as engine:
        if not engine.capabilities.choices:
            pytest.skip("the engine takes no choices")
        request = ask(max_tokens=1, choices=("xyzzy plugh", "plugh xyzzy"))
        deltas = await collect(engine, request)
        assert text_of(deltas) not in request.choices
        assert deltas[-1].finish_reason == "length"
        assert deltas[-1].usage.prompt_tokens == await engine.count_tokens(request)
        assert deltas[-1].usage.output_tokens == 1


async def test_the_text_follows_the_json_schema(serving: Any) -> None:
    async with serving() as engine:
        if not engine.capabilities.json_schema:
            pytest.skip("the engine takes no JSON schema")
        for seed in range(4):
            deltas = await collect(engine, ask(max_tokens=300, json_schema=SCHEMA, sampling=Sampling(seed=seed)))
            jsonschema.validate(json.loads(text_of(deltas)), SCHEMA)


async def test_json_that_max_tokens_cuts_off_ends_with_that_reason_and_what_it_took(serving: Any) -> None:
    async with serving() as engine:
        if not engine.capabilities.json_schema:
            pytest.skip("the engine takes no JSON schema")
        request = ask(max_tokens=2, json_schema=SCHEMA)
        deltas = await collect(engine, request)
        assert deltas[-1].finish_reason == "length"
        assert deltas[-1].usage.prompt_tokens == await engine.count_tokens(request)
        assert deltas[-1].usage.output_tokens == 2


@pytest.mark.parametrize(
    "prompt",
    [
        "Grüße aus München",
        "日本語のテキスト",
        "emoji 😀👩‍👩‍👧",
        "нет \u0000 null",
        "combining e\u0301 \ufeff",
        " ",
        "\n",
    ],
)
async def test_prompts_in_any_script_are_taken(serving: Any, prompt: str) -> None:
    async with serving() as engine:
        request = ask(max_tokens=3, prompt=prompt)
        assert await engine.count_tokens(request) > 0
        assert (await collect(engine, request))[-1].usage.output_tokens == 3


async def test_split_characters_are_held_back_until_complete(serving: Any) -> None:
    label = "é☃😀日本👩‍👩‍👧"
    async with serving() as engine:
        if not engine.capabilities.choices:
            pytest.skip("the engine takes no choices")
        deltas = await collect(engine, ask(max_tokens=80, choices=(label,)))
    assert text_of(deltas) == label
    assert all("\ufffd" not in delta.text for delta in deltas)
    assert deltas[-1].usage.output_tokens == sum(delta.tokens for delta in deltas)


async def test_overflow_is_refused_before_the_first_delta_with_all_three_numbers(serving: Any) -> None:
    async with serving(context_tokens=256) as engine:
        request = ask("big", 100, prompt="the people of the world " * 50)
        prompt_tokens = await engine.count_tokens(request)
        with pytest.raises(ContextOverflowError, match=rf"(?s)'big'.*{prompt_tokens}.*100.*256") as caught:
            await collect(engine, request)
        assert "people" not in str(caught.value)
        assert engine.state().running == engine.state().waiting == 0


async def test_a_request_that_just_fits_fills_the_context(serving: Any) -> None:
    async with serving(context_tokens=256) as engine:
        prompt_tokens = await engine.count_tokens(ask())
        room = 256 - prompt_tokens
        assert (await collect(engine, ask("fits", room)))[-1].usage == Usage(prompt_tokens, room, 0)
        with pytest.raises(ContextOverflowError):
            await collect(engine, ask("over", room + 1))


async def test_messages_go_through_the_chat_template(serving: Any) -> None:
    messages = (Message("system", "Be brief."), Message("user", "Hello"))
    async with serving() as engine:
        bare = await engine.count_tokens(ask(prompt="Be brief.Hello"))
        counted = await engine.count_tokens(ask(messages=messages))
        deltas = await collect(engine, ask(messages=messages))
    assert counted > bare
    assert deltas[-1].usage.prompt_tokens == counted


BAD_REQUESTS = {
    "no prompt": Request("r", 4),
    "both": Request("r", 4, prompt="a", messages=(Message("user", "a"),)),
    "no messages": Request("r", 4, messages=()),
    "empty prompt": Request("r", 4, prompt=""),
    "no tokens": Request("r", 0, prompt="a"),
    "temperature": Request("r", 4, prompt="a", sampling=Sampling(temperature=-1.0)),
    "not a number": Request("r", 4, prompt="a", sampling=Sampling(temperature=float("nan"))),
    "top_p": Request("r", 4, prompt="a", sampling=Sampling(top_p=1.5)),
    "top_k": Request("r", 4, prompt="a", sampling=Sampling(top_k=0)),
    "stop": Request("r", 4, prompt="a", sampling=Sampling(stop=("",))),
    "no choices": Request("r", 4, prompt="a", choices=()),
    "empty choice": Request("r", 4, prompt="a", choices=("a", "")),
    "null choice": Request("r", 4, prompt="a", choices=("a\0b",)),
    "two formats": Request("r", 4, prompt="a", choices=("a",), json_schema={}),
    "surrogate": Request("r", 4, prompt="a\ud800"),
}


async def test_malformed_requests_are_refused_and_do_no_harm(serving: Any) -> None:
    async with serving() as engine:
        for name, request in BAD_REQUESTS.items():
            with pytest.raises(SpecError, match="'r'"):
                await collect(engine, request)
            assert engine.state().running == engine.state().waiting == 0, name
        assert (await collect(engine, ask()))[-1].finish_reason == "length"


async def test_two_requests_of_one_id_cannot_run_together(serving: Any) -> None:
    async with serving() as engine:
        first = asyncio.create_task(collect(engine, ask("twin", LONG)))
        await until(lambda: engine.state().running == 1)
        with pytest.raises(SpecError, match="twin"):
            await collect(engine, ask("twin", 4))
        assert not first.done()
        await engine.abort("twin")
        await first


async def test_unknown_and_finished_ids_are_ignored_by_abort(serving: Any) -> None:
    async with serving() as engine:
        await engine.abort("nobody")
        await collect(engine, ask("done"))
        await engine.abort("done")
        assert (await collect(engine, ask("done")))[-1].finish_reason == "length"


async def test_prompts_never_show_in_repr(serving: Any) -> None:
    async with serving() as engine:
        request = ask(prompt="a very private sentence")
        deltas = await collect(engine, request)
    assert "private" not in repr(request)
    assert all(delta.text not in repr(delta) for delta in deltas if delta.text.strip())
