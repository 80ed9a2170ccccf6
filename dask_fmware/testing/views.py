"""Calls and replicas as policies see them, made in a line."""

from __future__ import annotations

import random
from collections.abc import Callable

from dask_fmware.policy import CallView, ReplicaView
from dask_fmware.spec.deployment import Latency

__all__ = ["FAST", "SLOW", "call", "draws", "replica"]

FAST = Latency(first_token_s=0.1, prompt_token_s=0.0005, output_token_s=0.01)
SLOW = Latency(first_token_s=0.5, prompt_token_s=0.002, output_token_s=0.05)


def call(call_id: str = "call", **changes: object) -> CallView:
    """A call that has just become runnable, of a run without an objective."""
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
    """An idle replica; `running` and `waiting` fill in the rest of its load unless that is given too."""
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


def draws(seed: int = 0) -> Callable[[], float]:
    """A source of random numbers in [0, 1)."""
    return random.Random(seed).random
