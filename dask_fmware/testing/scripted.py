"""An engine that follows a script: known text at a known pace, and faults where a test wants them.

It passes the conformance suite of engines, so what holds with it holds with a real one; it knows no
model. Its prompts are cut into tokens of at most four characters, like its answers.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from dask_fmware.errors import (
    DeploymentError,
    EngineCrashedError,
    EngineError,
    EngineLoadError,
    SpecError,
)
from dask_fmware.model.engine import Capabilities, Delta, EngineState, Request, Usage
from dask_fmware.testing.script import Fault, Rule, Script, prompt_of, tokens_of
from dask_fmware_workers.engines.request_checks import check_context, check_request, check_texts
from dask_fmware_workers.engines.word_vectors import word_vector

__all__ = ["Fault", "Rule", "ScriptedEngine"]


@dataclass(slots=True, eq=False)
class _Generation:
    """One accepted request."""

    request: Request
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    aborted: bool = False
    has_slot: bool = False


class ScriptedEngine:
    """Answers without a model.

    Parameters
    ----------
    slots, context_tokens
        As in every engine.
    text
        The answer to everything; without it, words that depend on prompt and seed and never end.
    echo
        Answer with the prompt.
    document
        Answer to a request with a JSON schema; without it, the smallest document that fits.
    token_s
        Seconds for each token.
    load_s, load_error
        Seconds that `start` takes, and what it fails with.
    rules
        `Rule` objects or dictionaries; the first whose `when` is in the prompt applies.
    embeds
        Give vectors and no text: of words, so that texts that share some are similar.
    cores
        Taken and ignored.

    Attributes
    ----------
    requests
        Every request accepted since the engine was made.
    peak
        The most requests that ever held a slot at once.
    outcomes
        How often requests ended ``"stop"``, ``"length"``, ``"abort"`` (or cancelled), ``"failed"``.
    """

    def __init__(
        self,
        *,
        slots: int = 4,
        context_tokens: int = 2048,
        text: str | None = None,
        echo: bool = False,
        document: Any = None,
        token_s: float = 0.0,
        load_s: float = 0.0,
        load_error: str | None = None,
        rules: Sequence[Rule | Mapping[str, Any]] = (),
        embeds: bool = False,
        cores: Sequence[int] | None = None,
    ) -> None:
        if slots < 1:
            raise DeploymentError(f"scripted: slots={slots} is below 1")
        self.rules = [rule if isinstance(rule, Rule) else Rule(**rule) for rule in rules]
        self.slots, self.context_tokens = slots, context_tokens
        self.text, self.echo, self.document, self.token_s = text, echo, document, token_s
        self.load_s, self.load_error, self.embeds = load_s, load_error, embeds
        self.requests: list[Request] = []
        self.outcomes: Counter[str] = Counter()
        self.peak = 0
        self._capabilities: Capabilities | None = None
        self._serving = self._paused = False
        self._faults: Counter[Rule] = Counter()
        self._live: dict[str, _Generation] = {}
        self._queue: list[tuple[float, int, _Generation]] = []
        self._numbers = count()

    # -- what a test does to it ------------------------------------------------------------------

    def pause(self) -> None:
        """Let every request wait before its next token."""
        self._paused = True

    def resume(self) -> None:
        """Let them go on."""
        self._paused = False
        for generation in self._live.values():
            generation.wake.set()

    def crash(self) -> None:
        """Die: what runs fails, and nothing is served until the engine is started again."""
        self._serving = False
        for generation in self._live.values():
            generation.wake.set()

    # -- the Engine protocol ---------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid after `start`."""
        if self._capabilities is None:
            raise EngineError("scripted: the engine has not been started; await start() first")
        return self._capabilities

    async def start(self) -> None:
        """Serve from now on, after `load_s` seconds."""
        await asyncio.sleep(self.load_s)
        if self.load_error is not None:
            raise EngineLoadError(f"scripted: {self.load_error}")
        self._capabilities = Capabilities(
            engine="scripted",
            engine_version="1",
            slots=self.slots,
            context_tokens=self.context_tokens,
            longest_token_bytes=16,
            embeds=self.embeds,
            choices=not self.embeds,
            json_schema=not self.embeds,
            priority=True,
        )
        self._serving = True

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the scripted answer to a request."""
        self._admit(request)
        generation = self._live[request.request_id] = _Generation(request)
        self.requests.append(request)
        outcome, tokens, prompt_tokens = "abort", 0, sum(_token_counts(request))
        rule = next((rule for rule in self.rules if rule.when in prompt_of(request)), None)
        try:
            await self._slot(generation)
            answer, reason = Script(self.text, self.echo, self.document).answer(request, rule)
            for token in [*answer, None]:
                if not generation.aborted:
                    await self._fault(generation, rule, tokens)
                    await self._pace(generation, rule if token is not None else None)
                if not self._serving and not generation.aborted:
                    raise EngineCrashedError("scripted: the engine crashed")
                if generation.aborted:
                    reason = "abort"
                    break
                if token is not None:
                    tokens += 1
                    yield Delta(token, 1)
            outcome = reason
            is_embedded = self.embeds and reason != "abort"
            vectors = [word_vector(text) for text in request.texts or ()] if is_embedded else None
            yield Delta("", 0, reason, Usage(prompt_tokens, tokens), vectors)
        except EngineError:
            outcome = "failed"
            raise
        finally:
            self.outcomes[outcome] += 1
            self._leave(generation)

    async def abort(self, request_id: str) -> None:
        """Stop a request before its next token."""
        generation = self._live.get(request_id)
        if generation is not None:
            generation.aborted = True
            generation.wake.set()

    async def count_tokens(self, request: Request) -> int:
        """Prompt tokens of a request."""
        self._check_serving()
        return sum(_token_counts(request))

    def state(self) -> EngineState:
        """Load at this moment."""
        running = sum(generation.has_slot for generation in self._live.values())
        return EngineState(running, len(self._live) - running)

    async def close(self) -> None:
        """Abort what runs."""
        self._serving, self._capabilities = False, None
        for request_id in list(self._live):
            await self.abort(request_id)
        await asyncio.sleep(0)

    # -- how it does that ------------------------------------------------------------------------

    def _check_serving(self) -> None:
        if not self._serving:
            raise EngineCrashedError("scripted: the engine is not serving; start it, or try another replica")

    def _admit(self, request: Request) -> None:
        check_request(request, engine="scripted", embeds=self.embeds)
        self._check_serving()
        if request.request_id in self._live:
            raise SpecError(f"scripted: request '{request.request_id}' runs already")
        if self.embeds:
            check_texts(request, _token_counts(request), self.context_tokens, engine="scripted")
        else:
            check_context(request, sum(_token_counts(request)), self.context_tokens, engine="scripted")

    async def _slot(self, generation: _Generation) -> None:
        """Wait for a slot; lower priorities first."""
        heapq.heappush(self._queue, (generation.request.priority, next(self._numbers), generation))
        self._fill()
        while not generation.has_slot and not generation.aborted and self._serving:
            generation.wake.clear()
            await generation.wake.wait()

    def _fill(self) -> None:
        running = self.state().running
        while self._queue and running < self.slots:
            generation = heapq.heappop(self._queue)[2]
            if not generation.aborted:
                generation.has_slot = True
                generation.wake.set()
                running += 1
        self.peak = max(self.peak, running)

    def _leave(self, generation: _Generation) -> None:
        del self._live[generation.request.request_id]
        self._queue = [entry for entry in self._queue if entry[2] is not generation]
        heapq.heapify(self._queue)
        self._fill()

    async def _pace(self, generation: _Generation, rule: Rule | None) -> None:
        """Wait as long as one token takes, and while the engine is paused."""
        token_s = self.token_s if rule is None or rule.token_s is None else rule.token_s
        generation.wake.clear()
        if token_s == 0:
            await asyncio.sleep(0)
        else:
            try:
                async with asyncio.timeout(token_s):
                    while not generation.aborted and self._serving:
                        await generation.wake.wait()
                        generation.wake.clear()
            except TimeoutError:
                pass
        while self._paused and not generation.aborted and self._serving:
            await generation.wake.wait()
            generation.wake.clear()

    async def _fault(self, generation: _Generation, rule: Rule | None, tokens: int) -> None:
        if rule is None or rule.fault is None or tokens != rule.at_token:
            return
        if rule.times is not None and self._faults[rule] >= rule.times:
            return
        self._faults[rule] += 1
        match rule.fault:
            case "crash":
                self.crash()
            case "error":
                raise EngineError(f"scripted: request '{generation.request.request_id}' fails, as its rule says")
            case "hang":
                while not generation.aborted and self._serving:
                    generation.wake.clear()
                    await generation.wake.wait()
            case "memory":
                raise MemoryError
            case "exit":
                os.kill(os.getpid(), signal.SIGKILL)


def _token_counts(request: Request) -> list[int]:
    """Tokens of its prompt, or of each of its texts."""
    texts = [prompt_of(request)] if request.texts is None else request.texts
    return [len(tokens_of(text)) for text in texts]
