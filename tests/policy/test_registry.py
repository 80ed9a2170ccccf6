"""Policies by name, those of other packages among them."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from dask_fmware.errors import DeploymentError
from dask_fmware.policy import POLICIES, create_policy, policy_names, registry
from dask_fmware.policy.round_robin import RoundRobin
from dask_fmware.testing.views import draws


class Elsewhere(RoundRobin):
    """Stands for a policy of another package."""

    name = "elsewhere"

    def __init__(self, draw) -> None:
        super().__init__()
        self.draw = draw


class Misnamed(Elsewhere):
    name = "other"


class Half:
    name = "half"

    def __init__(self, draw) -> None: ...

    def choose(self, call, replicas, now): ...


@pytest.fixture(autouse=True)
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "elsewhere", sys.modules[Elsewhere.__module__])
    names = {"elsewhere": "Elsewhere", "broken": "Missing", "slack": "Elsewhere", "misnamed": "Misnamed"}
    names |= {"half": "Half", "bare": "RoundRobin"}
    points = EntryPoints(EntryPoint(n, f"elsewhere:{c}", registry.ENTRY_POINT_GROUP) for n, c in names.items())
    monkeypatch.setattr(registry, "entry_points", points.select)


def test_other_packages_add_policies_which_get_the_draws() -> None:
    draw = draws()
    policy = create_policy("elsewhere", draw)
    assert isinstance(policy, Elsewhere)
    assert policy.draw is draw
    assert set(policy_names()) >= {*POLICIES, "elsewhere"}


def test_policies_of_this_package_cannot_be_replaced_by_entry_points() -> None:
    assert not isinstance(create_policy("slack", draws()), Elsewhere)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("elswhere", r"no policy is called 'elswhere' \(known: .*elsewhere.*\); did you mean 'elsewhere'"),
        ("broken", "policy 'broken': cannot import elsewhere:Missing"),
        ("half", "policy 'half': Half has no order and no rank"),
        ("bare", "policy 'bare' cannot be made: TypeError: .*what makes it takes its source of random numbers"),
        ("misnamed", "policy 'misnamed' calls itself 'other'"),
    ],
)
def test_what_is_no_policy_is_refused_with_what_is_wrong_with_it(name: str, why: str) -> None:
    with pytest.raises(DeploymentError, match=why):
        create_policy(name, draws())
