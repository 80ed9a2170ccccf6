"""Models that stand in each other's way: each keeps its card until its next replica serves, and that one has no card.

A mix is changed without a gap, so a replica that is to go stays until those of its model that are to come serve. Where
these have no card, and none will become free by itself, that would be for good. Then one replica gives up its card all
the same. Where its model keeps another that serves, that is at once; else its calls have to wait meanwhile, so it is
only after the idle period has passed like that. One goes at a time: with its card the others can mostly be changed
without a gap again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Exchange:
    """A replica whose card goes to a kind of another model."""

    replica: ReplicaNow
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
        self._awaited: dict[Key, ReplicaNow] = {}

    def choose(self, still: Still, now: float) -> Exchange | None:
        """Return the exchange that is due, if one is."""
        pairs = _stuck(still)
        self._since = {key: self._since.get(key, now) for key, _ in pairs}
        self._awaited = dict(reversed(pairs))  # the first for each
        spared = [pair for pair in pairs if still.ready.get(pair[1].model, 0) > 1]
        only = [
            (key, r) for key, r in pairs if r.model not in still.loading and self._waited_s(key, now) >= self._idle_s
        ]
        if not (due := spared or only):
            return None
        key, replica = min(due, key=lambda pair: (still.held.index(pair[1]), pair[0]))
        del self._awaited[key]
        return Exchange(replica, key, self._waited_s(key, now))

    def reasons(self, now: float) -> dict[str, str]:
        """By model, which card is waited for, whose it is, and how long that may last."""
        words: dict[str, list[str]] = {}
        for (model, accelerator), replica in self._awaited.items():
            left_s = max(self._idle_s - self._waited_s((model, accelerator), now), 0.0)
            words.setdefault(model, []).append(
                f"one on {accelerator} waits for the card of '{replica.name}', which stays until other replicas of "
                f"model '{replica.model}' serve, that wait for cards too; one of them gives way in {left_s:.0f} s"
            )
        return {model: "; ".join(parts) for model, parts in words.items()}

    def _waited_s(self, key: Key, now: float) -> float:
        return now - self._since[key]


def _stuck(still: Still) -> list[tuple[Key, ReplicaNow]]:
    """Kinds without a place to come, each with every replica that could make one."""
    freed = set(still.freed)
    while more := {r.accelerator for r in still.held if _comes(r.model, still, freed)} - freed:
        freed |= more
    return [
        (key, r) for key in sorted(still.unplaced) if key[1] not in freed for r in still.held if r.accelerator == key[1]
    ]


def _comes(model: str, still: Still, freed: Collection[str]) -> bool:
    """Whether all that a model waits for has a place, or will have one."""
    return all(accelerator in freed for other, accelerator in still.unplaced if other == model)
