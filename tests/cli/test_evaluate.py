"""`fmware evaluate` before its cluster is there, and after it was interrupted."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from dask_fmware.evaluation.output.lock import locked
from dask_fmware.testing import deployment as deployed
from tests.evaluation.outputs import begun


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "has no column 'question'; did you mean 'questions'? (input 'question' of workflow 'rag' takes it"),
        (
            ["--input", "question=questions", "--input", "question=answer"],
            "'question' is given twice, as questions and",
        ),
        (["--input", "question=questions", "--id", "number"], "has no column 'number'"),
        (["--input", "question=questions", "--score", "exact"], "expected"),
        (
            ["--input", "question=questions", "--score", "regex"],
            "--score regex: give exact, fuzzy, json, regex:PATTERN",
        ),
        (["--input", "question=questions", "--score", "regex:"], "--score regex:: give exact"),
        (["--input", "question=questions", "--score", "json:a.json"], "--score json:a.json: give exact"),
        (
            ["--input", "question=questions", "--score", "regex:A=", "--score", "regex:B"],
            "two scorers are named 'matches'; name them: scorers={'name': scorer, ...}, in a shell --score NAME=SCORER",
        ),
        (["--input", "question=questions", "--tenant", ""], "fm.evaluate: tenant: "),
        (["--input", "question=questions"], "calls model 'large', which is not deployed"),
        (["--input", "question=questions", "--max-errors", "nan"], "max_errors=nan must be a number of rows"),
        (["--input", "question=questions", "--tenant", "without scipy"], "fm.evaluate needs scipy; pip install"),
    ],
)
def test_evaluate_refuses_what_does_not_go_together_before_it_starts_a_cluster(
    invoke, deployment, tmp_path, monkeypatch, arguments, said
):
    monkeypatch.setattr("dask_fmware.cluster.foreground.run_in_foreground", lambda work: pytest.fail("was started"))
    if "without scipy" in arguments:
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "scipy" else found(name))
    data = tmp_path / "data.csv"
    data.write_text("questions,answer\nwhy?,because\n")
    where = ["-o", tmp_path / "out", "--deployment", deployment]
    result = invoke("evaluate", "dask_fmware.demo.rag:rag", data, *where, *arguments)
    assert result.exit_code == 2
    assert said in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("name", "options", "code", "said"),
    [
        ("others", [], 2, "holds files that are no output of an evaluation (notes.txt)"),
        ("another", [], 2, "holds the output of workflow 'rag' as it was before it was changed and of"),
        ("another", ["--overwrite"], 0, "done"),
        ("busy", [], 2, "another evaluation writes into"),
        ("busy", ["--overwrite"], 2, "another evaluation writes into"),
        ("new/deep", [], 0, "done"),
        ("data.csv/out", [], 1, "Not a directory"),
        ("closed/out", [], 1, "Permission denied"),
        ("new", ["--finish-by", "2020-01-31T18:00"], 2, "is in the past"),
    ],
)
def test_an_output_that_is_of_no_use_is_said_before_a_cluster_is_started(
    invoke, tmp_path, monkeypatch, name, options, code, said
):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("dask_fmware.cluster.foreground.run_in_foreground", lambda work: "done")
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and may(path, mode))  # root may
    (tmp_path / "deployment.yaml").write_text(json.dumps(deployed("small", "large")))
    (tmp_path / "data.csv").write_text("question\nwhy?\n")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "notes.txt").write_text("mine")
    (tmp_path / "closed").mkdir()
    begun(tmp_path / "another")
    monkeypatch.setattr("dask_fmware.evaluation.output.lock.PATIENCE_S", 0.0)
    (tmp_path / "busy").mkdir()
    busy = locked(tmp_path / "busy")
    before = sorted(tmp_path.rglob("*"))
    where = ["-o", tmp_path / name, "--deployment", tmp_path / "deployment.yaml", *options]
    result = invoke("evaluate", "dask_fmware.demo.rag:rag", tmp_path / "data.csv", *where)
    os.close(busy)
    assert result.exit_code == code, result.output
    assert said in result.output.replace("\n", " ")
    assert sorted(tmp_path.rglob("*")) == before


def test_data_that_is_damaged_far_down_is_said_before_a_cluster_is_started(invoke, deployment, tmp_path, monkeypatch):
    monkeypatch.setattr("dask_fmware.cluster.foreground.run_in_foreground", lambda work: pytest.fail("was started"))
    data = tmp_path / "data.csv"
    data.write_text("question\n" + "why?\n" * 1000 + '"a quote that nobody ends\n')
    where = [data, "-o", tmp_path / "out", "--deployment", deployment]
    result = invoke("evaluate", "dask_fmware.demo.rag:rag", *where)
    assert result.exit_code == 2
    assert "cannot be read as CSV" in result.output


def test_scorers_of_one_kind_are_told_apart_by_names(invoke, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("dask_fmware.cluster.foreground.run_in_foreground", lambda work: "done")
    monkeypatch.setattr("dask_fmware.evaluation.job.Job.of", lambda *_, **given: asked.append(given["scorers"]))
    (tmp_path / "data.csv").write_text("question\nwhy?\n")
    scores = ["regex:a=b", "yes=regex:Y=1", "exact=exact:right", "whole=dask_fmware.demo.rag:retrieve"]
    options = [word for text in scores for word in ("--score", text)]
    where = [tmp_path / "data.csv", "-o", tmp_path / "out", "--address", "tcp://127.0.0.1:1"]
    assert invoke("evaluate", "dask_fmware.demo.rag:rag", *where, *options).exit_code == 0
    assert [scorer.name for scorer in asked[0]] == ["matches", "yes", "exact", "whole"]
    assert [scorer.function("Y=1") for scorer in asked[0][:2]] == [False, True]


@pytest.mark.parametrize(
    ("options", "said"),
    [([], "run the same command again to go on"), (["--overwrite"], "again, without --overwrite, to go on")],
)
def test_an_interrupted_evaluation_says_how_to_go_on(invoke, tmp_path, monkeypatch, options, said):
    def interrupted(work):
        raise KeyboardInterrupt

    monkeypatch.setattr("dask_fmware.cluster.foreground.run_in_foreground", interrupted)
    (tmp_path / "data.csv").write_text("question\nwhy?\n")
    asked = [tmp_path / "data.csv", "-o", tmp_path / "out", "--address", "tcp://127.0.0.1:1", *options]
    result = invoke("evaluate", "dask_fmware.demo.rag:rag", *asked)
    assert result.exit_code == 130
    assert said in result.output
