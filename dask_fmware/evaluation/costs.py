"""What a call cost: what its engine asks for its tokens, or the time it held a slot of a card.

A card of `price_per_hour` whose replicas have n slots each costs a call its seconds on the slot, times the price of
a second, by n and by the replicas that share the card, or by its `slots_per_card` if those are fewer. So a full card is
paid in full, and idle time by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dask_fmware.model.engine import Usage
from dask_fmware.model.report import AttemptReport, CallReport
from dask_fmware.profile.arguments import engine_arguments
from dask_fmware.spec.deployment import Deployment

__all__ = ["Prices"]


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a deployment, by (model, accelerator)."""

    slot_s: Mapping[tuple[str, str], float]  # of a second on a slot
    tokens: Mapping[tuple[str, str], Mapping[str, float]]  # of an API, see `Usage.cost`

    @classmethod
    def of(cls, deployment: Deployment) -> Prices:
        """Read the prices of a deployment."""
        slot_s, tokens = {}, {}
        for model, spec in deployment.models.items():
            for name, placement in spec.on.items():
                priced = engine_arguments(deployment, model, name).get("price_per_million_tokens")
                if isinstance(priced, Mapping):
                    tokens[model, name] = priced
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
        if attempt.cost is not None:
            return attempt.cost
        kind = model, attempt.accelerator
        if kind in self.tokens:  # it broke off
            return Usage(attempt.prompt_tokens, attempt.output_tokens, attempt.cached_tokens).cost(self.tokens[kind])
        if kind not in self.slot_s or attempt.ended_at is None:
            return None
        return (attempt.ended_at - attempt.started_at) * self.slot_s[kind]
