"""Running sums over the segments of a projection, and the searches on them that answer for one candidate.

All positions are step indices. A sum up to step `n` is the sum up to the start of its segment plus the
steps inside it, so that any stretch costs two look-ups. After the last segment comes one without end, in which
the candidate would be alone.

Answers equal a step-by-step simulation where the law is straight in context. Where it bends, two things are
approximated: context inside a segment grows the time as a parabola through its true ends, and the
candidate's own context is charged along the chord to the power of two nearest to it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import ceil

from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.replica import Limits
from dask_fmware.profile.timeline import Segment

__all__ = ["StepSums"]

ENDLESS = 1 << 60  # steps of the idle segment

# first step, start in s, its growth by steps and by steps squared, spare tokens before and in each step, cost of
# using them before and in each step, cost of one more decoding sequence before and in each step
Row = tuple[int, float, float, float, int, int, float, float, float, float]
Chords = tuple[list[float], list[float], list[float]]  # slope in each segment, its sum and its first moment before


class StepSums:
    """Sums over one projection; see `projection.Projection` for the questions it answers."""

    __slots__ = (
        "_chords", "_context_slope_s", "_first", "_free_kv", "_kv_limit", "_next_open", "_partial", "_rows",
        "_segments", "_slot_free", "_spare", "_start_s", "law", "limits",
    )  # fmt: skip

    def __init__(self, segments: list[Segment], limits: Limits, law: StepLaw) -> None:
        self.law, self.limits = law, limits
        self._kv_limit = limits.kv_tokens
        self._context_slope_s = None if law.context.knots else law.context.slopes_s[0]
        self._chords: dict[int, Chords] = {}
        end_s, end = (segments[-1].end_s, segments[-1].step + segments[-1].steps) if segments else (0.0, 0)
        self._segments = [*segments, Segment(end, ENDLESS, end_s, end_s, 0, 0, 0, 0, limits.step_tokens, 0, 0, 0)]
        self._rows: list[Row] = []
        self._partial: list[tuple[float, int]] = []  # what a part of the spare tokens costs: offset, tokens before
        self._sum(law)
        self._first = [row[0] for row in self._rows]
        self._start_s = [row[1] for row in self._rows]
        self._spare = [row[4] for row in self._rows]
        self._free_kv = [-segment.kv_tokens for segment in self._segments]  # ascends once nobody waits
        self._slot_free = next(
            i for i, segment in enumerate(self._segments) if not segment.queued and segment.used_slots < limits.slots
        )
        self._next_open = [0] * len(self._rows)
        following = len(self._rows) - 1
        for i in range(following, -1, -1):
            following = i if self._rows[i][5] else following
            self._next_open[i] = following

    def _sum(self, law: StepLaw) -> None:
        spare = 0
        own_s = marginal_s = 0.0
        bend_s = law.context.slope_s
        decode_s: dict[int, float] = {}
        known: dict[tuple[int, int, int], tuple[float, float]] = {}
        for segment in self._segments:
            batch, room, steps, taken = segment.batch, segment.room_tokens, segment.steps, segment.prefill_tokens
            if steps == ENDLESS:
                offset_s, each_s = self._own_cost_s(0, 0, room, law.fixed_s + law.prefill_fixed_s)
                more_s = law.fixed_s + law.decode(1)
                linear_s = square_s = 0.0
            else:
                key = (taken, segment.prefilled, room)
                if key not in known:
                    known[key] = self._own_cost_s(taken, segment.prefilled, room, law.prefill_fixed_s)
                offset_s, each_s = known[key]
                for size in (batch, batch + 1):
                    if size not in decode_s:
                        decode_s[size] = law.decode(size)
                more_s = decode_s[batch + 1] - decode_s[batch]
                took_s = segment.end_s - segment.start_s
                square_s = 0.0
                if steps > 1:
                    middle = segment.context_tokens + batch * steps / 2
                    square_s = (bend_s(middle) * batch + law.pair_s * taken * taken) / 2
                linear_s = took_s / steps - square_s * steps
            self._partial.append((offset_s, taken))
            self._rows.append(
                (segment.step, segment.start_s, linear_s, square_s, spare, room, own_s, each_s, marginal_s, more_s)
            )
            spare += steps * room
            own_s += steps * each_s
            marginal_s += steps * more_s

    def _own_cost_s(self, taken: int, prompts: int, room: int, fixed_s: float) -> tuple[float, float]:
        """What the candidate's prompt adds to a step, pairs apart: offset beside ``prefill(taken + its tokens)``, all.

        `fixed_s` is what a step costs more for prefilling at all, where nobody else does.
        """
        law = self.law
        offset_s = law.sequences(prompts) - law.sequences(prompts - 1) - law.prefill(taken) if taken else fixed_s
        return offset_s, offset_s + law.prefill(taken + room) if room else 0.0

    @property
    def idle_after_s(self) -> float:
        """When the last segment ends."""
        return self._start_s[-1]

    def room_for(self, kv_tokens: int, after_s: float = 0.0) -> tuple[int, int, float]:
        """Return the first step that can take tokens of a newcomer, its segment and when it begins.

        The newcomer arrives at `after_s` and reserves `kv_tokens` of the KV cache.
        """
        i = self._slot_free
        if self._kv_limit is not None:
            i = min(bisect_left(self._free_kv, kv_tokens - self._kv_limit, i), len(self._rows) - 1)
        i = self._next_open[i]
        return self._room_at(after_s) if after_s > self._start_s[i] else (self._first[i], i, self._start_s[i])

    def _room_at(self, after_s: float) -> tuple[int, int, float]:
        """Return the same for a newcomer who finds slots and cache free at `after_s`."""
        if after_s >= self._start_s[-1]:
            return self._first[-1], len(self._rows) - 1, after_s
        step, i = self._step_at(after_s)
        if self._rows[i][5]:
            return step, i, self._time_s(step, i)
        i = self._next_open[i]
        return self._first[i], i, self._start_s[i]

    def time_at(self, step: int) -> float:
        """When `step` begins without a newcomer; steps go on as in the last segment once the replica is idle."""
        return self._time_s(step, bisect_right(self._first, step) - 1)

    def _time_s(self, step: int, i: int) -> float:
        """When `step`, which lies in segment `i` or just after it, begins without the candidate."""
        first, start_s, linear_s, square_s, *_ = self._rows[i]
        steps = step - first
        return start_s + steps * (linear_s + steps * square_s)

    def _step_at(self, after_s: float) -> tuple[int, int]:
        """Return the first step that begins at `after_s` or later, before the idle time, and its segment."""
        i = bisect_left(self._start_s, after_s) - 1
        segment = self._segments[i]
        share = (after_s - segment.start_s) / (segment.end_s - segment.start_s)
        step = segment.step + min(ceil(share * segment.steps), segment.steps)
        while step > segment.step and self._time_s(step - 1, i) >= after_s:
            step -= 1
        while step < segment.step + segment.steps and self._time_s(step, i) < after_s:
            step += 1
        return (step, i) if step < segment.step + segment.steps else (step, i + 1)

    def first_token(self, start: int, i: int, left: int, prompt: int) -> tuple[int, int, float, float]:
        """Prefill `left` tokens of a prompt of `prompt` from step `start` in segment `i`.

        Returns the step after the one that yields the first token, the segment of that one, when it ends without
        the candidate and when it ends with it.
        """
        began, _start_s, _linear_s, _square_s, spare, room, own_s, each_s, _marginal_s, _more_s = self._rows[i]
        inside = start - began
        target = spare + inside * room + left
        spent_s = self.law.pair_s * left * (prompt - left / 2) - own_s - inside * each_s
        end = bisect_left(self._spare, target, i) - 1
        first, start_s, linear_s, square_s, spare, room, own_s, each_s, _marginal_s, _more_s = self._rows[end]
        full = (target - spare - 1) // room  # whole steps of the last segment that it uses up
        tokens = target - spare - full * room
        offset_s, taken = self._partial[end]
        spent_s += own_s + full * each_s + offset_s + self.law.prefill(taken + tokens)
        steps = full + 1
        base_s = start_s + steps * (linear_s + steps * square_s)
        return first + steps, end, base_s, base_s + spent_s

    def last_token(self, step: int, i: int, base_s: float, steps: int, context: int) -> float:
        """Seconds to decode `steps` tokens from `step` (in segment `i`, at `base_s`), the first with `context`."""
        last = step + steps
        first, _start_s, _linear_s, _square_s, _spare, _room, _own_s, _each_s, marginal_s, more_s = self._rows[i]
        spent_s = -marginal_s - (step - first) * more_s - base_s
        end = bisect_right(self._first, last, i) - 1
        first, start_s, linear_s, square_s, _spare, _room, _own_s, _each_s, marginal_s, more_s = self._rows[end]
        inside = last - first
        spent_s += start_s + inside * (linear_s + inside * square_s) + marginal_s + inside * more_s
        slope_s = self._context_slope_s
        if slope_s is not None:
            return spent_s + slope_s * steps * (context + (steps - 1) / 2)
        return spent_s + self._context_cost_s(step, i, last, end, context)

    def _context_cost_s(self, step: int, i: int, last: int, end: int, own: int) -> float:
        """What a context that grows from `own` adds to the steps up to `last`, where the law bends with context."""
        alone_s = 0.0
        idle = self._first[-1]
        if last >= idle:  # without others the sum is exact
            alone = min(last - idle, last - step)
            alone_s = self.law.context.sum_s(own + last - step - alone, 1, alone) if alone else 0.0
            last -= alone
            end = len(self._rows) - 2
        if last <= step:
            return alone_s
        middle = own + (last - step) / 2
        slope_s, before_s, moment_s = self._chords_of(int(middle * 1.4142).bit_length() - 1)  # the nearest power of two
        first, began = self._first[end], self._first[i]
        inside, skipped = last - first, step - began
        total_s = before_s[end] + inside * slope_s[end] - before_s[i] - skipped * slope_s[i]
        moved_s = moment_s[end] + slope_s[end] * inside * (first + (inside - 1) / 2)
        moved_s -= moment_s[i] + slope_s[i] * skipped * (began + (skipped - 1) / 2)
        return alone_s + (own - step) * total_s + moved_s

    def _chords_of(self, power: int) -> Chords:
        """Cost of a token of own context in each segment, where it has ``2**power``; made once for each."""
        found = self._chords.get(power)
        if found is None:
            curve, reach = self.law.context, float(2**power)
            slopes_s: list[float] = []
            before_s: list[float] = []
            moment_s: list[float] = []
            total_s = moved_s = 0.0
            for segment in self._segments[:-1]:
                steps = segment.steps
                middle = segment.context_tokens + segment.batch * (steps - 1) / 2
                slope_s = (curve(middle + reach) - curve(middle)) / reach
                slopes_s.append(slope_s)
                before_s.append(total_s)
                moment_s.append(moved_s)
                total_s += steps * slope_s
                moved_s += slope_s * steps * (segment.step + (steps - 1) / 2)
            found = self._chords[power] = (slopes_s, before_s, moment_s)
        return found
