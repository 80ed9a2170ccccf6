"""What callers send, read without a gateway."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from dask_fmware.errors import SpecError
from dask_fmware.gateway.bodies import MOST_MESSAGES, ChatBody, RunBody, read


def test_of_many_messages_that_are_wrong_the_first_is_told_and_no_more_are_looked_at() -> None:
    body = b'{"model": "rag", "messages": [' + b"{}," * 199_999 + b"{}]}"
    tracemalloc.start()
    try:
        with pytest.raises(SpecError, match=r"^the body: messages\.0\.role: is missing; add it$"):
            read(ChatBody, body)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_chat_of_too_many_messages_is_refused_without_a_word_of_them() -> None:
    turns = [{"role": "user", "content": "secret"}] * (MOST_MESSAGES + 1)
    with pytest.raises(SpecError, match=r"messages: .* at most 10000 items") as raised:
        read(ChatBody, json.dumps({"model": "rag", "messages": turns}).encode())
    assert "secret" not in str(raised.value)
    assert len(read(ChatBody, json.dumps({"model": "rag", "messages": turns[1:]}).encode()).messages) == MOST_MESSAGES


@pytest.mark.parametrize("body", [{"k" * 100_000: 1}, {"slo": {"k" * 100_000: 1}}])
def test_what_is_said_of_a_long_key_is_short(body: object) -> None:
    with pytest.raises(SpecError, match="unknown key 'kkk") as raised:
        read(RunBody, json.dumps(body).encode())
    assert len(str(raised.value)) < 400
