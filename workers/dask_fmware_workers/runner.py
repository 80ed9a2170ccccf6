"""Runs granted calls on the engine of this worker and says how each attempt ended.

It owns the grants, the slots, and which attempts are under way. The slot of an attempt is free when `AttemptEnded`
is sent, which happens after the engine has let go of the request, whatever Dask thinks of the task by then.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from dask_fmware.errors import (
    CapacityError,
    EngineCrashedError,
    EngineError,
    EngineStalledError,
    FMwareError,
    OutputFormatError,
)
from dask_fmware.model.call import ModelCall
from dask_fmware.model.completion import Completion
from dask_fmware.model.engine import Engine
from dask_fmware.model.messages import AttemptEnded, GiveUp, Grant
from dask_fmware_workers.attempt import Attempt, Outcome
from dask_fmware_workers.dask_internals import Reschedule
from dask_fmware_workers.engine_slots import EngineSlots, NeverBeganError
from dask_fmware_workers.pace import EnginePace
from dask_fmware_workers.streams import AnswerStreams, TextStream

__all__ = ["CallRunner"]

logger = logging.getLogger("dask_fmware.runner")

STALLS = 2  # in a row, without a token of any attempt in between, after which the engine is started again


class CallRunner:
    """Attempts of one engine.

    Parameters
    ----------
    send, send_with_result
        Send a message to the scheduler; the second in one batch with the result of the task that runs.
    crashed
        Called when an engine has died under a call.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], None],
        crashed: Callable[[Engine, EngineCrashedError], None],
        send_with_result: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._send = send
        self._send_with_result = send_with_result or send
        self._crashed = crashed
        self.streams = AnswerStreams()
        self.prices: Mapping[str, float] | None = None  # of the engine, for a million tokens
        self.incarnation = 0  # of the engine: what was granted to one that died is not for the next
        self.slots = EngineSlots()  # of the engine
        self._grants: dict[str, Grant] = {}
        self._attempts: dict[str, Attempt] = {}
        self._stalls = 0  # since the engine gave a token

    @property
    def running(self) -> int:
        """Attempts under way."""
        return len(self._attempts)

    def grant(self, grant: Grant) -> None:
        """The scheduler lets a call run here; its task follows on the same stream.

        One that was granted before and has not begun never will: a run that is asked for again is tasks of the same
        names, and the worker runs the one that it has.
        """
        void: Grant | None = grant
        if grant.incarnation == self.incarnation:
            void, self._grants[grant.call_id] = self._grants.get(grant.call_id), grant
        if void is not None:  # its slot is held by nobody
            self._send(AttemptEnded(void.call_id, void.attempt, "undelivered").to_wire())

    def is_granted(self, call_id: str) -> bool:
        """Whether a call may begin here."""
        return call_id in self._grants

    def engine_died(self) -> None:
        """What was granted and has not begun is void: the scheduler gives it away anew when it hears of this."""
        self.incarnation += 1
        self._grants.clear()
        self.slots.close()
        self.slots = EngineSlots(self.slots.count)

    def withdraw(self, call_id: str) -> None:
        """The task of a call will not run here after all, or not any more."""
        if (grant := self._grants.pop(call_id, None)) is not None:
            self._send(AttemptEnded(call_id, grant.attempt, "aborted").to_wire())
        if (attempt := self._attempts.get(call_id)) is not None:
            attempt.withdraw()

    def give_up(self, message: GiveUp) -> None:
        """End an attempt so that its call is tried elsewhere, unless its first token has come meanwhile."""
        attempt = self._attempts.get(message.call_id)
        if attempt is not None and attempt.grant.attempt == message.attempt:
            attempt.give_up()

    def give_back(self) -> list[str]:
        """Nothing that was granted and has not begun will run here: its slots are free. Return these calls."""
        waiting, self._grants = self._grants, {}
        for grant in waiting.values():
            self._send(AttemptEnded(grant.call_id, grant.attempt, "undelivered").to_wire())
        return list(waiting)

    def skip(self, call_id: str) -> None:
        """A call turned out to be on a branch that was not taken."""
        if (grant := self._grants.pop(call_id, None)) is not None:
            self._send(AttemptEnded(call_id, grant.attempt, "skipped").to_wire())

    async def run(
        self,
        engine: Engine,
        call: ModelCall,
        call_id: str,
        values: Mapping[str, Any],
        pace: EnginePace | None = None,
    ) -> Completion | list[Any]:
        """Generate, and report how it ended; `pace` takes note of its tokens.

        Raises `distributed.Reschedule` if the call was not granted, was aborted, or its engine crashed:
        the scheduler decides what becomes of it.
        """
        grant = self._grants.pop(call_id, None)
        if grant is None:
            logger.warning("%s: not granted to this replica; sent back", call.where)
            raise Reschedule(f"{call.where}: not granted here")
        stream = self.streams.open(call_id, grant.attempt) if call.answers else TextStream()
        attempt = self._attempts[call_id] = Attempt(call, call_id, grant, stream, self._send, self._alive)
        slots = self.slots
        try:
            return await self._generate(engine, attempt, slots, values, pace)
        finally:
            self._report(attempt, slots)

    async def _generate(
        self, engine: Engine, attempt: Attempt, slots: EngineSlots, values: Mapping[str, Any], pace: EnginePace | None
    ) -> Completion | list[Any]:
        """Generate in a slot, note the outcome, and raise what Dask is to make of it."""
        call = attempt.call
        try:
            attempt.waited_s = await slots.take(attempt.grant.wait_s)
            attempt.began_at = perf_counter()
            completion = await attempt.generate(engine, values, pace, self.prices)
        except asyncio.CancelledError:
            attempt.outcome = "aborted"
            if not attempt.is_withdrawn or attempt.task is None:  # the worker closes
                raise
            attempt.task.uncancel()
            if attempt.is_given_up:
                attempt.outcome, attempt.error = "retry", "no token in time; tried elsewhere (see router.hedge_budget)"
            raise Reschedule(f"{call.where}: aborted") from None
        except Exception as fault:
            attempt.fault = fault
            attempt.outcome, attempt.error = self._failed(engine, attempt, fault)
            if attempt.outcome != "failed":
                raise Reschedule(attempt.error or f"{call.where}: {fault}") from fault
            if not isinstance(fault, FMwareError):
                raise _stranger(call, fault) from None
            raise
        attempt.outcome = "finished"
        return completion

    def _report(self, attempt: Attempt, slots: EngineSlots) -> None:
        """Give the slot back and tell how the attempt ended; what goes wrong here is none of the call."""
        call_id = attempt.call_id
        if self._attempts.get(call_id) is attempt:
            del self._attempts[call_id]
        if attempt.began_at is not None:
            slots.give()
        attempt.stream.end(attempt.outcome)
        try:
            self._send_with_result(attempt.ended().to_wire())
        except Exception as error:
            what = attempt.call.where, attempt.grant.attempt, type(error).__name__
            logger.error("%s: the end of attempt %d could not be told (%s)", *what)

    def _failed(self, engine: Engine, attempt: Attempt, fault: Exception) -> tuple[Outcome, str]:
        """Say what a fault makes of an attempt, and in which words; an engine that is to blame is started again."""
        match fault:
            case NeverBeganError():
                return "undelivered", ""
            case EngineCrashedError():
                self._crashed(engine, fault)
                return "retry", _words(fault)
            case MemoryError():  # no request's own fault, and what is left of its engine nobody knows
                crash = EngineCrashedError("the engine is out of memory")
                self._crashed(engine, crash)
                return "retry", _words(crash)
            case EngineStalledError():
                self._stalled(engine, _words(fault))
                return "retry", _words(fault)
            case OutputFormatError():  # the same model may keep to the format next time: once
                is_first = attempt.grant.attempt == 1
                again = is_first and attempt.is_whole and not _repeats_itself(attempt.call)
                return "retry" if again else "failed", _words(fault)
            case CapacityError():  # of this engine: others may have room
                return "retry", _words(fault)
            case FMwareError():
                return "failed", _words(fault)
        return "failed", type(fault).__name__  # a stranger's message might hold a prompt

    def _alive(self) -> None:
        self._stalls = 0

    def _stalled(self, engine: Engine, error: str) -> None:
        """One call may be stuck; an engine that gives nobody a token is."""
        self._stalls += 1
        if self._stalls >= STALLS:
            self._stalls = 0
            self._crashed(engine, EngineCrashedError(f"{STALLS} calls in a row without a token; the last: {error}"))


def _stranger(call: ModelCall, fault: Exception) -> EngineError:
    """Return what is told of a fault that is not ours, whose own words might hold a prompt; log where it came from."""
    where = "".join(traceback.format_tb(fault.__traceback__))
    logger.error("%s: %s at\n%s", call.where, type(fault).__name__, where)
    return EngineError(f"{call.where}: {type(fault).__name__}; where it was raised is in the log of the worker")


def _words(fault: FMwareError) -> str:
    return f"{type(fault).__name__}: {fault}"


def _repeats_itself(call: ModelCall) -> bool:
    """Whether the same question gets the same answer."""
    return call.sampling.seed is not None or call.sampling.temperature == 0
