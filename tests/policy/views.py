"""Calls and replicas as policies see them, for tests."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from dask_fmware.policy import CallView, ReplicaView
from dask_fmware.spec.deployment import Latency

FAST = Latency(first_token_s=0.1, prompt_token_s=0.0005, output_token_s=0.01)
SLOW = Latency(first_token_s=0.5, prompt_token_s=0.002, output_token_s=0.05)


def call(call_id: str = "call", **changes: object) -> CallView:
    made: dict[str, object] = {
        "call_id": call_id,
        "workflow": "rag",
        "node": "answer",
        "model": "small",
        "tenant": "default",
        "priority": 0,
        "runnable_at": 10.0,
        "deadline": None,
        "prompt_tokens": 100,
        "output_tokens": 50.0,
        "answers": False,
        "attempt": 1,
    }
    return CallView(**{**made, **changes})  # type: ignore[arg-type]


def replica(name: str = "a", **changes: object) -> ReplicaView:
    """A replica view; `running` and `waiting` fill in the rest of its load unless that is given too."""
    running, waiting = changes.get("running", 0), changes.get("waiting", 0)
    slots = changes.get("slots", 1)
    made: dict[str, object] = {
        "replica_id": f"tcp://{name}",
        "name": name,
        "model": "small",
        "accelerator": "H100",
        "card": f"{name}/0",
        "slots": slots,
        "running": running,
        "waiting": waiting,
        "card_running": running,
        "latency": FAST,
        "slot_free_at": 12.0 if running == slots else 0.0,
        "waiting_s": float(waiting),  # type: ignore[arg-type]
    }
    return ReplicaView(**{**made, **changes})  # type: ignore[arg-type]


def draws(seed: int = 0):
    return random.Random(seed).random


seconds = st.floats(0, 1e4, allow_nan=False)
latencies = st.builds(Latency, first_token_s=seconds, prompt_token_s=seconds, output_token_s=seconds)
calls = st.builds(
    call,
    st.uuids().map(str),
    priority=st.integers(-1000, 1000),
    runnable_at=seconds,
    deadline=st.none() | seconds,
    prompt_tokens=st.integers(0, 10**6),
    output_tokens=st.floats(0, 1e6),
    answers=st.booleans(),
    attempt=st.integers(1, 10),
)


@st.composite
def fleets(draw: st.DrawFn, max_size: int = 8) -> list[ReplicaView]:
    """Ready replicas of one model, sorted as policies get them."""
    views = []
    for number in range(draw(st.integers(1, max_size))):
        slots = draw(st.integers(1, 64))
        running = draw(st.integers(0, slots))
        waiting = draw(st.integers(0, 5)) if running == slots else 0
        views.append(
            replica(
                f"worker{number:03}",
                slots=slots,
                running=running,
                waiting=waiting,
                card=f"host/{draw(st.integers(0, 2))}",
                card_running=running + draw(st.integers(0, 5)),
                latency=draw(latencies),
                slot_free_at=draw(seconds),
                waiting_s=draw(seconds) if waiting else 0.0,
            )
        )
    return views
