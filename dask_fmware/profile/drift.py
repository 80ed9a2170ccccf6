"""Whether a replica has left its profile for good, by how much and since when."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from dask_fmware.errors import SpecError

__all__ = ["Drift", "DriftDetector"]


@dataclass(frozen=True, slots=True)
class Drift:
    """A replica that runs off its profile."""

    ratio: float  # measured over predicted since then; above 1 is slower
    since_s: float  # on the clock of whoever observed

    def sentence(self, replica: str, accelerator: str, since: str) -> str:
        """Tell people; `since` is `since_s` as they read time.

        >>> Drift(1.6, 100.0).sentence("r3", "L4", "14:02")
        'replica r3 on L4 runs 1.6 times its profile since 14:02'
        """
        return f"replica {replica} on {accelerator} runs {self.ratio:.1f} times its profile since {since}"


class DriftDetector:
    """Notices a lasting change of the ratio of measured to profiled time, and when it began.

    Two cumulative sums of the log ratio, one for slower and one for faster (Page 1954): each grows while the
    ratio exceeds half of `least` and is reset by what contradicts it, so that its last reset dates the change.
    A drift begins at the alarm and ends at half of it, lest a noisy engine be told of again and again.

    Parameters
    ----------
    least
        Ratio worth telling, above 1.
    patience
        Steps at a ratio of `least` until it is told; the further off, the sooner.
    """

    def __init__(self, least: float = 1.25, patience: float = 20.0) -> None:
        if least <= 1.0 or patience <= 0:
            raise SpecError(f"a drift needs least > 1 and patience > 0, got {least} and {patience}")
        self._allowance = log(least) / 2
        self._alarm = patience * self._allowance
        self._sums = {1: 0.0, -1: 0.0}
        self._lasts = {1: False, -1: False}
        self._since_s: dict[int, float | None] = {1: None, -1: None}
        self._log_mean = {1: 0.0, -1: 0.0}

    def observe(self, ratio: float, now_s: float) -> Drift | None:
        """Take note of a step that took `ratio` times its profile; returns the drift that lasts, if any."""
        if ratio <= 0:
            return self.drift
        for sign in (1, -1):
            size = sign * log(ratio)
            before = self._sums[sign]
            # capped: recovery is noticed as soon as drift is, however long it lasted
            self._sums[sign] = min(max(before + size - self._allowance, 0.0), 1.5 * self._alarm)
            self._lasts[sign] = self._sums[sign] >= (0.5 if self._lasts[sign] else 1.0) * self._alarm
            if self._sums[sign] == 0.0:
                self._since_s[sign], self._log_mean[sign] = None, 0.0
                continue
            if self._since_s[sign] is None:
                self._since_s[sign], self._log_mean[sign] = now_s, size
            self._log_mean[sign] += 0.1 * (size - self._log_mean[sign])
        return self.drift

    @property
    def drift(self) -> Drift | None:
        """What lasts at present."""
        for sign in (1, -1):
            since_s = self._since_s[sign]
            if since_s is not None and self._lasts[sign]:
                return Drift(exp(sign * self._log_mean[sign]), since_s)
        return None
