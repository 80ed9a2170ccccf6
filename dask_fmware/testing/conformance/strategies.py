"""Calls and fleets as policies see them, drawn by Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from dask_fmware.policy import ReplicaView
from dask_fmware.spec.deployment import Latency
from dask_fmware.testing.views import call, replica

__all__ = ["calls", "fleets", "moments"]

moments = st.floats(0, 1e4)
latencies = st.builds(Latency, first_token_s=moments, prompt_token_s=moments, output_token_s=moments)
calls = st.builds(
    call,
    st.uuids().map(str),
    priority=st.integers(-1000, 1000),
    runnable_at=moments,
    deadline=st.none() | moments,
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
                slot_free_at=draw(moments),
                waiting_s=draw(moments) if waiting else 0.0,
            )
        )
    return views
