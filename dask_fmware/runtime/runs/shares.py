"""What tenants have been given, relative to their weights, and who is ahead of its share.

Card time that was given to calls is counted, not what was asked for, so whoever asks for more than its share is not
punished for what it did not get. Whoever asks for no more than its share of what the replicas can do is never ahead:
another that is held back because it asks for too much, and so is given less, is no measure. Whoever was away comes back
level with the least served, with no credit for the time.

Shares are of equal urgency: runs of one level are compared with each other alone. A batch job that takes what nobody
urgent wants has no claim against urgent runs, and what it was given is not held against its tenant's urgent ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp, inf
from types import MappingProxyType
from typing import TypeAlias

__all__ = ["Level", "Shares"]

AWAY = 10.0  # objectives without a submission after which a tenant claims no share
ASKED = 2.0  # objectives over which what a tenant asks for is averaged
NOTHING: Mapping[str, float] = MappingProxyType({})

Level: TypeAlias = tuple[int, bool]
"""Priority of a run, and whether it has a deadline."""


class _Asked:
    """What a tenant asked for lately: card seconds of each model, fading."""

    __slots__ = ("_at", "_work_s")

    def __init__(self, now: float) -> None:
        self._at = now
        self._work_s: dict[str, float] = {}

    def add(self, work_s: Mapping[str, float], over_s: float, now: float) -> None:
        left, self._at = exp((self._at - now) / over_s) if over_s > 0 and now > self._at else 1.0, now
        for model in self._work_s:
            self._work_s[model] *= left
        for model, seconds in work_s.items():
            self._work_s[model] = self._work_s.get(model, 0.0) + seconds

    def is_within(self, share: float, over_s: float, capacity: Callable[[str], float]) -> bool:
        return all(asked_s <= share * over_s * capacity(model) for model, asked_s in self._work_s.items())


class Shares:
    """Accounts of tenants at each level.

    Parameters
    ----------
    weights
        Of tenants; 1 for all others.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        self._given: dict[tuple[Level, str], float] = {}  # level and tenant -> card seconds over weight
        self._asked: dict[tuple[Level, str], _Asked] = {}
        self._claims_until: dict[tuple[Level, str], float] = {}

    def submitted(
        self,
        tenant: str,
        level: Level,
        objective_s: float,
        now: float,
        work_s: Mapping[str, float] = NOTHING,
        capacity: Callable[[str], float] = lambda _: 0.0,
    ) -> float:
        """Take note of a run; return by how many card seconds its tenant is ahead of the least served other, or 0.

        Parameters
        ----------
        tenant, level, objective_s
            Whose run it is, how urgent, and how many seconds it has.
        now
            Seconds on the machine's clock.
        work_s
            Card seconds that it is expected to take, by model.
        capacity
            Card seconds that the replicas of a model give in a second.
        """
        claims, mine = self._claims_until, (level, tenant)
        for other in [other for other, until in claims.items() if until < now]:
            del claims[other], self._given[other], self._asked[other]
        least = min((given for other, given in self._given.items() if other != mine and other[0] == level), default=inf)
        if mine not in claims:
            self._given[mine] = least if least < inf else 0.0
            self._asked[mine] = _Asked(now)
        claims[mine] = max(claims.get(mine, 0.0), now + AWAY * objective_s)
        asked, over_s = self._asked[mine], ASKED * objective_s
        asked.add(work_s, over_s, now)
        if least == inf or self._given[mine] <= least:
            return 0.0
        weights = sum(self._weights.get(other, 1.0) for of, other in claims if of == level)
        if work_s and asked.is_within(self._weights.get(tenant, 1.0) / weights, over_s, capacity):
            return 0.0
        return self._given[mine] - least

    def given(self, tenant: str, level: Level, card_seconds: float) -> None:
        """A call of a tenant takes so much of a card."""
        if (level, tenant) in self._given:
            self._given[level, tenant] += card_seconds / self._weights.get(tenant, 1.0)
