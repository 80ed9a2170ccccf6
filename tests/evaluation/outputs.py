"""A small output: what it says that it is of, its records, and the rows that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dask_fmware.evaluation.output import Manifest, Output, read_output
from dask_fmware.evaluation.record import CallFigures, Record

__all__ = ["MANIFEST", "begun", "record", "rows_in"]

MANIFEST = Manifest(
    workflow="rag",
    workflow_fingerprint="w",
    data="rows.csv",
    data_fingerprint="d",
    inputs={"question": "question"},
    scorers={"exact": "e"},
    kept=("question",),
)


def record(row: int, **fields: Any) -> Record:
    call = CallFigures("answer", "large", "L4", "large-L4-0", 0.1, 0.2, 0.3, 5, 7, 1, None)
    made = Record(row, f"id-{row}", answer=f"ü {row}\n", scores={"exact": 1.0}, kept={"question": [row]}, calls=[call])
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def begun(folder: Path, **differing: Any) -> None:
    """Open an output, and write its first row if it has none."""
    with Output(folder, MANIFEST.model_copy(update=differing)) as output:
        if 0 not in output.done:
            output.write([record(0)])


def rows_in(folder: Path) -> list[int]:
    return sorted(read_output(folder)["row"].to_pylist())
