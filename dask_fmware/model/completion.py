"""What a model call gives back: text, tokens and times. It knows nothing of how it was routed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dask_fmware.model.engine import FinishReason, Usage

__all__ = ["Chunk", "Completion", "Timing"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of one attempt on its replica, on that worker's clock."""

    ttft_s: float  # from the call's arrival at the replica to its first token
    latency_s: float  # from the call's arrival at the replica to its last token


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer of a model call; ``str(completion)`` is its text.

    Attributes
    ----------
    text
        What the model wrote.
    finish_reason
        ``"stop"``, ``"length"`` (``max_tokens`` cut it) or ``"abort"``.
    usage
        Tokens of prompt, output, and prompt that the prefix cache had (`Usage`).
    timing
        Seconds to the first token and to the last, of the attempt that counts, on its replica (`Timing`).
    model
        Name in the deployment.
    value
        What other nodes see: the text, the label that was chosen, or the parsed object.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    timing: Timing
    model: str
    value: Any = field(default=None, repr=False)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:  # a tenth of the time of a frozen dataclass' own
        usage, timing = self.usage, self.timing
        return _completion, (
            self.text,
            self.finish_reason,
            (usage.prompt_tokens, usage.output_tokens, usage.cached_tokens),
            (timing.ttft_s, timing.latency_s),
            self.model,
            None if self.value is self.text else (self.value,),
        )

    def __str__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        """Show the answer in a notebook, escaped: model output is data, not markup."""
        escaped = self.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return (
            f"<div style='white-space:pre-wrap'>{escaped}</div>\n\n"
            f"<small>{self.model}: {self.usage.prompt_tokens} + {self.usage.output_tokens} tokens, "
            f"first after {self.timing.ttft_s:.3f} s, all after {self.timing.latency_s:.3f} s</small>"
        )


def _completion(
    text: str,
    finish_reason: FinishReason,
    usage: tuple[int, int, int],
    timing: tuple[float, float],
    model: str,
    value: tuple[Any] | None,
) -> Completion:
    value_ = text if value is None else value[0]
    return Completion(text, finish_reason, Usage(*usage), Timing(*timing), model, value_)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer while it is generated; ``str(chunk)`` is its text.

    Attributes
    ----------
    text
        The piece; the pieces of an answer make up its text.
    restarted
        True for the first chunk after the answer was made again and came out differently, as when its replica was lost:
        what was shown before is void, and the text begins anew.
    """

    text: str
    restarted: bool = False

    def __str__(self) -> str:
        return f"\n[the answer starts again]\n{self.text}" if self.restarted else self.text
