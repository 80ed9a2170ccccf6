"""Fingerprints of code: they change with what a callable holds, and with nothing else, in each process alike."""

from __future__ import annotations

import functools
import math
import operator
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.errors import SpecError
from dask_fmware.evaluation.fingerprint.code import code_fingerprint, workflow_fingerprint
from dask_fmware.evaluation.given_scorers import as_scorers
from dask_fmware.evaluation.output import Manifest, Output
from dask_fmware.evaluation.record import Record
from dask_fmware.evaluation.sources.source import digest


def longer(answer: str, than: int) -> bool:
    return len(answer) > than


def shorter(answer: str, than: int) -> bool:
    return len(answer) < than


class Longer:
    def __init__(self, than: Any) -> None:
        self.than = than

    def __call__(self, answer: str) -> bool:
        return len(answer) > self.than

    def score(self, answer: str) -> bool:
        return len(answer) > self.than

    @functools.cached_property
    def worked_out(self) -> object:
        return object()


@dataclass(frozen=True, slots=True)
class Slotted:
    than: int

    def __call__(self, answer: str) -> bool:
        return len(answer) > self.than


class Colour(Enum):
    RED = 1
    BLUE = 2


def enclosed(than: Any) -> Callable[[str], bool]:
    def score(answer: str) -> bool:
        return len(answer) > than

    return score


def defaulted(than: Any) -> Callable[..., bool]:
    def score(answer: str, least: Any = than, *, most: Any = than) -> bool:
        return least < len(answer) < most

    return score


def decorated(than: int) -> Callable[[str], bool]:
    def decorate(function: Callable[[str], bool]) -> Callable[[str], bool]:
        @functools.wraps(function)
        def wrapper(answer: str) -> bool:
            return function(answer) and len(answer) > than

        return wrapper

    @decorate
    def score(answer: str) -> bool:
        return bool(answer)

    return score


def typed(source: str) -> Any:
    """A function without a source."""
    names: dict[str, Any] = {}
    exec(compile(source, "<shell>", "exec"), names)
    return names["score"]


MADE: dict[str, Callable[[Any], Any]] = {
    "partial": lambda than: partial(longer, than=than),
    "partial by position": lambda than: partial(operator.lt, than),
    "partial of an object": lambda than: partial(Longer(than)),
    "object": Longer,
    "object with slots": Slotted,
    "method": lambda than: Longer(than).score,
    "enclosed": enclosed,
    "enclosed in a container": lambda than: enclosed({"bounds": [than, {than}]}),
    "enclosed function": lambda than: enclosed(enclosed(than)),
    "enclosed object that is called": lambda than: enclosed(Longer(than)),
    "enclosed record": lambda than: enclosed((Slotted(than), None)),
    "enclosed pattern": lambda than: enclosed(re.compile(f"a{than}")),
    "defaults": defaulted,
    "decorated": decorated,
}


@pytest.mark.parametrize("kind", MADE)
def test_what_a_callable_holds_counts(kind: str) -> None:
    made = MADE[kind]
    assert code_fingerprint(made(1)) == code_fingerprint(made(1))
    assert code_fingerprint(made(1)) != code_fingerprint(made(2))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (partial(longer, than=1), partial(shorter, than=1)),
        (enclosed(1), enclosed(True)),
        (enclosed("1"), enclosed(1)),
        (enclosed(Colour.RED), enclosed(Colour.BLUE)),
        (enclosed(longer), enclosed(shorter)),
        (enclosed(math.floor), enclosed(math.ceil)),
        ("abc".count, "abd".count),
        (
            typed("def score(answer):\n return answer.upper()"),
            typed("def score(answer):\n return answer.lower()"),
        ),
    ],
)
def test_other_callables_are_told_apart(one: Any, two: Any) -> None:
    assert code_fingerprint(one) != code_fingerprint(two)


