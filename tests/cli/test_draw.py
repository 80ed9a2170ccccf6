"""Pictures of workflows, and how a workflow is named in a shell."""

from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_draw_takes_a_decorated_function(invoke):
    result = invoke("draw", "dask_fmware.demo.shopping:shopping")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("flowchart")
    assert "intent" in result.output


def test_draw_writes_html_by_the_ending_of_the_file(invoke, tmp_path):
    from dask_fmware.demo.rag import rag

    document, picture = tmp_path / "rag.json", tmp_path / "rag.html"
    document.write_text(rag.workflow.to_json())
    result = invoke("draw", document, "-o", picture)
    assert result.exit_code == 0, result.output
    page = picture.read_text()
    assert "<svg" in page
    assert page.startswith("<!doctype html>")
    assert '<meta charset="utf-8">' in page  # a browser reads the file by itself
    assert "<title>rag</title>" in page


def test_the_picture_in_the_readme_is_what_the_command_draws(invoke, tmp_path):
    picture = tmp_path / "shopping.svg"
    assert invoke("draw", "dask_fmware.demo.shopping:shopping", "-o", picture).exit_code == 0
    assert picture.read_text() == (DOCS / "shopping.svg").read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_here:rag", "cannot import"),
        ("dask_fmware.demo.rag:nothing", "has no 'nothing'"),
        ("dask_fmware.demo.rag:retrieve", "not a workflow"),
        ("nothing.yaml", "no such file"),
        ("rag", "no such file; write module:name, such as flows:rag, or the path of a document"),
        ("flows.rag", "no such file; write module:name, such as flows:rag, or the path of a document"),
        (":rag", "is no name of a module; give module:name, such as flows:rag"),
        (".flows:rag", "'.flows' is no name of a module; give module:name, such as flows:rag"),
    ],
)
def test_draw_says_what_it_cannot_find(invoke, name, said):
    result = invoke("draw", name)
    assert result.exit_code == 2
    assert said in result.output


def test_an_error_of_a_module_is_its_own_and_not_that_a_name_is_missing(invoke, tmp_path, monkeypatch):
    (tmp_path / "mistyped_flows.py").write_text("import math\nmath.squareroot(4)\n")
    monkeypatch.chdir(tmp_path)
    result = invoke("draw", "mistyped_flows:rag")
    assert isinstance(result.exception, AttributeError)
    assert "squareroot" in str(result.exception)


def test_draw_writes_only_what_the_ending_of_the_file_says(invoke, tmp_path):
    picture = tmp_path / "rag.png"
    result = invoke("draw", "dask_fmware.demo.rag:rag", "-o", picture)
    assert result.exit_code == 2
    assert "no picture is written as '.png'; name it .svg, .html or .mmd, or give" in result.output.replace("\n", " ")
    assert not picture.exists()
    assert invoke("draw", "dask_fmware.demo.rag:rag", "-o", picture.with_suffix(".mmd")).exit_code == 0
