"""What becomes of the value that a workflow returns: text, JSON, or an error of its row alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

import dask_fmware as fm
from dask_fmware.client.session import Outcome
from dask_fmware.evaluation.accounting import add_answer
from dask_fmware.evaluation.costs import Prices
from dask_fmware.evaluation.record import Record
from dask_fmware.testing import InProcessCluster
from tests.evaluation.jobs import evaluate, small


class Strange:
    """Nothing that JSON knows."""

    def __str__(self) -> str:
        return "strange"


class Box(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    held: Any = 1


ITSELF: dict[str, Any] = {}
ITSELF["it"] = ITSELF


def recorded(value: Any) -> Record:
    record = Record(0, "0")
    add_answer(record, Outcome("run", value, None, None), Prices({}, {}))
    return record


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ({"a": [1, True, None]}, '{"a": [1, true, null]}'),
        (np.int64(5), "5"),
        (np.float32(0.5), "0.5"),
        (np.bool_(True), "true"),
        ({"rows": np.array([[1, 2], [3, 4]])}, '{"rows": [[1, 2], [3, 4]]}'),
        (np.datetime64("2026-01-31T18:00:00", "ns"), '"2026-01-31T18:00:00.000000000"'),
        (Strange(), '"strange"'),
        (Box(), '{"held":1}'),
        ([Box(held=np.int8(3))], '[{"held": 3}]'),
    ],
)
def test_a_value_is_kept_as_text_or_as_json(value: Any, text: str) -> None:
    record = recorded(value)
    assert (record.answer, record.error) == (text, None)


@pytest.mark.parametrize("value", [{(1, 2): 3}, {np.int64(1): 2}, ITSELF, Box(held=Strange())])
def test_a_value_that_json_cannot_hold_is_an_error_of_its_row(value: Any) -> None:
    record = recorded(value)
    assert record.answer is None
    assert record.error is not None
    assert record.error.startswith("WorkflowError: what the workflow returned cannot be written as JSON: ")


def test_a_cell_that_is_kept_may_be_anything() -> None:
    flat = Record(0, "0", kept={"pairs": {(1, 2): 3}, "itself": ITSELF, "list": ["ü"], "none": None}).flat()
    assert (flat["input.pairs"], flat["input.itself"]) == ("{(1, 2): 3}", "{'it': {...}}")
    assert (json.loads(flat["input.list"]), flat["input.none"]) == (["ü"], None)


@fm.task
def shaped(answer, kind):
    return {"pairs": {(1, 2): 3}, "number": np.int64(5), "truth": np.bool_(True)}[kind]


@fm.workflow
def shape(kind):
    return shaped(small("Which?", name="answer"), kind)


async def test_a_row_whose_answer_cannot_be_kept_fails_alone(cluster: InProcessCluster, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = [{"kind": k, "expected": e} for k, e in (("number", 5), ("pairs", 3), ("truth", "true"))]
    for _ in range(2):  # the same again is as sound
        done = await evaluate(cluster, shape, rows, tmp_path / "out", scorers=fm.scorers.exact())
        table = done.to_pandas()
        assert table["error"].isna().tolist() == [True, False, True]
        assert table["answer"].fillna("").tolist() == ["5", "", "true"]
        assert table["score.exact"].tolist()[::2] == [1.0, 1.0]
