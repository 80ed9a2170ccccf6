"""Prompts, answers and field values appear nowhere they were not asked for."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.errors import EngineError
from dask_fmware.testing import deployment
from tests.cluster.flows import small
from tests.cluster.test_dashboard import DashboardCluster

PROMPT, ANSWER, FIELD = "canary-of-the-prompt", "canary-of-the-answer", "canary-of-the-field"
CANARIES = (PROMPT, ANSWER, FIELD)


@fm.task
def passes(text: str, extra: object) -> str:
    return text


@fm.task
def fails(text: str, extra: object) -> str:
    raise ArithmeticError("a message without secrets")


@fm.workflow
def open_book(secret, items):
    answer = small("Say " + PROMPT + " {secret}", secret=secret, max_tokens=64, name="answer")
    each = fm.map(lambda item: small("{item} {secret}", item=item, secret=secret, name="each"), items)
    return passes(answer, [each, {"secret": secret}])


@fm.workflow
def breaks(secret):
    return fails(small("{secret}", secret=secret, name="answer"), {"kept": [secret, FIELD]})


def _clean(where: str, text: str) -> None:
    for canary in CANARIES:
        assert canary not in text, f"{canary} in {where}: ...{text[max(0, text.find(canary) - 300) :][:700]}..."


async def _web_is_clean(cluster: DashboardCluster) -> None:
    for path in ("fmware/figures.json", "fmware", "metrics", "individual-fmware-slack", "info/main/workers.html"):
        answer = await cluster.get(path)
        assert answer.code == 200
        _clean(f"/{path}", answer.body.decode())


async def test_no_canary_leaves_the_values_that_carry_it(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG)
    fault, crash = {"when": "engine-fault", "fault": "error"}, {"when": "crash-here", "fault": "crash"}
    bad = {"rules": [fault, crash]}
    document = deployment("small", on={"bad": 1, "good": 1}, text=ANSWER, rules=[fault], placements={"bad": bad})
    document["router"]["record"] = str(tmp_path / "events.jsonl")
    async with DashboardCluster(document, silence_logs=False, validate=True) as cluster:
        client, scheduler = cluster.client, cluster.scheduler
        bound = [
            open_book(FIELD, [FIELD + str(n) for n in range(3)]),
            breaks(FIELD),
            breaks(FIELD + " engine-fault"),
            open_book(FIELD + " crash-here", []),
        ]
        futures = client.compute(bound)
        for future, error in zip(futures, (None, ArithmeticError, EngineError, None), strict=True):
            if error is None:
                assert ANSWER in await future
            else:
                with pytest.raises(error) as caught:
                    await future
                _clean("an error", f"{caught.value} {getattr(caught.value, '__notes__', '')}")
                _clean("a traceback", "".join(traceback.format_exception(caught.value)))
        await _web_is_clean(cluster)
        reports = await fm.reports(client)
        _clean("reports", " ".join(map(str, reports)) + json.dumps([r.data.to_wire() for r in reports]))
        _clean("status", json.dumps(await fm.status(client)).replace(f'"text": "{ANSWER}"', ""))
        _clean("futures", repr(futures))
        for task in scheduler.tasks.values():
            _clean("a task", f"{task.key} {task.annotations} {task.run_spec!r} {task.exception_text} {task!r}")
        _clean("events", str([list(topic.events) for topic in scheduler._broker._topics.values()]))
        sent = [
            comm.recent_message_log for comm in (*scheduler.stream_comms.values(), *scheduler.client_comms.values())
        ]
        assert sent
        assert not any(sent)  # it would hold pickled arguments
        _clean("the story", str(scheduler.story(*scheduler.tasks)))
        for worker in cluster.workers.values():
            _clean(
                "tasks of a worker",
                " ".join(f"{t!r} {t.run_spec!r} {t.annotations}" for t in worker.state.tasks.values()),
            )
            _clean("the log of a worker", str(list(worker.state.log)))
            _clean("what befell a worker", str(list(worker.state.stimulus_log)))
            _clean("what a worker told the scheduler", str(list(worker.batched_stream.recent_message_log)))
        for one in bound:
            _clean("a bound workflow", f"{one!r} {list(one.__dask_graph__())} {list(one.__dask_graph__().values())}")
        for future in futures:
            future.release()
        await cluster.settled()
    log = (tmp_path / "events.jsonl").read_text()
    assert "AttemptEnded" in log or "attempt" in log
    _clean("the event log", log)
    _clean("the logs", caplog.text)


async def test_requests_completions_and_chunks_keep_their_text_out_of_repr_where_logs_show_them(serving: Any) -> None:
    async with serving("small", text=ANSWER) as cluster:
        future = cluster.client.compute(open_book(FIELD, [FIELD]))
        await future
        for engine in cluster.engines.values():
            _clean("requests", repr(engine.requests))
        future.release()
