"""What one replica bears: how many calls a second with which times, and how long calls wait at a load.

Continuous batching in steady state: with B sequences in the batch, output length o and prefill time pi of a
prompt, a step takes ``d(B) + B * pi / o`` on average, so a replica serves ``B / (o * d(B) + B * pi)`` calls a second.
Waiting follows Sakasegawa's approximation of the M/M/c queue, with Allen's and Cunneen's factor for bursts.
Checked against the simulator in `benchmarks/provisioning.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import exp, inf, sqrt

from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.replica import Limits
from dask_fmware.provisioning.inventory import Kind

__all__ = ["Bearing", "CallClass", "bearing", "late_share", "least_s", "load_at", "stay_s"]

EXECUTION_SHARE = 0.8  # of a call's budget, that its execution in a full batch may take; the rest is for waiting
MOST_LOAD = 0.92  # of its capacity: steps vary, and a replica that is always full recovers from nothing


@dataclass(frozen=True, slots=True)
class CallClass:
    """Calls that are alike."""

    workflow: str  # empty: of any, they are under way or can wait, and no more are expected
    node: str
    model: str
    rate: float  # calls a second
    prompt_tokens: float
    output_tokens: float
    budget_s: float  # from runnable to the first token (answers) or completion; infinity: no objective
    answers: bool
    end_budget_s: float = inf  # to completion, where `budget_s` is to the first token

    @property
    def name(self) -> str:
        """What they are called in words."""
        return f"{self.workflow}.{self.node}" if self.workflow else f"{self.model} (under way)"


@dataclass(frozen=True, slots=True)
class Bearing:
    """A class of calls on a kind of replica."""

    batch: int  # sequences at once; 0: one alone is too slow
    rate: float  # calls a second that one replica serves at that batch
    execution_s: float  # of a call in that batch, to its first token or completion, whichever has less left
    spare_s: float  # what the budgets leave beside it, for waiting


def bearing(kind: Kind, calls: CallClass) -> Bearing:
    """Largest batch at which a class stays in its budgets on a kind, and what is served then.

    Without an objective, or where the speed is not known, all slots count. A budget that no batch meets gives the
    figures of a batch of one with ``batch=0``: the caller decides whether best effort is better than nothing. A call
    that is longer than the KV cache never ends there.
    """
    if kind.law is None:
        return Bearing(kind.limits.slots, float(kind.limits.slots), 0.0, min(calls.budget_s, calls.end_budget_s))
    prompt, output = _near(calls.prompt_tokens), _near(calls.output_tokens)
    budgets = ((calls.budget_s, calls.answers), (calls.end_budget_s, False))
    return _bearing(kind.law, kind.limits, prompt, output, budgets if calls.end_budget_s < inf else budgets[:1])


def least_s(kind: Kind, calls: CallClass) -> float:
    """Seconds of a call of the class alone on an idle replica; 0 where the speed is not known."""
    if kind.law is None:
        return 0.0
    return _execution_s(kind.law, kind.limits, calls.prompt_tokens, calls.output_tokens, 1, calls.answers)


def stay_s(kind: Kind, calls: CallClass, batch: float) -> float:
    """Seconds for which a call stays in a batch of that many, to its last token; 0 where the speed is not known."""
    if kind.law is None:
        return 0.0
    most = max(round(batch), 1)
    return most / _rate(kind.law, _near(calls.prompt_tokens), _near(calls.output_tokens), most)


def _near(tokens: float) -> float:
    """Round to three digits, so that the same figures are not worked out for every drift of a mean."""
    return float(f"{max(tokens, 1.0):.3g}")


@lru_cache(maxsize=20_000)
def _bearing(
    law: StepLaw, limits: Limits, prompt: float, output: float, budgets: tuple[tuple[float, bool], ...]
) -> Bearing:
    most = limits.slots
    if limits.kv_tokens is not None:
        most = min(most, int(limits.kv_tokens / (prompt + output)))

    def takes_s(batch: int) -> list[float]:
        return [_execution_s(law, limits, prompt, output, batch, answers) for _, answers in budgets]

    def at(batch: int) -> Bearing:
        left = ((budget_s - each_s, each_s) for (budget_s, _), each_s in zip(budgets, takes_s(batch), strict=True))
        spare_s, execution_s = min(left)
        return Bearing(batch, _rate(law, prompt, output, batch), execution_s, spare_s)

    alone = at(1)
    if most < 1:
        return Bearing(0, alone.rate, inf, 0.0)
    if alone.spare_s < 0:
        return replace(alone, batch=0)
    most_s = [max(EXECUTION_SHARE * budget_s, least) for (budget_s, _), least in zip(budgets, takes_s(1), strict=True)]
    low, high = 1, most + 1  # low is within, high is not
    while high - low > 1:
        middle = (low + high) // 2
        if all(each_s <= limit_s for each_s, limit_s in zip(takes_s(middle), most_s, strict=True)):
            low = middle
        else:
            high = middle
    return at(low)


def _rate(law: StepLaw, prompt: float, output: float, batch: int) -> float:
    decode_s = law.step_s(0, batch, batch * (prompt + output / 2))
    return batch / max(output * decode_s + batch * law.prefill_s(prompt), 1e-9)


def _execution_s(law: StepLaw, limits: Limits, prompt: float, output: float, batch: int, answers: bool) -> float:
    """First token or completion of a call that joins a batch which `batch - 1` others keep busy."""
    others = batch - 1
    decode_s = law.step_s(0, others, others * (prompt + output / 2)) if others else law.fixed_s
    prefill_s = law.prefill_s(prompt)
    chunks = max(1, -(-int(prompt) // max(limits.step_tokens - others, 1)))
    first_s = chunks * decode_s + prefill_s + (decode_s / 2 if others else 0.0)  # it arrives in the midst of a step
    if answers:
        return first_s
    full_s = law.step_s(0, batch, batch * (prompt + output / 2))
    return first_s + (output - 1) * (full_s + others * prefill_s / output)


def late_share(servers: float, load: float, rate: float, patience_s: float, burstiness: float = 1.0) -> float:
    """Share of calls that wait longer than `patience_s`.

    Parameters
    ----------
    servers
        Slots of all replicas.
    load
        Of the capacity, 0..1 and beyond.
    rate
        Calls a second at full capacity.
    patience_s
        What their budget leaves beside execution.
    burstiness
        Variance over mean of arrivals, 1 for Poisson.

    Examples
    --------
    >>> late_share(8, 0.5, 4.0, 1.0) < 0.02 < late_share(8, 0.95, 4.0, 1.0)
    True
    """
    if load >= 1.0:
        return 1.0
    if load <= 0.0 or patience_s == inf:
        return 0.0
    waits = load ** (sqrt(2 * (servers + 1)) - 1)
    return float(waits * exp(-2 * (1 - load) * rate * patience_s / (burstiness + 1)))


def load_at(servers: float, rate_each: float, patience_s: float, miss: float, burstiness: float = 1.0) -> float:
    """Highest load at which no more than `miss` of the calls wait longer than `patience_s`, up to `MOST_LOAD`."""
    low, high = 0.05, MOST_LOAD
    if late_share(servers, high, servers * rate_each, patience_s, burstiness) <= miss:
        return high
    for _ in range(20):
        middle = (low + high) / 2
        if late_share(servers, middle, servers * rate_each, patience_s, burstiness) <= miss:
            low = middle
        else:
            high = middle
    return low
