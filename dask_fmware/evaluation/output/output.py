"""An output while it is written: a lock, a journal of what was finished last, and the shards before it.

A row is in exactly one place. Journal number n becomes shard number n in one step, the move of the written shard to
its name; a journal whose shard is there has been written out and is removed. So whatever moment a crash chooses,
every recorded row is there once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from dask_fmware.evaluation.output.durable import OutputError, sync_folder, writing
from dask_fmware.evaluation.output.journal import Journal, read_journal
from dask_fmware.evaluation.output.lock import LOCK, locked
from dask_fmware.evaluation.output.manifest import MANIFEST, Manifest
from dask_fmware.evaluation.output.owner import check_ours, is_ours, manifest_of_rows
from dask_fmware.evaluation.output.rowset import RowSet
from dask_fmware.evaluation.output.shards import (
    journal_path,
    read_numbers,
    read_shard,
    shard_numbers,
    shard_path,
    write_shard,
)
from dask_fmware.evaluation.record import Record, schema

__all__ = ["Output"]

SHARD_BYTES = 64 << 20  # of journal that become a shard, whatever the number of rows


class Output:
    """Open an output to write it; a context manager.

    Parameters
    ----------
    folder
        Made if it is not there.
    manifest
        What will be written.
    shard_rows
        Rows of a shard.
    repair
        Put unreadable shards aside, and have their rows evaluated again.
    retry_errors
        Drop rows that ended in an error or that a scorer failed on, so that they are evaluated again.
    overwrite
        Begin anew, whatever is there.

    Attributes
    ----------
    done
        Numbers of the rows that are recorded.

    Raises
    ------
    SpecError
        If the folder holds something else, or another evaluation writes into it.
    OutputError
        If it cannot be written, or a shard cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        shard_rows: int = 10_000,
        repair: bool = False,
        retry_errors: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.done = RowSet()
        self._shard_rows = shard_rows
        self._journal: Journal | None = None
        self._writing = Lock()  # rows are written by a thread, which nobody can cancel
        with writing(folder):
            check_ours(folder)
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = locked(folder)
            try:
                self._begin(overwrite)
                self._recover(repair)
                if retry_errors:
                    self._drop_errors()
                self._next_journal()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others write, once what is being written is."""
        with self._writing:
            if self._journal is not None:
                self._journal.close()
            os.close(self._lock)

    def write(self, records: Sequence[Record]) -> None:
        """Record rows; they are on the disk when this returns."""
        assert self._journal is not None
        with self._writing:
            self._journal.append([record.flat() for record in records])
            for record in records:
                self.done.add(record.row)
            if self._journal.rows >= self._shard_rows or self._journal.size_bytes >= SHARD_BYTES:
                self._seal()

    def finish(self) -> None:
        """Turn the rest of the journal into a shard and mark the output complete."""
        with self._writing:
            self._seal()
            if self._journal is not None:
                self._journal.delete()
            if not shard_numbers(self.folder):  # no rows: the columns are there all the same
                write_shard(shard_path(self.folder, self._numbers[-1]), [], self._schema)
            self.manifest = self.manifest.model_copy(update={"rows": len(self.done), "complete": True})
            self.manifest.write(self.folder)

    # -- opening ---------------------------------------------------------------------------------

    def _begin(self, overwrite: bool) -> None:
        if overwrite:
            for path in sorted(self.folder.iterdir(), key=lambda path: path.name == MANIFEST):  # it says whose they are
                if path.name != LOCK and is_ours(path):
                    path.unlink()
        before = manifest_of_rows(self.folder)
        if before is not None:
            before.check_same(self.folder, self.manifest)
            scorers = {name: self.manifest.scorers[name] for name in before.scorers}  # as in its shards
            self.manifest = self.manifest.model_copy(update={"scorers": scorers})
        self._schema = schema(tuple(self.manifest.scorers), self.manifest.kept)
        self.manifest.write(self.folder)

    def _recover(self, repair: bool) -> None:
        """Find out which rows are recorded, and clear away what a crash left."""
        for beside in self.folder.glob(".*.tmp"):
            beside.unlink()
        self._numbers = shard_numbers(self.folder)
        for number in list(self._numbers):
            path = shard_path(self.folder, number)
            try:
                rows = list(read_numbers(path, whole=repair))
            except OutputError:
                if not repair:
                    raise
                path.rename(path.with_name(f"_unreadable-{path.name}"))
                self._numbers.remove(number)
                continue
            journal_path(self.folder, number).unlink(missing_ok=True)
            self._take(rows, path)
        for path in sorted(self.folder.glob("_journal-*.jsonl")):
            number = int(path.stem.rpartition("-")[2])
            Journal(path).close()  # cuts off half a line
            rows = [row["row"] for row in read_journal(path)]
            self._take(rows, path)
            self._numbers.append(number)
            self._turn_into_shard(path, number)
        sync_folder(self.folder)

    def _take(self, rows: list[int], path: Path) -> None:
        try:
            for row in rows:
                self.done.add(row)
        except ValueError as error:
            raise OutputError(
                f"{path}: {error}; a copy of a shard has got into the folder: remove one of them"
            ) from error

    def _drop_errors(self) -> None:
        """Write shards without the rows that failed or that a scorer failed on, each in one step."""
        from pyarrow import compute

        kept = RowSet()
        for number in self._numbers:
            path = shard_path(self.folder, number)
            table = read_shard(path, self._schema)
            is_sound = compute.and_(compute.is_null(table["error"]), compute.is_null(table["score_errors"]))
            sound = table.filter(is_sound)
            if sound.num_rows < table.num_rows:
                write_shard(path, sound.to_pylist(), self._schema)
            for row in sound["row"].to_pylist():
                kept.add(row)
        self.done = kept

    # -- shards ----------------------------------------------------------------------------------

    def _next_journal(self) -> None:
        number = max([*self._numbers, -1]) + 1
        unreadable = [int(p.stem.rpartition("-")[2]) for p in self.folder.glob("_unreadable-part-*.parquet")]
        number = max([number, *(n + 1 for n in unreadable)])
        self._numbers.append(number)
        self._journal = Journal(journal_path(self.folder, number))

    def _seal(self) -> None:
        journal = self._journal
        if journal is None or not journal.rows:
            return
        written = self._turn_into_shard(journal.path, self._numbers[-1])
        if written != journal.rows:
            raise OutputError(
                f"{journal.path} held {written} of {journal.rows} rows: something else has written into {self.folder}; "
                "run the same again to make the rows that are missing"
            )
        journal.close()
        self._next_journal()

    def _turn_into_shard(self, path: Path, number: int) -> int:
        """Write the rows of a journal as a shard, and return how many."""
        rows = list(read_journal(path))
        if rows:
            write_shard(shard_path(self.folder, number), rows, self._schema)
        elif number in self._numbers:
            self._numbers.remove(number)
        with writing(path):
            path.unlink(missing_ok=True)
        return len(rows)
