"""Tells the scheduler at what pace this worker's engine runs: times of its steps beside the profile, progress of calls.

Steps are told from the tokens of the calls (`dask_fmware.profile.meter`), so that any engine will do. What was
noted is sent together, at most once in `INTERVAL_S`, and nothing is sent while nothing runs. Only counts and seconds
are kept: of a prompt its length, which is all that a step's time depends on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any

from dask_fmware.model.engine import Request, Usage
from dask_fmware.model.messages import StepsTimed
from dask_fmware.profile.meter import StepMeter
from dask_fmware.profile.record import LiveProfile, fingerprint
from dask_fmware.profile.step_report import StepReporter

__all__ = ["EnginePace"]

INTERVAL_S = 0.5  # between two messages, at least
LEAST_S = 0.03  # of engine time in one report
MOST = 64  # reports in one message; more of them would say no more
MOST_NODES = 10_000  # of which is known how long their prompts are
SMOOTHING = 0.1  # weight of the latest call in what is expected of a node's prompts
BYTES_PER_TOKEN = 4.0  # until a call of a node has said


class EnginePace:
    """The pace of one engine.

    Parameters
    ----------
    replica_id
        By which the scheduler knows this worker.
    send
        Sends a message to the scheduler.
    slots
        Requests that the engine runs at once.
    profile
        JSON of its `LiveProfile`; without one, only the progress of calls is told.
    """

    def __init__(
        self, replica_id: str, send: Callable[[dict[str, Any]], None], slots: int, profile: str | None = None
    ) -> None:
        self._replica_id, self._send = replica_id, send
        self._meter = StepMeter(slots)
        self._tokens: dict[str, tuple[str, int, int]] = {}  # request id -> (call id, attempt, output tokens)
        self._bytes: dict[str, tuple[str, int]] = {}  # request id -> (node, bytes of its prompt)
        self._per_byte: dict[str, tuple[float, float]] = {}  # node -> tokens, and cached share of them
        self._reports: list[tuple[float, float, float, float]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.profiled(profile)

    def profiled(self, profile: str | None) -> None:
        """Compare with another profile from now on."""
        self._fingerprint = "" if profile is None else fingerprint(profile)
        self._reports.clear()
        self._reporter = None
        if profile is not None:
            live = LiveProfile.from_wire(profile)
            self._reporter = StepReporter(live.law.law(), live.step_tokens, least_s=LEAST_S)

    def submitted(self, request: Request, node: str, call_id: str, attempt: int) -> None:
        """The engine is asked for a call; its prompt is counted in bytes until the engine has counted tokens."""
        texts = [request.prompt or "", *(turn.content for turn in request.messages or ()), *(request.texts or ())]
        size = sum(len(text.encode(errors="replace")) for text in texts)  # the engine refuses what is no text
        tokens, cached = self._per_byte.get(node, (1.0 / BYTES_PER_TOKEN, 0.0))
        prompt = max(1, round(size * tokens))
        self._bytes[request.request_id] = node, size
        self._tokens[request.request_id] = call_id, attempt, 0
        self._meter.submitted(request.request_id, prompt, perf_counter(), min(round(cached * prompt), prompt - 1))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tell)

    def token(self, request_id: str, tokens: int) -> None:
        """Tokens of a call came."""
        call_id, attempt, before = self._tokens[request_id]
        self._tokens[request_id] = call_id, attempt, before + tokens
        self._meter.token(request_id, perf_counter(), tokens)

    def ended(self, request_id: str, usage: Usage | None) -> None:
        """A call is over; `usage` says how long its prompt was, if it came to its own end."""
        self._meter.ended(request_id, perf_counter())
        del self._tokens[request_id]
        node, size = self._bytes.pop(request_id)
        if usage is not None and usage.prompt_tokens and size:
            seen = usage.prompt_tokens / size, usage.cached_tokens / usage.prompt_tokens
            known = self._per_byte.pop(node, seen)
            self._per_byte[node] = (
                known[0] + SMOOTHING * (seen[0] - known[0]),
                known[1] + SMOOTHING * (seen[1] - known[1]),
            )
            if len(self._per_byte) > MOST_NODES:  # definitions come and go; the one that was heard of longest ago goes
                del self._per_byte[next(iter(self._per_byte))]
        self._note()

    def close(self) -> None:
        """Tell nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note(self) -> None:
        """Turn metered steps into reports."""
        for step in self._meter.take():
            if self._reporter is not None and (report := self._reporter.add(step)) is not None:
                self._reports.append((report.decode_s, report.prefill_s, report.measured_s, report.steps))
        del self._reports[:-MOST]

    def _tell(self) -> None:
        self._note()
        self._timer = None
        if self._tokens:  # while something runs there will be more to tell
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tell)
        tokens = tuple(progress for progress in self._tokens.values() if progress[2])
        if self._reports or tokens:
            message = StepsTimed(self._replica_id, self._fingerprint, tuple(self._reports), tokens)
            self._reports.clear()
            self._send(message.to_wire())
