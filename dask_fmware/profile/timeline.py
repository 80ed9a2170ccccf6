"""The future steps of a replica without newcomers, as segments of equal steps.

An engine step decodes one token for each prefilled sequence and gives what is left of its token budget
to prompts, first come first served. Between two events (a sequence ends, a prompt is done, a waiting one
is admitted) all steps are alike but for the growing context, so that their sum has a closed form: a
replica with 64 sequences has some hundred segments, not some ten thousand steps.

It knows a law and a load; it asks nothing about a candidate (see `projection`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from dask_fmware.profile.law import StepLaw, chunk_pairs
from dask_fmware.profile.replica import Limits, ReplicaLoad

__all__ = ["Segment", "segments_of"]


@dataclass(slots=True)
class Segment:
    """A stretch of equal steps."""

    step: int  # index of its first step
    steps: int  # how many
    start_s: float  # when it begins
    end_s: float  # when it ends
    batch: int  # sequences that decode in each step
    context_tokens: int  # of those sequences at its first step; grows by `batch` each step
    prefill_tokens: int  # prompt tokens in each step
    prefilled: int  # prompts that they belong to
    room_tokens: int  # of the step's budget that nobody uses
    used_slots: int  # running sequences
    kv_tokens: int  # reserved by them
    queued: int  # waiting sequences that are not admitted


def segments_of(load: ReplicaLoad, limits: Limits, law: StepLaw) -> list[Segment]:
    """Project a replica until it is idle.

    Waiting sequences are admitted in order, each as soon as a slot and KV room for its whole
    length are free; one that exceeds the KV cache on its own is admitted to an empty replica.
    """
    pending: deque[list[int]] = deque()  # being prefilled: [prompt tokens left, ready, output tokens, prompt tokens]
    ends: list[tuple[int, int, int]] = []  # decoding: (step after its last, context then, KV reserved)
    context = 0
    kv = 0
    for state in load.running:
        kv += state.kv_tokens
        left = state.prefill_tokens
        if left:
            pending.append([left, state.prompt_tokens - left, state.decode_tokens, state.prompt_tokens])
        else:
            context += state.prompt_tokens + state.generated_tokens
            ends.append((state.decode_tokens, state.kv_tokens, state.kv_tokens))
    heapify(ends)
    used = len(load.running)
    queue = deque(load.waiting)
    slots, budget = limits.slots, limits.step_tokens
    kv_limit = limits.kv_tokens
    step = 0
    now_s = 0.0
    segments: list[Segment] = []
    while ends or pending or queue:
        while queue and used < slots and (not used or kv_limit is None or kv + queue[0].kv_tokens <= kv_limit):
            state = queue.popleft()
            left = state.prefill_tokens
            pending.append([left, state.prompt_tokens - left, state.decode_tokens, state.prompt_tokens])
            kv += state.kv_tokens
            used += 1
        batch = len(ends)
        room = max(budget - batch, 0)
        steps = ends[0][0] - step if ends else 1 << 60
        tokens = prompts = 0
        pairs = 0.0
        done: list[list[int]] = []
        if pending and room:
            head = pending[0]
            if head[0] > room:
                tokens, prompts = room, 1
                steps = min(steps, (head[0] - 1) // room)
                pairs = chunk_pairs(steps * room, head[1])
                head[0] -= steps * room
                head[1] += steps * room
            else:
                steps = 1
                while pending and tokens < room:
                    head = pending[0]
                    share = min(head[0], room - tokens)
                    tokens += share
                    prompts += 1
                    pairs += chunk_pairs(share, head[1])
                    if share == head[0]:
                        done.append(pending.popleft())
                    else:
                        head[0] -= share
                        head[1] += share
        even_s = law.fixed_s + law.decode(batch)
        if tokens:
            even_s += law.prefill_s(tokens, prompts, 0.0)
        spent_s = steps * even_s + law.pair_s * pairs
        if batch:
            spent_s += law.context.sum_s(context, batch, steps)
        segments.append(
            Segment(
                step, steps, now_s, now_s + spent_s, batch, context, tokens, prompts, room - tokens,
                used, kv, len(queue),
            )
        )  # fmt: skip
        step += steps
        now_s += spent_s
        context += batch * steps
        while ends and ends[0][0] == step:
            _end, last_context, reserved = heappop(ends)
            context -= last_context
            kv -= reserved
            used -= 1
        for _left, _ready, output, prompt in done:
            if output > 1:  # the first token came with the prefill
                context += prompt + 1
                heappush(ends, (step + output - 1, prompt + output, prompt + output))
            else:
                kv -= prompt + output
                used -= 1
    return segments
