"""What one call costs on an idle card of each type that a model is deployed on: seconds, and seconds of the card.

Where the speed is known from (see `dask_fmware.profile.known`) stands beside each figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dask_fmware.errors import SpecError
from dask_fmware.profile.catalog import near_cards
from dask_fmware.profile.known import UNUSED, known_speed, measured_otherwise
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.projection import Projection
from dask_fmware.profile.record import Profile
from dask_fmware.profile.replica import Limits, ReplicaLoad, SequenceState
from dask_fmware.spec.deployment import Deployment, Latency

__all__ = ["CardLatency", "card_latencies"]


@dataclass(frozen=True, slots=True)
class CardLatency:
    """One call of a model on one type of card."""

    accelerator: str
    replicas: int  # deployed there
    at_once: int  # calls that they take at once
    ttft_s: float  # first token, on an idle replica
    completion_s: float  # last token, on an idle replica
    shared_card_s: float  # seconds of the card that the call takes up while all slots are busy
    price_per_hour: float | None
    source: str  # for people


def card_latencies(
    model: str,
    deployment: Deployment,
    profiles: Sequence[Profile],
    prompt_tokens: int,
    output_tokens: int,
    *,
    to_come: bool = False,
) -> tuple[CardLatency, ...]:
    """Return the figures of one call on the accelerators of `model`, quickest first.

    Those are all that it has replicas on, or may have some on where it has none.

    Parameters
    ----------
    to_come
        Replicas may come to each accelerator that it may have some on, so that all count, as far as its speed is known.

    Raises
    ------
    SpecError
        The model is not deployed, or nothing is known of its speed on one of the accelerators; with `to_come`, on any.
    """
    spec = deployment.models.get(model)
    if spec is None:
        raise SpecError(
            f"model '{model}' is not deployed (deployed: {', '.join(deployment.models)}); add it to the deployment"
        )
    placed = {name: p for name, p in spec.on.items() if p.replicas or to_come} or spec.on
    found, unknown = [], []
    for accelerator, placement in placed.items():
        price = deployment.accelerators[accelerator].price_per_hour
        slots = placement.slots or spec.slots
        known = known_speed(deployment, model, accelerator, profiles)
        if known is None:
            unknown.append(accelerator)
            continue
        if known.law is not None:
            figures = _by_law(known.law, known.step_tokens, slots, prompt_tokens, output_tokens)
        else:
            assert known.latency is not None
            figures = _by_figure(known.latency, prompt_tokens, output_tokens)
        found.append(
            CardLatency(
                accelerator, placement.replicas, _at_once(deployment, accelerator, placement.replicas, slots), *figures,
                price, known.source,
            )
        )  # fmt: skip
    if unknown and not (to_come and found):
        raise SpecError(_not_known(deployment, model, unknown[0], profiles))
    return tuple(sorted(found, key=lambda card: (card.completion_s, card.accelerator)))


def _not_known(deployment: Deployment, model: str, accelerator: str, profiles: Sequence[Profile]) -> str:
    """Say that nothing is known of a speed, what does not help there, and what would."""
    spec = deployment.models[model]
    idle = [UNUSED] if measured_otherwise(deployment, model, accelerator, profiles) else []
    names_it = " or the name it has in the catalog (catalog: NAME)"
    if spec.catalog is not None:
        cards = ", ".join(near_cards(spec.catalog, accelerator))
        idle, names_it = [*idle, f"the catalog has '{spec.catalog}' on other accelerators only: {cards}"], ""
    why = f" ({'; '.join(idle)})" if idle else ""
    return (
        f"nothing is known of the speed of model '{model}' on accelerator '{accelerator}' under engine "
        f"'{spec.engine}'{why}; run dask fmware profile --deployment FILE --model {model}, or give its latency"
        f"{names_it} in the deployment"
    )


def _at_once(deployment: Deployment, accelerator: str, replicas: int, slots: int) -> int:
    """Calls at once on all replicas of an accelerator; on one of them, where none is deployed yet."""
    hardware = deployment.accelerators[accelerator]
    most = max(replicas, 1) * slots
    if hardware.slots_per_card is None:
        return most
    return min(most, hardware.slots_per_card * min(hardware.cards, max(replicas, 1)))


def _by_law(
    law: StepLaw, step_tokens: int | None, slots: int, prompt_tokens: int, output_tokens: int
) -> tuple[float, float, float]:
    limits = Limits(slots, max(step_tokens or prompt_tokens, slots + 1))
    alone = Projection(ReplicaLoad(), limits, law).estimate(SequenceState(prompt_tokens, output_tokens))
    context = slots * (prompt_tokens + output_tokens / 2)
    decode_s = law.step_s(0, slots, context) / slots
    return alone.ttft_s, alone.completion_s, alone.ttft_s + (output_tokens - 1) * decode_s


def _by_figure(latency: Latency, prompt_tokens: int, output_tokens: int) -> tuple[float, float, float]:
    ttft_s = latency.first_token_s + prompt_tokens * latency.prompt_token_s
    completion_s = ttft_s + output_tokens * latency.output_token_s
    return ttft_s, completion_s, completion_s  # a figure knows no batches
