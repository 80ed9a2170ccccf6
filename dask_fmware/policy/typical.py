"""Typical urgent calls, and whether they can do without what a call of no urgency takes of a replica.

Who comes next is not known, so calls like those that came lately are put where the candidate would go. What they lose
there does not matter if another replica has time for them: cards that urgent calls seldom need may be filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dask_fmware.policy.estimate import execution_s, expected_s
from dask_fmware.policy.leeway import FOR_URGENT, SPARE
from dask_fmware.policy.protocol import CallView, ReplicaView

__all__ = ["Typical", "open_slots", "without_background"]

REMEMBERED = 20  # urgent calls of a kind that its typical one is the mean of, about


class Typical:
    """Means over the latest urgent calls of each model, of those that answer and of the others."""

    __slots__ = ("_means",)

    def __init__(self) -> None:
        self._means: dict[
            tuple[str, bool], tuple[float, float, float]
        ] = {}  # prompt and output tokens, seconds that it has

    def came(self, call: CallView, due: float) -> None:
        """Take note of an urgent call that can be in time."""
        kind = call.model, call.answers
        output = 0.0 if call.answers else call.output_tokens
        latest = (float(call.prompt_tokens), output, due - call.runnable_at)
        prompt, output, allowed_s = self._means.get(kind, latest)
        self._means[kind] = (
            prompt + (latest[0] - prompt) / REMEMBERED,
            output + (latest[1] - output) / REMEMBERED,
            allowed_s + (latest[2] - allowed_s) / REMEMBERED,
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
        if replica.slots == 1:
            return False
        stays_open = replica.running < open_slots(replica, kept)
        is_known = False
        for answers in (False, True):
            typical = self._means.get((replica.model, answers))
            if typical is None:
                continue
            is_known = True
            if stays_open and _in_time(typical, replica, spare, now) is not False:
                continue
            others = (other for other in room if other is not replica and other.running < open_slots(other, kept))
            if not any(_in_time(typical, other, spare, now) for other in others):
                return False
        return is_known


def _in_time(typical: tuple[float, float, float], replica: ReplicaView, spare: float, now: float) -> bool | None:
    """Whether a typical call keeps all but a share of its slack on a replica as it is; None: it would not go there."""
    prompt, output, allowed_s = typical
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
