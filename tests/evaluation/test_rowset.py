"""The rows that are done, as a set that takes little memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.evaluation.output.rowset import RowSet


@given(st.lists(st.integers(0, 300), unique=True))
def test_a_row_set_is_a_set(numbers: list[int]) -> None:
    made = RowSet(numbers)
    assert len(made) == len(numbers)
    assert [n for n in range(310) if n in made] == sorted(numbers)
    assert made.first_missing == next(n for n in range(302) if n not in set(numbers))
    for number in numbers[:1]:
        with pytest.raises(ValueError, match="twice"):
            made.add(number)
