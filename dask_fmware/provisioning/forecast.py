"""How much will be asked for: a rate that follows steps at once and noise not at all, its trend, its recent peak."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import pairwise
from math import sqrt

__all__ = ["ArrivalRate", "Peak", "spread"]

WINDOWS_S = (2, 5, 10, 20, 40, 80, 160, 320, 600)
CERTAIN, LIKELY = 4.0, 2.5  # standard deviations: a look is taken every second
FEW = 4.0  # arrivals: a Poisson count has a long tail where few are expected
MOST_DRIFT = 0.25  # of a rate within a window: more would not look like one load
TREND_S = 600
TREND_CERTAIN = 2.5
STEPS = 4  # differences between ten seconds that a step up and down makes
MEMORY_S = 1200  # a window and the time before it
LEAST_S = 5.0  # one call in the first second is no rate


class ArrivalRate:
    """Arrivals counted by the second.

    Examples
    --------
    >>> rate = ArrivalRate()
    >>> for second in range(60):
    ...     rate.observe(second, 10 if second < 50 else 40)
    >>> 30 < rate.now(60.0) <= 40
    True
    """

    __slots__ = ("_first", "_seconds", "_sums")

    def __init__(self) -> None:
        self._seconds: list[int] = []  # in which there were arrivals, ascending
        self._sums: list[int] = [0]  # all arrivals before each of them, and all
        self._first: float | None = None

    def observe(self, now: float, arrivals: int = 1) -> None:
        """Take note of arrivals at `now`."""
        second = int(now)
        if self._first is None:
            self._first = now
        if self._seconds and second < self._seconds[-1] - 1:
            self._set_back(self._seconds[-1] - second)
        if self._seconds and self._seconds[-1] >= second:
            self._sums[-1] += arrivals
            return
        self._seconds.append(second)
        self._sums.append(self._sums[-1] + arrivals)
        if len(self._seconds) > 2 * MEMORY_S:
            old = bisect_left(self._seconds, second - MEMORY_S)
            del self._seconds[:old], self._sums[:old]

    def _set_back(self, by_s: int) -> None:
        """The clock was set back: what was counted has come as long ago as before."""
        self._seconds = [second - by_s for second in self._seconds]
        self._first = None if self._first is None else self._first - by_s

    def now(self, now: float) -> float:
        """Arrivals a second: the mean of the longest time that looks like one load, brought up to date by the trend.

        Windows grow back in time as long as what they would add certainly is no other rate. What comes at once after
        a pause is another rate only if both together are: something may have stalled, and caught up.

        Parameters
        ----------
        now
            The time.
        """
        if self._first is None:
            return 0.0
        seen_s, bursts = max(now - self._first, LEAST_S), self.burstiness(now)
        windows = [float(w) for w in WINDOWS_S if w <= seen_s] or [LEAST_S]
        for window_s, longer_s in pairwise(windows):
            if self._differ(now, window_s, min(max(5 * window_s, longer_s), seen_s), CERTAIN, bursts):
                before_s = min(3 * longer_s, seen_s)
                if before_s < 2 * longer_s or self._differ(now, longer_s, before_s, LIKELY, bursts):
                    return self._since(now, window_s) / window_s
        mean = self._since(now, windows[-1]) / windows[-1]
        return mean + min(max(self.trend(now) * windows[-1] / 2, -MOST_DRIFT * mean), MOST_DRIFT * mean)

    def _differ(self, now: float, window_s: float, longer_s: float, certain: float, bursts: float) -> bool:
        """Whether a window certainly has another rate than what a longer one has before it."""
        count, before_s = self._since(now, window_s), longer_s - window_s
        before = self._since(now, longer_s) - count
        rate = (count + before) / longer_s
        spread = sqrt(bursts * rate * window_s * (1 + window_s / before_s) + FEW)
        return abs(count - before * window_s / before_s) > certain * spread

    def trend(self, now: float) -> float:
        """Growth in arrivals a second each second, 0 unless it is certain; from ten parts of the last minutes."""
        if self._first is None or now - self._first < 60:
            return 0.0
        span_s = min(float(TREND_S), now - self._first)
        width_s = span_s / 10
        counts = self._parts(now - span_s, width_s, 10)
        rates = [count / width_s for count in counts]
        times = [width_s * (i + 0.5) for i in range(10)]
        middle, mean = sum(times) / 10, sum(rates) / 10
        spread = sum((t - middle) ** 2 for t in times)
        slope = sum((t - middle) * (r - mean) for t, r in zip(times, rates, strict=True)) / spread
        left = sum((r - mean - slope * (t - middle)) ** 2 for t, r in zip(times, rates, strict=True))
        noise = max(left / 8, mean / width_s) / spread  # at least what a Poisson process would have
        return slope if abs(slope) > TREND_CERTAIN * sqrt(noise) else 0.0

    def burstiness(self, now: float) -> float:
        """Variance over mean of the arrivals in ten seconds, over the last minutes without trend; within 1 and 10."""
        if self._first is None or now - self._first < 100:
            return 1.0
        parts = int(min(now - self._first, TREND_S) / 10)
        counts = self._parts(now - 10 * parts, 10.0, parts)
        mean = sum(counts) / parts
        steps = sorted((b - a) ** 2 / 2 for a, b in pairwise(counts))  # deaf to slow change
        usual = steps[: -max(-(-len(steps) // 10), STEPS)]  # and to a load that steps up or down
        return min(max(sum(usual) / len(usual) / mean, 1.0), 10.0) if mean > 0 else 1.0

    def _since(self, now: float, window_s: float) -> int:
        """Arrivals in the window that ends at `now`."""
        return self._before(now) - self._before(now - window_s)

    def _parts(self, begin: float, width_s: float, parts: int) -> list[int]:
        """Arrivals in parts of the same width, from `begin` on."""
        sums = [self._before(begin + width_s * i) for i in range(parts + 1)]
        return [after - before for before, after in pairwise(sums)]

    def _before(self, at: float) -> int:
        """Arrivals in the seconds that began before a time."""
        return self._sums[bisect_left(self._seconds, at)]


def spread(rate: float) -> float:
    """Standard deviation of `ArrivalRate.now` under an even load, relative to it.

    >>> round(spread(5.0), 3)
    0.018
    """
    return 1 / sqrt(max(rate, 1e-9) * WINDOWS_S[-1])


class Peak:
    """The largest of the values of the last seconds."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque()  # descending

    def observe(self, now: float, value: float, span_s: float) -> float:
        """Take a value in and return the peak of the last `span_s` seconds."""
        while self._values and self._values[-1][1] <= value:
            self._values.pop()
        self._values.append((now, value))
        while self._values[0][0] < now - span_s:
            self._values.popleft()
        return self._values[0][1]
