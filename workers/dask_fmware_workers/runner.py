"""Runs granted calls on the engine of this worker and says how each attempt ended.

It owns the grants, the attempts under way and their streams. The slot of an attempt is free when
`AttemptEnded` is sent, which happens after the engine has let go of the request, whatever Dask thinks
of the task by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

from dask_fmware.errors import EngineCrashedError, EngineStalledError, FMwareError, OutputFormatError
from dask_fmware.model.call import ModelCall
from dask_fmware.model.completion import Completion, Timing
from dask_fmware.model.engine import Engine, Usage
from dask_fmware.model.messages import AttemptEnded, FirstToken, GiveUp, Grant, Overdue
from dask_fmware_workers.dask_internals import Reschedule
from dask_fmware_workers.engine_slots import EngineSlots, NeverBeganError
from dask_fmware_workers.output import format_tokens, output_of
from dask_fmware_workers.pace import EnginePace
from dask_fmware_workers.stalls import bounded_silence, told_when_overdue
from dask_fmware_workers.streams import AnswerStreams, TextStream

__all__ = ["CallRunner"]

logger = logging.getLogger("dask_fmware.runner")

STALLS = 2  # in a row, without a token of any attempt in between, after which the engine is started again


@dataclass(slots=True)
class _Attempt:
    """One attempt under way."""

    grant: Grant
    task: asyncio.Task[Any] | None  # the Dask task that runs it
    withdrawn: bool = False
    is_given_up: bool = False  # as it has no token, to be tried elsewhere
    deltas: int = 0  # from its engine so far
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    ttft_s: float | None = None
    is_whole: bool = False  # the answer came to its own end
    is_repaired: bool = False  # and had to be mended to have its format
    format_tokens: int | None = None  # output tokens that the format took
    cost: float | None = None
    waited_s: float = 0.0  # for a slot
    began_at: float | None = None  # when it had one


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
        self._attempts: dict[str, _Attempt] = {}
        self._stalls = 0  # since the engine gave a token

    @property
    def running(self) -> int:
        """Attempts under way."""
        return len(self._attempts)

    def grant(self, grant: Grant) -> None:
        """The scheduler lets a call run here; its task follows on the same stream."""
        if grant.incarnation == self.incarnation:
            self._grants[grant.call_id] = grant

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
        attempt = self._attempts.get(call_id)
        if attempt is not None and attempt.task is not None and not attempt.withdrawn:
            attempt.withdrawn = True
            attempt.task.cancel()

    def give_up(self, message: GiveUp) -> None:
        """End an attempt so that its call is tried elsewhere, unless its first token has come meanwhile."""
        attempt = self._attempts.get(message.call_id)
        if attempt is None or attempt.grant.attempt != message.attempt or attempt.ttft_s is not None:
            return
        if attempt.task is not None and not attempt.withdrawn:
            attempt.is_given_up = attempt.withdrawn = True
            attempt.task.cancel()

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
    ) -> Completion:
        """Generate, and report how it ended; `pace` takes note of its tokens.

        Raises `distributed.Reschedule` if the call was not granted, was aborted, or its engine crashed:
        the scheduler decides what becomes of it.
        """
        grant = self._grants.pop(call_id, None)
        if grant is None:
            logger.warning("%s: not granted to this replica; sent back", call.where)
            raise Reschedule(f"{call.where}: not granted here")
        attempt = _Attempt(grant, asyncio.current_task())
        self._attempts[call_id] = attempt
        stream = self.streams.open(call_id, grant.attempt) if call.answers else TextStream()
        outcome: Literal["finished", "failed", "retry", "aborted", "undelivered"] = "failed"
        error, slots = "", self.slots
        try:
            attempt.waited_s = await slots.take(grant.wait_s)
            attempt.began_at = perf_counter()
            completion = await self._generate(engine, call, call_id, values, attempt, stream, pace)
            outcome = "finished"
            return completion
        except asyncio.CancelledError:
            outcome = "aborted"
            if not attempt.withdrawn or attempt.task is None:  # the worker closes
                raise
            attempt.task.uncancel()
            if attempt.is_given_up:
                outcome, error = "retry", "no token in time; tried elsewhere (see router.hedge_budget)"
            raise Reschedule(f"{call.where}: aborted") from None
        except NeverBeganError as why:
            outcome = "undelivered"
            raise Reschedule(f"{call.where}: {why}") from None
        except EngineCrashedError as crash:
            outcome, error = "retry", f"{type(crash).__name__}: {crash}"
            self._crashed(engine, crash)
            raise Reschedule(error) from crash
        except MemoryError as full:  # no request's own fault, and what is left of its engine nobody knows
            outcome, error = "retry", "EngineCrashedError: the engine is out of memory"
            self._crashed(engine, EngineCrashedError("the engine is out of memory"))
            raise Reschedule(error) from full
        except EngineStalledError as stall:
            outcome, error = "retry", f"{type(stall).__name__}: {stall}"
            self._stalled(engine, error)
            raise Reschedule(error) from stall
        except OutputFormatError as fault:
            error = f"{type(fault).__name__}: {fault}"
            if grant.attempt > 1 or not attempt.is_whole or _repeats_itself(call):
                raise
            outcome = "retry"  # the same model may keep to the format next time: once
            raise Reschedule(error) from fault
        except FMwareError as fault:
            error = f"{type(fault).__name__}: {fault}"
            raise
        except Exception as fault:
            error = type(fault).__name__  # a stranger's message might hold a prompt
            raise
        finally:
            if self._attempts.get(call_id) is attempt:
                del self._attempts[call_id]
            latency_s = None
            if attempt.began_at is not None:
                latency_s = perf_counter() - attempt.began_at
                slots.give()
            stream.end(outcome)
            self._send_with_result(
                AttemptEnded(
                    call_id,
                    grant.attempt,
                    outcome,
                    attempt.prompt_tokens,
                    attempt.output_tokens,
                    attempt.cached_tokens,
                    attempt.ttft_s,
                    latency_s,
                    attempt.waited_s,
                    error,
                    attempt.is_repaired,
                    attempt.format_tokens,
                    attempt.cost,
                ).to_wire()
            )

    def _stalled(self, engine: Engine, error: str) -> None:
        """One call may be stuck; an engine that gives nobody a token is."""
        self._stalls += 1
        if self._stalls >= STALLS:
            self._stalls = 0
            self._crashed(engine, EngineCrashedError(f"{STALLS} calls in a row without a token; the last: {error}"))

    async def _generate(
        self,
        engine: Engine,
        call: ModelCall,
        call_id: str,
        values: Mapping[str, Any],
        attempt: _Attempt,
        stream: TextStream,
        pace: EnginePace | None,
    ) -> Completion:
        grant = attempt.grant
        request = call.request(values, request_id=f"{call_id}#{grant.attempt}", priority=grant.priority)
        if pace is not None:
            pace.submitted(request, f"{call.workflow}.{call.node}", call_id, grant.attempt)
        overdue = Overdue(call_id, grant.attempt).to_wire()
        start = perf_counter()
        finish_reason, usage = None, None
        try:
            async with (
                told_when_overdue(grant.overdue_s, lambda: attempt.ttft_s is None, lambda: self._send(overdue)),
                bounded_silence(grant.stall_s, lambda: attempt.deltas, call.where),
                aclosing(engine.generate(request)) as deltas,  # type: ignore[type-var]
            ):
                async for delta in deltas:
                    attempt.deltas, self._stalls = attempt.deltas + 1, 0
                    if attempt.ttft_s is None and (delta.text or delta.tokens):
                        attempt.ttft_s = perf_counter() - start
                        if call.answers:  # others say it when they end
                            self._send(FirstToken(call_id, grant.attempt, attempt.ttft_s).to_wire())
                    if delta.tokens:
                        attempt.output_tokens += delta.tokens
                        if pace is not None:
                            pace.token(request.request_id, delta.tokens)
                    if delta.text:
                        stream.add(delta.text)
                    if delta.finish_reason is not None:
                        finish_reason, usage = delta.finish_reason, delta.usage
        finally:
            if pace is not None:
                pace.ended(request.request_id, usage)
        latency_s = perf_counter() - start
        if finish_reason is None:
            raise EngineCrashedError(f"{call.where}: the engine's stream ended without a reason")
        if finish_reason == "abort":
            attempt.withdrawn = True
            raise asyncio.CancelledError
        usage = usage or Usage(output_tokens=attempt.output_tokens)
        attempt.prompt_tokens, attempt.cached_tokens = usage.prompt_tokens, usage.cached_tokens
        text = "".join(stream.pieces)
        attempt.is_whole = finish_reason == "stop"
        if self.prices is not None:
            attempt.cost = usage.cost(self.prices)
        if call.choices is not None or call.json_schema is not None:
            attempt.format_tokens = usage.output_tokens  # all of them, unless the answer is sound
        output = output_of(call, text, finish_reason)
        attempt.is_repaired = output.is_repaired
        attempt.format_tokens = format_tokens(call, text, usage.output_tokens)
        return Completion(
            text=text,
            finish_reason=finish_reason,
            usage=usage,
            timing=Timing(attempt.ttft_s if attempt.ttft_s is not None else latency_s, latency_s),
            model=call.model,
            value=output.value,
        )


def _repeats_itself(call: ModelCall) -> bool:
    """Whether the same question gets the same answer."""
    return call.sampling.seed is not None or call.sampling.temperature == 0
