"""What a scripted engine says: rules for prompts, and the tokens of its answers. It knows no time and no slots."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from dask_fmware.model.engine import FinishReason, Request
from dask_fmware_workers.engines.samples import sample

__all__ = ["Fault", "Rule", "Script", "prompt_of", "tokens_of"]

Fault = Literal["crash", "error", "hang", "memory", "exit"]
TOKEN = re.compile(r"\s?\S{1,3}|\s")
WORDS = ("sky", "oak", "fog", "jay", "cup", "map", "lid", "bay", "pup", "ivy", "wax", "box", "kit", "gym", "hut", "rug")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How prompts that hold a text are answered, where that differs from the engine's other answers."""

    when: str  # text that the prompt holds
    text: str | None = None  # the answer, whatever choices or schema are asked for
    echo: bool = False  # answer with the prompt
    token_s: float | None = None  # seconds for each token
    fault: Fault | None = None  # "crash": the engine, "error", "hang", "memory": this request, "exit": the process
    at_token: int = 0  # tokens generated before the fault
    times: int | None = None  # how often the fault happens on this engine; None is always


@dataclass(frozen=True, slots=True)
class Script:
    """What an engine answers where no rule says otherwise; see `ScriptedEngine`."""

    text: str | None = None
    echo: bool = False
    document: Any = None

    def answer(self, request: Request, rule: Rule | None) -> tuple[list[str], FinishReason]:
        """Return the tokens of the answer, and how it ends if nothing happens."""
        if request.texts is not None:
            return [""], "stop"  # the token that its vectors count as
        tokens = list(islice(self._text(request, rule), request.max_tokens + 1))
        reason: FinishReason = "stop"
        if len(tokens) > request.max_tokens:
            tokens, reason = tokens[:-1], "length"
        whole = "".join(tokens)
        ends = [at for stop in request.sampling.stop if (at := whole.find(stop)) >= 0]
        return (_tokens_until(tokens, min(ends)), "stop") if ends else (tokens, reason)

    def _text(self, request: Request, rule: Rule | None) -> Iterator[str]:
        """Return the tokens of the script."""
        if rule is not None and rule.text is not None:
            return iter(tokens_of(rule.text))
        seed = None if _is_greedy(request) else request.sampling.seed
        draw = random.Random(f"{prompt_of(request)} {seed}")
        if request.choices is not None:
            scripted = self.text if self.text in request.choices else None
            return iter(tokens_of(scripted or draw.choice(request.choices)))
        if request.json_schema is not None:
            document = sample(request.json_schema) if self.document is None else self.document
            return iter(tokens_of(json.dumps(document)))
        if self.echo or (rule is not None and rule.echo):
            return iter(tokens_of(prompt_of(request)))
        if self.text is not None:
            return iter(tokens_of(self.text))
        return (token for word in _endless(draw) for token in tokens_of(word))


def _endless(draw: random.Random) -> Iterator[str]:
    while True:
        yield " " + draw.choice(WORDS)


def _is_greedy(request: Request) -> bool:
    sampling = request.sampling
    return sampling.temperature == 0 or sampling.top_k == 1 or (sampling.top_p is not None and sampling.top_p < 0.001)


def prompt_of(request: Request) -> str:
    """Return the prompt, the turns of a chat as one text, or the texts to be embedded."""
    if request.texts is not None:
        return "\n".join(request.texts)
    if request.messages is None:
        return request.prompt or ""
    return "".join(f"<{message.role}>{message.content}\n" for message in request.messages) + "<assistant>"


def tokens_of(text: str) -> list[str]:
    """Cut a text into tokens of at most four characters."""
    return TOKEN.findall(text)


def _tokens_until(tokens: list[str], end: int) -> list[str]:
    """Return the tokens before a character; the last may be cut."""
    kept: list[str] = []
    for token in tokens:
        if end <= 0:
            break
        kept.append(token[:end])
        end -= len(token)
    return kept
