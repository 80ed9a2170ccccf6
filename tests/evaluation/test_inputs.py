"""Which value of a row goes into which input of the workflow, and what becomes of those that a row has none for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.bag
import pytest

import dask_fmware as fm
from dask_fmware.errors import SpecError
from dask_fmware.evaluation.output import Manifest
from dask_fmware.testing import InProcessCluster
from tests.evaluation.jobs import evaluate, small

pytest.importorskip("pyarrow")

ROWS = [
    {"question": "a"},
    {"question": "b", "context": "books"},
    {"question": "c", "context": None},
    {"question": "d", "context": float("nan")},
]
PROMPTS = ["a from memory", "b from books", "c from memory", "d from memory"]


@fm.workflow
def rag(question, context="memory"):
    return small("{question} from {context}", question=question, context=context, name="answer")


def rows(folder: Path) -> Any:
    return ROWS


def json_lines(folder: Path) -> Any:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return folder / "rows.jsonl"


def bag(folder: Path) -> Any:
    return dask.bag.from_sequence(ROWS, npartitions=2)


def frame(folder: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(ROWS)


def csv_file(folder: Path) -> Any:
    (folder / "rows.csv").write_text("question,context\na,\nb,books\nc, \nd,\n")
    return folder / "rows.csv"


def asked(cluster: InProcessCluster) -> list[str]:
    return sorted(request.prompt for engine in cluster.engines.values() for request in engine.requests)


@pytest.mark.parametrize("kind", [rows, json_lines, bag, frame, csv_file], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("inputs", [None, {"context": "context"}])
async def test_an_input_with_a_default_takes_it_where_a_row_has_no_value(
    cluster: InProcessCluster, tmp_path: Path, kind: Any, inputs: Any
) -> None:
    done = await evaluate(cluster, rag, kind(tmp_path), tmp_path / "out", inputs=inputs)
    assert (done.summary.rows, done.summary.errors) == (4, 0)
    assert asked(cluster) == PROMPTS


async def test_an_output_of_a_bag_belongs_to_the_inputs_that_its_first_row_has(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    await evaluate(cluster, rag, bag(tmp_path), tmp_path / "out", limit=1)
    found = Manifest.read(tmp_path / "out")
    assert found is not None
    assert found.inputs == {"question": "question"}
    assert (await evaluate(cluster, rag, bag(tmp_path), tmp_path / "out")).summary.rows == 4


async def test_a_column_that_no_row_has_is_refused_for_an_input_with_a_default_too(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    for data in (rows(tmp_path), json_lines(tmp_path)):
        with pytest.raises(SpecError, match=r"no column 'contxt'; did you mean 'context'"):
            await evaluate(cluster, rag, data, tmp_path / "out", inputs={"context": "contxt"})


async def test_an_input_without_a_default_costs_a_row_that_has_nothing_for_it(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    data = [{"question": "a"}, {"question": float("nan")}, {"context": "books"}]
    table = (await evaluate(cluster, rag, data, tmp_path / "out")).to_pandas()
    assert table["error"].isna().tolist() == [True, False, False]
    assert "column 'question' is empty" in table["error"][1]
    assert "column 'question' is missing" in table["error"][2]