def test_what_is_worked_out_when_it_is_asked_for_does_not_count() -> None:
    fresh, used = Longer(1), Longer(1)
    assert used.worked_out is used.worked_out
    assert code_fingerprint(fresh) == code_fingerprint(used)


def test_functions_and_containers_that_hold_themselves_come_to_an_end() -> None:
    def circle(than: int) -> Any:
        kept: list[Any] = [than]
        named: dict[str, Any] = {"kept": kept}

        def one(answer: str) -> Any:
            return two(answer), kept, named

        def two(answer: str) -> Any:
            return one(answer)

        kept += [kept, one, {one, two}]
        named["self"] = named
        return one

    assert code_fingerprint(circle(1)) == code_fingerprint(circle(1)) != code_fingerprint(circle(2))


def test_a_plain_function_has_the_fingerprint_that_it_always_had() -> None:
    assert "+" not in str(code_fingerprint(longer))
    assert str(code_fingerprint(partial(longer, than=1))).startswith(digest(["partial"]) + "+")


OTHER_PROCESS = """
import sys
sys.path.insert(0, {root!r})
from tests.evaluation.test_fingerprint import MADE, code_fingerprint, odd
for name, made in MADE.items():
    print(code_fingerprint(made(1)))
print(code_fingerprint(odd()))
"""


def odd() -> Any:
    """Holds what is in another order or at another place in each process."""
    words = {"one", "two", "three", "four"}
    scorer = typed("def score(answer):\n return answer in {'one', 'two', 'three', 'four'}")
    return partial(scorer, words, dict.fromkeys(words), object(), enclosed(frozenset(map(enclosed, words))))


def test_fingerprints_are_the_same_in_each_process() -> None:
    told = set()
    for seed in ("1", "2"):
        asked = [sys.executable, "-c", OTHER_PROCESS.format(root=str(Path(__file__).parents[2]))]
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        told.add(subprocess.run(asked, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(told) == 1
    assert len(set(next(iter(told)).split())) == len(MADE) + 1


def test_functions_of_a_workflow_count_with_what_they_hold() -> None:
    def made(than: int) -> Any:
        cut = fm.task(enclosed(than))

        @fm.workflow(name="w")
        def w(question):
            return fm.Model("small")("{question}", question=cut(question), name="n")

        return w

    assert workflow_fingerprint(made(1)) == workflow_fingerprint(made(1)) != workflow_fingerprint(made(2))
    assert workflow_fingerprint(made(1)).code == workflow_fingerprint(made(2)).code
    first, second = (fm.scorers.similarity(enclosed(than), "expected").fingerprint for than in (1, 2))
    assert first != second


def manifest(scorer: Any) -> Manifest:
    made, _ = as_scorers({"s": scorer}, ("q",))
    return Manifest(
        workflow="w", workflow_fingerprint="x", data="d", data_fingerprint="y", inputs={},
        scorers={one.name: one.fingerprint for one in made},
    )  # fmt: skip


def begun(folder: Path, made: Manifest) -> None:
    with Output(folder, made) as output:
        if 0 not in output.done:
            output.write([Record(0, "0")])


def test_an_output_is_not_gone_on_with_by_a_scorer_that_holds_something_else(tmp_path: Path) -> None:
    begun(tmp_path, manifest(partial(longer, than=1)))
    begun(tmp_path, manifest(partial(longer, than=1)))
    with pytest.raises(SpecError, match="scorers s as they were"):
        Output(tmp_path, manifest(partial(longer, than=99)))


def test_an_output_of_a_version_that_did_not_look_at_what_is_held_is_gone_on_with_and_then_does(tmp_path: Path) -> None:
    now = manifest(partial(longer, than=1))
    begun(tmp_path, now.model_copy(update={"scorers": {"s": digest(["function", digest(["partial"])])}}))
    begun(tmp_path, now)
    with pytest.raises(SpecError, match="scorers s as they were"):
        Output(tmp_path, manifest(partial(longer, than=99)))
