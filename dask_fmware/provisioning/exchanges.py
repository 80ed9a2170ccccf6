"""Models that stand in each other's way: each keeps its card until its next replica serves, and that one has no card.

A mix is changed without a gap, so a replica that is to go stays until those of its model that are to come serve. Where
these have no card, and none will become free by itself, that would be for good. Then one replica gives up its card all
the same. Where its model keeps another that serves, that is at once; else its calls have to wait meanwhile, so it is
only after the idle period has passed like that. One goes at a time: with its card the others can mostly be changed
without a gap again.

What they lack may also be money: beside what stays, what is to come would cost too much. Then as many go as pay for one
that comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from dask_fmware.provisioning.views import ReplicaNow

__all__ = ["Exchange", "Exchanges", "Still"]

Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Still:
    """What a look leaves as it is."""

    unplaced: Collection[Key]  # kinds that are to grow and have no place
    held: Sequence[ReplicaNow]  # ready ones that are to go once others of their model serve; the first go first
    freed: Collection[str]  # accelerators on which a place becomes free without any of them
    ready: Mapping[str, int]  # by model, replicas that serve and are not sent away in this look
    loading: Collection[str]  # models of which a replica is on its way
    # kinds that are to grow and have a place, which would cost too much -> the held ones that would pay for it
    unpaid: Mapping[Key, Sequence[ReplicaNow]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Replicas whose cards go to a kind of another model, or pay for one."""

    replicas: tuple[ReplicaNow, ...]  # one, for its card
    to: Key
    waited_s: float


class Exchanges:
    """Remembers since when kinds stand still.

    Parameters
    ----------
    idle_s
        For so long a model's only replica stays.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._since: dict[Key, float] = {}
        self._awaited: dict[Key, tuple[ReplicaNow, ...]] = {}

    def choose(self, still: Still, now: float) -> Exchange | None:
        """Return the exchange that is due, if one is."""
        pairs = _stuck(still)
        self._since = {key: self._since.get(key, now) for key, _ in pairs}
        self._awaited = dict(reversed(pairs))  # the first for each
        spared = [(key, those) for key, those in pairs if _keep_others(those, still)]
        only = [
            (key, those)
            for key, those in pairs
            if not any(r.model in still.loading for r in those) and self._waited_s(key, now) >= self._idle_s
        ]
        if not (due := spared or only):
            return None
        key, those = min(due, key=lambda pair: (still.held.index(pair[1][0]), pair[0]))
        del self._awaited[key]
        return Exchange(those, key, self._waited_s(key, now))

    def reasons(self, now: float) -> dict[str, str]:
        """By model, which card is waited for, whose it is, and how long that may last."""
        words: dict[str, list[str]] = {}
        for (model, accelerator), (first, *more) in self._awaited.items():
            left_s = max(self._idle_s - self._waited_s((model, accelerator), now), 0.0)
            cards = f"the card of '{first.name}'" + (f" and {len(more)} more" if more else "")
            words.setdefault(model, []).append(
                f"one on {accelerator} waits for {cards}, which stays until other replicas of model '{first.model}' "
                f"serve, that wait for cards too; one of them gives way in {left_s:.0f} s"
            )
        return {model: "; ".join(parts) for model, parts in words.items()}

    def _waited_s(self, key: Key, now: float) -> float:
        return now - self._since[key]


def _keep_others(those: Sequence[ReplicaNow], still: Still) -> bool:
    """Whether each model of these keeps another that serves."""
    going = Counter(r.model for r in those)
    return all(still.ready.get(model, 0) > count for model, count in going.items())


def _stuck(still: Still) -> list[tuple[Key, tuple[ReplicaNow, ...]]]:
    """Kinds that cannot come, each with every replica that could make a place, or with those that would pay for it."""
    freed = set(still.freed)
    while more := {r.accelerator for r in still.held if _comes(r.model, still, freed)} - freed:
        freed |= more
    places = [
        (key, (r,))
        for key in sorted(still.unplaced)
        if key[1] not in freed
        for r in still.held
        if r.accelerator == key[1]
    ]
    paid = [] if freed else [(key, tuple(those)) for key, those in sorted(still.unpaid.items()) if those]
    return [*places, *paid]


def _comes(model: str, still: Still, freed: Collection[str]) -> bool:
    """Whether all that a model waits for has a place, or will have one, and money once any card is given back."""
    is_paid = bool(freed) or all(other != model for other, _ in still.unpaid)
    return is_paid and all(accelerator in freed for other, accelerator in still.unplaced if other == model)
