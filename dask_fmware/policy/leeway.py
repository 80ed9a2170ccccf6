"""Leeway: how much of the engines background calls may take, by how urgent calls fare meanwhile.

What one more background call costs urgent ones is not known beforehand: it depends on what else comes, on prompts that
hold up a batch, on how tight the objectives are. So it is measured. Each urgent call that is given to a replica with
time to spare widens the leeway a little; each that only just makes it, or does not though it could have when it came,
narrows it by fifty times as much. So it settles where about two urgent calls in a hundred are tight, and at nothing
where they are tight without any background. Until the first of these it widens ten times as fast. Tight is not late:
the warning comes before the loss. A call is tight with less to spare than it takes itself, as what may still go wrong
with it grows with that, but at most a tenth of its objective.
"""

from __future__ import annotations

from math import inf

from dask_fmware.policy.protocol import CallView

__all__ = ["Leeway"]

TIGHT = 0.1  # of an objective; less than this to spare is tight, if it is also less than the call takes
WIDER = 0.002  # for an urgent call with time to spare
FIRST_WIDER = 0.02  # the same as long as none has been tight
NARROWER = 0.1  # for a tight one
FOR_URGENT = 0.4  # share of a batch that is kept for urgent calls at leeway 0
LEAST_KEPT = 0.125  # the same at the widest: a slot of eight
SPARE = 0.2  # of the slack of typical urgent calls that background calls may use up at leeway 0


class Leeway:
    """The leeway of background calls on the replicas of one model: from -1, nothing, to 1, nearly all."""

    __slots__ = ("_wider", "width")

    def __init__(self) -> None:
        self.width = 0.0
        self._wider = FIRST_WIDER

    def bound(self, call: CallView, due: float, ends: float) -> None:
        """An urgent call was given to a replica where it should have done its part at `ends`."""
        tight_s = min(TIGHT * ((call.deadline or due) - call.submitted), call.own_s)
        if due - ends >= tight_s:
            self.width = min(self.width + self._wider, 1.0)
        elif due - call.own_s - call.runnable_at >= tight_s:  # it was not tight when it came
            self._narrow()

    def lost(self, call: CallView, due: float) -> None:
        """An urgent call cannot be in time any more."""
        if due - call.own_s >= call.runnable_at:
            self._narrow()

    def _narrow(self) -> None:
        self.width = max(self.width - NARROWER, -1.0)
        self._wider = WIDER

    @property
    def kept(self) -> float:
        """Share of a batch that background calls leave free."""
        if self.width < 0.0:
            return FOR_URGENT - self.width * (1.0 - FOR_URGENT)
        return FOR_URGENT - self.width * (FOR_URGENT - LEAST_KEPT)

    @property
    def spare(self) -> float:
        """Share of the slack of typical urgent calls that background calls may use up."""
        if self.width < 0.0:
            return SPARE * (1.0 + self.width)
        return SPARE / (1.0 - self.width) if self.width < 1.0 else inf
