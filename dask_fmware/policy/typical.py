"""Typical urgent calls, and whether they can do without what a call of no urgency takes of a replica.

Who comes next is not known, so calls like those that came lately are put where the candidate would go. What they lose
there does not matter if another replica has time for them: cards that urgent calls seldom need may be filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from typing import NamedTuple

from dask_fmware.policy.estimate import execution_s, expected_s
from dask_fmware.policy.leeway import FOR_URGENT, SPARE
from dask_fmware.policy.protocol import CallView, ReplicaView

__all__ = ["Typical", "open_slots", "without_background"]

SURE = 0.9  # of the time that a typical call has; one that takes more alone is in time by luck
REMEMBERED = 20  # urgent calls of a kind that its typical one is the mean of, about


class _Mean(NamedTuple):
    """The typical call of a kind."""

    prompt: float  # tokens
    output: float  # tokens until it has done what it is for
    allowed_s: float  # until it must have done it
    whole: float  # output tokens until it ends
    own_s: float  # alone, on a replica of the fastest kind

    @property
    def is_in_time_by_luck(self) -> bool:
        """Whether it has next to nothing to lose: what is beside it decides no more than its own length does."""
        return self.own_s > SURE * self.allowed_s


class Typical:
    """Means over the latest urgent calls of each model, of those that answer and of the others."""

    __slots__ = ("_means",)

    def __init__(self) -> None:
        self._means: dict[tuple[str, bool], _Mean] = {}

    def came(self, call: CallView, due: float) -> None:
        """Take note of an urgent call that can be in time."""
        kind = call.model, call.answers
        output = 0.0 if call.answers else call.output_tokens
        mean = self._means.get(kind)
        if mean is None:
            mean = _Mean(call.prompt_tokens, output, due - call.runnable_at, call.output_tokens, call.own_s)
        prompt, until, allowed_s, whole, own_s = mean
        self._means[kind] = _Mean(
            prompt + (call.prompt_tokens - prompt) / REMEMBERED,
            until + (output - until) / REMEMBERED,
            allowed_s + (due - call.runnable_at - allowed_s) / REMEMBERED,
            whole + (call.output_tokens - whole) / REMEMBERED,
            own_s + (call.own_s - own_s) / REMEMBERED,
        )

    def spare(
        self,
        replica: ReplicaView,
        now: float,
        kept: float = FOR_URGENT,
        spare: float = SPARE,
        room: Sequence[ReplicaView] = (),
    ) -> bool:
        """Whether typical calls can do without what one more call takes of a replica.

        Parameters
        ----------
        replica
            Where that call would go.
        kept
            Share of its slots that is left to urgent calls, there or on another replica that has time for them.
        spare
            Share of the slack of a typical call that may be used up.
        room
            Replicas with room, to which a typical call may go instead if it is in time there.
        """
        stays_open = replica.running < open_slots(replica, kept)
        is_known = False
        for answers in (False, True):
            typical = self._means.get((replica.model, answers))
            if typical is None:
                continue
            is_known = True
            if stays_open and (typical.is_in_time_by_luck or _in_time(typical, replica, spare, now) is not False):
                continue
            others = (other for other in room if other is not replica and other.running < open_slots(other, kept))
            if not any(_in_time(typical, other, spare, now) for other in others):
                return False
        return is_known

    def spare_one(self, replica: ReplicaView, replicas: Sequence[ReplicaView], rate: float) -> bool:
        """Whether one of many replicas that serve one call each may be given away: enough others are idle.

        By the square-root rule of staffing, with twice the root: few calls then find all busy.

        Parameters
        ----------
        replica
            The one to be given away.
        replicas
            All ready replicas of its model.
        rate
            Urgent calls a second, of typical lengths.
        """
        busy_s = max(
            (
                execution_s(replica.latency, mean.prompt, mean.whole)
                for answers in (False, True)
                if (mean := self._means.get((replica.model, answers))) is not None
            ),
            default=0.0,
        )
        load = rate * busy_s
        idle = sum(other.has_room for other in replicas)
        return idle - 1 >= load + 2.0 * sqrt(load)


def _in_time(typical: _Mean, replica: ReplicaView, spare: float, now: float) -> bool | None:
    """Whether a typical call keeps all but a share of its slack on a replica as it is; None: it would not go there."""
    prompt, output, allowed_s = typical.prompt, typical.output, typical.allowed_s
    law = replica.law
    if law is None:
        idle_s = execution_s(replica.latency, prompt, output)
    else:
        idle_s = law.prefill_s(prompt) + (output + 1) * law.step_s(0, 1, prompt)
    if idle_s > allowed_s:
        return None
    return replica.stretch * expected_s(prompt, output, replica, now) <= idle_s + spare * (allowed_s - idle_s)


def without_background(replica: ReplicaView) -> ReplicaView:
    """Return a replica as it would be without the calls of runs that have no objective, about."""
    others = replica.running - replica.background
    if others == replica.running:
        return replica
    context = replica.context_tokens * others // replica.running
    return replace(replica, running=others, context_tokens=context)


def open_slots(replica: ReplicaView, kept: float) -> int:
    """Slots of a replica that may be taken while some are kept; an engine of few slots keeps none."""
    return replica.slots - int(kept * replica.slots)
