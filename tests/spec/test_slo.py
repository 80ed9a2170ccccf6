from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from dask_fmware.errors import SpecError
from dask_fmware.spec.slo import SLO, RunOptions
from dask_fmware.spec.workflow import ModelNode


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "at least one of"),
        ({"ttft_s": 0}, "greater than 0"),
        ({"ttft_s": float("inf")}, "finite"),
        ({"ttft_s": 3, "e2e_s": 2}, "the first token comes first"),
        ({"finish_by": datetime(2030, 1, 1)}, "needs a time zone"),
        (
            {"finish_by": 3600},
            "finish_by is a moment with a time zone, not 3600; for seconds from submission use e2e_s",
        ),
        ({"finish_by": "3600.5"}, "finish_by is a moment with a time zone, not '3600.5'"),
        ({"finish_by": 10**400}, "finish_by is a moment with a time zone, not 1000"),
        ({"ttft_s": 1.7e308}, "ttft_s: input should be less than or equal to 315360000, not 1.7e\\+308"),
        ({"e2e_s": 10**400}, "e2e_s: "),
        ({"ttft": 1}, "unknown key 'ttft'; did you mean 'ttft_s'"),
    ],
)
def test_objectives_that_cannot_be_meant_are_refused(bounds, message):
    with pytest.raises(SpecError, match=f"^SLO: .*{message}"):
        SLO(**bounds)


def test_an_objective_without_the_name_of_its_bound_is_told_how_it_is_written():
    with pytest.raises(TypeError, match=r"SLO takes its values by name, such as SLO\(ttft_s=2\)"):
        SLO(2)


def test_objectives_and_options_are_values():
    assert SLO(finish_by=datetime(2030, 1, 1, tzinfo=UTC)) == SLO(finish_by="2030-01-01T00:00:00Z")
    assert RunOptions(priority=3) == RunOptions(priority=3)
    with pytest.raises(ValidationError):
        RunOptions(priority=5000)


@pytest.mark.parametrize("name", ["a\u202eb", "a\x1b[31m", "a\nb"])
def test_names_that_no_screen_can_show_are_refused(name):
    with pytest.raises(ValidationError, match="a name has no control or invisible characters"):
        RunOptions(tenant=name)
    with pytest.raises(ValidationError, match="a name has no control or invisible characters"):
        ModelNode(name="m", model=name, prompt="x")
    assert RunOptions(tenant="größe 1").tenant == "größe 1"
