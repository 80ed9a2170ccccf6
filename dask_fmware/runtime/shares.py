"""What tenants have been given, relative to their weights, and who is ahead of its share.

Card time that was given to calls is counted, not what was asked for, so whoever asks for more than its share is not
punished for what it did not get. Whoever was away comes back level with the least served, with no credit for the time.

Shares are of equal urgency: runs of one level are compared with each other alone. A batch job that takes what nobody
urgent wants has no claim against urgent runs, and what it was given is not held against its tenant's urgent ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TypeAlias

__all__ = ["Level", "Shares"]

AWAY = 10.0  # objectives without a submission after which a tenant claims no share

Level: TypeAlias = tuple[int, bool]
"""Priority of a run, and whether it has a deadline."""


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
        self._claims_until: dict[tuple[Level, str], float] = {}

    def submitted(self, tenant: str, level: Level, objective_s: float, now: float) -> float:
        """Take note of a run; return by how many card seconds its tenant is ahead of the least served other, or 0."""
        claims, mine = self._claims_until, (level, tenant)
        for other in [other for other, until in claims.items() if until < now]:
            del claims[other], self._given[other]
        least = min((given for other, given in self._given.items() if other != mine and other[0] == level), default=inf)
        if mine not in claims:
            self._given[mine] = least if least < inf else 0.0
        claims[mine] = max(claims.get(mine, 0.0), now + AWAY * objective_s)
        if least == inf:
            return 0.0
        return max(self._given[mine] - least, 0.0)

    def given(self, tenant: str, level: Level, card_seconds: float) -> None:
        """A call of a tenant takes so much of a card."""
        if (level, tenant) in self._given:
            self._given[level, tenant] += card_seconds / self._weights.get(tenant, 1.0)
