"""What tenants have been given, relative to their weights, and who is ahead of its share.

Card time that was given to calls is counted, not what was asked for, so whoever asks for more than its share is not
punished for what it did not get. Whoever was away comes back level with the least served, with no credit for the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

__all__ = ["Shares"]

AWAY = 10.0  # objectives without a submission after which a tenant claims no share


class Shares:
    """Accounts of tenants.

    Parameters
    ----------
    weights
        Of tenants; 1 for all others.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        self._given: dict[str, float] = {}  # tenant -> card seconds over weight
        self._claims_until: dict[str, float] = {}

    def submitted(self, tenant: str, objective_s: float, now: float) -> float:
        """Take note of a run; return by how many card seconds its tenant is ahead of the least served other, or 0."""
        claims = self._claims_until
        for other in [other for other, until in claims.items() if until < now]:
            del claims[other], self._given[other]
        least = min((given for other, given in self._given.items() if other != tenant), default=inf)
        if tenant not in claims:
            self._given[tenant] = least if least < inf else 0.0
        claims[tenant] = max(claims.get(tenant, 0.0), now + AWAY * objective_s)
        if least == inf:
            return 0.0
        return max(self._given[tenant] - least, 0.0)

    def given(self, tenant: str, card_seconds: float) -> None:
        """A call of a tenant takes so much of a card."""
        if tenant in self._given:
            self._given[tenant] += card_seconds / self._weights.get(tenant, 1.0)
