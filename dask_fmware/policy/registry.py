"""Policies by name, as deployments name them."""

from __future__ import annotations

from collections.abc import Callable

from dask_fmware.errors import DeploymentError
from dask_fmware.policy.greedy import Greedy
from dask_fmware.policy.least_outstanding import LeastOutstanding
from dask_fmware.policy.power_of_two import PowerOfTwo
from dask_fmware.policy.protocol import Draw, Policy
from dask_fmware.policy.round_robin import RoundRobin
from dask_fmware.policy.slack import Slack
from dask_fmware.policy.target import Target
from dask_fmware.spec.record import did_you_mean

__all__ = ["POLICIES", "create_policy"]

POLICIES: dict[str, Callable[[Draw], Policy]] = {
    "round_robin": lambda draw: RoundRobin(),
    "power_of_two": PowerOfTwo,
    "power_of_two_100": lambda draw: PowerOfTwo(draw, 100, "power_of_two_100"),
    "least_outstanding": lambda draw: LeastOutstanding(),
    "greedy": lambda draw: Greedy(),
    "target": lambda draw: Target(),
    "slack": lambda draw: Slack(),
}


def create_policy(name: str, draw: Draw) -> Policy:
    """Make a policy; `draw` is its only source of randomness.

    Raises
    ------
    DeploymentError
        If there is no policy of that name.
    """
    try:
        make = POLICIES[name]
    except KeyError:
        raise DeploymentError(
            f"router.policy: no policy is called {name!r} (known: {', '.join(sorted(POLICIES))})"
            f"{did_you_mean(name, POLICIES)}"
        ) from None
    return make(draw)
