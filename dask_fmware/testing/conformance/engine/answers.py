"""What an engine answers: deltas, usage, limits, sampling, and what its cache had."""

from __future__ import annotations

import asyncio

import pytest

from dask_fmware.model.engine import Engine, Sampling
from dask_fmware.testing.asking import LONG, ask, collect, is_idle, text_of, until, usage_of
from dask_fmware.testing.conformance.engine.serving import Serving

__all__ = ["Answers"]


class Answers:
    """What comes of a request that is served."""

    async def test_it_is_an_engine_and_says_what_it_can_do(self, serving: Serving) -> None:
        async with serving(slots=3, context_tokens=512) as engine:
            assert isinstance(engine, Engine)
            assert engine.capabilities.slots == 3
            assert engine.capabilities.context_tokens == 512
            assert engine.capabilities.engine
            assert engine.capabilities.engine_version
            assert engine.capabilities.longest_token_bytes >= 1
            assert is_idle(engine)

    async def test_only_the_last_delta_has_a_finish_reason_and_usage(self, serving: Serving) -> None:
        async with serving() as engine:
            *body, last = await collect(engine, ask())
        assert body
        assert all(delta.finish_reason is None and delta.usage is None for delta in body)
        assert last.finish_reason == "length"
        assert last.usage is not None

    async def test_usage_is_the_sum_of_the_deltas_and_the_counted_prompt(self, serving: Serving) -> None:
        async with serving() as engine:
            request = ask(max_tokens=30)
            counted = await engine.count_tokens(request)
            deltas = await collect(engine, request)
        assert usage_of(deltas).output_tokens == sum(delta.tokens for delta in deltas)
        assert usage_of(deltas).prompt_tokens == counted
        assert all(delta.tokens >= 0 for delta in deltas)

    @pytest.mark.parametrize("max_tokens", [1, 2, 17])
    async def test_max_tokens_is_reached_and_never_passed(self, serving: Serving, max_tokens: int) -> None:
        async with serving() as engine:
            deltas = await collect(engine, ask(max_tokens=max_tokens))
        assert usage_of(deltas).output_tokens == max_tokens
        assert deltas[-1].finish_reason == "length"

    async def test_generation_ends_before_a_stop_string(self, serving: Serving) -> None:
        async with serving() as engine:
            whole = text_of(await collect(engine, ask(max_tokens=40)))
            stop = whole[len(whole) // 2 :][:4]
            deltas = await collect(engine, ask(max_tokens=40, sampling=Sampling(seed=7, stop=("\x00never", stop))))
        assert text_of(deltas) == whole[: whole.index(stop)]
        assert deltas[-1].finish_reason == "stop"
        assert usage_of(deltas).output_tokens < 40

    async def test_equal_seeds_give_equal_text_and_others_do_not(self, serving: Serving) -> None:
        async with serving() as engine:
            same = [text_of(await collect(engine, ask(f"a{i}", 24))) for i in range(3)]
            other = [text_of(await collect(engine, ask(f"b{i}", 24, sampling=Sampling(seed=i)))) for i in range(3)]
        assert len(set(same)) == 1
        assert len(set(other)) == 3

    async def test_seeds_of_any_size_are_taken(self, serving: Serving) -> None:
        async with serving() as engine:
            for seed in (0, 2**32 - 1, 2**63):
                texts = {text_of(await collect(engine, ask(sampling=Sampling(seed=seed)))) for _ in range(2)}
                assert len(texts) == 1

    async def test_greedy_decoding_ignores_the_seed(self, serving: Serving) -> None:
        async with serving() as engine:
            texts = {
                text_of(await collect(engine, ask(sampling=Sampling(temperature=0.0, seed=seed)))) for seed in (1, 2, 3)
            }
        assert len(texts) == 1

    async def test_top_k_of_one_is_greedy_and_top_p_is_taken(self, serving: Serving) -> None:
        async with serving() as engine:
            greedy = text_of(await collect(engine, ask(sampling=Sampling(temperature=0.0))))
            assert text_of(await collect(engine, ask(sampling=Sampling(top_k=1, temperature=1.0)))) == greedy
            assert text_of(await collect(engine, ask(sampling=Sampling(top_p=1e-6, temperature=1.0)))) == greedy

    async def test_a_repeated_prefix_is_credited(self, serving: Serving) -> None:
        async with serving(slots=1) as engine:
            if not engine.capabilities.prefix_cache:
                pytest.skip("the engine reports no prefix cache")
            prompt = "the people of the world and the sea " * 20
            cold = usage_of(await collect(engine, ask("cold", 1, prompt=prompt + "one")))
            warm = usage_of(await collect(engine, ask("warm", 1, prompt=prompt + "two")))
        assert cold.cached_tokens == 0
        assert warm.prompt_tokens // 2 < warm.cached_tokens < warm.prompt_tokens

    async def test_state_counts_prefix_hits_and_what_the_cache_holds(self, serving: Serving) -> None:
        async with serving(slots=1) as engine:
            if engine.state().prefix_queried_tokens is None:
                pytest.skip("the engine counts no prefix hits")
            before = _counted(engine)
            prompt = "the people of the world and the sea " * 20
            usages = [usage_of(await collect(engine, ask(f"r{i}", 2, prompt=prompt))) for i in range(2)]
            after = _counted(engine)
            assert after[0] - before[0] == sum(usage.prompt_tokens for usage in usages)
            assert after[1] - before[1] == sum(usage.cached_tokens for usage in usages) > 0
            assert engine.state().preemptions == 0
            running = asyncio.create_task(collect(engine, ask("long", LONG // 4)))
            await until(lambda: _counted(engine)[2] > after[2])
            await engine.abort("long")
            await running


def _counted(engine: Engine) -> tuple[int, int, float]:
    """Prompt tokens looked for in the prefix cache, those found there, and the share of the KV cache in use."""
    state = engine.state()
    assert state.prefix_queried_tokens is not None
    assert state.prefix_hit_tokens is not None
    assert state.kv_used is not None
    return state.prefix_queried_tokens, state.prefix_hit_tokens, state.kv_used
