"""Calls that fail instead of being placed: tried too often, too late for their run, or of a model that nobody serves.

It is asked each time that a call becomes runnable, and once for those that wait when a model is given up.
"""

from __future__ import annotations

from collections.abc import Collection

from dask_fmware.errors import AttemptsExhaustedError, EngineLoadError
from dask_fmware.runtime.actions import Fail
from dask_fmware.runtime.runs import attempts
from dask_fmware.runtime.runs.records import CallRecord

__all__ = ["Hopeless"]


class Hopeless:
    """Ends calls for which there is no hope, with an error that says why.

    Parameters
    ----------
    max_attempts
        Tries of one call before its run fails.
    """

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._abandoned: dict[str, str] = {}  # model that nobody will serve -> why

    @property
    def models(self) -> Collection[str]:
        """Models that nobody will serve."""
        return self._abandoned

    def abandon(self, model: str, reason: str) -> None:
        """No replica of a model will come."""
        self._abandoned[model] = reason

    def hope(self, model: str) -> None:
        """A replica of a model is there, or may come after all."""
        self._abandoned.pop(model, None)

    def ended(self, call: CallRecord, now: float) -> Fail | None:
        """End a call that has become runnable, if there is no hope for it."""
        report, run = call.report, call.run
        if call.tries >= self._max_attempts:
            last = report.last.error if report.last and report.last.error else "its replicas were lost"
            error = AttemptsExhaustedError(
                f"workflow '{run.plan.workflow}', node '{call.node.name}': {call.tries} attempts failed "
                f"(router.max_attempts={self._max_attempts}), the last: {last}"
            )
            return attempts.fail(call, error)
        if run.deadline is not None and run.may_be_rejected and now > run.deadline:
            return attempts.reject(call, f"{now - run.deadline:.3f} s past the deadline of its run")
        if self._abandoned and call.node.model in self._abandoned:
            return self.unserved(call)
        return None

    def unserved(self, call: CallRecord) -> Fail:
        """End a call of a model that was abandoned."""
        model = call.node.model or ""
        error = EngineLoadError(
            f"workflow '{call.run.plan.workflow}', node '{call.node.name}': no replica of model '{model}' will come: "
            f"{self._abandoned[model]}"
        )
        return attempts.fail(call, error)
