"""What a scorer is: a function with a name and the columns it takes, or a workflow that judges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_fmware.compile.collection import WorkflowFunction

__all__ = ["ANSWER", "ROW", "Judge", "Scorer", "as_number"]

ANSWER, ROW = "answer", "row"


@dataclass(frozen=True, slots=True)
class Scorer:
    """A function with a name and the columns it takes."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]  # answer, row or a column, in the order of the function's own
    fingerprint: str
    expected: str | None = None  # column of the right answers, one more argument; whatever its name
    blank_is_none: bool = False  # whether a blank cell of it is none: the data cannot say it in another way

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it takes."""
        named = tuple(name for name in self.arguments if name not in (ANSWER, ROW))
        return named if self.expected is None else (*named, self.expected)

    def score(self, answer: str, row: Mapping[str, Any]) -> float | None:
        """Return the score of an answer; None where a right one is asked for and the row has none.

        Raises
        ------
        TypeError
            If the function returns no number.
        """
        values = [answer if a == ANSWER else row if a == ROW else row[a] for a in self.arguments]
        if self.expected is not None:
            wanted = row.get(self.expected)
            if wanted is None or (self.blank_is_none and not str(wanted).strip()):
                return None
            values.append(wanted)
        return as_number(self.function(*values))


@dataclass(frozen=True, slots=True)
class Judge:
    """A workflow that looks at an answer; `judge` makes it."""

    name: str
    workflow: WorkflowFunction
    inputs: Mapping[str, str]  # input of the judge -> answer, or a column
    read: Callable[[Any], float | None]
    fingerprint: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it takes."""
        return tuple(name for name in self.inputs.values() if name != ANSWER)


def as_number(value: Any) -> float | None:
    """Return a score as a number, or None; TypeError if it is neither."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None:
        return None
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"a score is a number, a truth value or None, not a {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number):
        raise TypeError(f"a score is a finite number, not {number}")
    return number
