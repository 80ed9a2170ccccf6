"""An output that a crash at any moment leaves sound: every recorded row is there, and there once."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware.errors import FMwareError, SpecError
from dask_fmware.evaluation.output import Manifest, Output, OutputError, read_output
from dask_fmware.evaluation.output.rowset import RowSet
from dask_fmware.evaluation.output.shards import shard_path, write_shard
from dask_fmware.evaluation.record import CallFigures, Record, schema

pytest.importorskip("pyarrow")

MANIFEST = Manifest(
    workflow="rag",
    workflow_fingerprint="w",
    data="rows.csv",
    data_fingerprint="d",
    inputs={"question": "question"},
    scorers={"exact": "e"},
    kept=("question",),
)


def record(row: int, **fields: Any) -> Record:
    call = CallFigures("answer", "large", "L4", "large-L4-0", 0.1, 0.2, 0.3, 5, 7, 1, None)
    made = Record(row, f"id-{row}", answer=f"ü {row}\n", scores={"exact": 1.0}, kept={"question": [row]}, calls=[call])
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def begun(folder: Path, **differing: Any) -> None:
    """Open an output, and write its first row if it has none."""
    with Output(folder, MANIFEST.model_copy(update=differing)) as output:
        if 0 not in output.done:
            output.write([record(0)])


def rows_in(folder: Path) -> list[int]:
    return sorted(read_output(folder)["row"].to_pylist())


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workflow": "chat", "workflow_fingerprint": "x"}, "workflow 'rag', not 'chat'"),
        ({"workflow_fingerprint": "x"}, "workflow 'rag' as it was before it was changed"),
        ({"data_fingerprint": "x"}, "other data"),
        ({"inputs": {"question": "q"}}, "inputs"),
        ({"scorers": {}}, "scorers exact, not none"),
        ({"scorers": {"exact": "x"}}, "scorers exact as they were"),
        ({"kept": ()}, "kept columns question, not none"),
    ],
)
def test_an_output_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    folder = tmp_path / "out"
    with Output(folder, MANIFEST) as output:
        output.write([record(0)])
        output.finish()
    with pytest.raises(SpecError, match=said):
        Output(folder, MANIFEST.model_copy(update=change))
    assert rows_in(folder) == [0]
    Output(folder, MANIFEST.model_copy(update=change), overwrite=True).close()
    assert not list(folder.glob("part-*"))


def test_an_output_that_knows_the_ends_of_its_data_alone_is_gone_on_with_and_then_knows_all(tmp_path: Path) -> None:
    def opened(fingerprint: str) -> None:
        begun(tmp_path / "out", data_fingerprint=fingerprint)

    opened("ends")
    opened("ends+middle")
    with pytest.raises(SpecError, match="other data"):
        opened("ends+another")


def test_an_output_of_a_version_that_did_not_look_at_weights_is_gone_on_with_and_then_does(tmp_path: Path) -> None:
    def opened(**models: str) -> None:
        begun(tmp_path / "out", models=models)

    opened()
    opened(small="a.gguf")
    with pytest.raises(SpecError, match=r"model 'small' of a\.gguf, not of b\.gguf"):
        opened(small="b.gguf")


def test_an_output_of_named_weights_is_not_gone_on_with_by_some_that_have_no_name(tmp_path: Path) -> None:
    begun(tmp_path / "out", models={"small": "a.gguf"})
    with pytest.raises(SpecError, match=r"model 'small' of a\.gguf, not of weights that have no name"):
        begun(tmp_path / "out")
    begun(tmp_path / "out", models={"small": "a.gguf"})


def test_an_output_without_rows_belongs_to_whoever_begins_it(tmp_path: Path) -> None:
    for data in ("a", "b"):
        Output(tmp_path / "out", MANIFEST.model_copy(update={"data_fingerprint": data})).close()
    begun(tmp_path / "out", data_fingerprint="c")
    with pytest.raises(SpecError, match="other data"):
        Output(tmp_path / "out", MANIFEST)


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


def test_a_folder_of_other_files_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(SpecError, match=r"thesis\.tex"):
            Output(tmp_path, MANIFEST, overwrite=overwrite)
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match="is a file"):
        Output(tmp_path / "file", MANIFEST)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    "name", ["part-00000-c1f2.snappy.parquet", "_SUCCESS", "_notes.txt", "part-time/cv.txt", "part-00000.parquet"]
)
def test_files_whose_names_are_like_those_of_an_output_are_left_alone(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FMwareError, match="name another"):
            Output(tmp_path, MANIFEST, overwrite=overwrite)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]


def test_two_evaluations_do_not_write_into_one_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_fmware.evaluation.output.output.LOCK_PATIENCE_S", 0.0)
    with Output(tmp_path / "out", MANIFEST), pytest.raises(SpecError, match="another evaluation writes"):
        Output(tmp_path / "out", MANIFEST)
    Output(tmp_path / "out", MANIFEST).close()


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    with pytest.raises(OutputError, match=r"cannot be locked \(No locks available\).*such as a local disk"):
        Output(tmp_path / "out", MANIFEST)


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


def test_a_shard_that_was_copied_into_the_folder_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with Output(folder, MANIFEST) as output:
        output.write([record(0)])
        output.finish()
    shutil.copy(folder / "part-00000.parquet", folder / "part-00007.parquet")
    with pytest.raises(OutputError, match="row 0 is there twice"):
        Output(folder, MANIFEST)


@given(st.lists(st.integers(0, 300), unique=True))
def test_a_row_set_is_a_set(numbers: list[int]) -> None:
    made = RowSet(numbers)
    assert len(made) == len(numbers)
    assert [n for n in range(310) if n in made] == sorted(numbers)
    assert made.first_missing == next(n for n in range(302) if n not in set(numbers))
    for number in numbers[:1]:
        with pytest.raises(ValueError, match="twice"):
            made.add(number)
