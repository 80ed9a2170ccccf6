"""What a call cost: the time it held a slot of a card, or the tokens of an API.

A card of `price_per_hour` whose replicas have n slots each costs a call its seconds on the slot, times the price of
a second, by n and by the replicas that share the card, or by its `slots_per_card` if those are fewer. So a full card is
paid in full, and idle time by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dask_fmware.model.report import AttemptReport, CallReport
from dask_fmware.spec.deployment import Deployment

__all__ = ["Prices"]

TOKENS = 1e6  # prices of an API are for a million


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a deployment."""

    slot_s: Mapping[tuple[str, str], float]  # (model, accelerator) -> price of a second on a slot
    tokens: Mapping[str, Mapping[str, Any]]  # model -> price of a million tokens: input, cached_input, output

    @classmethod
    def of(cls, deployment: Deployment) -> Prices:
        """Read the prices of a deployment."""
        slot_s, tokens = {}, {}
        for model, spec in deployment.models.items():
            priced = spec.arguments.get("price_per_million_tokens")
            if isinstance(priced, Mapping):
                tokens[model] = priced
            for name, placement in spec.on.items():
                card = deployment.accelerators[name]
                if card.price_per_hour is not None:
                    slots = (placement.slots or spec.slots) * card.replicas_per_card
                    at_once = slots if card.slots_per_card is None else min(slots, card.slots_per_card)
                    slot_s[model, name] = card.price_per_hour / 3600 / at_once
        return cls(slot_s, tokens)

    def of_call(self, call: CallReport) -> float | None:
        """Return what all attempts of a call cost, or None where there is no price."""
        costs = [self._of_attempt(call.model, attempt) for attempt in call.attempts]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if known else None

    def _of_attempt(self, model: str, attempt: AttemptReport) -> float | None:
        if (prices := self.tokens.get(model)) is not None:
            cached = attempt.cached_tokens
            fresh = attempt.prompt_tokens - cached
            prompt = float(prices.get("input", 0.0))
            spent = fresh * prompt + cached * float(prices.get("cached_input", prompt))
            return (spent + attempt.output_tokens * float(prices.get("output", 0.0))) / TOKENS
        price = self.slot_s.get((model, attempt.accelerator))
        if price is None or attempt.ended_at is None:
            return None
        return (attempt.ended_at - attempt.started_at) * price
