"""How long calls take on an idle replica of their own, by its step-time law; in closed form where there is one."""

from __future__ import annotations

from functools import lru_cache
from math import inf

from dask_fmware.profile.emulation import FIRST, EmulatedBatch
from dask_fmware.profile.law import StepLaw, chunk_pairs
from dask_fmware.profile.replica import Limits
from dask_fmware.simulation.sampled import Lengths

__all__ = ["alone_s"]


def alone_s(law: StepLaw, limits: Limits, calls: tuple[Lengths, ...]) -> tuple[float, float]:
    """First token and completion of calls that start together on an idle replica; the last of each."""
    if len(calls) == 1:
        return _alone_s(law, limits, *calls[0])
    prompts = sum([prompt for prompt, _ in calls])
    kv = prompts + sum([output for _, output in calls])
    if len(calls) > limits.slots or prompts > limits.step_tokens or kv > (limits.kv_tokens or inf):
        return _emulated_s(law, limits, calls)
    first_s = law.fixed_s + law.prefill_s(prompts, len(calls), 0.0)
    first_s += law.pair_s * sum([chunk_pairs(prompt, 0) for prompt, _ in calls])
    at_s, done = first_s, 0
    context, batch = prompts + len(calls), len(calls)
    for prompt, output in sorted(calls, key=_output):
        steps = output - 1 - done
        if steps > 0:
            at_s += steps * law.base_s(batch) + law.context.sum_s(context, batch, steps)
            done += steps
            context += batch * steps
        batch -= 1
        context -= prompt + output
    return first_s, at_s


def _alone_s(law: StepLaw, limits: Limits, prompt: int, output: int) -> tuple[float, float]:
    """`alone_s` of a single call, whose prompt may take more than one step."""
    whole, rest = divmod(prompt, limits.step_tokens)
    first_s = whole * (law.fixed_s + law.chunk_s(limits.step_tokens)) if whole else 0.0
    if rest:
        first_s += law.fixed_s + law.chunk_s(rest)
    first_s += law.pair_s * chunk_pairs(prompt, 0)
    if output == 1:
        return first_s, first_s
    return first_s, first_s + ((output - 1) * law.base_s(1) + law.context.sum_s(prompt + 1, 1, output - 1))


def _output(call: Lengths) -> int:
    return call[1]


@lru_cache(maxsize=20_000)
def _emulated_s(law: StepLaw, limits: Limits, calls: tuple[Lengths, ...]) -> tuple[float, float]:
    batch = EmulatedBatch(law, limits)
    for number, (prompt, output) in enumerate(calls):
        batch.add(0.0, number, prompt, output)
    outputs = []
    while batch.next_event_at < inf:
        outputs += batch.advance(batch.next_event_at)
    return max(o.at for o in outputs if o.kind == FIRST), max(o.at for o in outputs)
