"""What an output says on the whole: scores with their intervals, errors, tokens, times, cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from dask_fmware.evaluation.output import Manifest, read_output
from dask_fmware.evaluation.record import SCORE
from dask_fmware.evaluation.recorder import kind_of
from dask_fmware.evaluation.statistics import Mean, mean

__all__ = ["Evaluation", "Summary", "summarize"]

FIGURES = ("row", "error", "score_errors", "prompt_tokens", "output_tokens", "ttft_s", "latency_s", "cost")
SHOWN_ERRORS = 3


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of an output; times are seconds."""

    rows: int
    errors: int
    score_errors: int  # rows that a scorer failed on
    scores: dict[str, Mean | None]
    prompt_tokens: int
    output_tokens: int
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    latency_p50_s: float | None
    latency_p99_s: float | None
    cost: float | None
    common_errors: tuple[tuple[str, int], ...]  # what they say, and in how many rows
    common_score_errors: tuple[tuple[str, int], ...]


def summarize(path: Path) -> Summary:
    """Read the figures of an output."""
    manifest = Manifest.read(path) if path.is_dir() else None
    names = list(manifest.scorers) if manifest is not None else []
    table = read_output(path, [*FIGURES, *(SCORE + name for name in names)])
    errors, score_errors = _kinds(table["error"]), _kinds(table["score_errors"])
    cost = _known(table["cost"])
    return Summary(
        rows=table.num_rows,
        errors=errors.total(),
        score_errors=score_errors.total(),
        scores={name: mean(_floats(table[SCORE + name])) for name in names},
        prompt_tokens=int(_known(table["prompt_tokens"]).sum()),
        output_tokens=int(_known(table["output_tokens"]).sum()),
        ttft_p50_s=_quantile(table["ttft_s"], 0.5),
        ttft_p99_s=_quantile(table["ttft_s"], 0.99),
        latency_p50_s=_quantile(table["latency_s"], 0.5),
        latency_p99_s=_quantile(table["latency_s"], 0.99),
        cost=float(cost.sum()) if cost.size else None,
        common_errors=tuple(errors.most_common(SHOWN_ERRORS)),
        common_score_errors=tuple(score_errors.most_common(SHOWN_ERRORS)),
    )


class Evaluation:
    """An output and what it says; prints as a table, and is the path of its folder to what takes one.

    Attributes
    ----------
    path
        Folder of the output. Anything that reads Parquet reads it.
    summary
        Its figures.
    """

    def __init__(self, path: Path, summary: Summary) -> None:
        self.path = path
        self.summary = summary

    def __fspath__(self) -> str:
        return str(self.path)

    def to_pandas(self) -> Any:
        """Return all rows as a pandas data frame, in the order of the data."""
        return read_output(self.path).sort_by("row").to_pandas()

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {"output": str(self.path), **asdict(self.summary)}

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The figures in words."""
        s = self.summary
        lines = [("rows", f"{s.rows:,}"), ("errors", f"{s.errors:,}")]
        lines += [(name, _interval(figure)) for name, figure in s.scores.items()]
        if s.score_errors:
            lines.append(("rows a scorer failed on", f"{s.score_errors:,}"))
        lines.append(("tokens", f"{s.prompt_tokens:,} + {s.output_tokens:,}"))
        lines.append(("first token p50, p99", _seconds(s.ttft_p50_s, s.ttft_p99_s)))
        lines.append(("latency p50, p99", _seconds(s.latency_p50_s, s.latency_p99_s)))
        if s.cost is not None:
            lines.append(("cost", f"{s.cost:.4g}"))
        lines += [(f"error in {times:,} rows", text[:200]) for text, times in s.common_errors]
        lines += [(f"no score in {times:,} rows", text[:200]) for text, times in s.common_score_errors]
        return lines

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.lines)
        return "\n".join([str(self.path), *(f"  {name:<{width}}  {text}" for name, text in self.lines)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(name)}</td><td style='text-align:left'>{escape(text)}</td></tr>"
            for name, text in self.lines
        )
        return f"<div><b>{escape(str(self.path))}</b><table><tbody>{rows}</tbody></table></div>"


def _kinds(column: Any) -> Counter[str]:
    return Counter(kind_of(error) for error in column.to_pylist() if error is not None)


def _interval(figure: Mean | None) -> str:
    if figure is None:
        return "no score"
    interval = "" if figure.low is None else f"  ({figure.low:.3f} to {figure.high:.3f})"
    return f"{figure.mean:.3f}{interval}"


def _seconds(*values: float | None) -> str:
    return ", ".join("-" if value is None else f"{value:.3f} s" for value in values)


def _floats(column: Any) -> Any:
    return column.to_numpy(zero_copy_only=False).astype(float)


def _known(column: Any) -> Any:
    values = _floats(column)
    return values[np.isfinite(values)]


def _quantile(column: Any, q: float) -> float | None:
    values = _known(column)
    return float(np.quantile(values, q)) if values.size else None
