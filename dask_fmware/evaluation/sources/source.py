"""What a data set is to an evaluation: rows in an order that is the same each time, never all in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

from dask_fmware.errors import SpecError

__all__ = [
    "DataError",
    "Row",
    "Source",
    "digest",
    "digest_of_file",
    "digest_of_middle",
    "distinct",
    "is_missing",
    "shown",
    "surveyed",
]

Row: TypeAlias = Mapping[str, Any]
SAMPLE_BYTES = 1 << 20
SHOWN = 12


class DataError(SpecError):
    """A data set cannot be read, or lacks what was asked of it."""


class Source(Protocol):
    """A data set that is read row by row, several times if need be."""

    @property
    def name(self) -> str:
        """How messages name it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns, those that only some rows have included."""

    @property
    def has_all_columns(self) -> bool:
        """Whether no row has others, which is not known where only the first was read."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal data, wherever it lies; tells a resumed evaluation whether the data is still the same."""

    @property
    def id_column(self) -> str | None:
        """Column that names rows, if the format has one."""

    @property
    def blank_is_none(self) -> bool:
        """Whether an empty cell is how the format says that there is no value."""

    def count(self) -> int | None:
        """Return how many rows there are, or None if only reading them would tell."""

    def rows(self, start: int) -> Iterator[Row]:
        """Yield rows from number `start` on.

        Raises
        ------
        DataError
            At the first row that cannot be read; names the place.
        """


def digest(parts: Iterable[object]) -> str:
    """Return a short hash of values by their text."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        made.update(str(part).encode("utf-8", "surrogatepass") + b"\0")
    return made.hexdigest()


def digest_of_file(path: str | os.PathLike[str]) -> str:
    """Return a hash of a file's size, first and last MiB: to read a large file whole would take as long as a job."""
    size = os.path.getsize(path)
    made = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        made.update(file.read(SAMPLE_BYTES))
        if size > SAMPLE_BYTES:
            file.seek(max(SAMPLE_BYTES, size - SAMPLE_BYTES))
            made.update(file.read(SAMPLE_BYTES))
    return made.hexdigest()


def digest_of_middle(path: str | os.PathLike[str]) -> str:
    """Return a hash of what `digest_of_file` passes over; empty where that is nothing."""
    left = os.path.getsize(path) - 2 * SAMPLE_BYTES
    if left <= 0:
        return ""
    made = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        file.seek(SAMPLE_BYTES)
        while left > 0 and (part := file.read(min(left, SAMPLE_BYTES))):
            made.update(part)
            left -= len(part)
    return made.hexdigest()


def distinct(name: str, columns: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of a data set; DataError if two have one name, as a row would hold one of them."""
    named = tuple(columns)
    if len(set(named)) < len(named):
        twice = next(column for column in named if named.count(column) > 1)
        raise DataError(f"{name}: column '{twice}' is there twice; give each column a name of its own")
    return named


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no value: None, NaN, or what pandas has for missing."""
    return cell is None or (isinstance(cell, float) and cell != cell) or type(cell).__name__ in ("NAType", "NaTType")


def shown(names: Iterable[str]) -> str:
    """List names for a message, the first dozen of them."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return (", ".join(listed[:SHOWN]) + more) or "none"


def surveyed(rows: Iterable[Row]) -> tuple[tuple[str, ...], int]:
    """Return the columns of rows, of which each may lack some that others have, and how many rows there are."""
    found: dict[str, None] = {}
    number = 0
    for row in rows:
        number += 1
        if not row.keys() <= found.keys():
            found.update(dict.fromkeys(row))
    return tuple(found), number
