"""An engine with continuous batching, emulated: sequences in, first tokens and finishes out, no step by step loop.

It owns the sequences of one replica and behaves as `timeline.segments_of` projects: each step decodes one
token for every prefilled sequence and gives the rest of its token budget to prompts, in order of
admission; waiting sequences are let in by priority when a slot and KV room for their whole length are free.
Between two changes all steps are alike but for the growing context, so time is advanced a segment at a
time. It knows no clock (`now` is passed in), no model names and no cards: who shares hardware tells each
batch its `speed`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any, NamedTuple

from dask_fmware.errors import SpecError
from dask_fmware.profile.law import StepLaw, chunk_pairs
from dask_fmware.profile.replica import Limits

__all__ = ["EmulatedBatch", "Output"]

FIRST, LAST = 0, 1  # a first token precedes the finish of its sequence


class Output(NamedTuple):
    """Something that a sequence gave."""

    at: float  # when, on the clock of the caller
    kind: int  # FIRST token or LAST
    sequence_id: Any  # as it was added


class _Sequence:
    __slots__ = ("aborted", "admitted", "before", "first_step", "id", "kv", "last_step", "left", "output", "prompt")

    def __init__(self, id_: Hashable, prompt: int, output: int, ready: int) -> None:
        self.id = id_
        self.prompt = prompt
        self.output = output
        self.left = max(prompt - ready, 1)  # the last prompt token is always computed: it yields the first token
        self.before = prompt - self.left
        self.kv = prompt + output
        self.admitted = self.aborted = False
        self.first_step = -1  # step after which it has one token
        self.last_step = -1  # step after which it is done


class EmulatedBatch:
    """The sequences of one engine.

    Parameters
    ----------
    law
        Time of one step.
    limits
        Slots, token budget of a step, KV cache.

    Examples
    --------
    >>> batch = EmulatedBatch(StepLaw.plain(0.010, 1e-5, 1e-3, 0.0), Limits(slots=4))
    >>> batch.add(0.0, "a", prompt_tokens=1000, output_tokens=101)
    >>> [(round(o.at, 6), o.kind) for o in batch.advance(10.0)]
    [(0.02, 0), (1.12, 1)]
    """

    def __init__(self, law: StepLaw, limits: Limits) -> None:
        self.limits = limits
        self._law = law
        self._speed = 1.0  # steps a second relative to the law
        self._ids: dict[Hashable, _Sequence] = {}
        self._waiting: list[tuple[float, int, _Sequence]] = []
        self._prefilling: deque[_Sequence] = deque()
        self._ends: list[tuple[int, int, _Sequence]] = []  # decoding: (step after its last, tie, sequence)
        self._decoding = 0
        self._context = 0  # KV tokens of decoding sequences at the start of the segment
        self._kv = 0
        self._used = 0
        self._ties = 0
        self._step = 0  # index of the segment's first step
        self._steps = 0  # steps in the segment; 0: idle
        self._start = 0.0  # when it begins
        self.next_event_at = inf  # when it ends: something changes then; infinity while it is idle. Call `advance` then
        self._even_s = 0.0  # what each of its steps takes, apart from context and pairs
        self._chunk = 0  # prompt tokens in each of its steps, if of one prompt
        self._aborted: list[_Sequence] = []  # leave at the end of the segment

    # -- what others may ask ---------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Sequences that hold a slot."""
        return self._used

    @property
    def waiting(self) -> int:
        """Sequences that wait for a slot or KV room."""
        return len(self._waiting)

    @property
    def reserved_tokens(self) -> int:
        """KV tokens reserved for sequences that hold a slot, for their whole length."""
        return self._kv

    @property
    def idle(self) -> bool:
        """Whether it holds no sequence at all."""
        return not self._used and not self._waiting

    def holds_slot(self, sequence_id: Hashable) -> bool:
        """Whether a sequence is here and waits no longer."""
        sequence = self._ids.get(sequence_id)
        return sequence is not None and sequence.admitted

    def tokens(self, sequence_id: Hashable, now: float) -> int:
        """Output tokens that a sequence has at `now`, which is not after `next_event_at`."""
        sequence = self._ids.get(sequence_id)
        if sequence is None or sequence.first_step < 0:
            return 0
        return 1 + self._step + self._steps_by(now) - sequence.first_step

    # -- what happens ----------------------------------------------------------------------------

    def add(
        self,
        now: float,
        sequence_id: Hashable,
        prompt_tokens: int,
        output_tokens: int,
        ready_tokens: int = 0,
        priority: float = 0.0,
    ) -> None:
        """Take a sequence in at `now`; it is admitted between two steps, lower `priority` first.

        `advance` to `now` comes first, if an event is due.
        """
        if sequence_id in self._ids:
            raise SpecError(f"sequence '{sequence_id}' is in the batch already; give each attempt an id of its own")
        if prompt_tokens < 1 or output_tokens < 1:
            raise SpecError(f"a sequence needs at least one token of each kind, got {prompt_tokens} + {output_tokens}")
        sequence = _Sequence(sequence_id, prompt_tokens, output_tokens, ready_tokens)
        self._ids[sequence_id] = sequence
        self._ties += 1
        heappush(self._waiting, (priority, self._ties, sequence))
        if not self._steps or now == self._start:
            self._begin(now)  # nothing of the segment has happened
        elif self._used < self.limits.slots:
            self._cut(now)

    def abort(self, now: float, sequence_id: Hashable) -> bool:
        """Take a sequence out at the end of the step under way; it gives nothing more. False if it is not here."""
        sequence = self._ids.pop(sequence_id, None)
        if sequence is None:
            return False
        sequence.aborted = True
        if not sequence.admitted:
            self._waiting = [entry for entry in self._waiting if entry[2] is not sequence]
            heapify(self._waiting)
            return True
        self._aborted.append(sequence)
        self._cut(now)
        return True

    def set_speed(self, now: float, speed: float) -> None:
        """Run at `speed` times the law from `now` on: others use the same hardware, or stopped doing so."""
        if speed == self._speed:
            return
        if self._steps:
            left_s = (self.next_event_at - now) * self._speed / speed
            done_s = (now - self._start) * self._speed / speed
            self._start, self.next_event_at = now - done_s, now + left_s
        self._speed = speed

    def advance(self, now: float) -> list[Output]:
        """Do what is due by `now` and return what came out, in order of time."""
        outputs: list[Output] = []
        while self.next_event_at <= now:
            at = self.next_event_at
            self._settle(outputs)
            for sequence in self._aborted:
                self._drop(sequence)
            self._aborted.clear()
            self._begin(at)
        return outputs

    # -- segments --------------------------------------------------------------------------------

    def _begin(self, at: float) -> None:
        """Let in who fits and start the next segment."""
        waiting, limits = self._waiting, self.limits
        kv_limit = limits.kv_tokens
        while waiting and self._used < limits.slots:
            sequence = waiting[0][2]
            if kv_limit is not None and self._used and self._kv + sequence.kv > kv_limit:
                break
            heappop(waiting)
            sequence.admitted = True
            self._used += 1
            self._kv += sequence.kv
            self._prefilling.append(sequence)
        self._start = at
        if not self._used:
            self._steps, self.next_event_at = 0, inf
            return
        batch, law, prefilling = self._decoding, self._law, self._prefilling
        steps = self._ends[0][0] - self._step if batch else 1 << 60
        pairs, even_s = 0.0, law.base_s(batch)
        self._chunk = 0
        if prefilling and (room := limits.step_tokens - batch) > 0:
            head = prefilling[0]
            if len(prefilling) == 1 and head.left <= room:
                steps, left = 1, head.left
                pairs = left * (head.before + left / 2)  # as `chunk_pairs`
                even_s += law.chunk_s(left)
            elif head.left > room:
                steps = min(steps, (head.left - 1) // room)
                self._chunk = room
                pairs = chunk_pairs(steps * room, head.before)
                even_s += law.chunk_s(room)
            else:
                steps, tokens, prompts = 1, 0, 0
                for sequence in prefilling:
                    share = min(sequence.left, room - tokens)
                    if not share:
                        break
                    tokens += share
                    prompts += 1
                    pairs += chunk_pairs(share, sequence.before)
                even_s += law.prefill_s(tokens, prompts, 0.0)
        self._steps, self._even_s = steps, even_s
        self.next_event_at = at + (steps * even_s + law.pair_s * pairs + self._context_s(steps)) / self._speed

    def _context_s(self, steps: int) -> float:
        """What the context of decoding sequences costs in the first `steps` of the segment."""
        if not self._decoding:
            return 0.0
        if steps == 1:
            return self._law.context(self._context)
        return self._law.context.sum_s(self._context, self._decoding, steps)

    def _spent_s(self, steps: int) -> float:
        """Seconds of the law for the first `steps` of a segment that has more than one."""
        spent_s = steps * self._even_s + self._context_s(steps)
        if self._chunk:
            spent_s += self._law.pair_s * chunk_pairs(steps * self._chunk, self._prefilling[0].before)
        return spent_s

    def _steps_by(self, now: float) -> int:
        """Steps of the segment that are over at `now`."""
        if not self._steps or now <= self._start:
            return 0
        if now >= self.next_event_at:
            return self._steps
        passed_s = (now - self._start) * self._speed
        low, high = 0, self._steps  # low steps are over, high are not
        guess = int(passed_s / (self.next_event_at - self._start) / self._speed * self._steps)
        while high - low > 1:
            guess = min(max(guess, low + 1), high - 1)
            if self._spent_s(guess) <= passed_s:
                low, guess = guess, guess + 1
            else:
                high, guess = guess, guess - 1
        return low

    def _cut(self, now: float) -> None:
        """End the segment with the step under way at `now`."""
        if self._steps <= 1:
            return
        over = self._steps_by(now)
        steps = max(over, 1) if over and self._start + self._spent_s(over) / self._speed >= now else over + 1
        if steps < self._steps:
            self.next_event_at = self._start + self._spent_s(steps) / self._speed
            self._steps = steps

    def _settle(self, out: list[Output]) -> None:
        """Account for the steps of the segment, which are over at its end."""
        steps, at = self._steps, self.next_event_at
        self._step += steps
        self._context += self._decoding * steps
        step = self._step
        batch, ends = self._decoding, self._ends
        while ends and ends[0][0] <= step:
            sequence = heappop(ends)[2]
            self._context -= sequence.kv
            self._leave(sequence)
            if not sequence.aborted:
                out.append(Output(at, LAST, sequence.id))
        if not self._prefilling:
            return
        if self._chunk:
            head = self._prefilling[0]
            head.left -= steps * self._chunk
            head.before += steps * self._chunk
            return
        room, prefilling = self.limits.step_tokens - batch, self._prefilling
        while prefilling and room > 0:
            head = prefilling[0]
            if head.left > room:
                head.left -= room
                head.before += room
                break
            room -= head.left
            head.before += head.left
            head.left = 0
            prefilling.popleft()
            head.first_step, head.last_step = step, step + head.output - 1
            if not head.aborted:
                out.append(Output(at, FIRST, head.id))
            self._decoding += 1
            if head.output > 1:
                self._ties += 1
                heappush(ends, (head.last_step, self._ties, head))
                self._context += head.prompt + 1
                continue
            self._leave(head)
            if not head.aborted:
                out.append(Output(at, LAST, head.id))

    def _leave(self, sequence: _Sequence) -> None:
        self._decoding -= 1
        self._used -= 1
        self._kv -= sequence.kv
        if not sequence.aborted:
            del self._ids[sequence.id]

    def _drop(self, sequence: _Sequence) -> None:
        """Forget an admitted sequence at a step boundary."""
        if sequence.first_step < 0:
            self._prefilling.remove(sequence)
            self._used -= 1
            self._kv -= sequence.kv
            return
        if sequence.last_step > self._step:
            self._ends = [entry for entry in self._ends if entry[2] is not sequence]
            heapify(self._ends)
            self._context -= sequence.prompt + 1 + self._step - sequence.first_step
            self._leave(sequence)
