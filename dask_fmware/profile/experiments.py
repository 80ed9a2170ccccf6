"""What the Profiler runs on an engine, for how many slots and how long a context; it runs nothing itself.

An experiment is a handful of concurrent requests: one prompt on an idle engine (prefill), a steady batch
(decode), or prompts that arrive while a batch decodes (mixed). `observed_steps` reads what came of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ["Experiment", "experiments_for"]

LEAD_TOKENS, TAIL_TOKENS = 6, 40  # of a background stream: before a probe, and from there on
OUTPUT_TOKENS = 33
MARGIN_TOKENS = 16  # of the context, because prompts are as long as asked for but for a few tokens
LONGEST_PROMPT = 8192
LARGEST_CACHE = 1 << 17  # tokens of all streams of an experiment


@dataclass(frozen=True, slots=True)
class Experiment:
    """Requests to run together. Probes are submitted once each background stream has `lead_tokens` tokens."""

    id: str  # names it among all for one engine
    phase: str  # "prefill", "decode" or "mixed"
    background: tuple[tuple[int, int], ...] = ()  # (prompt tokens, output tokens) of each
    probes: tuple[tuple[int, int], ...] = ()
    lead_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """All prompts together: what an experiment costs grows with it."""
        return sum(prompt for prompt, _output in (*self.background, *self.probes))


def experiments_for(slots: int, context_tokens: int, repeats: int = 3) -> tuple[Experiment, ...]:
    """Experiments that identify the law of an engine.

    In rounds: a neighbour who is busy for a while spoils one round of each rather than one experiment in all
    rounds, and a run that is interrupted has the whole range.

    >>> [experiment.id for experiment in experiments_for(1, 64, repeats=1)]
    ['prefill 16 #0', 'prefill 24 #0', 'prefill 32 #0', 'prefill 46 #0', 'decode 1 x 16 #0', 'decode 1 x 32 #0']
    """
    room = context_tokens - MARGIN_TOKENS
    kinds = [*_prefill_kinds(room), *_decode_kinds(slots, room), *_mixed_kinds(slots, room)]
    return tuple(replace(kind, id=f"{kind.id} #{n}") for n in range(repeats) for kind in kinds)


def _prefill_kinds(room: int) -> Iterator[Experiment]:
    for prompt in _prompts(min(room - 2, LONGEST_PROMPT)):
        yield Experiment(f"prefill {prompt}", "prefill", probes=((prompt, 1),))


def _decode_kinds(slots: int, room: int) -> Iterator[Experiment]:
    output = min(OUTPUT_TOKENS, max(room // 3, 2))
    for batch in _batches(slots):
        longest = min(room - output, LONGEST_PROMPT, LARGEST_CACHE // batch)
        for prompt in sorted({min(16, longest), longest // 4, longest // 2, longest}):
            if prompt >= 16:
                yield Experiment(f"decode {batch} x {prompt}", "decode", background=((prompt, output),) * batch)


def _mixed_kinds(slots: int, room: int) -> Iterator[Experiment]:
    output = LEAD_TOKENS + TAIL_TOKENS
    if room < 3 * output:
        return
    for batch in sorted({1, slots // 2, slots - 1} & set(range(1, slots))):
        base = 32 if batch == slots - 1 else min(room - output, 128)
        for prompt in _prompts(min(room - 2, LONGEST_PROMPT))[1::2]:
            for together in sorted({1, min(2, slots - batch)} if prompt <= 256 else {1}):
                yield Experiment(
                    f"mixed {batch} + {together} x {prompt}",
                    "mixed",
                    ((base, output),) * batch,
                    ((prompt, 1),) * together,
                    LEAD_TOKENS,
                )


def _prompts(longest: int) -> list[int]:
    """Powers of two from 16 on and what lies between them, and the longest."""
    sizes = sorted(size << k for size in (16, 24) for k in range(20) if size << k < 0.9 * longest)
    return [*sizes, longest] if longest >= 16 else []


def _batches(slots: int) -> list[int]:
    return sorted({*(1 << k for k in range(slots.bit_length())), slots} - {0})
