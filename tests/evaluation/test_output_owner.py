"""Whose an output is: it is gone on with by the same evaluation alone, and no file of others is touched."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from dask_fmware.errors import FMwareError, SpecError
from dask_fmware.evaluation.output import Output, OutputError, check_output
from tests.evaluation.outputs import MANIFEST, begun, record, rows_in

pytest.importorskip("pyarrow")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workflow": "chat", "workflow_fingerprint": "x"}, "workflow 'rag', not 'chat'"),
        ({"workflow_fingerprint": "x"}, "workflow 'rag' as it was before it was changed"),
        ({"data_fingerprint": "x"}, r"other data \(rows\.csv with other content\)"),
        ({"data": "more.csv", "data_fingerprint": "x"}, r"other data \(rows\.csv, not more\.csv\)"),
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
    monkeypatch.setattr("dask_fmware.evaluation.output.lock.PATIENCE_S", 0.0)
    with Output(tmp_path / "out", MANIFEST), pytest.raises(SpecError, match="another evaluation writes"):
        Output(tmp_path / "out", MANIFEST)
    Output(tmp_path / "out", MANIFEST).close()


def test_a_look_ahead_finds_an_evaluation_that_writes_and_disturbs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_fmware.evaluation.output.lock.PATIENCE_S", 0.0)
    check_output(tmp_path / "out", MANIFEST)
    assert not (tmp_path / "out").exists()
    for overwrite in (False, True):
        with Output(tmp_path / "out", MANIFEST), pytest.raises(SpecError, match="another evaluation writes into"):
            check_output(tmp_path / "out", MANIFEST, overwrite=overwrite)
    check_output(tmp_path / "out", MANIFEST)
    Output(tmp_path / "out", MANIFEST).close()


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    with pytest.raises(OutputError, match=r"cannot be locked \(No locks available\).*such as a local disk"):
        Output(tmp_path / "out", MANIFEST)
