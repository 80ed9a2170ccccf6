"""The price of a slot: what runs that take much of the cards leave to those that take little, by how these fare.

Where not all runs can be in time, most are if those that cost least are served first, and if dearer ones do not take
the last slots. That is trunk reservation, as telephone networks keep lines for the calls that are worth most (Miller,
"A queueing reward system with several customer classes", 1969). How much to keep is not known beforehand, so it is
measured: each run that is cheaper than most and is lost makes it more, each that gets a replica in time a little less,
so that it settles where about one in twenty of them is lost, and at nothing where hardly any is. Runs are compared with
those of their own tenant and priority alone: between tenants, shares decide.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

from dask_fmware.policy.protocol import CallView

__all__ = ["Price", "Prices"]

REMEMBERED = 64  # runs with which the next are compared
ALIKE = 0.9  # a run is cheaper than another if it costs less than so much of it
DEARER = 0.02  # for a cheap run that is lost
CHEAPER = 0.001  # for one that is in time
HIGHEST = 2.0
NEARLY_ALL = 0.99  # an idle replica takes any run
MOST_PRICES = 1000  # that are remembered


class Price:
    """What the runs of one tenant and priority on the replicas of one model leave to cheaper ones.

    `level` is how many times the share that cheaper runs have among the latest ones is kept of a batch for them.
    """

    __slots__ = ("_latest", "_ordered", "_sum", "level")

    def __init__(self) -> None:
        self.level = 0.0
        self._latest: deque[float] = deque()
        self._ordered: list[float] = []
        self._sum = 0.0

    def came(self, cost_s: float) -> None:
        """A run came that is expected to take so many seconds of a card."""
        self._latest.append(cost_s)
        insort(self._ordered, cost_s)
        self._sum += cost_s
        if len(self._latest) > REMEMBERED:
            gone = self._latest.popleft()
            del self._ordered[bisect_left(self._ordered, gone)]
            self._sum -= gone

    def lost(self, cost_s: float) -> None:
        """A run cannot be in time any more, though it could have been when it came."""
        if self._is_cheap(cost_s):
            self.level = min(self.level + DEARER, HIGHEST)

    def bound(self, cost_s: float) -> None:
        """A call of a run was given to a replica in time."""
        if self.level and self._is_cheap(cost_s):
            self.level = max(self.level - CHEAPER, 0.0)

    def kept(self, cost_s: float) -> float:
        """Share of a batch that a run leaves to cheaper ones."""
        if not self.level:
            return 0.0
        cheaper = bisect_left(self._ordered, ALIKE * cost_s) / len(self._ordered)
        return min(self.level * cheaper, NEARLY_ALL)

    def relative(self, cost_s: float) -> float:
        """How many times the mean a run costs."""
        return cost_s * len(self._latest) / self._sum if self._sum > 0.0 else 1.0

    def _is_cheap(self, cost_s: float) -> bool:
        return self.relative(cost_s) < ALIKE


class Prices:
    """The price of each tenant, priority and model; of too many the oldest is forgotten."""

    __slots__ = ("_prices",)

    def __init__(self) -> None:
        self._prices: dict[tuple[str, int, str], Price] = {}

    def of(self, call: CallView) -> Price:
        """Return the price that a call is asked."""
        key = call.tenant, call.priority, call.model
        found = self._prices.get(key)
        if found is None:
            if len(self._prices) >= MOST_PRICES:
                del self._prices[next(iter(self._prices))]
            found = self._prices[key] = Price()
        return found
