"""The step-time law: how long one engine iteration takes, from what the engine puts into it.

The law is a sum of non-negative, non-decreasing parts::

    step_s = fixed_s                          a step that does anything at all: weights are read once
           + decode(batch)                    sequences that decode one token each
           + context(context_tokens)          KV cache that those sequences read
           + [prefill_tokens > 0] * (
                 prefill_fixed_s              a step that also prefills
               + prefill(prefill_tokens)      prompt tokens through the weights
               + sequences(prefilled - 1)     prompts beyond the first
               + pair_s * pairs )             attention of prompt tokens to what stands before them

With curves that are straight lines it is the plain law ``w0 + w1*P + w2*B + w3*L (+ w4*P**2)``; knots
in a curve let the cost per token differ between the memory-bound and the compute-bound range.
`benchmarks/results/profile_fits.md` holds the forms that were tried against it.

This module knows numbers only: no model, no card, no clock, and not where the coefficients came from.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dask_fmware.errors import SpecError

__all__ = ["Curve", "StepLaw", "chunk_pairs"]

Floats = NDArray[np.float64]
REMEMBERED = 4096  # prompts whose time is remembered


@dataclass(frozen=True)
class Curve:
    """A non-decreasing piecewise-linear cost in seconds, zero at zero; the last slope continues.

    Examples
    --------
    >>> curve = Curve(slopes_s=(0.0, 0.002), knots=(100.0,))
    >>> curve(50), curve(150)
    (0.0, 0.1)
    """

    slopes_s: tuple[float, ...] = (0.0,)  # seconds per unit in each piece, >= 0; one more than `knots`
    knots: tuple[float, ...] = ()  # where pieces meet, ascending, > 0

    def __post_init__(self) -> None:
        if len(self.slopes_s) != len(self.knots) + 1:
            raise SpecError(
                f"a curve with {len(self.knots)} knots needs {len(self.knots) + 1} slopes, got {len(self.slopes_s)}"
            )
        if any(not isfinite(slope) or slope < 0 for slope in self.slopes_s):
            raise SpecError(f"the slopes of a cost curve must be finite and at least 0, got {self.slopes_s}")
        if any(right <= left for left, right in zip((0.0, *self.knots), self.knots, strict=False)):
            raise SpecError(f"the knots of a cost curve must be positive and ascend, got {self.knots}")

    def __call__(self, x: float) -> float:
        """Cost in seconds of `x` units, ``x >= 0``."""
        if not self.knots:
            return self.slopes_s[0] * x
        start, value_s, slope_s = self._pieces[bisect_right(self.knots, x)]
        return value_s + slope_s * (x - start)

    def array(self, x: Floats) -> Floats:
        """Return the cost of each element of `x`, same shape."""
        if not self.knots:
            return self.slopes_s[0] * x
        piece = np.searchsorted(np.asarray(self.knots), x, side="right")
        pieces = np.asarray(self._pieces)[piece]
        return np.asarray(pieces[..., 1] + pieces[..., 2] * (x - pieces[..., 0]))

    def slope_s(self, x: float) -> float:
        """Seconds that one more unit costs at `x`."""
        return self.slopes_s[bisect_right(self.knots, x)]

    def sum_s(self, start: float, stride: float, count: int) -> float:
        """Sum of the curve at ``start, start + stride, ...``, `count` terms, without visiting each.

        It costs one arithmetic series for each knot that is crossed.
        """
        knots = self.knots
        if not knots:
            return self.slopes_s[0] * count * (start + stride * (count - 1) / 2)
        piece = bisect_right(knots, start)
        if piece == len(knots) or start + stride * (count - 1) < knots[piece]:  # all in one piece
            begins, value_s, slope_s = self._pieces[piece]
            return count * (value_s + slope_s * (start - begins + stride * (count - 1) / 2)) if count > 0 else 0.0
        total_s = 0.0
        while count > 0:
            terms = count
            if stride > 0 and piece < len(knots):
                until_knot = -(-(knots[piece] - start) // stride)  # infinite where the stride is next to nothing
                terms = count if until_knot >= count else max(1, int(until_knot))
            begins, value_s, slope_s = self._pieces[piece]
            total_s += terms * (value_s + slope_s * (start - begins + stride * (terms - 1) / 2))
            start += terms * stride
            count -= terms
            while piece < len(knots) and knots[piece] <= start:
                piece += 1
        return total_s

    def scaled(self, factor: float) -> Curve:
        """Return the same curve with every cost multiplied by `factor`."""
        return Curve(tuple(slope * factor for slope in self.slopes_s), self.knots)

    @cached_property
    def _pieces(self) -> tuple[tuple[float, float, float], ...]:
        """Return where each piece starts, the cost there, and its slope."""
        pieces = [(0.0, 0.0, self.slopes_s[0])]
        for knot, after_s in zip(self.knots, self.slopes_s[1:], strict=True):
            x, value_s, slope_s = pieces[-1]
            pieces.append((knot, value_s + slope_s * (knot - x), after_s))
        return tuple(pieces)


@dataclass(frozen=True)
class StepLaw:
    """Time of one engine step; monotone in every argument and never negative."""

    fixed_s: float = 0.0  # every step
    decode: Curve = Curve()  # of sequences that decode in the step
    context: Curve = Curve()  # of KV-cache tokens of those sequences, summed
    prefill_fixed_s: float = 0.0  # a step with prefill, on top of fixed_s
    prefill: Curve = Curve()  # of prompt tokens in the step
    sequences: Curve = Curve()  # of prompts in the step beyond the first
    pair_s: float = 0.0  # for each pair of a prompt token and a token that it attends to

    def __post_init__(self) -> None:
        for name in ("fixed_s", "prefill_fixed_s", "pair_s"):
            value = getattr(self, name)
            if not isfinite(value) or value < 0:
                raise SpecError(f"step-time law: {name} must be finite and at least 0, got {value}")

    @classmethod
    def plain(cls, w0: float, w1: float, w2: float, w3: float, w4: float = 0.0) -> StepLaw:
        """Return ``w0 + w1*P + w2*B + w3*L + w4*P**2`` with all coefficients in seconds per unit.

        Examples
        --------
        >>> law = StepLaw.plain(0.01, 1e-4, 1e-3, 1e-6)
        >>> round(law.step_s(512, 4, 2000), 6)
        0.0672
        """
        return cls(w0, Curve((w2,)), Curve((w3,)), 0.0, Curve((w1,)), Curve(), 2.0 * w4)

    def step_s(
        self, prefill_tokens: float, batch: float, context_tokens: float, prefilled: int = 1, pairs: float | None = None
    ) -> float:
        """Seconds of one step.

        Parameters
        ----------
        prefill_tokens
            Prompt tokens processed in the step, over all prompts.
        batch
            Sequences that decode one token in the step.
        context_tokens
            Tokens in the KV cache of those sequences, summed.
        prefilled
            Prompts that the prefill tokens belong to; ignored without prefill.
        pairs
            Sum over prompts of tokens times mean context (see `chunk_pairs`); left out, the prompts
            are taken as equally long and starting from nothing.
        """
        total_s = self.fixed_s + self.decode(batch) + self.context(context_tokens)
        if prefill_tokens > 0:
            total_s += self.prefill_s(prefill_tokens, prefilled, pairs)
        return total_s

    def prefill_s(self, prefill_tokens: float, prefilled: int = 1, pairs: float | None = None) -> float:
        """Seconds that prefill adds to a step; 0 without prefill tokens."""
        if prefill_tokens <= 0:
            return 0.0
        if pairs is None:
            pairs = prefill_tokens * prefill_tokens / (2 * max(prefilled, 1))
        more = self.sequences(prefilled - 1) if prefilled > 1 else 0.0
        return self.prefill_fixed_s + self.prefill(prefill_tokens) + more + self.pair_s * pairs

    def decode_s(self, batch: int, context_tokens: float) -> float:
        """Seconds of a step that only decodes, ``step_s(0, batch, context_tokens)``."""
        known = self._decodes.get(batch)
        return (self.base_s(batch) if known is None else known) + self.context(context_tokens)

    def prompt_s(self, tokens: float) -> float:
        """Seconds that one prompt adds to a step, ``prefill_s(tokens)``; those that were asked for are remembered."""
        known = self._prompts.get(tokens)
        if known is None:
            if len(self._prompts) >= REMEMBERED:
                self._prompts.clear()
            known = self._prompts[tokens] = self.prefill_s(tokens)
        return known

    def chunk_s(self, tokens: int) -> float:
        """Seconds that a piece of one prompt adds to a step, ``prefill_s(tokens, 1, 0.0)``: without its attention."""
        known = self._chunks.get(tokens)
        if known is None:
            if len(self._chunks) >= REMEMBERED:
                self._chunks.clear()
            known = self._chunks[tokens] = self.prefill_s(tokens, 1, 0.0)
        return known

    def base_s(self, batch: int) -> float:
        """Seconds of a step that decodes so many sequences, without what their context costs."""
        known = self._decodes.get(batch)
        if known is None:
            known = self._decodes[batch] = self.fixed_s + self.decode(batch)
        return known

    @cached_property
    def _decodes(self) -> dict[int, float]:
        return {}

    @cached_property
    def _chunks(self) -> dict[int, float]:
        return {}

    @cached_property
    def _prompts(self) -> dict[float, float]:
        return {}

    def steps_s(
        self,
        prefill_tokens: ArrayLike,
        batch: ArrayLike,
        context_tokens: ArrayLike,
        prefilled: ArrayLike = 1,
        pairs: ArrayLike | None = None,
    ) -> Floats:
        """Seconds of many steps: `step_s` on arrays that broadcast against each other."""
        tokens = np.asarray(prefill_tokens, dtype=np.float64)
        prompts = np.maximum(np.asarray(prefilled, dtype=np.float64), 1.0)
        attended = tokens**2 / (2 * prompts) if pairs is None else np.asarray(pairs, dtype=np.float64)
        prefill_s = (
            self.prefill_fixed_s
            + self.prefill.array(tokens)
            + self.sequences.array(prompts - 1)
            + self.pair_s * attended
        )
        decode_s = self.decode.array(np.asarray(batch, dtype=np.float64))
        context_s = self.context.array(np.asarray(context_tokens, dtype=np.float64))
        return np.asarray(self.fixed_s + decode_s + context_s + np.where(tokens > 0, prefill_s, 0.0))

    def scaled(self, decode: float = 1.0, prefill: float = 1.0) -> StepLaw:
        """Return the law of an engine that runs its steps `decode` times and its prefill `prefill` times as long."""
        return replace(
            self,
            fixed_s=self.fixed_s * decode,
            decode=self.decode.scaled(decode),
            context=self.context.scaled(decode),
            prefill_fixed_s=self.prefill_fixed_s * prefill,
            prefill=self.prefill.scaled(prefill),
            sequences=self.sequences.scaled(prefill),
            pair_s=self.pair_s * prefill,
        )


def chunk_pairs(tokens: float, before: float) -> float:
    """Pairs that a chunk of `tokens` attends to when `before` tokens of its prompt stand in the cache.

    Chunks add up to the whole prompt, so that the attention of a chunked prefill costs what it costs in one piece.

    >>> chunk_pairs(100, 0) + chunk_pairs(50, 100) == chunk_pairs(150, 0)
    True
    """
    return tokens * (before + tokens / 2)
