"""CSV, JSON lines and Parquet, one file or several, read as they are needed."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from dask_fmware.evaluation.sources.openai_batch import is_request, request_row
from dask_fmware.evaluation.sources.source import (
    DataError,
    Row,
    digest,
    digest_of_file,
    digest_of_middle,
    distinct,
    surveyed,
)

__all__ = ["CsvSource", "JsonLinesSource", "ParquetSource"]

BATCH_ROWS = 1024  # of Parquet that are in memory at once
CELL_BYTES = 1 << 27  # of CSV, which stops at 128 KiB otherwise


class _FilesSource:
    """Files of one kind, read in the order of their names."""

    blank_is_none = False
    has_all_columns = True

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        first = self.paths[0]
        self.name = str(first) if len(self.paths) == 1 else f"{first.parent} ({len(self.paths)} files)"
        self.id_column: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        return self._sample

    @cached_property
    def _sample(self) -> str:
        return digest([type(self).__name__, *map(digest_of_file, self.paths)])


class _TextSource(_FilesSource, ABC):
    """Files that have to be read from their beginning to find a row."""

    @cached_property
    def fingerprint(self) -> str:
        """Of all that is in them, as they are read whole to count their rows; earlier versions had the first part."""
        middles = list(map(digest_of_middle, self.paths))
        return f"{self._sample}+{digest(middles)}" if any(middles) else self._sample

    def rows(self, start: int) -> Iterator[Row]:
        return islice((row for path in self.paths for row in self._rows_of(path)), start, None)

    @abstractmethod
    def _rows_of(self, path: Path) -> Iterator[Row]:
        """Rows of one file."""

    def count(self) -> int | None:
        """Read through, which takes seconds for a million rows."""
        return sum(1 for _ in self.rows(0))


class CsvSource(_TextSource):
    """CSV with a header; all values are text."""

    blank_is_none = True

    @cached_property
    def columns(self) -> tuple[str, ...]:
        first = self.paths[0]
        try:
            with open(first, newline="", encoding="utf-8-sig") as file:
                header = next(csv.reader(file), [])
        except (OSError, UnicodeError, csv.Error) as error:
            raise DataError(f"{first} cannot be read as CSV in UTF-8: {error}") from error
        if not header:
            raise DataError(f"{first} is empty; a CSV begins with a line of column names")
        return distinct(str(first), header)

    def _rows_of(self, path: Path) -> Iterator[Row]:
        columns = self.columns
        csv.field_size_limit(CELL_BYTES)
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file, strict=True)
                header = tuple(next(reader, ()))
                if header != columns:
                    raise DataError(f"{path}: its columns are not those of {self.paths[0].name}")
                for cells in reader:
                    if len(cells) == len(columns):
                        yield dict(zip(columns, cells, strict=True))
                    elif cells:
                        raise DataError(
                            f"{path}, line {reader.line_num}: {len(cells)} cells for {len(columns)} columns; "
                            "quote cells that hold commas or line breaks"
                        )
        except (OSError, UnicodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read as CSV in UTF-8: {error}") from error


class JsonLinesSource(_TextSource):
    """One JSON object a line; requests of OpenAI's batch format are taken apart."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths)
        first = next(self._lines(self.paths[0]), None)
        if first is None:
            raise DataError(f"{self.paths[0]} is empty; JSON lines have one object a line")
        self._is_batch = is_request(first)
        if self._is_batch:
            self.id_column = "custom_id"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return self._whole[0]

    def count(self) -> int | None:
        return self._whole[1]

    @cached_property
    def _whole(self) -> tuple[tuple[str, ...], int]:
        """Columns and number of rows, read through once, which takes seconds for a million of them."""
        return surveyed(self.rows(0))

    def _rows_of(self, path: Path) -> Iterator[Row]:
        lines = self._lines(path)
        return map(request_row, lines) if self._is_batch else lines

    def _lines(self, path: Path) -> Iterator[dict[str, Any]]:
        number = 0
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if line.isspace():
                        continue
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DataError(f"{path}, line {number}: a {type(row).__name__} where an object should be")
                    if is_request(row) and not isinstance(messages := row["body"].get("messages") or [], list):
                        raise DataError(f"{path}, line {number}: messages is a {type(messages).__name__} and no list")
                    yield row
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        except (ValueError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error


class ParquetSource(_FilesSource):
    """Parquet, one batch of rows in memory at a time; row groups before the start are not read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths)
        self._metadata = [self._open(path).metadata for path in self.paths]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        named = (distinct(str(path), self._open(path).schema_arrow.names) for path in self.paths)
        return tuple(dict.fromkeys(chain.from_iterable(named)))

    def count(self) -> int | None:
        return sum(int(metadata.num_rows) for metadata in self._metadata)

    def rows(self, start: int) -> Iterator[Row]:
        for path, metadata in zip(self.paths, self._metadata, strict=True):
            if start >= metadata.num_rows:
                start -= metadata.num_rows
                continue
            groups = list(range(metadata.num_row_groups))
            while groups and start >= metadata.row_group(groups[0]).num_rows:
                start -= metadata.row_group(groups.pop(0)).num_rows
            yield from islice(self._batches(path, groups), start, None)
            start = 0

    def _batches(self, path: Path, groups: list[int]) -> Iterator[Row]:
        try:
            with self._open(path) as file:
                for batch in file.iter_batches(BATCH_ROWS, row_groups=groups):
                    yield from batch.to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error

    def _open(self, path: Path) -> Any:
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error
