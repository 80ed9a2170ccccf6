"""The planner: from what is asked for and what is there to what to do now, each step with its reason.

It remembers what a single look cannot tell: what is expected (`expected`), which starts failed, whose turn it is.
`plan` is its one door; equal observations give equal plans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import TypeAlias

from dask_fmware.profile.law import StepLaw
from dask_fmware.provisioning.exchanges import Exchanges
from dask_fmware.provisioning.expected import Asked, Expectation, Expected
from dask_fmware.provisioning.failures import Failures
from dask_fmware.provisioning.forecast import spread
from dask_fmware.provisioning.inventory import Inventory
from dask_fmware.provisioning.queue_length import QueueLength
from dask_fmware.provisioning.room import Room
from dask_fmware.provisioning.simple import Simple
from dask_fmware.provisioning.sizing import Sizing, size
from dask_fmware.provisioning.steps import Stock, steps_to
from dask_fmware.provisioning.times import Times
from dask_fmware.provisioning.turns import Look, Turns
from dask_fmware.provisioning.views import ModelLoad, Observation, Plan, ReplicaNow
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["Planner"]

Key: TypeAlias = tuple[str, str]
SAME = 0.03  # change of a rate that gives no new mix
NOISE = 2.0  # standard deviations of a rate that are no reason to let a replica go
MOST_NOISE = 0.5
LOOK_AGAIN_S = 30.0  # after which the mix is worked out again all the same


class Planner:
    """Plans replicas.

    Parameters
    ----------
    inventory
        Cards and kinds of replicas.
    options
        Bounds, patience, mode.
    """

    def __init__(self, inventory: Inventory, options: Provisioning) -> None:
        self.inventory = inventory
        self.options = options
        self.failures = Failures(options)
        self.wanted: dict[Key, int] | None = None  # by hand; replaces what the mode wants
        self._kept: dict[Key, int] | None = None  # what there was when the manual mode began
        self._expectation = Expectation(1 - options.quantile)
        self._started: dict[str, float] = {}  # model -> last start
        self._begun: float | None = None
        self._turns = Turns(options)
        self._exchanges = Exchanges(options.patience_s())
        self._simple = Simple(options)
        self._queue_length = QueueLength(options)
        self._solved: tuple[float, object, Sizing] | None = None
        self._lower: Sizing | None = None

    def learn_speed(self, key: Key, law: StepLaw) -> None:
        """Take in the step-time law of a kind, as its replicas tell it."""
        kind = self.inventory.kinds.get(key)
        if kind is not None and kind.law != law:
            kinds = {**self.inventory.kinds, key: replace(kind, law=law, source="told by its replicas")}
            self.inventory = Inventory(self.inventory.cards, kinds)
            self._solved = self._lower = None

    def plan(self, seen: Observation, now: float) -> Plan:
        """Decide what to do at `now`, in seconds of any clock that does not go back."""
        if self._begun is None:
            self._begun = now
        self._learn(seen.replicas)
        self.failures.observe(seen.replicas, now)
        stock = Stock.of(seen.replicas)
        barred = self.failures.barred(self.inventory, now)
        if self.options.mode == "manual" and self._kept is None:
            self._kept = dict(Stock.of([replace(replica, takes_calls=True) for replica in seen.replicas]).counts)
        if (wanted := self.wanted if self.wanted is not None else self._kept) is not None:
            desired = dict(wanted)
            reasons = dict.fromkeys((model for model, _ in desired), "asked for by hand")
            return self._made(desired, reasons, seen, stock, barred, now, {})
        match self.options.mode:
            case "simple":
                desired, reasons = self._simple.desired(self.inventory, seen, stock, barred, now)
                return self._made(desired, reasons, seen, stock, barred, now, {})
            case "queue_length":
                desired, reasons = self._queue_length.desired(self.inventory, seen, stock, barred, now)
                return self._made(desired, reasons, seen, stock, barred, now, {})
        return self._projected(seen, stock, barred, now)

    @property
    def _times(self) -> Times:
        return Times(self.inventory, self.options)

    # -- projection ------------------------------------------------------------------------------

    def _projected(self, seen: Observation, stock: Stock, barred: frozenset[Key], now: float) -> Plan:
        expected = self._expectation.observe(seen, stock, self._times, now)
        sizing = self._sized(expected.soon, stock, barred, now)
        reasons = {}
        for model in self.inventory.models:
            reasons[model] = self._reason(model, expected, sizing, seen.models.get(model))
            if (share := expected.shares.get(model, 1.0)) < 1:
                reasons[model] += f", {share:.0%} as full as it will be if it lasts"
            if (below := sizing.mix.below.get(model)) is not None:
                least = self.options.bounds(model).min_replicas
                reasons[model] += f", {below} below min_replicas={least} for now, as starts fail"
        desired, fewer = self._steady(sizing.mix.replicas, expected.full, stock, barred, now)
        _add(reasons, fewer)
        settled = [model for model in self.inventory.models if not self._has_just_started(model, now)]
        desired, turns = self._turns.taken(desired, Look(self.inventory, seen.models, stock, barred, settled, now))
        reasons |= turns
        return self._made(desired, reasons, seen, stock, barred, now, sizing.attainment)

    def _sized(self, asked: Asked, stock: Stock, barred: frozenset[Key], now: float) -> Sizing:
        """Size for a load, or take what was found before if the question is the same."""
        rest = (tuple(sorted(stock.counts.items())), barred, sorted(asked.pressure.items()), asked.backlog)
        question = (tuple((c.name, c.rate) for c in asked.classes), *rest)
        if self._solved is not None and now - self._solved[0] < LOOK_AGAIN_S and _alike(self._solved[1], question):
            return self._solved[2]
        made = self._size(asked, stock, barred)
        self._solved, self._lower = (now, question, made), None
        return made

    def _size(self, asked: Asked, stock: Stock, barred: frozenset[Key]) -> Sizing:
        return size(
            self.inventory, asked.classes, self.options, current=stock.counts, barred=barred,
            burstiness=asked.bursts, pressure=asked.pressure, backlog=asked.backlog,
        )  # fmt: skip

    def _steady(
        self, mix: Mapping[Key, int], asked: Asked, stock: Stock, barred: frozenset[Key], now: float
    ) -> tuple[dict[Key, int], dict[str, str]]:
        """Return the replicas of a mix with those that are kept for stability, and by model, which are not.

        Fewer are desired than there are only where a margin more, grown full, would need fewer too. What is kept of two
        mixes may cost more than the one with the margin, or be more than a model may have: then that one is desired.
        """
        shrinking = [key for key, count in stock.counts.items() if mix.get(key, 0) < count]
        if not shrinking:
            return dict(mix), {}
        lower = self._with_margin(asked, stock, barred)
        kept = {key: min(max(mix.get(key, 0), lower.get(key, 0)), stock.counts[key]) for key in shrinking}
        desired = {**mix, **kept}
        if not self._is_worth_keeping(desired, lower):
            desired = dict(lower)
        reasons: dict[str, str] = {}
        for key, count in stock.counts.items():
            model, fewer = key[0], count - desired.get(key, 0)
            if fewer <= 0:
                continue
            if self._is_young(model, now):
                desired[key] = count
            elif not any(desired.get(k, 0) > n for k, n in stock.counts.items() if k[0] == model):
                why = f"{fewer} on {key[1]} not needed for {self._times.stays_s(model):.0f} s"
                _add(reasons, {model: why})
        return desired, reasons

    def _is_worth_keeping(self, desired: Mapping[Key, int], lower: Mapping[Key, int]) -> bool:
        """Whether replicas cost no more than those for a margin more of the load, and no model has too many of them."""
        if not self.inventory.is_within(desired, self.inventory.cost_per_hour(lower)):
            return False
        counts = Counter[str]()
        for (model, _), count in desired.items():
            counts[model] += count
        return all(count <= (self.options.bounds(model).max_replicas or inf) for model, count in counts.items())

    def _with_margin(self, asked: Asked, stock: Stock, barred: frozenset[Key]) -> Mapping[Key, int]:
        """Replicas for a margin more of a load."""
        if self._lower is None:
            more = [replace(calls, rate=calls.rate * (1 + self._margin(calls.rate))) for calls in asked.classes]
            self._lower = self._size(replace(asked, classes=tuple(more)), stock, barred)
        return self._lower.mix.replicas

    def _is_young(self, model: str, now: float) -> bool:
        """Whether all replicas of a model stay, as the planner has just begun, or one of them was started just now."""
        is_new = self._begun is not None and now - self._begun < self._times.stays_s(model)
        return is_new or self._has_just_started(model, now)

    def _has_just_started(self, model: str, now: float) -> bool:
        return now - self._started.get(model, -inf) < self.options.cool_down_s

    def _margin(self, rate: float) -> float:
        """How much more load what is left must bear: few arrivals do not tell their rate well."""
        return max(self.options.margin, min(NOISE * spread(rate), MOST_NOISE))

    def _reason(self, model: str, expected: Expected, sizing: Sizing, load: ModelLoad | None) -> str:
        classes = expected.full.classes
        rate = sum(calls.rate for calls in classes if calls.model == model)
        if not rate:
            least = self.options.bounds(model).min_replicas
            return f"no calls for {self._times.stays_s(model):.0f} s" + (f", min_replicas={least}" if least else "")
        if (why := expected.kept.get(model)) is not None:
            return why
        words = [f"{rate:.3g} calls/s at the peak of {self._times.stays_s(model):.0f} s"]
        flows = {calls.workflow for calls in classes if calls.model == model}
        words += [expected.notes[flow] for flow in sorted(flows & expected.notes.keys())]
        if load is not None and load.held:
            words.append(f"{load.held} calls wait")
        words.append(f"{sizing.attainment.get(model, 1.0):.1%} in time, {sizing.load.get(model, 0.0):.0%} loaded")
        if (pressed := expected.full.pressure.get(model, 1.0)) > 1.01:
            words.append(f"{pressed:.2f} times the room, as runs were late")
        late = [classes[c].name for c in sizing.mix.best_effort if classes[c].model == model]
        if late:
            words.append(f"no card is fast enough for {', '.join(late)}")
        if any(classes[c].model == model for c in sizing.mix.unserved):
            words.append("all cards or bounds are used up")
        return ", ".join(words)

    # -- what all modes share --------------------------------------------------------------------

    def _learn(self, replicas: Sequence[ReplicaNow]) -> None:
        """Take the load times that the latest replicas have measured into the kinds."""
        kinds = dict(self.inventory.kinds)
        latest: dict[Key, ReplicaNow] = {}
        for known in replicas:
            key = known.model, known.accelerator
            if known.has_loaded and known.load_s > 0 and (key not in latest or latest[key].since < known.since):
                latest[key] = known
        for key, known in latest.items():
            measured_s = known.load_s + self.options.boot_s
            if key in kinds and kinds[key].load_s != measured_s:
                kinds[key] = replace(kinds[key], load_s=measured_s)
                self.inventory = Inventory(self.inventory.cards, kinds)

    def _made(
        self,
        desired: dict[Key, int],
        reasons: dict[str, str],
        seen: Observation,
        stock: Stock,
        barred: frozenset[Key],
        now: float,
        attainment: Mapping[str, float],
    ) -> Plan:
        used = Counter((replica.model, replica.accelerator) for replica in seen.replicas)
        room = Room(self.inventory, self.options.max_cost_per_hour, used)
        steps, waits = steps_to(desired, reasons, seen.replicas, room, barred, self._exchanges, now)
        for step in steps:
            if step.kind in ("start", "swap"):
                self._started[step.model] = now
            if step.kind in ("start", "swap", "resume"):
                self._simple.started(step.model, now)
                self._queue_length.started(step.model)
        cost = self.inventory.cost_per_hour(desired)
        for words in (waits, self._exchanges.reasons(now), self.failures.reasons(now)):
            _add(reasons, words)
        return Plan(now, {key: n for key, n in desired.items() if n}, tuple(steps), reasons, cost, attainment)


def _add(reasons: dict[str, str], words: Mapping[str, str]) -> None:
    """Say more of some models."""
    for model, why in words.items():
        reasons[model] = f"{reasons.get(model, '')}; {why}".removeprefix("; ")


def _alike(known: object, asked: tuple[object, ...]) -> bool:
    """Whether two questions to `_sized` differ by no more than `SAME` in any rate."""
    assert isinstance(known, tuple)
    if known[1:] != asked[1:] or len(known[0]) != len(asked[0]):  # type: ignore[arg-type]
        return False
    return all(
        a[0] == b[0] and abs(a[1] - b[1]) <= SAME * max(a[1], b[1])
        for a, b in zip(known[0], asked[0], strict=True)  # type: ignore[call-overload]
    )
