"""The paper's estimate of a call's cost on a replica: ``l_est = l_x + l_q + l_r``.

From one latency figure for each model and accelerator (section 4.2 of the paper). The load terms are of the card
where replicas share its slots, as the paper keys them, else of the replica. That estimate knows neither batching
nor prefill interference; `expected_s` does where a step-time law is known.
"""

from __future__ import annotations

from dask_fmware.model.immutable import immutable
from dask_fmware.policy.protocol import CallView, Rank, ReplicaView
from dask_fmware.spec.deployment import Latency

__all__ = ["Estimate", "estimate", "execution_s", "expected_parts_s", "expected_s", "free_first"]


@immutable
class Estimate:
    """Seconds until a call has done what its node is for: first token of an answer, else completion."""

    l_x: float  # its own execution
    l_q: float  # calls that wait before it
    l_r: float  # until a running call frees a slot

    @property
    def l_est(self) -> float:
        """The whole of it."""
        return self.l_x + self.l_q + self.l_r


def execution_s(latency: Latency, prompt_tokens: float, output_tokens: float) -> float:
    """Seconds of one call on an idle replica: first token, prompt, then `output_tokens` tokens.

    >>> execution_s(Latency(first_token_s=0.1, prompt_token_s=0.001, output_token_s=0.02), 100, 10)
    0.4
    """
    return latency.first_token_s + prompt_tokens * latency.prompt_token_s + output_tokens * latency.output_token_s


def estimate(call: CallView, replica: ReplicaView, now: float) -> Estimate:
    """Cost of `call` on `replica` if it were bound there at `now`."""
    tokens = 0.0 if call.answers else call.output_tokens
    return Estimate(
        l_x=execution_s(replica.latency, call.prompt_tokens, tokens),
        l_q=replica.waiting_s / (replica.card_slots or replica.slots),
        l_r=max(0.0, replica.slot_free_at - now),
    )


def expected_s(prompt_tokens: float, output_tokens: float, replica: ReplicaView, now: float) -> float:
    """Seconds until a call started now on a replica has given `output_tokens` tokens; 0 stands for the first alone.

    By its step-time law with what runs there, where one is known and the engine batches, else by the figure.
    """
    first_s, rest_s = expected_parts_s(prompt_tokens, output_tokens, replica, now)
    return first_s + rest_s


def expected_parts_s(
    prompt_tokens: float, output_tokens: float, replica: ReplicaView, now: float
) -> tuple[float, float]:
    """`expected_s` until the first token, and from there on."""
    law = replica.law
    if law is None or replica.slots == 1:
        figure = replica.latency
        return execution_s(figure, prompt_tokens, 0.0), output_tokens * figure.output_token_s
    context = replica.context_tokens + prompt_tokens + output_tokens / 2
    step_s = law.decode_s(replica.running + 1, context)
    busy_s = replica.prefill_until - now
    first_s = (busy_s if busy_s > 0.0 else 0.0) + law.prompt_s(prompt_tokens) + 1.5 * step_s
    return first_s, output_tokens * step_s


def free_first(replica: ReplicaView) -> Rank:
    """Order of equally fast replicas by when they could start one more call."""
    queue_s = replica.waiting_s / (replica.card_slots or replica.slots)
    return (replica.slot_free_at + queue_s, replica.card_outstanding, replica.name, replica.replica_id)
