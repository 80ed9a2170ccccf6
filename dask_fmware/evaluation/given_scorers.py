"""Scorers as users give them: functions, workflows and ready ones, alone, in a list or by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dask_fmware.errors import SpecError
from dask_fmware.evaluation import scorers
from dask_fmware.evaluation.fingerprint.code import code_fingerprint
from dask_fmware.evaluation.fingerprint.mark import joined
from dask_fmware.evaluation.scoring import ANSWER, Judge, Scorer
from dask_fmware.evaluation.sources.source import shown

__all__ = ["as_scorer", "as_scorers"]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ .\-]*")


def as_scorers(given: Any, columns: Sequence[str]) -> tuple[list[Scorer], list[Judge]]:
    """Return what a user gave as scorers: one, a list, or a mapping of names to functions.

    Raises
    ------
    SpecError
        If one of them is no scorer, two have one name, or a column is missing.
    """
    if given is None:
        given = []
    items: list[tuple[str | None, Any]]
    if isinstance(given, Mapping):
        items = [(str(name), item) for name, item in given.items()]
    else:
        listed = list(given) if isinstance(given, (list, tuple)) else [given]
        items = [(None, item) for item in listed]
    made = [as_scorer(item, name) for name, item in items]
    names = [item.name for item in made]
    for scorer in made:
        if names.count(scorer.name) > 1:
            raise SpecError(
                f"two scorers are named '{scorer.name}'; name them: scorers={{'name': scorer, ...}}, in a shell "
                "--score NAME=SCORER"
            )
        if not NAME.fullmatch(scorer.name):
            raise SpecError(
                f"scorer '{scorer.name}': a name is made of letters, digits, spaces, '_', '-' and '.'; name it: "
                "scorers={'name': scorer}, in a shell --score NAME=SCORER"
            )
        if isinstance(scorer, Judge) and ANSWER in columns:
            twice = [name for name, column in scorer.inputs.items() if column == ANSWER]
            if len(twice) > 1:
                raise SpecError(
                    f"judge '{scorer.name}': its inputs {shown(twice)} would all be what the model answered, though "
                    "the data has a column 'answer' too; rename the column"
                )
        for column in scorer.columns:
            if column not in columns:
                raise SpecError(
                    f"scorer '{scorer.name}' takes column '{column}', which the data does not have "
                    f"(columns: {shown(columns)})"
                )
    return [s for s in made if isinstance(s, Scorer)], [s for s in made if isinstance(s, Judge)]


def as_scorer(given: Any, name: str | None = None) -> Scorer | Judge:
    """Return one that a user gave, under a name if there is one.

    Raises
    ------
    SpecError
        If it is no scorer.
    """
    from dask_fmware.compile.collection import WorkflowFunction

    if isinstance(given, (Scorer, Judge)):
        return given if name is None else replace(given, name=name)
    if isinstance(given, WorkflowFunction):
        return scorers.judge(given, name=name)
    if getattr(given, "__module__", None) == scorers.__name__:
        raise SpecError(f"fm.scorers.{given.__name__} makes a scorer; call it: fm.scorers.{given.__name__}(...)")
    if callable(given):
        return _of_function(given, name)
    raise SpecError(f"a scorer is a function, one of fm.scorers, or a workflow, not a {type(given).__name__}")


def _of_function(function: Callable[..., Any], name: str | None) -> Scorer:
    called = str(name or getattr(function, "__name__", type(function).__name__))
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise SpecError(f"scorer '{called}': its arguments cannot be found out: {error}; wrap it in a def") from error
    unnamed = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    wanted = [p for p in parameters if p.default is p.empty and p not in unnamed]
    if not wanted:
        raise SpecError(f"scorer '{called}' takes no argument; give it 'answer', 'row' or names of columns")
    names = tuple(p.name for p in wanted)
    first = sum(p.kind is not p.KEYWORD_ONLY for p in wanted)

    def score(*values: Any) -> Any:
        return function(*values[:first], **dict(zip(names[first:], values[first:], strict=True)))

    return Scorer(called, score, names, str(joined(["function", code_fingerprint(function)])))
