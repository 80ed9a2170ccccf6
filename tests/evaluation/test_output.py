"""An output that a crash at any moment leaves sound: every recorded row is there, and there once."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware.evaluation.output import Manifest, Output, OutputError, read_output
from dask_fmware.evaluation.output.shards import shard_path, write_shard
from dask_fmware.evaluation.record import schema
from tests.evaluation.outputs import MANIFEST, record, rows_in

pytest.importorskip("pyarrow")


def test_rows_are_read_back_as_they_were(tmp_path: Path) -> None:
    with Output(tmp_path / "out", MANIFEST) as output:
        output.write([record(0), record(1, error="Boom: it", answer=None, scores={})])
        output.finish()
    first, second = read_output(tmp_path / "out").to_pylist()
    assert (first["id"], first["answer"], first["input.question"], first["score.exact"]) == (
        "id-0",
        "ü 0\n",
        "[0]",
        1.0,
    )
    assert first["calls"][0]["replica"] == "large-L4-0"
    assert (second["error"], second["answer"], second["score.exact"]) == ("Boom: it", None, None)
    found = Manifest.read(tmp_path / "out")
    assert found is not None
    assert (found.complete, found.rows) == (True, 2)


def test_plain_parquet_readers_see_the_shards_and_nothing_else(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with Output(tmp_path / "out", MANIFEST, shard_rows=2) as output:
        for row in range(5):
            output.write([record(row)])
        output.finish()
    assert sorted(pandas.read_parquet(tmp_path / "out")["row"]) == [0, 1, 2, 3, 4]


@settings(max_examples=60)
@given(data=st.data())
def test_a_crash_at_any_moment_loses_and_repeats_nothing(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Rows come in batches; before each step on the disk the machine may stop, as a copy of the folder shows."""
    folder = tmp_path_factory.mktemp("out") / "out"
    todo = list(range(data.draw(st.integers(1, 30))))
    shard_rows = data.draw(st.integers(1, 8))
    while True:
        crash_at = data.draw(st.integers(0, 40))
        recorded = _session(folder, todo, shard_rows, crash_at)
        with Output(folder, MANIFEST, shard_rows=shard_rows) as output:
            assert set(recorded) <= {row for row in todo if row in output.done}
            missing = [row for row in todo if row not in output.done]
            if not missing:
                output.finish()
                break
    assert rows_in(folder) == todo


class Stopped(BaseException):
    """The machine stopped."""


