"""A workflow over a data set, on a cluster of scripted engines in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import dask
import dask.bag
import pytest

import dask_fmware as fm
from dask_fmware.errors import SpecError, UnknownModelError
from dask_fmware.evaluation.failures import EvaluationStopped
from dask_fmware.evaluation.progress import Progress
from dask_fmware.testing import InProcessCluster, Rule, deployment
from tests.evaluation.jobs import ask, data, evaluate, small

pytest.importorskip("pyarrow")


@fm.workflow
def verdict(answer, expected):
    return small("Is {answer} {expected}?", answer=answer, expected=expected, choices=["good", "bad"], name="look")


@fm.workflow
def elsewhere(question):
    return fm.Model("unknown")("{question}", question=question)


async def test_every_row_is_answered_scored_and_accounted(cluster: InProcessCluster, tmp_path: Path) -> None:
    scorers = {"exact": fm.scorers.exact(), "length": len_of, "judge": fm.scorers.judge(verdict, labels=LABELS)}
    done = await evaluate(cluster, ask, data(20), tmp_path / "out", scorers=scorers, keep="question")
    table = done.to_pandas()
    assert list(table["row"]) == list(range(20))
    assert list(table["input.question"]) == [f"q{n}" for n in range(20)]
    assert set(table["answer"]) == {"so it is"}
    assert set(table["score.exact"]) == {1.0}
    assert set(table["score.length"]) == {8.0}
    assert set(table["score.judge"]) <= {0.0, 1.0}
    assert table["error"].isna().all()
    first = table.iloc[0]
    assert [call["node"] for call in first["calls"]] == ["answer", "judge.look"]
    assert first["cost"] == pytest.approx(sum(call["cost"] for call in first["calls"]))
    assert first["cost"] > 0
    assert 0 < first["ttft_s"] <= first["latency_s"]
    assert first["output_tokens"] == sum(call["output_tokens"] for call in first["calls"])
    figures = done.summary
    assert (figures.rows, figures.errors, figures.scores["exact"].mean) == (20, 0, 1.0)
    assert "exact" in str(done)
    assert "exact" in done._repr_html_()
    reports = await fm.reports(cluster.client)
    assert {(r.data.deadline_s, r.data.priority) for r in reports} == {(None, -100)}  # background


async def test_no_rows_are_an_output_too_and_more_can_follow(cluster: InProcessCluster, tmp_path: Path) -> None:
    (tmp_path / "head.csv").write_text("question,expected\n")
    done = await evaluate(cluster, ask, tmp_path / "head.csv", tmp_path / "empty", scorers=fm.scorers.exact())
    assert "no score" in str(done)
    assert list(done.to_pandas().columns)[:2] == ["row", "id"]
    for limit in (0, 0, 2):
        done = await evaluate(cluster, ask, data(3), tmp_path / "out", limit=limit)
        assert done.summary.rows == limit


LABELS = {"good": 1, "bad": 0}


def len_of(answer: str) -> int:
    return len(answer)


async def test_a_second_time_runs_nothing_again_and_a_larger_limit_goes_on(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    for limit, asked in ((5, 5), (5, 5), (12, 12), (None, 20)):
        done = await evaluate(cluster, ask, data(20), tmp_path / "out", limit=limit)
        assert (done.summary.rows, cluster.requests()) == (asked, asked)


async def test_rows_under_way_are_bounded(cluster: InProcessCluster, tmp_path: Path) -> None:
    for engine in cluster.engines.values():
        engine.pause()
    seen: list[Progress] = []
    task = asyncio.ensure_future(
        fm.evaluate(ask, data(100), output=tmp_path / "out", client=cluster.client, in_flight=6, progress=seen.append)
    )
    await cluster.until(lambda: len(cluster.router.machine.runs) == 6)
    for engine in cluster.engines.values():
        engine.resume()
    await task
    assert max(figures.running for figures in seen) <= 6
    assert (seen[-1].done, seen[-1].total, seen[-1].running) == (100, 100, 0)


async def test_a_row_that_fails_is_recorded_and_can_be_tried_again(cluster: InProcessCluster, tmp_path: Path) -> None:
    rows = data(30, range(10, 13))
    rows[20] = {"question": None, "expected": ""}
    done = await evaluate(cluster, ask, rows, tmp_path / "out", scorers=fm.scorers.exact())
    failed = done.to_pandas().dropna(subset="error")
    assert list(failed["row"]) == [10, 11, 12, 20]
    assert "Error" in failed["error"].iloc[0]
    assert "column 'question' is empty" in failed["error"].iloc[3]
    assert failed["score.exact"].isna().all()
    assert done.summary.scores["exact"].rows == 26
    for engine in cluster.engines.values():
        engine.rules = []
    again = await evaluate(cluster, ask, rows, tmp_path / "out", scorers=fm.scorers.exact(), retry_errors=True)
    assert (again.summary.rows, again.summary.errors) == (30, 1)


async def test_who_began_anew_is_told_to_go_on_without(cluster: InProcessCluster, tmp_path: Path) -> None:
    for overwrite in (False, True):
        with pytest.raises(EvaluationStopped) as caught:
            await evaluate(cluster, ask, data(6, range(6)), tmp_path / "out", max_errors=3, overwrite=overwrite)
        said = "retry_errors=True; to go on, leave overwrite out: it deletes what is recorded"
        assert str(caught.value).endswith(said if overwrite else "retry_errors=True")


@pytest.mark.parametrize("bound", [3, 0.03])
async def test_too_many_errors_stop_the_evaluation_and_are_recorded(
    cluster: InProcessCluster, tmp_path: Path, bound: float
) -> None:
    rows = data(150, range(150))
    with pytest.raises(EvaluationStopped, match=r"more than max_errors=.*most often .*retry_errors=True"):
        await evaluate(cluster, ask, rows, tmp_path / "out", max_errors=bound)
    done = await evaluate(cluster, ask, rows, tmp_path / "out", limit=1)
    assert 3 < done.summary.errors < 150


async def test_too_many_rows_that_cannot_be_scored_stop_the_evaluation_and_can_be_tried_again(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    scorers = {"judge": fm.scorers.judge(verdict, labels=LABELS)}
    (engine,) = cluster.engines.values()
    engine.rules = [Rule(when="Is so it is", fault="error")]
    with pytest.raises(EvaluationStopped, match=r"could not be scored, more than max_errors=3; most often \(.*judge: "):
        await evaluate(cluster, ask, data(20), tmp_path / "out", scorers=scorers, max_errors=3)
    engine.rules = []
    done = await evaluate(cluster, ask, data(20), tmp_path / "out", scorers=scorers, retry_errors=True)
    assert (done.summary.rows, done.summary.errors, done.summary.score_errors) == (20, 0, 0)


async def test_errors_of_one_cause_count_as_one(cluster: InProcessCluster, tmp_path: Path) -> None:
    with pytest.raises(EvaluationStopped, match=r"most often \(6 times\): .*'ask\.answer'"):
        await evaluate(cluster, ask, data(6, range(6)), tmp_path / "out", max_errors=0.5)
    done = await evaluate(cluster, ask, data(6, range(6)), tmp_path / "out")
    ((text, times),) = done.summary.common_errors
    assert (times, "#" in text) == (6, False)


async def test_a_share_of_errors_counts_at_the_end_of_a_few_rows_too(cluster: InProcessCluster, tmp_path: Path) -> None:
    with pytest.raises(EvaluationStopped, match=r"6 of 40 rows ended in an error, more than max_errors=0\.1"):
        await evaluate(cluster, ask, data(40, range(6)), tmp_path / "out", max_errors=0.1)
    assert (await evaluate(cluster, ask, data(40, range(6)), tmp_path / "out", max_errors=0.1)).summary.errors == 6
    await evaluate(cluster, ask, data(40, range(36, 40)), tmp_path / "few", max_errors=0.1, limit=36)
    done = await evaluate(cluster, ask, data(40, range(36, 40)), tmp_path / "few", max_errors=0.1)
    assert done.summary.errors == 4  # of 40, though this time all four of four failed


async def test_a_scorer_that_raises_costs_a_row_its_score_and_nothing_else(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    def fussy(answer: str, question: str) -> float:
        if question == "q3":
            raise ArithmeticError("no such number")
        return "two" if question == "q4" else 2.5  # type: ignore[return-value]

    done = await evaluate(cluster, ask, data(6), tmp_path / "out", scorers=[fussy, fm.scorers.matches("^so")])
    table = done.to_pandas()
    assert table["answer"].notna().all()
    assert list(table["score.fussy"].isna()) == [False, False, False, True, True, False]
    assert table["score_errors"][3] == "fussy: ArithmeticError: no such number"
    assert "a score is a number" in table["score_errors"][4]
    assert (done.summary.score_errors, done.summary.scores["fussy"].rows) == (2, 4)
    assert ("no score in 1 rows", "fussy: ArithmeticError: no such number") in done.lines
    assert set(table["score.matches"]) == {1.0}


async def test_a_row_that_cannot_be_judged_keeps_its_answer_and_its_other_scores(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    scorers = {"length": len_of, "judge": fm.scorers.judge(verdict, labels=LABELS)}
    rows = [*data(2), {"question": "q", "expected": None}]
    done = await evaluate(cluster, ask, rows, tmp_path / "out", scorers=scorers)
    assert (done.summary.errors, done.summary.score_errors) == (0, 1)
    last = done.to_pandas().iloc[2]
    assert (last["score.length"], last["score_errors"]) == (8, "judge: DataError: column 'expected' is empty")


async def test_a_row_of_a_csv_without_a_right_answer_has_no_score(cluster: InProcessCluster, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,expected\na,so it is\nb,\n")
    done = await evaluate(cluster, ask, tmp_path / "rows.csv", tmp_path / "out", scorers=fm.scorers.exact())
    exact = done.summary.scores["exact"]
    assert (exact.rows, exact.mean, done.summary.score_errors) == (1, 1.0, 0)
    rows = [{"question": "a", "expected": "so it is"}, {"question": "b", "expected": ""}]  # "" is an answer there
    done = await evaluate(cluster, ask, rows, tmp_path / "list", scorers=fm.scorers.exact())
    assert (done.summary.scores["exact"].rows, done.summary.scores["exact"].mean) == (2, 0.5)


async def test_a_scorer_that_calls_exit_costs_a_row_its_score_and_nothing_else(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    def runs_the_code(answer):
        exec("exit()" if answer == "so it is" else answer)

    done = await evaluate(cluster, ask, data(2), tmp_path / "out", scorers=runs_the_code)
    assert (done.summary.rows, done.summary.errors, done.summary.score_errors) == (2, 0, 2)


class Wordless(Exception):
    def __str__(self) -> str:
        raise KeyError("a template of words")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "KeyboardInterrupt:"),
        (asyncio.CancelledError(), "CancelledError:"),
        (pytest.fail.Exception("wrong"), "Failed: wrong"),
        (Wordless(), "Wordless: its words raise KeyError"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_whatever_a_scorer_raises_costs_a_row_its_score_and_nothing_else(
    cluster: InProcessCluster, tmp_path: Path, error: BaseException, said: str
) -> None:
    def raises(answer):
        raise error

    done = await evaluate(cluster, ask, data(2), tmp_path / "out", scorers=raises)
    assert (done.summary.rows, done.summary.errors) == (2, 0)
    assert list(done.to_pandas()["score_errors"]) == [f"raises: {said}"] * 2


async def test_a_column_that_is_kept_twice_is_kept_once(cluster: InProcessCluster, tmp_path: Path) -> None:
    done = await evaluate(cluster, ask, data(2), tmp_path / "out", keep=["expected", "expected"])
    assert list(done.to_pandas()["input.expected"]) == ["so it is"] * 2


@pytest.mark.parametrize("name", ["answers.csv", "answers.JSONL", "answers.xlsx"])
async def test_the_name_of_another_format_is_refused_for_the_output(
    cluster: InProcessCluster, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SpecError, match=r"a folder of Parquet shards, not a \.\w+ file; name it answers\.parquet"):
        await evaluate(cluster, ask, data(1), tmp_path / name)


@pytest.mark.parametrize(("read", "written"), [("a", "a"), ("a", "a/out"), ("a/part-00000.parquet", "a")])
async def test_data_is_not_written_over(cluster: InProcessCluster, tmp_path: Path, read: str, written: str) -> None:
    theirs = tmp_path / "a" / "part-00000.parquet"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    with pytest.raises(SpecError, match="are in one another; name another output"):
        await evaluate(cluster, ask, tmp_path / read, tmp_path / written, overwrite=True)
    assert (theirs.read_text(), len(list(theirs.parent.iterdir()))) == ("mine", 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"inputs": {"question": "qestion"}},
            r"no column 'qestion'.*did you mean 'question'.*columns: question, expected\); "
            r"name another: inputs=\{'question': '\.\.\.'\}, in a shell --input question=COLUMN",
        ),
        ({"inputs": {"message": "question"}}, r"has no input 'message' \(inputs: question\)"),
        ({"id_column": "id"}, r"no column 'id'.*columns: question, expected"),
        ({"keep": ["topic"]}, r"no column 'topic'"),
        ({"scorers": fm.scorers.exact("truth")}, r"scorer 'exact' takes column 'truth'.*columns: question, expected"),
        ({"scorers": [len_of, len_of]}, "two scorers are named 'len_of'"),
        ({"scorers": 5}, "a scorer is a function"),
        ({"limit": -1}, "limit=-1 must be a whole number of at least 0"),
        ({"limit": 1e3}, "limit=1000.0 must be a whole number of at least 0"),
        ({"limit": "3"}, "limit='3' must be a whole number of at least 0"),
        ({"in_flight": 2.5}, "in_flight=2.5 must be a whole number of at least 1"),
        ({"max_errors": float("nan")}, "max_errors=nan must be"),
        ({"tenant": ""}, r"fm\.evaluate: tenant: .*at least 1 character"),
        ({"tenant": "a\0"}, r"fm\.evaluate: tenant: "),
        ({"finish_by": -5}, "is in the past"),
        ({"finish_by": float("nan")}, "finish_by=nan: give seconds"),
        ({"finish_by": "8h"}, "finish_by='8h': give seconds"),
    ],
)
async def test_what_does_not_go_together_is_said_before_anything_runs(
    cluster: InProcessCluster, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        await evaluate(cluster, ask, data(3), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert cluster.requests() == 0


async def test_data_without_the_column_of_an_input_is_refused(cluster: InProcessCluster, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no column 'question' .*input 'question' of workflow 'ask'.*columns: text"):
        await evaluate(cluster, ask, [{"text": "x"}], tmp_path / "out")


async def test_a_model_that_is_not_deployed_is_refused(cluster: InProcessCluster, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"model 'unknown'.*deployed: small"):
        await evaluate(cluster, elsewhere, data(3), tmp_path / "out")


async def test_an_output_of_another_workflow_or_data_is_refused(cluster: InProcessCluster, tmp_path: Path) -> None:
    await evaluate(cluster, ask, data(3), tmp_path / "out")
    with pytest.raises(SpecError, match="workflow 'ask', not 'elsewhere'"):
        await evaluate(cluster, elsewhere, data(3), tmp_path / "out")
    with pytest.raises(SpecError, match="other data"):
        await evaluate(cluster, ask, data(4), tmp_path / "out")


async def test_an_output_is_not_gone_on_with_by_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_fmware.evaluation.job.WEIGHTS", ("text",))  # they stand for those of the scripted engine
    for text in ("one model", "another"):
        async with InProcessCluster(deployment("small", text=text), validate=True) as cluster:
            if text == "another":
                with pytest.raises(SpecError, match="model 'small' of one model, not of another; name another output"):
                    await evaluate(cluster, ask, data(4), tmp_path / "out")
            else:
                await evaluate(cluster, ask, data(4), tmp_path / "out", limit=2)


async def test_rows_that_would_come_too_late_in_the_background_are_given_a_deadline(tmp_path: Path) -> None:
    document = deployment("small", slots=1, token_s=0.005, router={"policy": "slack"})
    async with InProcessCluster(document) as cluster:
        done = await evaluate(cluster, ask, data(10), tmp_path / "out", finish_by=1.0, in_flight=4)
        assert done.summary.rows == 10
        reports = await fm.reports(cluster.client)
        assert any(report.data.deadline_s is not None and report.data.priority == 0 for report in reports)


async def test_rows_that_will_be_done_in_good_time_stay_in_the_background(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    await evaluate(cluster, ask, data(10), tmp_path / "out", finish_by=3600.0)
    assert {report.data.deadline_s for report in await fm.reports(cluster.client)} == {None}


@fm.task
def read(answer, path):
    return Path(path).read_text()


@fm.workflow
def reading(path):
    return read(small("Which?", name="answer"), path)


async def test_what_plain_code_raises_costs_its_row_even_if_it_looks_like_a_lost_cluster(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    (tmp_path / "there").write_text("yes")
    rows = [{"path": str(tmp_path / name)} for name in ("there", "not-there")]
    table = (await evaluate(cluster, reading, rows, tmp_path / "out")).to_pandas()
    assert table["error"].isna().tolist() == [True, False]
    assert "FileNotFoundError" in table["error"][1]


async def test_a_row_that_ends_every_engine_costs_itself_alone(tmp_path: Path) -> None:
    rules = [{"when": "poison", "fault": "crash"}]
    async with InProcessCluster(deployment("small", text="so", rules=rules, router={"max_attempts": 2})) as cluster:
        rows = [{"question": question} for question in ("a", "poison", "b")]
        table = (await evaluate(cluster, ask, rows, tmp_path / "out", in_flight=1)).to_pandas()
    assert table["error"].isna().tolist() == [True, False, True]
    assert "AttemptsExhaustedError" in table["error"][1]


async def test_a_bag_is_read_by_partitions(cluster: InProcessCluster, tmp_path: Path) -> None:
    bag = dask.bag.from_sequence(data(10), npartitions=3)
    table = (await asyncio.wait_for(evaluate(cluster, ask, bag, tmp_path / "out"), 30)).to_pandas()
    assert list(table["row"]) == list(range(10))
