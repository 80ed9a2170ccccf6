"""One attempt of a call: what is asked of the engine, the tokens that come, and what is told of them and of the end.

Whether it may begin, and what becomes of its call when it fails, is not decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from time import perf_counter
from typing import Any, Literal, TypeAlias

from dask_fmware.errors import CapacityError, EngineCrashedError, OutputFormatError
from dask_fmware.model.call import ModelCall
from dask_fmware.model.completion import Completion, Timing
from dask_fmware.model.embedding import embedded
from dask_fmware.model.engine import Delta, Engine, FinishReason, Request, Usage
from dask_fmware.model.messages import AttemptEnded, FirstToken, Grant, Overdue
from dask_fmware_workers.output import format_tokens, output_of
from dask_fmware_workers.pace import EnginePace
from dask_fmware_workers.stalls import bounded_silence, told_when_overdue
from dask_fmware_workers.streams import TextStream

__all__ = ["Attempt", "Outcome"]

Outcome: TypeAlias = Literal["finished", "failed", "retry", "aborted", "undelivered"]


class Attempt:
    """An attempt under way, in the Dask task that runs it.

    Parameters
    ----------
    call, call_id, grant
        What was granted.
    stream
        Takes the text of the answer as it comes.
    send
        Sends a message to the scheduler.
    alive
        Called with each sign of life of the engine.
    """

    def __init__(
        self,
        call: ModelCall,
        call_id: str,
        grant: Grant,
        stream: TextStream,
        send: Callable[[dict[str, Any]], None],
        alive: Callable[[], None],
    ) -> None:
        self.call, self.call_id, self.grant = call, call_id, grant
        self.stream = stream
        self._send, self._alive = send, alive
        self.task = asyncio.current_task()
        self.is_withdrawn = False  # its task was cancelled, or its engine has aborted it
        self.is_given_up = False  # as it has no token, to be tried elsewhere
        self.waited_s = 0.0  # for a slot
        self.began_at: float | None = None  # when it had one
        self.ttft_s: float | None = None  # of the engine: laws, stalls and hedging go by it
        self.hidden_s = 0.0  # of an answer: from there to its first text, or to its end; objectives go by what is seen
        self.is_whole = False  # the answer came to its own end
        self.outcome: Outcome = "failed"  # until something else is known
        self.error = ""  # in the words of the cause, for "failed" and "retry"
        self.fault: Exception | None = None  # what it came of
        self._is_seen = False  # its first text was told, or nobody waits for it
        self._deltas = 0  # from its engine so far
        self._output_tokens = 0  # in them
        self._usage = Usage()  # as the engine counted in the end
        self._is_repaired = False  # the answer had to be mended to have its format
        self._format_tokens: int | None = None  # output tokens that the format took
        self._cost: float | None = None
        self._vectors: Sequence[Sequence[float]] | None = None

    def withdraw(self) -> None:
        """Cancel its task, unless that was done before."""
        if self.task is not None and not self.is_withdrawn:
            self.is_withdrawn = True
            self.task.cancel()

    def give_up(self) -> None:
        """Withdraw it so that its call is tried elsewhere, unless its first token has come."""
        if self.ttft_s is None and self.task is not None and not self.is_withdrawn:
            self.is_given_up = True
            self.withdraw()

    def ended(self) -> AttemptEnded:
        """Return what is told of its end."""
        fault = self.fault
        return AttemptEnded(
            self.call_id,
            self.grant.attempt,
            self.outcome,
            self._usage.prompt_tokens,
            self._output_tokens,
            self._usage.cached_tokens,
            self.ttft_s,
            None if self.began_at is None else perf_counter() - self.began_at,
            self.waited_s,
            self.error,
            self._is_repaired,
            self._format_tokens,
            self._cost,
            isinstance(fault, OutputFormatError | CapacityError),
            fault.shut_s if isinstance(fault, CapacityError) else 0.0,
            self.hidden_s,
        )

    async def generate(
        self, engine: Engine, values: Mapping[str, Any], pace: EnginePace | None, prices: Mapping[str, float] | None
    ) -> Completion | list[Any]:
        """Generate the answer, or the vectors of texts, which are told as they are.

        Parameters
        ----------
        engine
            Is asked.
        values
            Fill the prompt.
        pace
            Takes note of tokens and of the prompt's length.
        prices
            Of the engine, for a million tokens.

        Raises
        ------
        EngineCrashedError
            If the engine has died.
        EngineStalledError
            If it is silent for longer than the grant permits.
        OutputFormatError
            If the answer breaks its format.
        EngineError
            If there is not one vector for each text.
        asyncio.CancelledError
            If the attempt is withdrawn, or its engine has aborted it.
        """
        call, grant = self.call, self.grant
        request = call.request(values, request_id=f"{self.call_id}#{grant.attempt}", priority=grant.priority)
        if pace is not None:
            pace.submitted(request, f"{call.workflow}.{call.node}", self.call_id, grant.attempt)
        start, usage = perf_counter(), None
        try:
            finish_reason, usage = await self._read(engine, request, pace, start)
        finally:
            if pace is not None:
                pace.ended(request.request_id, usage)
        latency_s = perf_counter() - start
        if finish_reason is None:
            raise EngineCrashedError(f"{call.where}: the engine's stream ended without a reason")
        if finish_reason == "abort":
            self.is_withdrawn = True
            raise asyncio.CancelledError
        self._usage = usage or Usage(output_tokens=self._output_tokens)
        self.is_whole = finish_reason == "stop"
        if prices is not None:
            self._cost = self._usage.cost(prices)
        if call.embeds:
            return embedded(values["texts"], self._vectors, call.where)
        return self._completion(finish_reason, latency_s)

    async def _read(
        self, engine: Engine, request: Request, pace: EnginePace | None, start: float
    ) -> tuple[FinishReason | None, Usage | None]:
        """Take in what the engine gives, to the end of its stream; return what it said at the end."""
        grant, stream = self.grant, self.stream
        overdue = Overdue(self.call_id, grant.attempt).to_wire()
        finish_reason, usage = None, None
        async with (
            told_when_overdue(grant.overdue_s, lambda: self.ttft_s is None, lambda: self._send(overdue)),
            bounded_silence(grant.stall_s, lambda: self._deltas, self.call.where),
            aclosing(engine.generate(request)) as deltas,  # type: ignore[type-var]
        ):
            async for delta in deltas:
                self._deltas += 1
                self._alive()
                if not self._is_seen:
                    self._begins(delta, perf_counter() - start)
                if delta.tokens:
                    self._output_tokens += delta.tokens
                    if pace is not None:
                        pace.token(request.request_id, delta.tokens)
                if delta.text:
                    stream.add(delta.text)
                if delta.finish_reason is not None:
                    finish_reason, usage, self._vectors = delta.finish_reason, delta.usage, delta.vectors
        return finish_reason, usage

    def _begins(self, delta: Delta, after_s: float) -> None:
        """Take note of the first token, and tell of the first text of an answer.

        Other calls say it when they end, and so do answers that come in one piece.
        """
        if self.ttft_s is None and (delta.text or delta.tokens):
            self.ttft_s = after_s
        if self.ttft_s is None:
            return
        self._is_seen = bool(delta.text) or not self.call.answers
        if self.call.answers:
            self.hidden_s = after_s - self.ttft_s
            if delta.text and delta.finish_reason is None:
                self._send(FirstToken(self.call_id, self.grant.attempt, after_s).to_wire())

    def _completion(self, finish_reason: FinishReason, latency_s: float) -> Completion:
        """Check a whole answer; what it took is known even if it breaks its format."""
        call, usage, text = self.call, self._usage, "".join(self.stream.pieces)
        if call.choices is not None or call.json_schema is not None:
            self._format_tokens = usage.output_tokens  # all of them, unless the answer is sound
        output = output_of(call, text, finish_reason)
        self._is_repaired = output.is_repaired
        self._format_tokens = format_tokens(call, text, usage.output_tokens)
        return Completion(
            text=text,
            finish_reason=finish_reason,
            usage=usage,
            timing=Timing(self.ttft_s if self.ttft_s is not None else latency_s, latency_s),
            model=call.model,
            value=output.value,
        )
