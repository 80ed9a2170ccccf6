"""Which requests an engine takes, and which it refuses."""

from __future__ import annotations

import pytest

from dask_fmware.errors import ContextOverflowError, SpecError
from dask_fmware.model.engine import Message, Request, Sampling, Usage
from dask_fmware.testing.asking import ask, collect, usage_of
from dask_fmware.testing.conformance.engine.serving import Serving

__all__ = ["Requests"]

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


class Requests:
    """What is sound is taken; what is not is refused, and does no harm."""

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
    async def test_prompts_in_any_script_are_taken(self, serving: Serving, prompt: str) -> None:
        async with serving() as engine:
            request = ask(max_tokens=3, prompt=prompt)
            assert await engine.count_tokens(request) > 0
            assert usage_of(await collect(engine, request)).output_tokens == 3

    async def test_overflow_is_refused_before_the_first_delta_with_all_three_numbers(self, serving: Serving) -> None:
        async with serving(context_tokens=256) as engine:
            request = ask("big", 100, prompt="the people of the world " * 50)
            prompt_tokens = await engine.count_tokens(request)
            with pytest.raises(ContextOverflowError, match=rf"(?s)'big'.*{prompt_tokens}.*100.*256") as caught:
                await collect(engine, request)
            assert "people" not in str(caught.value)
            assert engine.state().running == engine.state().waiting == 0

    async def test_a_request_that_just_fits_fills_the_context(self, serving: Serving) -> None:
        async with serving(context_tokens=256) as engine:
            prompt_tokens = await engine.count_tokens(ask())
            room = 256 - prompt_tokens
            assert usage_of(await collect(engine, ask("fits", room))) == Usage(prompt_tokens, room, 0)
            with pytest.raises(ContextOverflowError):
                await collect(engine, ask("over", room + 1))

    async def test_messages_go_through_the_chat_template(self, serving: Serving) -> None:
        messages = (Message("system", "Be brief."), Message("user", "Hello"))
        async with serving() as engine:
            bare = await engine.count_tokens(ask(prompt="Be brief.Hello"))
            counted = await engine.count_tokens(ask(messages=messages))
            deltas = await collect(engine, ask(messages=messages))
        assert counted > bare
        assert usage_of(deltas).prompt_tokens == counted

    async def test_malformed_requests_are_refused_and_do_no_harm(self, serving: Serving) -> None:
        async with serving() as engine:
            for name, request in BAD_REQUESTS.items():
                with pytest.raises(SpecError, match="'r'"):
                    await collect(engine, request)
                assert engine.state().running == engine.state().waiting == 0, name
            assert (await collect(engine, ask()))[-1].finish_reason == "length"

    async def test_prompts_never_show_in_repr(self, serving: Serving) -> None:
        async with serving() as engine:
            request = ask(prompt="a very private sentence")
            deltas = await collect(engine, request)
        assert "private" not in repr(request)
        assert all(delta.text not in repr(delta) for delta in deltas if delta.text.strip())
