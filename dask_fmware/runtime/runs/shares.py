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
from dataclasses import dataclass, field
from fractions import Fraction
from heapq import heappop, heappush
from math import exp
from types import MappingProxyType
from typing import TypeAlias

from sortedcontainers import SortedList

__all__ = ["Level", "Shares"]

AWAY = 10.0  # objectives without a submission after which a tenant claims no share
MOST_AWAY_S = 86_400.0  # the same in seconds, however long its objectives are
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


@dataclass(slots=True)
class _Account:
    """What is known of a tenant at one level."""

    given: float  # card seconds over weight
    asked: _Asked
    claims_until: float


@dataclass(slots=True)
class _Accounts:
    """Those of one level."""

    of: dict[str, _Account] = field(default_factory=dict)  # by tenant
    ranked: SortedList[tuple[float, str]] = field(default_factory=SortedList)  # by what was given
    weight: Fraction = Fraction()  # of all, exactly: tenants come and go

    def least_but(self, tenant: str) -> float | None:
        """What the least served other was given."""
        for given, other in self.ranked[:2]:
            if other != tenant:
                return float(given)
        return None

    def open(self, tenant: str, account: _Account, weight: float) -> None:
        self.of[tenant] = account
        self.ranked.add((account.given, tenant))
        self.weight += Fraction(weight)

    def close(self, tenant: str, weight: float) -> None:
        self.ranked.remove((self.of.pop(tenant).given, tenant))
        self.weight -= Fraction(weight)

    def give(self, tenant: str, card_seconds: float) -> None:
        account = self.of[tenant]
        self.ranked.remove((account.given, tenant))
        account.given += card_seconds
        self.ranked.add((account.given, tenant))


class Shares:
    """Accounts of tenants at each level; what is asked of them takes no longer with thousands of tenants.

    Parameters
    ----------
    weights
        Of tenants; 1 for all others.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        self._levels: dict[Level, _Accounts] = {}
        self._claims: list[tuple[float, Level, str]] = []  # a heap with each account once: when its claim may be over

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
        self._forget_the_absent(now)
        accounts = self._levels.setdefault(level, _Accounts())
        least, weight = accounts.least_but(tenant), self._weights.get(tenant, 1.0)
        until, over_s = now + min(AWAY * objective_s, MOST_AWAY_S), ASKED * objective_s
        mine = accounts.of.get(tenant)
        if mine is None:
            mine = _Account(least or 0.0, _Asked(now), until)
            accounts.open(tenant, mine, weight)
            heappush(self._claims, (until, level, tenant))
        mine.claims_until = max(mine.claims_until, until)
        mine.asked.add(work_s, over_s, now)
        if least is None or mine.given <= least:
            return 0.0
        if work_s and mine.asked.is_within(weight / float(accounts.weight), over_s, capacity):
            return 0.0
        return mine.given - least

    def given(self, tenant: str, level: Level, card_seconds: float) -> None:
        """A call of a tenant takes so much of a card."""
        accounts = self._levels.get(level)
        if accounts is not None and tenant in accounts.of:
            accounts.give(tenant, card_seconds / self._weights.get(tenant, 1.0))

    def _forget_the_absent(self, now: float) -> None:
        claims = self._claims
        while claims and claims[0][0] < now:
            _, level, tenant = heappop(claims)
            accounts = self._levels[level]
            until = accounts.of[tenant].claims_until
            if until >= now:  # it has submitted more meanwhile
                heappush(claims, (until, level, tenant))
                continue
            accounts.close(tenant, self._weights.get(tenant, 1.0))
            if not accounts.of:
                del self._levels[level]
