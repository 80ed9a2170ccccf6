"""Rows of a session that failed, and how many may."""

from __future__ import annotations

from collections import Counter

from dask_fmware.errors import FMwareError
from dask_fmware.evaluation.record import Record
from dask_fmware.evaluation.recorder import kind_of

__all__ = ["EvaluationStopped", "Failures"]

SHARE_AFTER = 100  # rows after which a bound that is a share counts


class EvaluationStopped(FMwareError):
    """Too many rows ended in an error, or could not be scored; all rows so far are recorded."""


class Failures:
    """Counts rows that are recorded, and those of them that failed or that a scorer failed on.

    Parameters
    ----------
    bound
        Rows of each kind that may; below 1 a share.

    Attributes
    ----------
    errors, score_errors
        Rows that failed, and rows that a scorer or judge failed on.
    """

    def __init__(self, bound: float) -> None:
        self.errors = self.score_errors = 0
        self._bound = bound
        self._rows = 0
        self._causes: Counter[str] = Counter()
        self._score_causes: Counter[str] = Counter()

    def count(self, record: Record) -> None:
        """Take in a row that is recorded."""
        self._rows += 1
        if record.error is not None:
            self.errors += 1
            self._causes[kind_of(record.error)] += 1
        if record.score_errors:
            self.score_errors += 1
            self._score_causes.update(f"{name}: {kind_of(why)}" for name, why in record.score_errors.items())

    def check(self, of: int | None = None) -> None:
        """Raise if there are too many; a bound that is a share needs some rows, or `of`: all that there are.

        Raises
        ------
        EvaluationStopped
            Names the most frequent cause.
        """
        is_share = 0 < self._bound < 1
        if is_share and of is None and self._rows < SHARE_AFTER:
            return
        most = self._bound * (of or self._rows) if is_share else self._bound
        for rows, what, causes in (
            (self.errors, "ended in an error", self._causes),
            (self.score_errors, "could not be scored", self._score_causes),
        ):
            if rows > most:
                often, times = causes.most_common(1)[0]
                raise EvaluationStopped(
                    f"{rows} of {self._rows} rows {what}, more than max_errors={self._bound:g}; most often ({times} "
                    f"times): {often}. All of them are recorded: see to the cause, and run the same again with "
                    "retry_errors=True"
                )
