"""What a projection needs to know of a replica: its limits and the sequences it holds, as immutable values.

Tokens and counts only: no text, no clock, no engine. The caller keeps it current from engine truth.
"""

from __future__ import annotations

from dataclasses import dataclass

from dask_fmware.errors import SpecError

__all__ = ["Limits", "ReplicaLoad", "SequenceState"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine takes on at once."""

    slots: int  # sequences that run at once, >= 1
    step_tokens: int = 2048  # tokens of one step: decoding sequences first, the rest is the chunk of prefill
    kv_tokens: int | None = None  # tokens that the KV cache holds; None where slots are the only limit

    def __post_init__(self) -> None:
        for name in ("slots", "step_tokens", "kv_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SpecError(f"engine limits: {name} must be at least 1, got {value}")


@dataclass(frozen=True, slots=True)
class SequenceState:
    """One generation and how far it is."""

    prompt_tokens: int  # >= 1
    output_tokens: int  # expected in total, >= 1; one more is assumed where it has generated that many
    ready_tokens: int = 0  # of the prompt, in the KV cache: prefilled, or credited from the prefix cache
    generated_tokens: int = 0  # of the output

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.output_tokens < 1 or self.ready_tokens < 0 or self.generated_tokens < 0:
            raise SpecError(
                "a sequence needs a prompt and an output of at least 1 token and no negative progress, got "
                f"prompt_tokens={self.prompt_tokens}, output_tokens={self.output_tokens}, "
                f"ready_tokens={self.ready_tokens}, generated_tokens={self.generated_tokens}"
            )

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens still to process; the last one always is, because it yields the first token."""
        if self.generated_tokens:
            return 0
        return max(self.prompt_tokens - self.ready_tokens, 1)

    @property
    def decode_tokens(self) -> int:
        """Tokens still to generate, at least one."""
        return max(self.output_tokens - self.generated_tokens, 1)

    @property
    def kv_tokens(self) -> int:
        """Room that it takes in the KV cache when it is done: projections reserve it on admission."""
        return self.prompt_tokens + self.generated_tokens + self.decode_tokens


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """The sequences of one replica at one moment."""

    running: tuple[SequenceState, ...] = ()  # hold a slot, in order of admission
    waiting: tuple[SequenceState, ...] = ()  # in the order in which they will be admitted
