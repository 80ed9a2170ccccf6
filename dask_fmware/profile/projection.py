"""When a replica would answer a candidate call: TTFT and completion, and what they are made of.

A candidate joins at the end of the queue, so it never changes which steps the others take, only how
long they last. The law is a sum, so what the candidate adds to a step can be added up beside what the step
costs anyway. `Projection` therefore projects the replica once and keeps running sums over its segments;
a candidate is then answered by a handful of binary searches, exactly as a step-by-step simulation would.

More load makes a candidate later, with one exception that real engines share: what is delayed by one more
in the queue may decode after the candidate's first token instead of beside its prefill.

It knows a law, limits and a load (as they stood when the projection was made); the clock is the
caller's, who may ask for a candidate that arrives some seconds into the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.replica import Limits, ReplicaLoad, SequenceState
from dask_fmware.profile.sums import StepSums
from dask_fmware.profile.timeline import segments_of

__all__ = ["Estimate", "Projection"]


class Estimate(NamedTuple):
    """When a candidate is answered, in seconds from its arrival, by cause of delay."""

    l_r_s: float  # until what runs leaves room for it
    l_q_s: float  # from there, until what waits ahead of it has been let in
    l_x_ttft_s: float  # from there, until its first token
    l_x_s: float  # from there, until its last token

    @property
    def ttft_s(self) -> float:
        """Arrival to first token."""
        return self.l_r_s + self.l_q_s + self.l_x_ttft_s

    @property
    def completion_s(self) -> float:
        """Arrival to last token."""
        return self.l_r_s + self.l_q_s + self.l_x_s


class Projection:
    """A replica, projected once, ready to answer for a candidate.

    Parameters
    ----------
    load
        Sequences that run and wait at this moment.
    limits
        Slots, token budget and KV cache of the engine.
    law
        Step-time law of this replica, corrected where a correction is known.

    Examples
    --------
    >>> law = StepLaw.plain(0.010, 1e-5, 1e-3, 0.0)
    >>> idle = Projection(ReplicaLoad(), Limits(slots=4), law)
    >>> estimate = idle.estimate(SequenceState(prompt_tokens=1000, output_tokens=101))
    >>> round(estimate.ttft_s, 6), round(estimate.completion_s, 6)
    (0.02, 1.12)
    """

    def __init__(self, load: ReplicaLoad, limits: Limits, law: StepLaw) -> None:
        self._load = load
        self._all = StepSums(segments_of(load, limits, law), limits, law)
        self._running = (
            StepSums(segments_of(ReplicaLoad(load.running), limits, law), limits, law) if load.waiting else self._all
        )

    @property
    def idle_after_s(self) -> float:
        """When everything known at the projection is done."""
        return self._all.idle_after_s

    def estimate(self, candidate: SequenceState, after_s: float = 0.0) -> Estimate:
        """Answer for a candidate that arrives `after_s` seconds into the projection, behind all that waits.

        Its `ready_tokens` are the credit of the prefix cache.
        """
        prompt = candidate.prompt_tokens
        kv_tokens = prompt + candidate.output_tokens
        steps = self._all
        start, i, began_s = steps.room_for(kv_tokens, after_s)
        room_s = began_s
        if self._running is not steps:
            room_s = min(self._running.room_for(kv_tokens, after_s)[2], began_s)
        left = max(prompt - candidate.ready_tokens, 1)
        first, end, base_s, first_s = steps.first_token(start, i, left, prompt)
        if after_s > steps.idle_after_s:
            first_s += after_s - steps.idle_after_s  # the sums stand still once the replica is idle
        more = candidate.output_tokens - 1
        decode_s = steps.last_token(first, end, base_s, more, prompt + 1) if more else 0.0
        ttft_s = first_s - began_s
        return Estimate(room_s - after_s, began_s - room_s, ttft_s, ttft_s + decode_s)

    def completion_s(self, candidate: SequenceState, followers: Sequence[SequenceState], after_s: float = 0.0) -> float:
        """Arrival to last token if `followers` come right behind it, whose prompts slow its tokens.

        A projection knows who waits, not who will come; on a replica that is full for long, somebody takes each slot
        that gets free. Followers change how long steps are, not which of them yield the candidate's tokens. The
        candidate must find the replica without a free slot at `after_s`.
        """
        prompt, steps = candidate.prompt_tokens, self._all
        start, i, _began_s = steps.room_for(prompt + candidate.output_tokens, after_s)
        first = steps.first_token(start, i, max(prompt - candidate.ready_tokens, 1), prompt)[0]
        load = ReplicaLoad(self._load.running, (*self._load.waiting, candidate, *followers))
        whole = StepSums(segments_of(load, steps.limits, steps.law), steps.limits, steps.law)
        return whole.time_at(first + candidate.output_tokens - 1) - after_s

    def ttft_s(self, candidate: SequenceState, after_s: float = 0.0) -> float:
        """TTFT alone, at half the price of `estimate`."""
        prompt = candidate.prompt_tokens
        steps = self._all
        start, i, _began_s = steps.room_for(prompt + candidate.output_tokens, after_s)
        left = max(prompt - candidate.ready_tokens, 1)
        first_s = steps.first_token(start, i, left, prompt)[3]
        return first_s - after_s + max(after_s - steps.idle_after_s, 0.0)