def _session(folder: Path, todo: list[int], shard_rows: int, crash_at: int) -> list[int]:
    """Write until the disk has been touched `crash_at` times; return the rows that were acknowledged."""
    steps = 0
    recorded: list[int] = []
    patch = pytest.MonkeyPatch()

    def counted(name: str) -> None:
        real = getattr(os, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == crash_at:
                if name == "pwrite":  # half of a write may have reached the disk
                    real(args[0], args[1][: len(args[1]) // 2], args[2])
                raise Stopped
            if steps > crash_at > 0:
                raise Stopped
            return real(*args, **kwargs)

        patch.setattr(os, name, step)

    try:
        with Output(folder, MANIFEST, shard_rows=shard_rows) as output:
            missing = [row for row in todo if row not in output.done]
            for name in ("pwrite", "fsync", "replace", "ftruncate", "unlink"):
                counted(name)
            while missing:
                batch, missing = missing[:3], missing[3:]
                output.write([record(row) for row in batch])
                recorded += batch
            patch.undo()
    except Stopped:
        pass
    finally:
        patch.undo()
    return recorded


def test_half_a_line_at_the_end_of_the_journal_is_cut_off(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with Output(folder, MANIFEST) as output:
        output.write([record(0), record(1)])
    (journal,) = folder.glob("_journal-*")
    journal.write_bytes(journal.read_bytes()[:-5])
    with Output(folder, MANIFEST) as output:
        assert (0 in output.done, 1 in output.done) == (True, False)
        output.write([record(1)])
        output.finish()
    assert rows_in(folder) == [0, 1]


@pytest.mark.parametrize("damaged", [b"{what?", b"\0\0", b"[1]", b"{}", b'{"row": "1"}', b'{"row": -1}'])
def test_a_damaged_line_of_the_journal_is_named(tmp_path: Path, damaged: bytes) -> None:
    with Output(tmp_path, MANIFEST) as output:
        output.write([record(0)])
    (journal,) = tmp_path.glob("_journal-*.jsonl")
    journal.write_bytes(journal.read_bytes() + damaged + b"\n")
    with pytest.raises(OutputError, match=r"line 2 is damaged .* remove that line"):
        Output(tmp_path, MANIFEST)


def test_a_folder_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(OutputError, match=r"cannot be written: .* Permission denied"):
        Output(tmp_path, MANIFEST)
    with pytest.raises(OutputError, match=rf"^{tmp_path} cannot be read \(Permission denied\); let this user read it"):
        read_output(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    folder, real = tmp_path / "out", os.pwrite
    with Output(folder, MANIFEST) as output:
        output.write([record(0)])

        def full(fd: int, data: bytes, offset: int) -> int:
            real(fd, data[:7], offset)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OutputError, match="recorded before are safe") as caught:
            output.write([record(1)])
        assert ("disk is full" in str(caught.value)) is (number != errno.EIO)
        monkeypatch.undo()
        output.write([record(1)])  # there is room again
        output.finish()
    assert rows_in(folder) == [0, 1]


def test_a_journal_that_lost_rows_to_something_else_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with Output(folder, MANIFEST) as output:
        output.write([record(0)])
        size = (folder / "_journal-00000.jsonl").stat().st_size
        output.write([record(1)])
        os.truncate(folder / "_journal-00000.jsonl", size)
        with pytest.raises(OutputError, match=r"held 1 of 2 rows"):
            output.finish()
    with Output(folder, MANIFEST) as output:
        assert (0 in output.done, 1 in output.done) == (True, False)


def test_an_output_is_closed_when_what_is_being_written_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, begun, go_on = os.pwrite, threading.Event(), threading.Event()

    def slow(fd: int, data: bytes, offset: int) -> int:
        begun.set()
        assert go_on.wait(30)
        return real(fd, data, offset)

    output = Output(tmp_path / "out", MANIFEST)
    monkeypatch.setattr(os, "pwrite", slow)
    with ThreadPoolExecutor(2) as threads:
        written = threads.submit(output.write, [record(0)])
        assert begun.wait(30)
        closed = threads.submit(output.close)
        assert not closed.done()
        go_on.set()
        written.result(30)
        closed.result(30)
    with Output(tmp_path / "out", MANIFEST) as output:
        assert 0 in output.done


def test_a_disk_that_is_full_when_a_shard_is_written_keeps_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "out"
    with Output(folder, MANIFEST, shard_rows=2) as output:
        output.write([record(0)])
        with monkeypatch.context() as patch:
            patch.setattr(parquet, "write_table", full)
            with pytest.raises(OutputError, match=r"part-00000.parquet .*disk is full"):
                output.write([record(1)])
    with Output(folder, MANIFEST, shard_rows=2) as output:
        assert len(output.done) == 2
        output.finish()
    assert rows_in(folder) == [0, 1]


def test_scorers_that_come_in_another_order_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for row, names in enumerate(("ab", "ba")):
        manifest = MANIFEST.model_copy(update={"scorers": {name: name for name in names}})
        with Output(folder, manifest, shard_rows=1) as output:
            output.write([record(row, scores={"a": 0.0, "b": 1.0})])
    table = read_output(folder)
    assert (table["row"].to_pylist(), table["score.a"].to_pylist(), table["score.b"].to_pylist()) == (
        [0, 1], [0.0, 0.0], [1.0, 1.0],
    )  # fmt: skip


def test_shards_whose_columns_are_in_different_orders_are_read(tmp_path: Path) -> None:
    for number, names in enumerate(("ab", "ba")):
        made = [record(number, scores={"a": 0.0, "b": 1.0}).flat()]
        write_shard(shard_path(tmp_path, number), made, schema(tuple(names), ("question",)))
    assert read_output(tmp_path)["score.b"].to_pylist() == [1.0, 1.0]


def test_rows_that_failed_can_be_asked_for_again(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with Output(folder, MANIFEST, shard_rows=2) as output:
        output.write([record(0), record(1, error="Boom: it")])
        output.write([record(2, error="Boom: it"), record(3, score_errors={"exact": "Boom: it"})])
    with Output(folder, MANIFEST, retry_errors=True) as output:
        assert [row for row in range(4) if row in output.done] == [0]
        output.write([record(1), record(2), record(3)])
        output.finish()
    assert rows_in(folder) == [0, 1, 2, 3]
    assert read_output(folder)["error"].null_count == read_output(folder)["score_errors"].null_count == 4
