"""Scorers: how good is an answer, as a number.

A scorer is any function of the answer, of columns of the data, or of both, by the names of its arguments::

    def short_enough(answer):
        return len(answer) < 400

    def names_the_author(answer, author):  # a column of the data
        return author in answer

``row`` is the whole row. It returns a number, a truth value, or None where it has nothing to say. What is here makes
the usual ones. A scorer that raises costs the row its score and nothing else.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dask_fmware.errors import SpecError
from dask_fmware.evaluation.fingerprint import code_fingerprint
from dask_fmware.evaluation.sources.source import digest, shown

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dask_fmware.compile.collection import WorkflowFunction

__all__ = ["Judge", "Scorer", "as_scorers", "exact", "fuzzy", "is_json", "judge", "matches", "similarity"]

ANSWER, ROW = "answer", "row"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ .\-]*")


@dataclass(frozen=True, slots=True)
class Scorer:
    """A function with a name and the columns it takes."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]  # answer, row or a column, in the order of the function's own
    fingerprint: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it takes."""
        return tuple(name for name in self.arguments if name not in (ANSWER, ROW))

    def score(self, answer: str, row: Mapping[str, Any]) -> float | None:
        """Return the score of an answer.

        Raises
        ------
        TypeError
            If the function returns no number.
        """
        values = [answer if a == ANSWER else row if a == ROW else row[a] for a in self.arguments]
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


def exact(expected: str = "expected", *, ignore_case: bool = False, name: str = "exact") -> Scorer:
    """Score 1 where the answer is the expected one, white space at the ends and its amount apart.

    Parameters
    ----------
    expected
        Column of the right answers.
    ignore_case
        Whether case does not count.
    name
        Of the column of scores.
    """

    def score(answer: str, wanted: Any) -> bool:
        mine, theirs = _words(answer), _words(str(wanted))
        return mine.casefold() == theirs.casefold() if ignore_case else mine == theirs

    return Scorer(name, score, (ANSWER, expected), digest(["exact", expected, ignore_case]))


def fuzzy(expected: str = "expected", *, name: str = "fuzzy") -> Scorer:
    """Score how alike answer and expected one are, 0 to 1: the share of characters that need no edit.

    It is the normalized indel similarity of the library rapidfuzz.

    Parameters
    ----------
    expected
        Column of the right answers.
    name
        Of the column of scores.

    Raises
    ------
    SpecError
        If rapidfuzz is not installed.
    """
    if find_spec("rapidfuzz") is None:
        raise SpecError('fm.scorers.fuzzy needs rapidfuzz; pip install "dask-fmware[evaluate]"')

    def score(answer: str, wanted: Any) -> float:
        from rapidfuzz.distance import Indel

        return float(Indel.normalized_similarity(_words(answer), _words(str(wanted))))

    return Scorer(name, score, (ANSWER, expected), digest(["fuzzy", expected]))


def is_json(schema: type[BaseModel] | None = None, *, name: str = "json") -> Scorer:
    """Score 1 where the answer is a JSON document, and fits a pydantic class if one is given.

    Parameters
    ----------
    schema
        The class; None for any document.
    name
        Of the column of scores.
    """

    def score(answer: str) -> bool:
        from pydantic import ValidationError

        try:
            if schema is not None:
                schema.model_validate_json(answer)
            else:
                json.loads(answer)
        except (ValidationError, ValueError, RecursionError):
            return False
        return True

    wanted = json.dumps(schema.model_json_schema(), sort_keys=True) if schema is not None else ""
    return Scorer(name, score, (ANSWER,), digest(["json", wanted]))


def matches(pattern: str, *, flags: int = 0, name: str = "matches") -> Scorer:
    """Score 1 where a regular expression is found in the answer; begin and end it with ``^`` and ``$`` for all of it.

    Parameters
    ----------
    pattern
        As in `re`.
    flags
        As in `re.compile`.
    name
        Of the column of scores.

    Raises
    ------
    SpecError
        If the pattern is no regular expression.
    """
    try:
        compiled = re.compile(pattern, flags)
    except re.error as error:
        raise SpecError(f"scorer '{name}': {pattern!r} is no regular expression: {error}") from error
    found: Callable[[str], bool] = lambda answer: compiled.search(answer) is not None  # noqa: E731
    return Scorer(name, found, (ANSWER,), digest(["matches", pattern, flags]))


def similarity(
    embed: Callable[[list[str]], Sequence[Sequence[float]]], expected: str = "expected", *, name: str = "similarity"
) -> Scorer:
    """Score the cosine of the embeddings of answer and expected one, -1 to 1.

    Parameters
    ----------
    embed
        Returns a vector for each of some texts: that of an embedding server's client, or of a local model.
    expected
        Column of the right answers.
    name
        Of the column of scores.
    """

    def score(answer: str, wanted: Any) -> float:
        a, b = (list(map(float, vector)) for vector in embed([answer, str(wanted)]))
        size = math.hypot(*a) * math.hypot(*b)
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / size if size else 0.0

    return Scorer(name, score, (ANSWER, expected), digest(["similarity", expected, code_fingerprint(embed)]))


def judge(
    workflow: WorkflowFunction,
    *,
    inputs: Mapping[str, str] | None = None,
    labels: Mapping[str, float] | None = None,
    name: str | None = None,
) -> Judge:
    """Let a workflow judge each answer.

    Parameters
    ----------
    workflow
        Its inputs are ``answer`` and columns of the data, by name or as `inputs` says.
    inputs
        Input of the judge -> column of the data, or ``"answer"``.
    labels
        What its labels are worth, ``{"good": 1, "bad": 0}``; without it, its answer must be a number.
    name
        Of the column of scores; by default that of the workflow.

    Raises
    ------
    SpecError
        If the judge does not look at the answer.
    """
    spec = workflow.workflow
    given = {item.name: item.name for item in spec.inputs if item.required} | dict(inputs or {})
    if ANSWER not in given.values():
        raise SpecError(
            f"judge '{spec.name}' does not look at the answer (inputs: {shown(given)}); give it an input named "
            "'answer', or inputs={'...': 'answer'}"
        )

    def read(value: Any) -> float | None:
        if labels is None:
            return as_number(float(value) if isinstance(value, str) else value)
        if str(value).strip() not in labels:
            raise ValueError(f"the judge's answer is none of the labels {shown(labels)}")
        return as_number(labels[str(value).strip()])

    fingerprint = digest(["judge", code_fingerprint(workflow), sorted(given.items()), sorted((labels or {}).items())])
    return Judge(name or spec.name, workflow, given, read, fingerprint)


def as_scorers(given: Any, columns: Sequence[str]) -> tuple[list[Scorer], list[Judge]]:
    """Return what a user gave as scorers: one, a list, or a mapping of names to functions.

    Raises
    ------
    SpecError
        If one of them is no scorer, two have one name, or a column is missing.
    """
    from dask_fmware.compile.collection import WorkflowFunction

    if given is None:
        given = []
    items: list[tuple[str | None, Any]]
    if isinstance(given, Mapping):
        items = [(str(name), item) for name, item in given.items()]
    else:
        listed = list(given) if isinstance(given, (list, tuple)) else [given]
        items = [(None, item) for item in listed]
    made: list[Scorer | Judge] = []
    for name, item in items:
        if isinstance(item, (Scorer, Judge)):
            made.append(_renamed(item, name))
        elif isinstance(item, WorkflowFunction):
            made.append(judge(item, name=name))
        elif callable(item):
            made.append(_of_function(item, name))
        else:
            raise SpecError(f"a scorer is a function, one of fm.scorers, or a workflow, not a {type(item).__name__}")
    names = [item.name for item in made]
    for scorer in made:
        if names.count(scorer.name) > 1:
            raise SpecError(f"two scorers are named '{scorer.name}'; name them: scorers={{'name': scorer, ...}}")
        if not NAME.fullmatch(scorer.name):
            raise SpecError(f"scorer '{scorer.name}': a name is made of letters, digits, spaces, '_', '-' and '.'")
        for column in scorer.columns:
            if column not in columns:
                raise SpecError(
                    f"scorer '{scorer.name}' takes column '{column}', which the data does not have "
                    f"(columns: {shown(columns)})"
                )
    return [s for s in made if isinstance(s, Scorer)], [s for s in made if isinstance(s, Judge)]


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


def _of_function(function: Callable[..., Any], name: str | None) -> Scorer:
    called = str(name or getattr(function, "__name__", type(function).__name__))
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise SpecError(f"scorer '{called}': its arguments cannot be found out: {error}; wrap it in a def") from error
    unnamed = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    wanted = [p.name for p in parameters if p.default is p.empty and p not in unnamed]
    if not wanted:
        raise SpecError(f"scorer '{called}' takes no argument; give it 'answer', 'row' or names of columns")
    return Scorer(called, function, tuple(wanted), digest(["function", code_fingerprint(function)]))


def _renamed(scorer: Scorer | Judge, name: str | None) -> Scorer | Judge:
    from dataclasses import replace

    return scorer if name is None else replace(scorer, name=name)


def _words(text: str) -> str:
    return " ".join(text.split())
