"""Shards that something damaged, or put there: they are named, and repaired on request."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest

from dask_fmware.evaluation.output import Output, OutputError, read_output
from tests.evaluation.outputs import MANIFEST, record, rows_in

pytest.importorskip("pyarrow")


def test_an_unreadable_shard_is_named_and_repaired_on_request(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with Output(folder, MANIFEST, shard_rows=2) as output:
        for row in range(6):
            output.write([record(row)])
        output.finish()
    (folder / "part-00001.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(OutputError, match=r"part-00001.parquet is unreadable.*repair=True"):
        read_output(folder)
    with pytest.raises(OutputError, match=r"part-00001.parquet is unreadable.*repair=True"):
        Output(folder, MANIFEST)
    with Output(folder, MANIFEST, repair=True) as output:
        assert [row for row in range(6) if row not in output.done] == [2, 3]
        output.write([record(2), record(3)])
        output.finish()
    assert rows_in(folder) == list(range(6))
    assert [path.name for path in folder.glob("_unreadable*")] == ["_unreadable-part-00001.parquet"]


def test_an_unreadable_shard_whose_journal_is_still_there_loses_no_row(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with Output(folder, MANIFEST) as output:
        output.write([record(0), record(1)])
        journal = (folder / "_journal-00000.jsonl").read_bytes()
        output.finish()
    (folder / "_journal-00000.jsonl").write_bytes(journal)  # the machine stopped before it was removed
    (folder / "part-00000.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(OutputError, match="repair=True"):
        Output(folder, MANIFEST)
    with Output(folder, MANIFEST, repair=True) as output:
        assert len(output.done) == 2
        output.finish()
    assert rows_in(folder) == [0, 1]
    assert not list(folder.glob("_journal-*"))


def test_a_shard_that_is_damaged_in_one_column_is_repaired_too(tmp_path: Path) -> None:
    folder, random = tmp_path / "out", Random(0)
    with Output(folder, MANIFEST) as output:
        output.write([record(row, answer=str(random.random()) * 20) for row in range(200)])
        output.finish()
    shard = folder / "part-00000.parquet"
    content = bytearray(shard.read_bytes())
    at = content.find(b"\x28\xb5\x2f\xfd", len(content) // 4)  # where a compressed page of the answers begins
    content[at : at + 16] = bytes(16)
    shard.write_bytes(content)
    for read in (lambda: read_output(folder), lambda: Output(folder, MANIFEST, retry_errors=True)):
        with pytest.raises(OutputError, match=r"part-00000.parquet is unreadable.*repair=True"):
            read()
    with Output(folder, MANIFEST, repair=True) as output:
        assert len(output.done) == 0
    assert (folder / "_unreadable-part-00000.parquet").exists()


def test_a_shard_that_was_copied_into_the_folder_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with Output(folder, MANIFEST) as output:
        output.write([record(0)])
        output.finish()
    shutil.copy(folder / "part-00000.parquet", folder / "part-00007.parquet")
    with pytest.raises(OutputError, match="row 0 is there twice"):
        Output(folder, MANIFEST)
