"""Which results travel with messages, and that they arrive as they were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dask_fmware.model.call import SKIPPED
from dask_fmware.model.carrying import DEEPEST, LARGEST_BYTES, pack, unpack
from dask_fmware.model.completion import Completion, Timing
from dask_fmware.model.engine import Usage


@dataclass
class Users:
    """A class of a user."""

    name: str


def completion(text: str = "four", value: Any = None) -> Completion:
    return Completion(text, "stop", Usage(3, 1, 0), Timing(0.1, 0.2), "small", text if value is None else value)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "täxt \ud800",
        b"\x00",
        0,
        -(2**70),
        1.5,
        float("inf"),
        True,
        None,
        [],
        ["a", ("b", 2), {"c": [None]}],
        {("a", 1): "b"},
        completion(),
        completion(value={"label": ["x"]}),
        [completion("one"), completion("two")],
        SKIPPED,
        "x" * (LARGEST_BYTES - 100),
        nested(DEEPEST),
    ],
    ids=repr,
)
def test_small_plain_values_arrive_as_they_were(value: Any) -> None:
    packed = pack(value)
    assert packed is not None
    assert len(packed) <= LARGEST_BYTES
    arrived = unpack(packed)
    assert arrived == value
    assert type(arrived) is type(value)


def looped() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        "x" * (LARGEST_BYTES + 1),
        "ä" * (LARGEST_BYTES - 100),  # two bytes each
        1 << (8 * LARGEST_BYTES + 8),
        ["x"] * LARGEST_BYTES,
        dict.fromkeys(range(LARGEST_BYTES)),
        nested(DEEPEST + 1),
        looped(),
        {1, 2},
        np.float64(1.0),
        np.zeros(3),
        Users("somebody"),
        [1, Users("somebody")],
        {"of": Users("somebody")},
        completion(value=Users("somebody")),
        completion("x" * LARGEST_BYTES),
        len,
    ],
    ids=lambda value: type(value).__name__,
)
def test_all_others_are_left_to_dask(value: Any) -> None:
    assert pack(value) is None
