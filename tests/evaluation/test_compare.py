"""Two outputs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import dask_fmware as fm
from dask_fmware.cli import fmware
from dask_fmware.errors import SpecError
from dask_fmware.evaluation.output import Manifest, Output
from dask_fmware.evaluation.record import Record
from dask_fmware.evaluation.summary import Evaluation, summarize

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")
CANARY = "<script>alert('canary')</script>"


def made(path: Path, right: Any, *, finish: bool = True, ids: Any = None, **manifest: Any) -> Path:
    """Write an output whose rows are right or not."""
    base = Manifest(
        workflow="rag", workflow_fingerprint="w", data="rows.csv", data_fingerprint="d", inputs={},
        scorers={"exact": "e", "length": "l"}, kept=("question",),
    )  # fmt: skip
    with Output(path, base.model_copy(update=manifest)) as output:
        output.write(
            [
                Record(
                    row,
                    str(ids[row] if ids is not None else row),
                    answer=f"{CANARY} {row}",
                    scores={"exact": float(value), "length": 10.0 + row % 7 + 5 * value},
                    latency_s=0.1 * (row % 5) + 1.0,
                    kept={"question": f"{CANARY} how {row}?"},
                )
                for row, value in enumerate(right)
            ]
        )
        if finish:
            output.finish()
        else:
            output._seal()
    return path


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[Path, Path]:
    random = np.random.default_rng(0)
    a = random.random(400) < 0.6
    return made(tmp_path / "a", a), made(tmp_path / "b", a | (random.random(400) < 0.3))


def test_a_real_difference_is_found_and_its_absence_is_not(outputs: tuple[Path, Path]) -> None:
    found = fm.compare(*outputs)
    measures = {measure.name: measure for measure in found.measures}
    assert found.rows == 400
    assert list(measures) == ["exact", "length", "failed", "latency_s", "tokens"]  # no TTFT and no cost was recorded
    assert (measures["exact"].verdict, measures["exact"].difference.worse) == ("better", 0)
    assert measures["exact"].difference.test == "McNemar, exact"
    assert measures["latency_s"].verdict == measures["failed"].verdict == "no difference shown"
    back = {m.name: m for m in fm.compare(*reversed(outputs)).measures}
    assert back["exact"].verdict == "worse"
    assert back["exact"].difference.mean == -measures["exact"].difference.mean


def test_table_and_report_show_figures_and_answers_as_text(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    found = fm.compare(*outputs)
    assert "400 rows in both" in str(found)
    found.to_html(tmp_path / "report.html")
    for shown in ((tmp_path / "report.html").read_text(), found._repr_html_()):
        assert "<script" not in shown
        assert "&lt;script&gt;" in shown
        assert shown.count("<svg") >= 4
        assert "better" in shown
    assert len(found.changes) == 12
    assert all(change.a != change.b for change in found.changes)


def test_only_rows_that_both_have_are_compared(tmp_path: Path) -> None:
    a = made(tmp_path / "a", [1, 0, 1], ids=["x", "y", "z"], id_column="name")
    b = made(tmp_path / "b", [1, 1], ids=["z", "y"], id_column="name", data_fingerprint="other")
    found = fm.compare(a, b)
    assert (found.rows, found.only_a, found.only_b) == (2, 1, 0)
    exact = found.measures[0].difference
    assert (exact.a.mean, exact.b.mean, exact.better) == (0.5, 1.0, 1)
    assert any("matched by 'name'" in note for note in found.notes)


@pytest.mark.parametrize("ids", [list(range(1, 41)), ["same"] * 40], ids=["ids like numbers", "ids that are shared"])
def test_rows_of_the_same_data_are_matched_by_number_where_ids_would_match_others(tmp_path: Path, ids: Any) -> None:
    right = [1, 0] * 20
    a = made(tmp_path / "a", right)
    b = made(tmp_path / "b", right, ids=ids, id_column="name")
    for one, other in ((a, b), (b, b)):
        found = fm.compare(one, other)
        exact = found.measures[0].difference
        assert (found.rows, exact.better, exact.worse) == (40, 0, 0)
    c = made(tmp_path / "c", [0, *right[1:]], ids=ids, id_column="name")
    assert [change.id for change in fm.compare(b, c, scores=["exact"]).changes] == [str(ids[0])]


def test_results_of_evaluations_are_compared_and_one_score_is_named_by_itself(outputs: tuple[Path, Path]) -> None:
    a, b = [Evaluation(path, summarize(path)) for path in outputs]
    assert str(fm.compare(a, b)) == str(fm.compare(*outputs))
    found = fm.compare(a, b, scores="length")
    assert [measure.name for measure in found.measures if measure.is_score] == ["length"]


def test_how_many_rows_a_figure_is_of_is_said(tmp_path: Path) -> None:
    a = made(tmp_path / "a", [1, 1, float("nan"), 0, 1])
    b = made(tmp_path / "b", [1, 1, 1, 0])
    found = fm.compare(a, b)
    assert "4 rows in both; left out: 1 that only A has, 0 that only B has" in str(found)
    assert found.measures[0].difference.rows == 3
    assert any("exact 3" in note and "failed" not in note.partition(":")[2] for note in found.notes)
    assert not fm.compare(b, b).notes


def test_an_unfinished_output_is_compared_and_said(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", [1, 0]), made(tmp_path / "b", [1], finish=False)
    assert any("is not complete" in note for note in fm.compare(a, b).notes)


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    a = made(tmp_path / "a", [1, 0], id_column="name")
    for other, options, said in (
        (made(tmp_path / "b", [1, 0], data_fingerprint="other"), {}, "are different data"),
        (made(tmp_path / "c", [1, 0], ids=[1, 1], id_column="name", data_fingerprint="o"), {}, "its rows share ids"),
        (made(tmp_path / "d", [1, 0], ids=["p", "q"], id_column="name"), {}, "no row in common"),
        (tmp_path / "nothing", {}, "there is no output"),
        (made(tmp_path / "e", [1, 0]), {"scores": ["tone"]}, r"no score 'tone' \(scores: exact, length\)"),
    ):
        with pytest.raises(SpecError, match=said):
            fm.compare(a, other, **options)


def test_the_command_prints_a_table_or_json_and_writes_the_report(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = map(str, outputs)
    shown = CliRunner().invoke(fmware, ["compare", a, b, "--html", str(tmp_path / "r.html")])
    assert (shown.exit_code, "better" in shown.output, (tmp_path / "r.html").exists()) == (0, True, True)
    as_json = CliRunner().invoke(fmware, ["compare", a, b, "--score", "exact", "--json"])
    assert [m["name"] for m in json.loads(as_json.output)["measures"]][:2] == ["exact", "failed"]
    failed = CliRunner().invoke(fmware, ["compare", a, "nowhere"])
    assert (failed.exit_code, "there is no output at nowhere" in failed.output) == (2, True)


def test_a_report_that_cannot_be_written_is_said(outputs: tuple[Path, Path]) -> None:
    failed = CliRunner().invoke(fmware, ["compare", *map(str, outputs), "--html", "/dev/full"])
    assert failed.exit_code == 1
    assert "Error: '/dev/full' cannot be written (No space left on device)" in failed.output
