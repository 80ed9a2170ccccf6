"""The rows that are finished and not yet in a shard: an append-only file, one JSON object a line.

A row is recorded once its line has reached the disk. A crash may leave half a line at the end, which is cut off when
the journal is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dask_fmware.evaluation.output.durable import OutputError, sync_folder, writing

__all__ = ["Journal", "read_journal"]


class Journal:
    """An open journal.

    Parameters
    ----------
    path
        Made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        with writing(path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            sync_folder(path.parent)
        self.size_bytes = 0
        for line in _whole_lines(path):
            self.size_bytes += len(line)
            self.rows += 1
        self._cut()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record rows: they are on the disk when this returns, all of them or none.

        Raises
        ------
        OutputError
            If they cannot be written; the journal is as it was before.
        """
        lines = [json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n" for row in rows]
        data = b"".join(lines)
        try:
            with writing(self.path):
                written = 0
                while written < len(data):
                    written += os.pwrite(self._fd, data[written:], self.size_bytes + written)
                os.fsync(self._fd)
        except OutputError:
            self._cut()
            raise
        self.size_bytes += len(data)
        self.rows += len(lines)

    def _cut(self) -> None:
        """Drop what is behind the last whole batch."""
        with writing(self.path):
            os.ftruncate(self._fd, self.size_bytes)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def delete(self) -> None:
        """Close and remove it; its rows are in a shard."""
        self.close()
        with writing(self.path):
            self.path.unlink(missing_ok=True)
            sync_folder(self.path.parent)


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a journal."""
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            row = json.loads(line)
            if not (isinstance(row, dict) and type(row.get("row")) is int and row["row"] >= 0):
                raise ValueError("it is no row")
        except ValueError as error:
            raise OutputError(
                f"{path}, line {number} is damaged ({error}); remove that line and run the same again: its row is "
                "evaluated once more"
            ) from error
        yield row


def _whole_lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line
