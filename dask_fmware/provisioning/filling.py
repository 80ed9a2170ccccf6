"""How full a load will be when a replica that is asked for now has loaded: a load that has just begun is not full yet.

At a rate of λ calls a second that stay for W seconds each, λ W calls are under way, but only once the rate has lasted
for W seconds (Little's law). When a replica that starts now is ready, there are no more than the calls that are there
now and those that come until then. What a rate asks for beyond them can be started later and will be there in time; if
the rate does not last, it is never started.

Calls that run in batches that are not full stay for less than W, so each of them counts for as many as there would be
in full ones: a load that has lasted is full, however many replicas share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from dask_fmware.provisioning.capacity import EXECUTION_SHARE, CallClass, bearing, stay_s
from dask_fmware.provisioning.forecast import Peak
from dask_fmware.provisioning.inventory import Inventory, Kind
from dask_fmware.provisioning.views import ModelLoad

__all__ = ["Filling", "Soon", "filled"]

NOISE = 2.0  # standard deviations of a count of calls: more of them than that are rarely there


@dataclass(frozen=True, slots=True)
class Soon:
    """What there is at one moment, and until when it is to be foreseen."""

    inventory: Inventory
    loads: Mapping[str, ModelLoad]
    ready: Mapping[tuple[str, str], int]  # replicas by model and accelerator
    lead_s: Mapping[str, float]  # by model: until a replica that is asked for now is ready
    stays_s: Mapping[str, float]  # by model: for how long a replica stays that is not needed
    believed: Mapping[str, float]  # by workflow: share of the calls to come that are to be expected
    now: float


class Filling:
    """By model, calls under way as a share of those of a load that has lasted; the most of late.

    Examples
    --------
    >>> from dask_fmware.profile.law import StepLaw
    >>> from dask_fmware.profile.replica import Limits
    >>> kind = Kind("m", "L4", StepLaw.plain(0.02, 0.0, 0.0, 0.0), Limits(32), load_s=5.0, price_per_hour=1.0)
    >>> minute = CallClass("flow", "answer", "m", 10.0, 100.0, 3000.0, 1.0, answers=True)
    >>> seen = Soon(Inventory({}, {kind.key: kind}), {}, {}, {"m": 5.0}, {"m": 120.0}, {}, now=0.0)
    >>> round(Filling().observe([minute], seen)["m"], 2)  # 50 calls of 600 are expected, 64 not ruled out
    0.11
    """

    __slots__ = ("_peaks",)

    def __init__(self) -> None:
        self._peaks: dict[str, Peak] = {}

    def observe(self, classes: Sequence[CallClass], soon: Soon) -> dict[str, float]:
        """Take in which calls come, and what is under way."""
        replicas = Counter[str]()
        for (model, _), count in soon.ready.items():
            replicas[model] += count
        shares = {}
        for model in dict.fromkeys(calls.model for calls in classes):
            kinds = [kind for kind in soon.inventory.of(model) if kind.law is not None]
            if not kinds:
                continue
            load = soon.loads.get(model, ModelLoad())
            batch = load.running / max(replicas[model], 1)
            full = short = coming = prompts = 0.0
            for calls in (calls for calls in classes if calls.model == model):
                kind, most, whole_s = _soonest(kinds, calls)
                lasts = calls.rate * soon.believed.get(calls.workflow, 1.0)
                full += calls.rate * whole_s
                short += calls.rate * stay_s(kind, calls, min(batch, most))
                coming += lasts * soon.lead_s[model]
                prompts += lasts * min(most * kind.law.prefill_s(calls.prompt_tokens), whole_s) if kind.law else 0.0
            there = load.running_urgent * full / short + load.held_urgent + coming
            likely = there + NOISE * sqrt(there)
            likely = self._peaks.setdefault(model, Peak()).observe(soon.now, likely, soon.stays_s[model])
            shares[model] = max(likely, prompts / EXECUTION_SHARE) / full
        return shares


def filled(classes: Sequence[CallClass], shares: Mapping[str, float]) -> list[CallClass]:
    """Return the calls at the rates at which loads that have lasted would be as full."""
    return [replace(calls, rate=calls.rate * min(shares.get(calls.model, 1.0), 1.0)) for calls in classes]


def _soonest(kinds: Sequence[Kind], calls: CallClass) -> tuple[Kind, int, float]:
    """The kind on which calls stay shortest, its batch, and for how long they stay in it."""
    batches = [max(bearing(kind, calls).batch, 1) for kind in kinds]
    stays = [stay_s(kind, calls, batch) for kind, batch in zip(kinds, batches, strict=True)]
    first = min(range(len(kinds)), key=stays.__getitem__)
    return kinds[first], batches[first], stays[first]
