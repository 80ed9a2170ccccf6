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

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dask_fmware.errors import SpecError
from dask_fmware.evaluation.fingerprint.code import code_fingerprint
from dask_fmware.evaluation.fingerprint.mark import joined
from dask_fmware.evaluation.scoring import ANSWER, Judge, Scorer, as_number
from dask_fmware.evaluation.sources.source import digest, shown

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dask_fmware.compile.collection import WorkflowFunction

__all__ = ["Judge", "Scorer", "exact", "fuzzy", "is_json", "judge", "matches", "similarity"]


def exact(expected: str = "expected", *, ignore_case: bool = False, name: str = "exact") -> Scorer:
    """Score 1 where the answer is the expected one, white space at the ends and its amount apart.

    Parameters
    ----------
    expected
        Column of the right answers; a row without one has no score.
    ignore_case
        Whether case does not count.
    name
        Of the column of scores.
    """

    def score(answer: str, wanted: Any) -> bool:
        mine, theirs = _words(answer), _words(str(wanted))
        return mine.casefold() == theirs.casefold() if ignore_case else mine == theirs

    return Scorer(name, score, (ANSWER,), digest(["exact", expected, ignore_case]), expected)


def fuzzy(expected: str = "expected", *, name: str = "fuzzy") -> Scorer:
    """Score how alike answer and expected one are, 0 to 1: the share of characters that need no edit.

    It is the normalized indel similarity of the library rapidfuzz.

    Parameters
    ----------
    expected
        Column of the right answers; a row without one has no score.
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

    return Scorer(name, score, (ANSWER,), digest(["fuzzy", expected]), expected)


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
                json.loads(answer, parse_constant=_refused)
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
        Column of the right answers; a row without one has no score.
    name
        Of the column of scores.
    """

    def score(answer: str, wanted: Any) -> float:
        a, b = (list(map(float, vector)) for vector in embed([answer, str(wanted)]))
        size = math.hypot(*a) * math.hypot(*b)
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / size if size else 0.0

    made = joined(["similarity", expected, code_fingerprint(embed)])
    return Scorer(name, score, (ANSWER,), str(made), expected)


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

    made = joined(["judge", code_fingerprint(workflow), sorted(given.items()), sorted((labels or {}).items())])
    return Judge(name or spec.name, workflow, given, read, str(made))


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is Python's and not JSON's")


def _words(text: str) -> str:
    return " ".join(text.split())
