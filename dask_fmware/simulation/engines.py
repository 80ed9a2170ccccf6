"""The engines of a simulation: what an attempt on a replica comes to, and when; cards that are slow, or shared.

They stand for the workers. What a replica runs is the machine's business; which replicas there are is the fleet's.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from dask_fmware.profile.emulation import LAST
from dask_fmware.runtime import AttemptEnded, Event, StepsTimed
from dask_fmware.simulation.agenda import Agenda
from dask_fmware.simulation.replicas import Attempt, VirtualCard, VirtualReplica

__all__ = ["Engines"]

STEPS_TOLD_S = 0.5  # between two reports of a replica's steps
REPORTS = 10  # sums of steps in one
TOLD_AFTER_S = 30.0  # for which the steps of a card are told once it has recovered


class Engines:
    """All engines of one simulation.

    Parameters
    ----------
    agenda
        The clock.
    tell
        Takes events for the machine.
    gave
        Told of outputs: an attempt and `FIRST` or `LAST`.
    lost
        Told of attempts that could not wait for a slot any longer, after the machine was told.
    delivery_s
        Seconds from the machine to an engine, and back.
    """

    def __init__(
        self,
        agenda: Agenda,
        tell: Callable[[Event], None],
        gave: Callable[[Attempt, int], None],
        lost: Callable[[Attempt], None],
        delivery_s: float = 0.0,
    ) -> None:
        self._agenda = agenda
        self._tell = tell
        self._gave = gave
        self._lost = lost
        self._delivery_s = delivery_s

    def run(self, attempt: Attempt, prompt: int, output: int, priority: float, wait_s: float = 0.0) -> None:
        """Give an attempt to its engine, for a slot of which it may wait so long."""
        attempt.replica.attempts[attempt] = None
        if self._delivery_s:
            self._agenda.at(self._agenda.now + self._delivery_s, self.arrive, attempt, prompt, output, priority, wait_s)
        else:
            self.arrive(attempt, prompt, output, priority, wait_s)

    def arrive(self, attempt: Attempt, prompt: int, output: int, priority: float, wait_s: float = 0.0) -> None:
        """An attempt comes to its engine."""
        replica, batch = attempt.replica, attempt.replica.batch
        if attempt not in replica.attempts:
            return  # lost or aborted on its way
        was_idle = batch.idle
        batch.add(self._agenda.now, attempt, prompt, output, 0, priority)
        attempt.arrived = attempt.began = self._agenda.now
        if not batch.holds_slot(attempt):
            replica.ahead.append(attempt)
            if wait_s:
                self._agenda.at(self._agenda.now + wait_s, self._give_back, attempt)
        if was_idle:
            self._share(replica.card)
        self._wake(replica)

    def _give_back(self, attempt: Attempt) -> None:
        """An attempt has waited for a slot for long enough, if it still does."""
        if attempt in attempt.replica.ahead and attempt in attempt.replica.attempts:
            self.abort(attempt)
            self._tell(AttemptEnded(attempt.call_id, attempt.number, "undelivered"))
            self._lost(attempt)

    def abort(self, attempt: Attempt) -> None:
        """Take an attempt off its engine."""
        replica = attempt.replica
        if attempt in replica.attempts:
            del replica.attempts[attempt]
            replica.batch.abort(self._agenda.now, attempt)
            self._wake(replica)

    def stall(self, attempt: Attempt) -> None:
        """Make nothing more of an attempt, which keeps its slot in the eyes of its worker, until it arrives anew."""
        attempt.replica.batch.abort(self._agenda.now, attempt)
        self._wake(attempt.replica)

    def _wake(self, replica: VirtualReplica) -> None:
        at = replica.batch.next_event_at
        if at != replica.wakes_at:
            replica.wakes_at = at
            if at < inf:
                self._agenda.at(at, self._advance, replica, at)

    def _advance(self, replica: VirtualReplica, due: float) -> None:
        if due != replica.wakes_at:
            return  # something came in between
        batch = replica.batch
        outputs = batch.advance(due)
        self._wake(replica)
        if replica.ahead:
            self._let_begin(replica, due)
        if batch.idle:
            self._share(replica.card)
        for _, kind, attempt in outputs:
            attempt.ended = due
            if self._delivery_s:
                self._agenda.at(due + self._delivery_s, self.say, attempt, kind)
            else:
                self.say(attempt, kind)

    def _let_begin(self, replica: VirtualReplica, now: float) -> None:
        """Attempts that were ahead may have a slot by now."""
        for attempt in list(replica.ahead):
            if replica.batch.holds_slot(attempt) or attempt not in replica.attempts:
                replica.ahead.remove(attempt)
                attempt.began = now

    def say(self, attempt: Attempt, kind: int) -> None:
        """A worker is heard: its engine gave the first or last token of an attempt."""
        attempts = attempt.replica.attempts
        if attempt in attempts:  # else it was lost, or what was told first has taken it off
            if kind == LAST:
                del attempts[attempt]
            self._gave(attempt, kind)

    # -- speed -----------------------------------------------------------------------------------

    def slow_down(self, card: VirtualCard, factor: float) -> None:
        """Let the steps of a card take `factor` times as long as they should; 1 is as they should."""
        card.slow = factor
        self.set_speeds(card)
        if not card.is_timed:
            card.is_timed = True
            self._agenda.at(self._agenda.now + STEPS_TOLD_S, self._time_steps, card, self._agenda.now)

    def _share(self, card: VirtualCard) -> None:
        """An engine has become busy or idle."""
        if len(card.replicas) > 1 or card.slow != 1.0:
            self.set_speeds(card)

    def set_speeds(self, card: VirtualCard) -> None:
        """Share the speed of a card among those of its engines that are busy."""
        busy = sum(not replica.batch.idle for replica in card.replicas)
        for replica in card.replicas:
            replica.batch.set_speed(self._agenda.now, 1.0 / (max(busy, 1) * card.slow))
            self._wake(replica)

    def _time_steps(self, card: VirtualCard, since: float) -> None:
        """Tell the machine how a card that was slowed runs, as workers do, until that is known to be over."""
        if not card.replicas:
            return  # it was given back
        for replica in card.replicas:
            if replica.state in ("ready", "draining") and not replica.batch.idle:
                took = STEPS_TOLD_S / REPORTS
                steps = [(took / card.slow, 0.0, took, 1.0), (0.0, took / card.slow, took, 1.0)]
                self._tell(StepsTimed(replica.replica_id, steps=tuple(steps * (REPORTS // 2))))
        if card.slow != 1.0 or self._agenda.now - since < TOLD_AFTER_S:
            since = self._agenda.now if card.slow != 1.0 else since
            self._agenda.at(self._agenda.now + STEPS_TOLD_S, self._time_steps, card, since)
        else:
            card.is_timed = False
