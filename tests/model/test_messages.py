from __future__ import annotations

from dataclasses import MISSING, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware.errors import VersionMismatchError
from dask_fmware.model import messages
from dask_fmware.model.messages import (
    PROTOCOL_VERSION,
    AttemptEnded,
    Branched,
    Carried,
    EngineStateReport,
    FirstToken,
    GiveBack,
    GiveUp,
    Grant,
    Overdue,
    ReplicaFailed,
    ReplicaReady,
    RunsAsked,
    StepsTimed,
    check_version,
)

few = settings(max_examples=50)
text, number = st.text(max_size=10), st.integers(0, 2**62)
seconds, share = st.floats(0, 1e9), st.floats(0, 1)
MESSAGES = st.one_of(
    st.builds(Grant, text, number, st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(FirstToken, text, number, seconds),
    st.builds(GiveBack),
    st.builds(GiveUp, text, number),
    st.builds(Overdue, text, number),
    st.builds(
        AttemptEnded,
        text,
        number,
        st.sampled_from(["finished", "failed", "retry", "aborted", "skipped"]),
        prompt_tokens=number,
        ttft_s=st.none() | seconds,
        error=text,
    ),
    st.builds(
        StepsTimed,
        text,
        text,
        st.lists(st.tuples(seconds, seconds, seconds, seconds), max_size=3).map(tuple),
        st.lists(st.tuples(text, number, number), max_size=3).map(tuple),
    ),
    st.builds(Branched, text, text, st.none() | number),
    st.builds(Carried, text, st.binary(max_size=20)),
    st.builds(RunsAsked, st.binary(max_size=20), st.lists(text, max_size=3).map(tuple)),
    st.builds(ReplicaFailed, text, text, text, text, st.booleans()),
    st.builds(EngineStateReport, *[number] * 2, st.none() | share, *[st.none() | number] * 3),
    st.builds(
        ReplicaReady,
        *[text] * 4,
        slots=number,
        context_tokens=number,
        longest_token_bytes=number,
        engine=text,
        engine_version=text,
        latency=st.fixed_dictionaries({"first_token_s": seconds, "output_token_s": seconds}),
        load_s=seconds,
        profile=st.none() | text,
        card_slots=st.none() | number,
    ),
)
READY = ReplicaReady(
    name="a",
    model="small",
    accelerator="cpu",
    card="host/0",
    slots=4,
    context_tokens=2048,
    longest_token_bytes=16,
    engine="words",
    engine_version="1",
    latency={"first_token_s": 0.1, "output_token_s": 0.01},
    load_s=2.0,
)


def plain(value: object) -> bool:
    """Whether msgpack carries a value and gives back an equal one."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and plain(v) for k, v in value.items())
    if isinstance(value, tuple):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, float, bool, bytes)


@few
@given(MESSAGES)
def test_every_message_crosses_the_wire_as_plain_values(message) -> None:
    wire = message.to_wire()
    assert plain(wire)
    assert wire["op"] == type(message).op
    assert type(message).from_wire(wire) == message


@few
@given(MESSAGES)
def test_fields_of_a_newer_sender_are_ignored(message) -> None:
    assert type(message).from_wire({**message.to_wire(), "from_the_future": 1}) == message


@few
@given(MESSAGES)
def test_what_an_older_sender_leaves_out_has_its_default_or_is_another_version(message) -> None:
    for field in fields(message):
        wire = message.to_wire()
        wire.pop(field.name, None)
        if field.default is MISSING or field.name == "version":
            with pytest.raises(VersionMismatchError, match=f"lacks {field.name} "):
                type(message).from_wire(wire)
        else:
            assert getattr(type(message).from_wire(wire), field.name) == field.default


def test_every_message_has_an_op_of_its_own() -> None:
    kinds = [getattr(messages, name) for name in messages.__all__]
    ops = [kind.op for kind in kinds if hasattr(kind, "op")]
    assert len(ops) == len(set(ops)) == 13
    assert all(op.startswith("fmware-") for op in ops)


def test_an_announcement_becomes_the_replica_at_its_workers_address() -> None:
    made = READY.replica("tcp://10.0.0.1:1")
    assert (made.replica_id, made.name, made.model, made.card) == ("tcp://10.0.0.1:1", "a", "small", "host/0")
    assert (made.slots, made.context_tokens, made.longest_token_bytes, made.load_s) == (4, 2048, 16, 2.0)
    assert (made.latency.first_token_s, made.latency.prompt_token_s, made.latency.output_token_s) == (0.1, 0.0, 0.01)


def test_an_announcement_of_another_version_is_refused_with_the_next_step() -> None:
    with pytest.raises(VersionMismatchError, match=rf"version 0, this side {PROTOCOL_VERSION}; install"):
        replace(READY, version=0).replica("tcp://x")


@pytest.mark.parametrize("theirs", [None, 0, PROTOCOL_VERSION + 1, "1"])
def test_only_the_same_version_is_understood(theirs: object) -> None:
    with pytest.raises(VersionMismatchError, match="the client"):
        check_version(theirs, "the client")


def test_the_same_version_is_understood() -> None:
    check_version(PROTOCOL_VERSION, "the client")


def test_what_has_its_default_does_not_travel_but_the_version_does() -> None:
    assert AttemptEnded("k", 1, "finished").to_wire() == {
        "op": AttemptEnded.op,
        "call_id": "k",
        "attempt": 1,
        "outcome": "finished",
    }
    assert "version" in READY.to_wire()
