"""What a run's outcome adds to the record of its row: answer or error, tokens, times, cost."""

from __future__ import annotations

import json
from time import time
from typing import Any

from pydantic import BaseModel

from dask_fmware.client.session import Outcome
from dask_fmware.errors import WorkflowError
from dask_fmware.evaluation.costs import Prices
from dask_fmware.evaluation.record import CallFigures, Record
from dask_fmware.evaluation.recorder import describe
from dask_fmware.evaluation.scoring import Judge
from dask_fmware.model.completion import Completion
from dask_fmware.model.report import RunReport

__all__ = ["add_answer", "add_verdict"]

TIMES = ("m", "M")  # kinds of numpy whose values are numbers of some unit: their text says more


def add_answer(record: Record, outcome: Outcome, prices: Prices) -> None:
    """Take in what the workflow made of a row; one that JSON cannot hold is an error of that row."""
    record.run_id, record.finished_at = outcome.run_id, time()
    if outcome.error is not None:
        record.error = describe(outcome.error)
    else:
        try:
            record.answer = _text(outcome.value)
        except Exception as error:  # code of the value's class is run for it
            record.error = describe(WorkflowError(f"what the workflow returned cannot be written as JSON: {error}"))
    if (report := outcome.report) is not None:
        record.ttft_s, record.latency_s = report.first_token_at, report.finished_at
        _add_calls(record, report, prices, prefix="")


def add_verdict(record: Record, judge: Judge, outcome: Outcome, prices: Prices) -> None:
    """Take in what a judge said of the answer."""
    try:
        if outcome.error is not None:
            raise outcome.error
        value = outcome.value
        record.scores[judge.name] = judge.read(value.value if isinstance(value, Completion) else value)
    except Exception as error:
        record.scores[judge.name] = None
        record.score_errors[judge.name] = describe(error)
    if outcome.report is not None:
        _add_calls(record, outcome.report, prices, prefix=f"{judge.name}.")


def _add_calls(record: Record, report: RunReport, prices: Prices, prefix: str) -> None:
    for call in report.calls:
        if not call.attempts:
            continue
        last, cost = call.attempts[-1], prices.of_call(call)
        record.calls.append(
            CallFigures(
                node=prefix + call.node,
                model=call.model,
                accelerator=last.accelerator,
                replica=last.replica,
                queued_s=call.queued_s,
                ttft_s=call.ttft_s,
                latency_s=call.latency_s,
                prompt_tokens=last.prompt_tokens,
                output_tokens=last.output_tokens,
                attempts=len(call.attempts),
                cost=cost,
            )
        )
        record.prompt_tokens += last.prompt_tokens
        record.output_tokens += last.output_tokens
        record.cached_tokens += last.cached_tokens
        record.attempts += len(call.attempts)
        if cost is not None:
            record.cost = (record.cost or 0.0) + cost


def _text(value: Any) -> str | None:
    match value:
        case None:
            return None
        case Completion():
            return value.text
        case str():
            return value
        case BaseModel():
            return value.model_dump_json()
        case _:
            return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """What JSON has for a value that it does not know: numpy's numbers as Python's, models by field, else the text."""
    if isinstance(value, Completion):
        return value.value.model_dump() if isinstance(value.value, BaseModel) else value.value
    if isinstance(value, BaseModel):
        return value.model_dump()
    if hasattr(value, "tolist") and getattr(getattr(value, "dtype", None), "kind", "") not in TIMES:
        return value.tolist()
    return str(value)
