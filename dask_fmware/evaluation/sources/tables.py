"""Data that is in memory or behind an object: pandas, Dask collections, Hugging Face data sets, iterables of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import Any

from dask_fmware.evaluation.sources.source import DataError, Row, digest, distinct, is_missing, surveyed

__all__ = ["BagSource", "DaskFrameSource", "HuggingFaceSource", "PandasSource", "SequenceSource"]

Compute = Callable[[Any], Any]  # computes one partition, wherever that is
BATCH_ROWS = 1024


class _ObjectSource:
    """Data with a name and no file."""

    name: str
    id_column: str | None = None
    blank_is_none = False
    has_all_columns = True

    def __init__(self, data: Any) -> None:
        self.data = data

    def count(self) -> int | None:
        return len(self.data)


class PandasSource(_ObjectSource):
    """A pandas data frame."""

    name = "a pandas data frame"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return distinct(self.name, map(str, self.data.columns))

    @cached_property
    def fingerprint(self) -> str:
        try:
            from pandas.util import hash_pandas_object

            hashes = hash_pandas_object(self.data, index=False).to_numpy().tobytes().hex()
        except TypeError:  # cells that cannot be hashed, lists for one
            hashes = digest(self.data.itertuples(index=False))
        return digest(["pandas", self.columns, hashes])

    def rows(self, start: int) -> Iterator[Row]:
        return _frame_rows(self.data.iloc[start:], self.columns)


class DaskFrameSource(_ObjectSource):
    """A Dask data frame, one partition in memory at a time."""

    name = "a Dask data frame"

    def __init__(self, data: Any, compute: Compute) -> None:
        super().__init__(data)
        self._compute = compute

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return distinct(self.name, map(str, self.data.columns))

    @cached_property
    def fingerprint(self) -> str:
        from dask.base import tokenize

        return digest(["dask", tokenize(self.data)])

    def count(self) -> int | None:
        return None

    def rows(self, start: int) -> Iterator[Row]:
        parts = (self._compute(self.data.get_partition(n)) for n in range(self.data.npartitions))
        return islice(chain.from_iterable(_frame_rows(part, self.columns) for part in parts), start, None)


class BagSource(_ObjectSource):
    """A Dask bag of mappings, one partition in memory at a time."""

    name = "a Dask bag"
    has_all_columns = False  # to read all of it takes the cluster as long as its partitions do

    def __init__(self, data: Any, compute: Compute) -> None:
        super().__init__(data)
        self._compute = compute

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(next(iter(self.rows(0)), {}))

    @cached_property
    def fingerprint(self) -> str:
        from dask.base import tokenize

        return digest(["bag", tokenize(self.data)])

    def count(self) -> int | None:
        return None

    def rows(self, start: int) -> Iterator[Row]:
        parts = (self._compute(part) for part in self.data.to_delayed())
        return _mappings(islice(chain.from_iterable(parts), start, None), self.name, start)


class HuggingFaceSource(_ObjectSource):
    """A ``datasets.Dataset`` or ``IterableDataset``."""

    name = "a Hugging Face data set"

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.has_all_columns = bool(data.column_names)  # one that is streamed may know none

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.data.column_names or next(iter(self.data), {}))

    @cached_property
    def fingerprint(self) -> str:
        known = getattr(self.data, "_fingerprint", None)  # streamed ones have none: their first row stands for them
        return digest(["hugging face", known or (self.columns, next(iter(self.data), None))])

    def count(self) -> int | None:
        return len(self.data) if hasattr(self.data, "__len__") else None

    def rows(self, start: int) -> Iterator[Row]:
        if not hasattr(self.data, "__len__"):
            return iter(self.data.skip(start))
        return self._slices(start)

    def _slices(self, start: int) -> Iterator[Row]:
        for first in range(start, len(self.data), BATCH_ROWS):
            part = self.data[first : first + BATCH_ROWS]
            columns = list(part)
            for cells in zip(*part.values(), strict=True):
                yield dict(zip(columns, cells, strict=True))


class SequenceSource(_ObjectSource):
    """A list of mappings."""

    name = "a list of rows"

    def __init__(self, data: Iterable[Any]) -> None:
        super().__init__(data if isinstance(data, Sequence) else list(data))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return surveyed(self.rows(0))[0]

    @cached_property
    def fingerprint(self) -> str:
        return digest(["rows", *self.data])

    def rows(self, start: int) -> Iterator[Row]:
        return _mappings(islice(self.data, start, None), self.name, start)


def _frame_rows(frame: Any, columns: tuple[str, ...]) -> Iterator[Row]:
    for cells in frame.itertuples(index=False, name=None):
        yield dict(zip(columns, map(_plain, cells), strict=True))


def _plain(cell: Any) -> Any:
    """Python's value of a cell: numpy's scalars unpacked, what pandas has for missing as None."""
    if isinstance(cell, str):
        return cell
    if hasattr(cell, "item") and getattr(cell, "ndim", 0) == 0:
        cell = cell.item()
    return None if is_missing(cell) else cell


def _mappings(items: Iterable[Any], name: str, start: int) -> Iterator[Row]:
    for number, item in enumerate(items, start):
        if not isinstance(item, Mapping):
            raise DataError(f"{name}: row {number} is a {type(item).__name__}; rows are mappings of column to value")
        yield item
