"""Parquet shards: ``part-00000.parquet``, each written once, in one step."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dask_fmware.evaluation.output.durable import OutputError, replace_durably

__all__ = ["journal_path", "read_numbers", "read_shard", "shard_numbers", "shard_path", "write_shard"]

PART = re.compile(r"part-(\d{5,})\.parquet")


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"part-{number:05d}.parquet"


def journal_path(folder: Path, number: int) -> Path:
    """Where the rows lie that will be that shard."""
    return folder / f"_journal-{number:05d}.jsonl"


def shard_numbers(folder: Path) -> list[int]:
    """Numbers of the shards that are there, in order."""
    return sorted(int(match[1]) for path in folder.iterdir() if (match := PART.fullmatch(path.name)))


def write_shard(path: Path, rows: Iterable[Mapping[str, Any]], schema: Any) -> None:
    """Write rows, all of them or none."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pylist(list(rows), schema=schema)
    replace_durably(path, lambda beside: parquet.write_table(table, beside, compression="zstd"))


def read_numbers(path: Path, *, whole: bool = False) -> Iterator[int]:
    """Yield the row numbers of a shard.

    Parameters
    ----------
    path
        Of the shard.
    whole
        Whether the other columns are read too, to find out if they can be.

    Raises
    ------
    OutputError
        If it cannot be read.
    """
    from pyarrow import parquet

    with _reading(path), parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(65536, columns=None if whole else ["row"]):
            yield from batch.column("row").to_pylist()


def read_shard(path: Path, schema: Any) -> Any:
    """Return a shard as a pyarrow table; OutputError if it cannot be read."""
    from pyarrow import parquet

    with _reading(path):
        return parquet.read_table(path, schema=schema)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are ValueErrors
        raise OutputError(
            f"{path} is unreadable ({error}); restore it from a copy, or give repair=True: it is put aside and its "
            "rows are evaluated again"
        ) from error
