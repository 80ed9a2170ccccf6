"""Every kind of data gives the same rows, in the same order, from any start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dask_fmware.evaluation.fingerprint.mark import is_same
from dask_fmware.evaluation.sources import DataError, Source, open_source

ROWS = [{"question": f"How {n}?", "expected": f'answer, "{n}"\nwith a second line'} for n in range(40)]


def compute(part: Any) -> Any:
    return part.compute(scheduler="synchronous")


def csv_file(folder: Path) -> Any:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(ROWS).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def jsonl_file(folder: Path) -> Any:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    return str(path)


def parquet_file(folder: Path) -> Any:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet", row_group_size=7)
    return folder / "rows.parquet"


def parquet_folder(folder: Path) -> Any:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    made = folder / "rows"
    made.mkdir()
    for number, start in enumerate(range(0, 40, 15)):
        table = pa.Table.from_pylist(ROWS[start : start + 15])
        parquet.write_table(table, made / f"part-{number}.parquet", row_group_size=4)
    (made / "_SUCCESS").touch()
    return made


def pandas_frame(folder: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(ROWS)


def dask_frame(folder: Path) -> Any:
    return pytest.importorskip("dask.dataframe").from_pandas(pandas_frame(folder), npartitions=3)


def dask_bag(folder: Path) -> Any:
    import dask.bag

    return dask.bag.from_sequence(ROWS, npartitions=3)


def hugging_face(folder: Path) -> Any:
    return pytest.importorskip("datasets").Dataset.from_list(ROWS)


def hugging_face_stream(folder: Path) -> Any:
    return hugging_face(folder).to_iterable_dataset()


def rows(folder: Path) -> Any:
    return ROWS


KINDS = [
    csv_file, jsonl_file, parquet_file, parquet_folder, pandas_frame, dask_frame, dask_bag, hugging_face,
    hugging_face_stream, rows,
]  # fmt: skip


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return open_source(request.param(tmp_path), compute)


def test_rows_come_in_order_from_any_start(made: Source) -> None:
    assert made.columns == ("question", "expected")
    for start in (0, 1, 7, 16, 39, 40, 99):
        assert [dict(row) for row in made.rows(start)] == ROWS[start:]


def test_the_count_is_exact_or_unknown(made: Source) -> None:
    assert made.count() in (40, None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_equal_data_has_one_fingerprint_and_other_data_another(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    same = [open_source(kind(folder), compute).fingerprint for folder in folders[:2]]
    assert same[0] == same[1]
    monkeypatch.setitem(ROWS[0], "question", "another")
    assert open_source(kind(folders[2]), compute).fingerprint != same[0]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_change_amid_a_large_file_is_another_fingerprint(tmp_path: Path, name: str) -> None:
    lines = ["question"] * (name == "rows.csv") + [json.dumps({"question": f"{n:050}"}) for n in range(50_000)]
    (tmp_path / name).write_text("\n".join(lines))
    before = open_source(tmp_path / name, compute).fingerprint
    assert open_source(tmp_path / name, compute).fingerprint == before
    lines[25_000] = lines[25_000].replace("0", "1")
    (tmp_path / name).write_text("\n".join(lines))
    changed = open_source(tmp_path / name, compute).fingerprint
    assert changed != before
    begun_earlier = before.partition("+")[0]  # by a version that looked at both ends alone
    assert is_same(begun_earlier, changed)


def test_columns_are_those_of_all_rows_where_rows_may_differ(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    differing = [{"a": 1}, {"a": 2, "b": 3}, {"c": 4}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, differing)))
    (tmp_path / "parquet").mkdir()
    for number, row in enumerate(differing):
        parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "parquet" / f"{number}.parquet")
    for data in (differing, tmp_path / "rows.jsonl", tmp_path / "parquet"):
        made = open_source(data, compute)
        assert (made.columns, made.has_all_columns, made.count()) == (("a", "b", "c"), True, 3)
        assert [dict(row) for row in made.rows(0)] == differing


def test_missing_cells_of_a_frame_are_none() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"a": ["x", None], "b": [1.5, float("nan")], "c": pandas.to_datetime(["2026-01-01", None])}
    )
    first, second = open_source(frame, compute).rows(0)
    assert (first["a"], first["b"]) == ("x", 1.5)
    assert list(second.values()) == [None, None, None]


def test_a_column_that_is_there_twice_is_refused_as_one_of_them_would_be_lost(tmp_path: Path) -> None:
    frame = pytest.importorskip("pandas").DataFrame([["a", "b"]], columns=["text", "text"])
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "twice.parquet")
    for data in (frame, tmp_path / "twice.parquet"):
        with pytest.raises(DataError, match="column 'text' is there twice"):
            open_source(data, compute).columns


def test_hidden_folders_within_data_are_passed_over(tmp_path: Path) -> None:
    for name in ("rows.csv", ".ipynb_checkpoints/rows-checkpoint.csv", "_old/rows.csv", "more/rows.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"question\n{name}\n")
    assert [row["question"] for row in open_source(tmp_path, compute).rows(0)] == ["more/rows.csv", "rows.csv"]


def test_a_batch_file_of_openai_is_taken_apart(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    request = {"custom_id": "a-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}}
    request["body"]["messages"] = messages  # type: ignore[index]
    path = tmp_path / "batch.jsonl"
    path.write_text(json.dumps(request) + "\n")
    source = open_source(path, compute)
    (row,) = source.rows(0)
    assert source.id_column == "custom_id"
    assert row == {"custom_id": "a-1", "prompt": "Hi", "system": "Be brief.", "messages": messages, "model": "m"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "x,y\n1,2,3\n", "line 2: 3 cells for 2 columns"),
        ("b.csv", "", "is empty"),
        ("c.csv", "x,x\n1,2\n", "'x' is there twice"),
        ("d.jsonl", '{"a": 1}\n{"a": \n', "line 2: not JSON"),
        ("e.jsonl", "[1]\n", "line 1: a list where an object should be"),
        ("f.jsonl", "\n", "is empty"),
        ("g.parquet", "PAR1 not", "cannot be read as Parquet"),
        ("h.txt", "x", "'.txt' cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        list(open_source(tmp_path / name, compute).rows(0))


@pytest.mark.parametrize("kind", ["pandas", "dask.dataframe"])
def test_a_single_column_is_refused_with_how_to_make_a_frame_of_it(kind: str) -> None:
    library = pytest.importorskip(kind)
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(["How?", "Why?"], name="text")
    given = column if kind == "pandas" else library.from_pandas(column, npartitions=1)
    with pytest.raises(DataError, match=r"data is a Series, one column; .*data\.to_frame\('text'\)"):
        open_source(given, compute)


def test_an_array_is_no_column_and_refused_by_its_rows() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match="rows are mappings"):
        list(open_source(pandas.array(["How?"]), compute).rows(0))


@pytest.mark.parametrize("data", [5, {"question": ["a"]}, b"x", "nowhere.csv", [1, 2]])
def test_what_is_no_data_is_refused(data: Any) -> None:
    with pytest.raises(DataError):
        list(open_source(data, compute).rows(0))
