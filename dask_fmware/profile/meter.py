"""Engine steps, told from outside by the times at which tokens arrive.

An engine with continuous batching gives each decoding sequence one token in every step, so a step ends when
tokens arrive and the next one has begun when a sequence that has given its token gives another. Tokens of
one step arrive within a fraction of it, in any order. Some engines hand over the tokens of several steps
together: what a sequence got since its last ones is then spread evenly over that time. Requests are admitted first
come first served as slots get free; from admission to its first token a request is prefilling.

The meter sees times and counts; it knows no engine, no law and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

__all__ = ["MeteredStep", "StepMeter"]

APART = 0.5  # of a step: what arrives later than that after the first token of a step belongs to the next
SMOOTHING = 0.2  # weight of the latest step in the running mean of decode steps


@dataclass(frozen=True, slots=True)
class MeteredStep:
    """One step of an engine, or a few or a part of one if tokens came several at once."""

    start_s: float  # when the step before it ended, or when an idle engine was asked
    end_s: float  # when its first token arrived
    steps: float  # tokens that each decoding sequence got
    batch: int  # sequences that decoded
    context_tokens: int  # KV-cache tokens of those sequences at its beginning, summed
    prefilling: int  # requests that had a slot and no token before it
    firsts: tuple[tuple[int, int], ...] = ()  # prompts done in it: (prompt tokens computed, tokens from the cache)

    @property
    def took_s(self) -> float:
        """Duration of all of it."""
        return self.end_s - self.start_s


@dataclass(slots=True)
class _Request:
    prompt_tokens: int
    cached_tokens: int
    tokens: int = 0
    last_s: float = 0.0  # when tokens arrived last


class StepMeter:
    """Steps of one engine, from its requests and their tokens.

    Parameters
    ----------
    slots
        Sequences that the engine runs at once.

    Examples
    --------
    >>> meter = StepMeter(slots=2)
    >>> meter.submitted("a", 100, 0.0)
    >>> for at in (0.5, 0.6, 0.7, 0.8):
    ...     meter.token("a", at)
    >>> [(round(step.took_s, 3), step.batch, step.firsts) for step in meter.take()]
    [(0.5, 0, ((100, 0),)), (0.1, 1, ()), (0.1, 1, ())]
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._requests: dict[str, _Request] = {}  # that have not left, as submitted
        self._done: list[MeteredStep] = []
        self._start_s: float | None = None  # of the step that is open; None: nothing is under way
        self._opened_s: float | None = None  # when its first token arrived; None: none yet
        self._given: dict[str, int] = {}  # tokens in it, by request
        self._steps = 0.0  # in it, by what decoding sequences got; 0: none of them has got any
        self._firsts: list[tuple[int, int]] = []
        self._decoding: set[str] = set()  # sequences that are to get tokens in it
        self._batch = self._context_tokens = self._prefilling = 0
        self._usual_s = inf  # running mean of a decode step

    def submitted(self, request_id: str, prompt_tokens: int, now: float, cached_tokens: int = 0) -> None:
        """A request reached the engine; `cached_tokens` of its prompt are known to need no prefill."""
        if not self._requests:
            self._close()
            self._start_s = now
        self._requests[request_id] = _Request(prompt_tokens, cached_tokens)

    def token(self, request_id: str, now: float, tokens: int = 1) -> None:
        """Tokens of a request arrived."""
        request = self._requests.get(request_id)
        if request is None or tokens <= 0:
            return
        late = self._opened_s is not None and now - self._opened_s > self._apart_s
        if (self._steps or not self._decoding) and (late or request_id in self._given):
            self._close()
        if self._opened_s is None:
            self._open(now)
        elif (
            late and self._decoding and not self._steps
        ):  # first tokens came alone: those of the others tell how many steps there were
            self._opened_s = now
        if not request.tokens:
            self._firsts.append((max(request.prompt_tokens - request.cached_tokens, 1), request.cached_tokens))
        elif request_id not in self._given:
            assert self._opened_s is not None
            assert self._start_s is not None
            share = (self._opened_s - self._start_s) / max(now - request.last_s, 1e-9)
            self._steps = max(self._steps, tokens * min(share, 1.0))
        self._given[request_id] = self._given.get(request_id, 0) + tokens
        request.tokens += tokens
        request.last_s = now

    def ended(self, request_id: str, now: float) -> None:
        """A request is done or was aborted; its slot is free from `now` on."""
        self._requests.pop(request_id, None)
        self._decoding.discard(request_id)
        if not self._requests:
            self._close()
            self._start_s = None

    def take(self) -> list[MeteredStep]:
        """Return the steps that are over and were not taken yet."""
        done, self._done = self._done, []
        return done

    @property
    def _apart_s(self) -> float:
        assert self._opened_s is not None
        assert self._start_s is not None
        return APART * min(self._usual_s, self._opened_s - self._start_s)

    def _open(self, now: float) -> None:
        self._opened_s = now
        admitted = list(self._requests.items())[: self._slots]
        self._decoding = {request_id for request_id, request in admitted if request.tokens}
        decoding = [self._requests[request_id] for request_id in self._decoding]
        self._batch = len(decoding)
        self._context_tokens = sum(request.prompt_tokens + request.tokens for request in decoding)
        self._prefilling = len(admitted) - len(decoding)

    def _close(self) -> None:
        """Note the open step; the next one begins when it ended."""
        if self._opened_s is None or self._start_s is None:
            return
        steps = self._steps or min(self._given.values())
        if self._opened_s > self._start_s:
            step = MeteredStep(
                self._start_s, self._opened_s, steps, self._batch, self._context_tokens,
                self._prefilling, tuple(self._firsts),
            )  # fmt: skip
            self._done.append(step)
            if not step.prefilling:
                each_s = step.took_s / steps
                self._usual_s = each_s if self._usual_s == inf else self._usual_s + SMOOTHING * (each_s - self._usual_s)
        self._start_s, self._opened_s = self._opened_s, None
        self._given, self._firsts, self._steps = {}, [], 0.0
