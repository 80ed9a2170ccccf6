"""What the emulated engine says: how many tokens, and which placeholder for each.

It decides length and text of an answer before the first token is played; when each token comes, it does
not know. Everything that is drawn depends on the prompt and the seed of the request only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from random import Random
from typing import Any

from dask_fmware.errors import DeploymentError
from dask_fmware.model.engine import FinishReason, Request
from dask_fmware_workers.engines.samples import sample
from dask_fmware_workers.engines.words import WORDS

__all__ = ["CHARACTERS_PER_TOKEN", "Answer", "Answers", "prompt_text"]

CHARACTERS_PER_TOKEN = 4
SPACED_WORDS = tuple(" " + word for word in WORDS)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    pieces: Sequence[str]  # text of each token, at least one
    finish_reason: FinishReason

    def text(self, start: int, end: int) -> str:
        """Text of the tokens from `start` up to `end`."""
        return "".join(self.pieces[start:end])


class Answers:
    """How answers are drawn.

    Parameters
    ----------
    output_tokens
        Length of answers without a format; see `EmulatedEngine`.
    labels
        Odds of labels; labels that are not listed are never chosen, unless none of a request's is.

    Raises
    ------
    DeploymentError
        If a length or weight is out of its bounds.
    """

    def __init__(
        self, output_tokens: int | Sequence[int] | Mapping[str, float] | None, labels: Mapping[str, float] | None
    ) -> None:
        self._lengths: tuple[int, ...] = ()
        self._median = self._sigma = 0.0
        match output_tokens:
            case None:
                pass
            case bool():
                raise _no_length(output_tokens)
            case int():
                self._lengths = (output_tokens,)
            case {"median": median, "sigma": sigma, **others} if not others and median >= 1 and sigma >= 0:
                self._median, self._sigma = float(median), float(sigma)
            case [*lengths] if lengths and all(isinstance(length, int) for length in lengths):
                self._lengths = tuple(lengths)
            case _:
                raise _no_length(output_tokens)
        if any(length < 1 for length in self._lengths):
            raise _no_length(output_tokens)
        self._labels = dict(labels or {})
        if any(not 0 <= weight < float("inf") for weight in self._labels.values()):
            raise DeploymentError(f"emulated: labels={self._labels} must have finite weights of at least 0")

    def answer(self, request: Request, prompt: str, default_seed: int) -> Answer:
        """Return the answer to a request; `default_seed` is used where it brings none."""
        if request.texts is not None:
            return Answer([""], "stop")  # the token that its vectors count as
        sampling = request.sampling
        is_greedy = sampling.temperature == 0 or sampling.top_k == 1 or (sampling.top_p or 1.0) < 0.001
        seed = None if is_greedy else default_seed if sampling.seed is None else sampling.seed
        draw = Random(f"{seed} {prompt}")
        limit = request.max_tokens
        if request.choices is not None:
            pieces = _cut(self._label(request.choices, draw))
        elif request.json_schema is not None:
            pieces = _cut(json.dumps(sample(request.json_schema)))
        else:
            length = self._length(draw, limit)
            pieces = _words(min(length, limit), draw)
            return _stopped(Answer(pieces, "stop" if length < limit else "length"), sampling.stop)
        whole = Answer(pieces[:limit], "length" if len(pieces) > limit else "stop")
        return _stopped(whole, sampling.stop)

    def _label(self, choices: Sequence[str], draw: Random) -> str:
        weights = [self._labels.get(choice, 0.0) for choice in choices]
        return draw.choices(choices, weights)[0] if any(weights) else draw.choice(choices)

    def _length(self, draw: Random, limit: int) -> int:
        if self._lengths:
            return draw.choice(self._lengths)
        if self._median:
            return max(1, round(self._median * exp(self._sigma * draw.gauss())))
        return limit


def prompt_text(request: Request) -> str:
    """All text that the model would read."""
    if request.texts is not None:
        return "\n".join(request.texts)
    if request.messages is None:
        return request.prompt or ""
    return "".join(f"<{message.role}>{message.content}\n" for message in request.messages) + "<assistant>"


def _words(count: int, draw: Random) -> list[str]:
    """Return common words: a walk through the list with a stride of its own."""
    size = len(SPACED_WORDS)
    at, stride = draw.randrange(size), draw.randrange(1, size)
    return [SPACED_WORDS[(at + i * stride) % size] for i in range(count)]


def _cut(text: str) -> list[str]:
    return [text[at : at + CHARACTERS_PER_TOKEN] for at in range(0, len(text), CHARACTERS_PER_TOKEN)]


def _stopped(answer: Answer, stops: Sequence[str]) -> Answer:
    """End an answer before the first stop string, with the token that completes it."""
    if not stops:
        return answer
    whole = "".join(answer.pieces)
    found = [(at, at + len(stop)) for stop in stops if (at := whole.find(stop)) >= 0]
    if not found:
        return answer
    keep, seen = min(found)
    pieces, begins = [], 0
    for piece in answer.pieces:
        pieces.append(piece[: max(0, keep - begins)])
        begins += len(piece)
        if begins >= seen:
            break
    return Answer(pieces, "stop")


def _no_length(output_tokens: Any) -> DeploymentError:
    return DeploymentError(
        f"emulated: output_tokens={output_tokens!r} is no length: give a number of at least 1, a list of numbers, "
        '{"median": .., "sigma": ..}, or nothing'
    )
