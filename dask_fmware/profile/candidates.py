"""Estimates for many candidates at once: the searches of `sums.StepSums` on arrays.

Each candidate is answered as if it came alone, by the same formulas as `StepSums`; tests hold both to equal answers.
From some ten candidates on this is quicker than asking for one after the other.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dask_fmware.profile.law import Curve

if TYPE_CHECKING:
    from dask_fmware.profile.sums import StepSums

__all__ = ["CandidateTable", "CurveSums"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class CurveSums:
    """Sums of a curve over consecutive whole numbers, for many ranges at once."""

    def __init__(self, curve: Curve) -> None:
        starts = [0, *(ceil(knot) for knot in curve.knots)]
        self._starts = np.array(starts, dtype=np.int64)  # first whole number of each piece
        self._slopes_s = np.array(curve.slopes_s)
        self._values_s = curve.array(self._starts.astype(np.float64))
        lengths = np.diff(self._starts)
        whole_s = self._values_s[:-1] * lengths + self._slopes_s[:-1] * lengths * (lengths - 1) / 2
        self._before_s = np.concatenate(([0.0], np.cumsum(whole_s)))

    def below(self, x: Ints) -> Floats:
        """Sum of the curve at ``0, 1, ..., x - 1``."""
        piece = np.searchsorted(self._starts, x, side="right") - 1
        inside = x - self._starts[piece]
        return np.asarray(
            self._before_s[piece] + inside * self._values_s[piece] + self._slopes_s[piece] * inside * (inside - 1) / 2
        )


class CandidateTable:
    """The rows of a `StepSums` as arrays."""

    def __init__(self, sums: StepSums) -> None:
        self._sums = sums
        first, start_s, linear_s, square_s, spare, room, *costs_s = zip(*sums.rows, strict=True)
        self._first, self._spare, self._room = (np.array(column, dtype=np.int64) for column in (first, spare, room))
        self._start_s, self._linear_s, self._square_s = map(np.array, (start_s, linear_s, square_s))
        self._own_s, self._each_s, self._marginal_s, self._more_s = map(np.array, costs_s)
        self._offset_s = np.array([offset_s for offset_s, _taken in sums.partial])
        self._taken = np.array([taken for _offset_s, taken in sums.partial], dtype=np.int64)
        self._next_open = np.array(sums.next_open, dtype=np.int64)
        self._free_kv = np.array(sums.free_kv, dtype=np.int64)
        self._context = CurveSums(sums.law.context) if sums.law.context.knots else None
        nothing = np.empty((0, len(sums.rows)))
        self._chords = nothing, nothing, nothing  # by power of two and segment: slope, its sum and moment before
        self._least_power = 0

    def room_for(self, kv_tokens: Ints, after_s: float) -> tuple[Ints, Ints, Floats]:
        """As `StepSums.room_for`, for each candidate."""
        sums = self._sums
        i = np.full(kv_tokens.shape, sums.slot_free, dtype=np.int64)
        if sums.kv_limit is not None:
            found = np.searchsorted(self._free_kv[sums.slot_free :], kv_tokens - sums.kv_limit)
            i = np.minimum(found + sums.slot_free, len(self._first) - 1)
        i = self._next_open[i]
        step, began_s = self._first[i], self._start_s[i]
        late = began_s < after_s
        if late.any():  # they find the replica as it is then, whatever they are
            later = sums.room_at(after_s)
            step, i = np.where(late, later[0], step), np.where(late, later[1], i)
            began_s = np.where(late, later[2], began_s)
        return step, i, began_s

    def first_token(self, start: Ints, i: Ints, left: Ints, prompt: Ints) -> tuple[Ints, Ints, Floats, Floats]:
        """As `StepSums.first_token`, for each candidate."""
        law = self._sums.law
        inside = start - self._first[i]
        target = self._spare[i] + inside * self._room[i] + left
        end = np.searchsorted(self._spare, target) - 1
        rest = target - self._spare[end]
        room = self._room[end]
        full = (rest - 1) // room
        tokens = (rest - full * room + self._taken[end]).astype(np.float64)
        spent_s = law.pair_s * left * (prompt - left / 2) - self._own_s[i] - inside * self._each_s[i]
        spent_s += self._own_s[end] + full * self._each_s[end] + self._offset_s[end] + law.prefill.array(tokens)
        steps = full + 1
        base_s = self._start_s[end] + steps * (self._linear_s[end] + steps * self._square_s[end])
        return self._first[end] + steps, end, base_s, base_s + spent_s

    def last_token(self, step: Ints, i: Ints, base_s: Floats, steps: Ints, context: Ints) -> Floats:
        """As `StepSums.last_token`, for each candidate."""
        last = step + steps
        end = np.searchsorted(self._first, last, side="right") - 1
        inside = last - self._first[end]
        spent_s = self._start_s[end] + inside * (self._linear_s[end] + inside * self._square_s[end]) - base_s
        spent_s += self._marginal_s[end] + inside * self._more_s[end]
        spent_s -= self._marginal_s[i] + (step - self._first[i]) * self._more_s[i]
        if self._context is None:
            slope_s = self._sums.law.context.slopes_s[0]
            return np.asarray(spent_s + slope_s * steps * (context + (steps - 1) / 2))
        return np.asarray(spent_s + self._context_cost_s(self._context, step, i, last, context))

    def _context_cost_s(self, curve: CurveSums, step: Ints, i: Ints, last: Ints, own: Ints) -> Floats:
        idle = self._first[-1]
        alone = np.clip(np.minimum(last - idle, last - step), 0, None)
        ends = own + last - step
        cost_s = curve.below(ends) - curve.below(ends - alone)
        among = last - alone
        power = np.frexp((own + (among - step) / 2) * 1.4142)[1] - 1
        chord = power - self._chords_from(int(power.min()), int(power.max()))
        slope_s, before_s, moment_s = self._chords
        end = np.minimum(np.searchsorted(self._first, among, side="right") - 1, slope_s.shape[1] - 2)
        first, began = self._first[end], self._first[i]
        inside, skipped = among - first, step - began
        slope_end_s, slope_i_s = slope_s[chord, end], slope_s[chord, i]
        total_s = before_s[chord, end] + inside * slope_end_s - before_s[chord, i] - skipped * slope_i_s
        moved_s = moment_s[chord, end] + slope_end_s * inside * (first + (inside - 1) / 2)
        moved_s -= moment_s[chord, i] + slope_i_s * skipped * (began + (skipped - 1) / 2)
        return cost_s + np.where(among > step, (own - step) * total_s + moved_s, 0.0)

    def _chords_from(self, least: int, most: int) -> int:
        """Have the chords of these powers of two at hand; return the power that comes first in them."""
        known = range(self._least_power, self._least_power + len(self._chords[0]))
        if least not in known or most not in known:
            self._least_power = min((least, *known[:1]))
            made = [self._sums.chords(power) for power in range(self._least_power, max((most, *known[-1:])) + 1)]
            # one column more, of the idle segment, in which nobody is beside the candidate
            slope_s, before_s, moment_s = (np.array([(*chord[part], 0.0) for chord in made]) for part in range(3))
            self._chords = slope_s, before_s, moment_s
        return self._least_power
