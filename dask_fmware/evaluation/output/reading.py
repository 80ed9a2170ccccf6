"""Reading an output, of this library or another's Parquet with the same columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dask_fmware.errors import SpecError
from dask_fmware.evaluation.output.durable import OutputError
from dask_fmware.evaluation.output.shards import shard_numbers, shard_path

__all__ = ["read_output"]


def read_output(path: Path, columns: Sequence[str] | None = None) -> Any:
    """Return an output, or some of its columns, as a pyarrow table.

    Raises
    ------
    SpecError
        If there is nothing there, or a column is not.
    OutputError
        If the folder or a shard cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if not path.exists():
            raise SpecError(f"there is no output at {path}; give the folder that fm.evaluate wrote")
        files = [shard_path(path, number) for number in shard_numbers(path)] if path.is_dir() else [path]
    except OSError as error:
        raise OutputError(f"{path} cannot be read ({error.strerror or error}); let this user read it") from error
    if not files:
        raise SpecError(f"{path} has no shards yet; let the evaluation finish, or run it again to resume it")
    tables: list[Any] = []
    for file in files:
        try:
            table = parquet.read_table(file, columns=list(columns) if columns is not None else None)
            tables.append(table if not tables else table.select(tables[0].column_names))
        except (OSError, ValueError, KeyError) as error:
            raise OutputError(
                f"{file} is unreadable ({error}); evaluate into the same output with repair=True to make its rows again"
            ) from error
    return pa.concat_tables(tables)
