"""One row of output: what is kept of a row of data, and its columns in Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

__all__ = ["INPUT", "SCORE", "CallFigures", "Record", "schema"]

SCORE = "score."  # prefix of a scorer's column
INPUT = "input."  # prefix of a column that was kept of the data


@dataclass(slots=True)
class CallFigures:
    """One model call of a row; durations in seconds since it became runnable."""

    node: str
    model: str
    accelerator: str | None
    replica: str | None
    queued_s: float | None
    ttft_s: float | None
    latency_s: float | None
    prompt_tokens: int
    output_tokens: int
    attempts: int
    cost: float | None


@dataclass(slots=True)
class Record:
    """What came of one row. Durations are seconds since the submission of its run."""

    row: int  # its number in the data
    id: str
    answer: str | None = None  # text of the answer; other values as JSON
    error: str | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    score_errors: dict[str, str] = field(default_factory=dict)
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    attempts: int = 0
    ttft_s: float | None = None
    latency_s: float | None = None
    cost: float | None = (
        None  # of its calls, see `Prices`; those of runs that were cancelled for a deadline are not in it
    )
    finished_at: float | None = None  # seconds since 1970, on the client's clock
    run_id: str | None = None
    calls: list[CallFigures] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)  # columns of the data that were asked for

    def flat(self) -> dict[str, Any]:
        """Return the columns of `schema`, and no others."""
        made = asdict(replace(self, kept={}))  # cells of the data may be anything, and only their text is wanted
        del made["kept"]
        made.update({SCORE + name: value for name, value in made.pop("scores").items()})
        made.update({INPUT + name: _text(value) for name, value in self.kept.items()})
        made["score_errors"] = "; ".join(f"{name}: {why}" for name, why in self.score_errors.items()) or None
        return made


def schema(scorers: Sequence[str], kept: Sequence[str]) -> Any:
    """Return the pyarrow schema of an output."""
    import pyarrow as pa

    call = [
        ("node", pa.string()),
        ("model", pa.string()),
        ("accelerator", pa.string()),
        ("replica", pa.string()),
        ("queued_s", pa.float64()),
        ("ttft_s", pa.float64()),
        ("latency_s", pa.float64()),
        ("prompt_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("attempts", pa.int64()),
        ("cost", pa.float64()),
    ]
    return pa.schema(
        [
            ("row", pa.int64()),
            ("id", pa.string()),
            *((INPUT + name, pa.string()) for name in kept),
            ("answer", pa.string()),
            ("error", pa.string()),
            *((SCORE + name, pa.float64()) for name in scorers),
            ("score_errors", pa.string()),
            ("prompt_tokens", pa.int64()),
            ("output_tokens", pa.int64()),
            ("cached_tokens", pa.int64()),
            ("attempts", pa.int64()),
            ("ttft_s", pa.float64()),
            ("latency_s", pa.float64()),
            ("cost", pa.float64()),
            ("finished_at", pa.float64()),
            ("run_id", pa.string()),
            ("calls", pa.list_(pa.struct(call))),
        ]
    )


def _text(value: Any) -> str | None:
    import json

    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, (list, Mapping)):
        return str(value)
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError):  # keys that JSON has not, or what holds itself
        return str(value)
