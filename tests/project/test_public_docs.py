"""Everything that ``import dask_fmware as fm`` shows says what it takes, what it returns and how it fails."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import dask_fmware as fm

FUNCTIONS = sorted(name for name in fm.__all__ if inspect.isfunction(getattr(fm, name)))
SCORERS = ("exact", "fuzzy", "is_json", "judge", "matches", "similarity")
CLASSES = ("LocalModelCluster", "Model", "Provisioning", "SLO", "Session", "Deployment")
ABOUT_THEMSELVES = {"version"}  # of a document: there is one


def documented(made: Callable[..., Any]) -> set[str]:
    """Names under Parameters, several to a line as numpydoc writes them."""
    text = inspect.getdoc(made) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", text, re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^(\S.*)$", section[1], re.MULTILINE) if section else []
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_every_parameter_is_documented_and_none_that_is_not_there(name: str) -> None:
    made = getattr(fm, name)
    taken = set(inspect.signature(made).parameters) - ABOUT_THEMSELVES
    assert documented(made) == taken


@pytest.mark.parametrize("name", SCORERS)
def test_every_parameter_of_a_scorer_is_documented(name: str) -> None:
    made = getattr(fm.scorers, name)
    assert documented(made) == set(inspect.signature(made).parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_function_returns_and_raises_is_said(name: str) -> None:
    made = getattr(fm, name)
    text = inspect.getdoc(made) or ""
    returns = inspect.signature(made).return_annotation not in ("None", "Any")
    assert not returns or "Returns\n-------" in text
    assert "Raises\n------" in text or name in ("uninstall", "stream")


@pytest.mark.parametrize("name", ["SLO", "Provisioning", "Deployment", "Workflow"])
def test_signatures_of_documents_can_be_read(name: str) -> None:
    assert not re.search("FieldInfo|Annotated", str(inspect.signature(getattr(fm, name))))
