"""What callers get: results as JSON, and errors as a status and words that show no prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from dask_fmware.client.session import Outcome
from dask_fmware.errors import (
    AttemptsExhaustedError,
    CapacityError,
    DeploymentError,
    EngineError,
    FMwareError,
    RuntimeFaultError,
    SpecError,
    UnknownModelError,
)
from dask_fmware.model.completion import Completion
from dask_fmware.model.report import RunReport

__all__ = ["Fault", "RefusedError", "UnsaidError", "answer", "json_text", "plain", "text_of", "usage_of"]


class RefusedError(FMwareError):
    """A request that is no run: a wrong address, no token, too much, or too late."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class UnsaidError(FMwareError):
    """A result that JSON cannot say."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An error, for a caller.

    Attributes
    ----------
    status
        Of HTTP: 400 the request, 401 no token, 403 a page of another site, 404 no such workflow, 413 too much of it,
        502 a model server, 503 no room or no cluster (try again), 500 a node of plain code or the workflow itself.
    kind
        Name of the error's class.
    message
        Ours as they are; of a stranger's error only its name, since its words may hold what is nobody else's business.
    """

    status: int
    kind: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> Fault:
        """Say what an error is to the caller."""
        kind = type(error).__name__
        if not isinstance(error, FMwareError):
            return cls(500, kind, f"{kind} in plain code of the workflow; its words are in the log of the worker")
        return cls(_status(error), kind, str(error))

    @classmethod
    def ours(cls, error: Exception) -> Fault:
        """Say what an error is that came up here, and in no run."""
        if isinstance(error, FMwareError):
            return cls.of(error)
        return cls(500, type(error).__name__, f"{type(error).__name__} in the gateway; where is in its log")

    def body(self) -> dict[str, Any]:
        """As JSON, in the form that OpenAI's clients know."""
        return {"error": {"type": self.kind, "message": self.message, "code": self.status}}


def _status(error: FMwareError) -> int:
    match error:
        case RefusedError():
            return error.status
        case UnknownModelError() | DeploymentError():
            return 500  # nothing that a caller could do
        case SpecError():
            return 400
        case EngineError() | AttemptsExhaustedError():
            return 502
        case CapacityError() | RuntimeFaultError():
            return 503
    return 500


def plain(workflow: str, value: Any) -> Any:
    """Return a result as JSON has it: of a `Completion` its text, label or object.

    Raises
    ------
    UnsaidError
        If there is no JSON for it.
    """
    told = value.value if isinstance(value, Completion) else value
    try:
        made = to_jsonable_python(told, inf_nan_mode="null", fallback=_listed)
        return to_jsonable_python(made, inf_nan_mode="null")  # models keep what is no number until they are plain
    except Exception:  # or what its own methods raise: of bytes, of what holds itself
        raise UnsaidError(
            f"workflow '{workflow}': its result ({type(told).__name__}) has no JSON; end it with plain values"
        ) from None


def _listed(value: Any) -> Any:
    """Arrays and their numbers; raises for anything else."""
    if callable(listed := getattr(value, "tolist", None)):
        return listed()
    raise PydanticSerializationError(f"no JSON for {type(value).__name__}")


def text_of(workflow: str, value: Any) -> str:
    """Return a result as a text."""
    if isinstance(value, Completion):
        return value.text
    told = plain(workflow, value)
    return told if isinstance(told, str) else json_text(told)


def json_text(value: Any) -> str:
    """Write JSON in one line that UTF-8 can say: half of a surrogate pair, which it cannot, stays an escape."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # Python writes no more than 4,300 digits
        raise UnsaidError("an answer holds a number that is too long to be written") from None
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def usage_of(report: RunReport | None) -> dict[str, int]:
    """Tokens of all calls of a run, attempts that failed among them."""
    attempts = [attempt for call in report.calls for attempt in call.attempts] if report is not None else []
    prompt = sum(attempt.prompt_tokens or 0 for attempt in attempts)
    output = sum(attempt.output_tokens or 0 for attempt in attempts)
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def answer(workflow: str, outcome: Outcome) -> dict[str, Any]:
    """Return what is told of a run that has finished, times in seconds since its submission."""
    report = outcome.report
    return {
        "run_id": outcome.run_id,
        "workflow": workflow,
        "result": plain(workflow, outcome.value),
        "slo_met": report.met if report is not None else None,
        "ttft_s": report.first_token_at if report is not None else None,
        "latency_s": report.finished_at if report is not None else None,
        "usage": usage_of(report),
        "cost": report.cost if report is not None else None,
    }
