"""From what should be there to what to do: which replica drains, which is stopped, what starts where.

A replica is stopped only when it drains and has no calls. A drained one is taken back before another is started.
Where one model's replica goes and another's is to come and no card of the type is free, its card is handed over.
Where both wait for each other, `exchanges` says whose.
Nothing starts that would cost too much beside what is there (`room`); a card that is handed over costs what it did.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from dask_fmware.provisioning.exchanges import Exchanges, Still
from dask_fmware.provisioning.room import Room
from dask_fmware.provisioning.views import ReplicaNow, Step, StepKind

__all__ = ["Stock", "steps_to"]

Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Stock:
    """Replicas that are there or on their way, by kind; none that drains, has failed, is on leave or paused."""

    counts: Mapping[Key, int]
    ready: Mapping[Key, int]

    @classmethod
    def of(cls, replicas: Sequence[ReplicaNow]) -> Self:
        """Count replicas."""
        counts = Counter((r.model, r.accelerator) for r in replicas if r.counts)
        ready = Counter((r.model, r.accelerator) for r in replicas if r.is_ready)
        return cls(dict(counts), dict(ready))


def steps_to(
    desired: Mapping[Key, int],
    reasons: Mapping[str, str],
    replicas: Sequence[ReplicaNow],
    room: Room,
    barred: frozenset[Key],
    exchanges: Exchanges,
    now: float,
) -> tuple[list[Step], dict[str, str]]:
    """Return the steps, in the order in which they are to be done, and by model, which starts the cost keeps waiting.

    Replicas of a kind that shrinks go only when the others of their model that are to be there are ready, unless
    the model shrinks as a whole: a mix is changed without a gap, where `exchanges` sees no standstill. None starts
    that would cost too much beside what is there, going or not; `room` is that of all replicas, and is taken.
    """
    by_kind: dict[Key, list[ReplicaNow]] = defaultdict(list)
    for replica in replicas:
        by_kind[replica.model, replica.accelerator].append(replica)
    resumed: dict[str, Step] = {}
    going: list[ReplicaNow] = []
    held: list[ReplicaNow] = []  # that would go if the others of their model were ready
    missing: list[tuple[Key, int]] = []
    on_card = Counter(r.card for r in replicas)
    for key in sorted({*desired, *by_kind}):
        there = [r for r in by_kind[key] if r.counts]
        surplus = len(there) - desired.get(key, 0)
        if surplus > 0:
            least = _least([r for r in there if r.is_ours], surplus, on_card, now)
            (held if _awaits_others(key, desired, by_kind) else going).extend(least)
        elif surplus < 0:
            back = [r for r in by_kind[key] if _serves_yet(r)][:-surplus]
            resumed |= {r.name: Step("resume", *key, _why(reasons, key), r.name) for r in back}
            if len(back) < -surplus and key not in barred:
                missing.append((key, -surplus - len(back)))
    steps = [*_ended([r for r in replicas if r.name not in resumed], reasons), *resumed.values()]
    leaving = {r.name for r in going}
    short: dict[Key, int] = {}  # replicas that neither start nor take over a card
    for key, count in missing:
        starts = _starts(key, count, going, room, reasons)
        steps += starts
        if len(starts) < count:
            short[key] = count - len(starts)
    steps += _exchanged(short, held, leaving, replicas, room, reasons, exchanges, now)
    for replica in going:
        key = replica.model, replica.accelerator
        kind: StepKind = "stop" if replica.state == "starting" else "drain"
        steps.append(Step(kind, *key, _why(reasons, key), replica.name))
    return steps, _waits(short, room)


def _ended(replicas: Sequence[ReplicaNow], reasons: Mapping[str, str]) -> list[Step]:
    """Stop what has drained, and what failed to start."""
    steps = []
    for r in replicas:
        if r.state == "draining" and not r.running and not r.waiting:
            why = f"drained; {reasons.get(r.model, 'no longer needed')}"
            steps.append(Step("stop", r.model, r.accelerator, why, r.name))
        elif r.state == "failed":
            steps.append(Step("stop", r.model, r.accelerator, f"it failed: {r.error}", r.name))
    return steps


def _serves_yet(replica: ReplicaNow) -> bool:
    """Whether a replica that drains could go on: it has calls, or is known to be idle, and is not lost."""
    has_calls = bool(replica.running or replica.waiting)
    return replica.state == "draining" and (has_calls or replica.idle_since is not None)


def _starts(key: Key, count: int, going: list[ReplicaNow], room: Room, reasons: Mapping[str, str]) -> list[Step]:
    model, accelerator = key
    steps = []
    for _ in range(count):
        swapped = next((r for r in going if r.accelerator == accelerator and r.has_loaded), None)
        if room.holds(key):
            room.used[key] += 1
            steps.append(Step("start", model, accelerator, _why(reasons, key)))
        elif swapped is not None:
            going.remove(swapped)
            why = f"{_why(reasons, key)}; takes the card of '{swapped.name}', which model '{swapped.model}' can spare"
            steps.append(Step("swap", model, accelerator, why, swapped.name))
    return steps


def _waits(short: Mapping[Key, int], room: Room) -> dict[str, str]:
    """By model, the starts for which there is a place and no money."""
    if room.most_per_hour is None:
        return {}
    cost = room.inventory.cost_per_hour(room.used)
    words: dict[str, list[str]] = defaultdict(list)
    for (model, accelerator), count in short.items():
        if room.has_place(accelerator):
            words[model].append(
                f"{count} more on {accelerator} as soon as other cards go: those that are there cost {cost:g} "
                f"of max_cost_per_hour={room.most_per_hour:g}"
            )
    return {model: "; ".join(parts) for model, parts in words.items()}


def _exchanged(
    short: Collection[Key],
    held: Sequence[ReplicaNow],
    leaving: Collection[str],
    replicas: Sequence[ReplicaNow],
    room: Room,
    reasons: Mapping[str, str],
    exchanges: Exchanges,
    now: float,
) -> list[Step]:
    """The cards of replicas that stay for the sake of others, where these wait for them in turn."""
    freed = {r.accelerator for r in replicas if not r.has_card or r.name in leaving}
    ready = Counter(r.model for r in replicas if r.is_ready and r.name not in leaving)
    first = sorted((r for r in held if r.has_loaded), key=lambda r: _loss(r, now))
    loading = {r.model for r in replicas if r.state == "starting"}
    unplaced = [key for key in short if not room.has_place(key[1])]
    unpaid = {key: _payers(key, first, room) for key in short if room.has_place(key[1])}
    found = exchanges.choose(Still(unplaced, first, freed, ready, loading, unpaid), now)
    if found is None:
        return []
    going, waited = found.replicas, f"each waited for the other's for {found.waited_s:.0f} s"
    if found.to in unpaid:
        why = f"{_why(reasons, found.to)}; its card pays for one on {found.to[1]}: {waited}"
        return [Step("drain", r.model, r.accelerator, why, r.name) for r in going]
    why = (
        f"{_why(reasons, found.to)}; takes the card of '{going[0].name}', for which model "
        f"'{going[0].model}' has no other to come: {waited}"
    )
    return [Step("swap", *found.to, why, going[0].name)]


def _payers(key: Key, held: Sequence[ReplicaNow], room: Room) -> tuple[ReplicaNow, ...]:
    """The first of the held without which one more of a kind would not cost too much; none if all are not enough."""
    left = Room(room.inventory, room.most_per_hour, room.used.copy())
    for number, replica in enumerate(held, 1):
        left.used[replica.model, replica.accelerator] -= 1
        if left.holds(key):
            return tuple(held[:number])
    return ()


def _awaits_others(key: Key, desired: Mapping[Key, int], by_kind: Mapping[Key, Sequence[ReplicaNow]]) -> bool:
    """Whether a kind must stay because others of its model, which replace it, do not serve yet."""
    for other, count in desired.items():
        serving = [r for r in by_kind.get(other, ()) if r.is_ready]
        if other[0] == key[0] and other != key and len(serving) < count:
            return True
    return False


def _least(replicas: Sequence[ReplicaNow], count: int, on_card: Counter[str], now: float) -> list[ReplicaNow]:
    """The replicas that go first; `on_card`, how many there are on each card, is of those that stay afterwards."""
    left, found = list(replicas), list[ReplicaNow]()
    while left and len(found) < count:
        found.append(first := min(left, key=lambda r: _loss(r, now, on_card[r.card] if r.card else 1)))
        left.remove(first)
        on_card[first.card] -= 1
    return found


def _loss(replica: ReplicaNow, now: float, on_card: int = 1) -> tuple[object, ...]:
    """Order in which replicas go: what has not begun to serve, has fewest calls, frees its card, is idle longest."""
    idle_s = now - replica.idle_since if replica.idle_since is not None else -1.0
    calls = replica.running + replica.waiting
    return (replica.state != "starting", calls, on_card, -idle_s, -replica.since, replica.name)


def _why(reasons: Mapping[str, str], key: Key) -> str:
    return reasons.get(key[0], "no longer part of the plan")
