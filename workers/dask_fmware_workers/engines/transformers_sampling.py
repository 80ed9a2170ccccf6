"""How the next token of each request of a batch is drawn: its own seed, its own bounds, its own grammar.

Transformers' continuous batching has one set of sampling parameters and one stream of random numbers for all
requests. Here the draw is made in a logits processor that knows which request each row belongs to, and leaves
only the drawn token: noise depends on seed and position alone, so equal seeds give equal text whatever runs beside.

The draw is the Gumbel-max trick: the largest of ``score / temperature + noise`` is distributed as the softmax.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from dask_fmware.model.engine import Request
from dask_fmware_workers.engines.grammar import choices_grammar

__all__ = ["Sampler"]

MASK_64 = 2**64 - 1


@dataclass(eq=False, slots=True)
class Draw:
    """What one request asks of its next token."""

    seed: int
    temperature: float
    top_p: float
    top_k: int  # 0: all
    matcher: Any = None  # of its grammar
    accepted: int = 0  # tokens that the matcher has seen


class Sampler:
    """Draws of the requests under way.

    Parameters
    ----------
    tokenizer
        Of the model.
    vocabulary
        Columns of the model's scores.
    ends
        Tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, *, vocabulary: int, ends: list[int]) -> None:
        self.ends = frozenset(ends)
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._draws: dict[str, Draw] = {}
        self._defaults: tuple[float, float, int] = (1.0, 1.0, 0)
        self._compiler: Any = None

    def take_defaults(self, config: Any) -> None:
        """Read what a model recommends, from its `GenerationConfig`."""
        if config.do_sample:
            self._defaults = (config.temperature or 1.0, config.top_p or 1.0, config.top_k or 0)

    def draw(self, request: Request, seed: int) -> Draw:
        """Return what a request asks of its tokens; blocks while its grammar is compiled. In any thread.

        Raises
        ------
        ValueError
            If its choices or schema cannot be made into a grammar.
        """
        sampling, (temperature, top_p, top_k) = request.sampling, self._defaults
        return Draw(
            seed,
            temperature if sampling.temperature is None else sampling.temperature,
            top_p if sampling.top_p is None else sampling.top_p,
            top_k if sampling.top_k is None else sampling.top_k,
            self._matcher(request),
        )

    def add(self, number: str, draw: Draw) -> None:
        """Take in a request, before its first token."""
        self._draws[number] = draw

    def remove(self, number: str) -> None:
        """Forget a request."""
        self._draws.pop(number, None)

    def processor(self) -> Any:
        """Return the logits processor that makes the draws."""
        return _Processor(self._draws)

    def _matcher(self, request: Request) -> Any:
        if request.choices is None and request.json_schema is None:
            return None
        import xgrammar

        if self._compiler is None:
            info = xgrammar.TokenizerInfo.from_huggingface(
                self._tokenizer, vocab_size=self._vocabulary, stop_token_ids=sorted(self.ends)
            )
            self._compiler = xgrammar.GrammarCompiler(info)
        try:
            if request.choices is not None:
                grammar = self._compiler.compile_grammar(choices_grammar(request.choices))
            else:
                # Blanks are free in JSON, and a small model may fill a document with them until it is cut.
                schema = json.dumps(dict(request.json_schema or {}))
                grammar = self._compiler.compile_json_schema(schema, any_whitespace=False)
        except RuntimeError as error:
            raise ValueError("no grammar can be made of it") from error
        return xgrammar.GrammarMatcher(grammar)


class _Processor(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Leaves of each row the token that was drawn. Called by the manager's thread only."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 - the base class has it so
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, draws: dict[str, Draw]) -> None:
        self._draws = draws
        self._rows: list[tuple[Draw | None, int]] = []  # draw and position, in the order of the scores
        self._generator: Any = None

    def fill_defaults(self, int32_tensor: Any) -> None:
        """Nothing is kept on the device."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Any:
        """Note whose rows come next; grammars take in the tokens made since."""
        self._rows = []
        for future in requests_with_new_token:
            state = future.state
            draw = self._draws.get(state.request_id)
            self._rows.append((draw, len(state.initial_tokens) + len(state.generated_tokens)))
            if draw is not None and draw.matcher is not None:
                for token in state.generated_tokens[draw.accepted :]:
                    draw.matcher.accept_token(token)
                draw.accepted = len(state.generated_tokens)
        return torch.zeros(len(self._rows), dtype=torch.int32)

    def __call__(self, scores: Any, tensor_arg: Any) -> Any:
        """Scores (requests, vocabulary) in, the same with the drawn token on top out."""
        for row, (draw, position) in enumerate(self._rows[: scores.size(0)]):
            if draw is None:  # cancelled: whatever comes is not read
                continue
            if draw.matcher is not None:
                _keep_allowed(scores[row], draw.matcher)
            if draw.temperature == 0 or draw.top_k == 1:
                continue
            scores[row] = _bounded(scores[row] / draw.temperature, draw) + self._noise(draw.seed, position, scores[row])
        return scores

    def _noise(self, seed: int, position: int, like: Any) -> Any:
        if self._generator is None:
            self._generator = torch.Generator(like.device)
        self._generator.manual_seed(_mixed(seed, position) >> 1)
        return -torch.empty_like(like).exponential_(generator=self._generator).log()


def _bounded(scores: Any, draw: Draw) -> Any:
    """Rule out what is beyond the best `top_k` tokens, and beyond the best that together have `top_p`."""
    if draw.top_p >= 1 and not 0 < draw.top_k < scores.size(0):
        return scores
    ordered, tokens = scores.sort(descending=True)
    if draw.top_k:
        ordered[draw.top_k :] = -torch.inf
    if draw.top_p < 1:
        before = ordered.softmax(0).cumsum(0).roll(1)
        before[0] = 0.0
        ordered[before >= draw.top_p] = -torch.inf
    return torch.empty_like(scores).scatter_(0, tokens, ordered)


def _keep_allowed(scores: Any, matcher: Any) -> None:
    """Rule out what the grammar forbids next."""
    import xgrammar

    if matcher.is_terminated():
        return
    mask = xgrammar.allocate_token_bitmask(1, scores.size(0))
    if not matcher.fill_next_token_bitmask(mask):
        return  # nothing is forbidden
    bits = torch.arange(32, dtype=torch.int32)
    allowed = (mask[0].unsqueeze(1) >> bits & 1).flatten()[: scores.size(0)].bool()
    scores.masked_fill_(~allowed.to(scores.device), -torch.inf)


def _mixed(seed: int, position: int) -> int:
    """Return 64 well-mixed bits of a seed and a position (SplitMix64, Steele et al. 2014)."""
    bits = (seed * 0x9E3779B97F4A7C15 + position * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & MASK_64
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK_64
    return bits ^ (bits >> 31)
