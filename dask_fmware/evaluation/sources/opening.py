"""Finds out what kind of data was given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dask_fmware.evaluation.sources.files import CsvSource, JsonLinesSource, ParquetSource
from dask_fmware.evaluation.sources.source import DataError, Source
from dask_fmware.evaluation.sources.tables import (
    BagSource,
    DaskFrameSource,
    HuggingFaceSource,
    PandasSource,
    SequenceSource,
)

__all__ = ["open_source"]

READERS: dict[str, Callable[[list[Path]], Source]] = {
    ".csv": CsvSource,
    ".jsonl": JsonLinesSource,
    ".ndjson": JsonLinesSource,
    ".parquet": ParquetSource,
    ".pq": ParquetSource,
}


def open_source(data: Any, compute: Callable[[Any], Any]) -> Source:
    """Return a data set as a source.

    Parameters
    ----------
    data
        A path of a file (``.csv``, ``.jsonl``, ``.parquet``) or of a folder of such, a pandas or Dask data frame, a
        Dask bag of mappings, a Hugging Face data set, or an iterable of mappings.
    compute
        Computes a partition of a Dask collection.

    Raises
    ------
    DataError
        If it is none of these, cannot be read or is empty.
    """
    if isinstance(data, (str, os.PathLike)):
        return _open_path(Path(data))
    package = type(data).__module__.partition(".")[0]
    if package in ("pandas", "dask", "dask_expr") and getattr(data, "ndim", 2) == 1 and hasattr(data, "to_frame"):
        raise DataError(
            f"data is a {type(data).__name__}, one column; give a frame with a column for each input of the workflow, "
            f"such as data.to_frame({str(data.name or 'question')!r})"
        )
    if package == "pandas" and hasattr(data, "itertuples"):
        return PandasSource(data)
    if package in ("dask", "dask_expr") and hasattr(data, "get_partition"):
        return DaskFrameSource(data, compute)
    if package == "dask" and hasattr(data, "to_delayed"):
        return BagSource(data, compute)
    if package == "datasets":
        if isinstance(data, dict):
            raise DataError(
                f"the data set has several splits ({', '.join(data)}); give one: data['{next(iter(data))}']"
            )
        return HuggingFaceSource(data)
    if isinstance(data, Iterable) and not isinstance(data, (bytes, dict)):
        return SequenceSource(data)
    raise DataError(
        f"data is a {type(data).__name__}; give a path (.csv, .jsonl, .parquet), a pandas or Dask data frame, a Dask "
        "bag, a Hugging Face data set, or a list of dictionaries"
    )


def _open_path(path: Path) -> Source:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(path)))
        kinds = sorted({p.suffix.lower() for p in files})
        if len(kinds) != 1:
            raise DataError(f"{path} holds files of {len(kinds)} kinds ({', '.join(kinds) or 'none'}); give one kind")
    else:
        if not path.exists():
            raise DataError(f"there is no {path}")
        files, kinds = [path], [path.suffix.lower()]
    reader = READERS.get(kinds[0])
    if reader is None:
        raise DataError(f"{path}: '{kinds[0]}' cannot be read (known: {', '.join(READERS)})")
    return reader(files)


def _is_hidden(path: Path) -> bool:
    """Whether it, or a folder that it is in, is no data: _SUCCESS, .ipynb_checkpoints with copies of rows."""
    return any(part.startswith(("_", ".")) for part in path.parts)
