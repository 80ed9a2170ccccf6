"""Arrivals and lengths from a CSV, and how lengths of big models fit into a small context.

Columns: ``arrival_s``, ``prompt_tokens``, ``output_tokens``; others are ignored. A name that ends in
``.gz`` is read through gzip.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from pathlib import Path

from dask_fmware.errors import SpecError

__all__ = ["Lengths", "TraceRow", "fit_lengths", "read_trace", "trace_rows"]

COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")
FITTING_SHARE = 0.95  # of rows that keep their proportion; longer ones are clipped


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of a trace."""

    arrival_s: float  # since the start of the trace
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """How lengths of a trace become lengths of runs: a factor, then a bound."""

    prompt_factor: float
    output_factor: float
    most_padding_tokens: int
    most_answer_tokens: int
    clipped: int  # rows that the bounds cut

    def padding_tokens(self, row: TraceRow) -> int:
        """Tokens to append to the input of a run."""
        return min(round(row.prompt_tokens * self.prompt_factor), self.most_padding_tokens)

    def answer_tokens(self, row: TraceRow) -> int:
        """Bound of the answer: rounded up to a power of two, as each bound is a workflow of its own."""
        wanted = max(1, round(row.output_tokens * self.output_factor))
        return min(1 << (wanted - 1).bit_length(), self.most_answer_tokens)


def read_trace(path: Path, rows: int) -> list[TraceRow]:
    """Read the first rows of a trace file.

    Raises
    ------
    SpecError
        If the file cannot be read, lacks a column or a row, or a value is no number; names the line.
    """
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:  # Excel writes a mark
            found = list(islice(trace_rows(file, str(path)), rows))
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"trace '{path}': cannot be read ({reason}); give a CSV file or a .csv.gz") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"trace '{path}': is no CSV text ({type(error).__name__}); compressed? name it .gz") from None
    if not found:
        raise SpecError(f"trace '{path}': has no rows; it needs one for each run")
    return sorted(found, key=lambda row: row.arrival_s)


def trace_rows(lines: Iterable[str], name: str) -> Iterator[TraceRow]:
    """Yield the rows of a trace from lines of CSV; `name` is for errors."""
    reader = csv.DictReader(lines)
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise SpecError(f"trace '{name}', line 1: no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    for record in reader:
        where = f"trace '{name}', line {reader.line_num}"
        values = []
        for column in COLUMNS:
            try:
                value = float(record[column])
            except (TypeError, ValueError):
                raise SpecError(f"{where}: {column} is {record[column]!r:.40}, not a number") from None
            if not isfinite(value) or value < 0:
                raise SpecError(f"{where}: {column} is {value:g}; it must be 0 or more")
            values.append(value)
        yield TraceRow(values[0], int(values[1]), int(values[2]))


def fit_lengths(rows: Sequence[TraceRow], context_tokens: int) -> Lengths:
    """Scale lengths down so that nearly all rows fit into a context, and clip the rest.

    A quarter of the context is for padding, a sixteenth for the answer: the workflow's own prompts,
    passages and earlier answers take the rest.
    """
    padding, answer = max(1, context_tokens // 4), max(1, context_tokens // 16)
    prompt_factor = min(1.0, padding / max(1, _high(row.prompt_tokens for row in rows)))
    output_factor = min(1.0, answer / max(1, _high(row.output_tokens for row in rows)))
    clipped = sum(
        round(row.prompt_tokens * prompt_factor) > padding or round(row.output_tokens * output_factor) > answer
        for row in rows
    )
    return Lengths(prompt_factor, output_factor, padding, answer, clipped)


def _high(lengths: Iterable[int]) -> int:
    ordered = sorted(lengths)
    return ordered[min(len(ordered) - 1, int(FITTING_SHARE * len(ordered)))]
