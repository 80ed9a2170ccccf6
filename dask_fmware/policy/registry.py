"""Policies by name, as deployments name them."""

from __future__ import annotations

from collections.abc import Callable

from dask_fmware.errors import DeploymentError
from dask_fmware.policy.greedy import Greedy
from dask_fmware.policy.least_outstanding import LeastOutstanding
from dask_fmware.policy.power_of_two import PowerOfTwo
from dask_fmware.policy.protocol import Draw, Policy
from dask_fmware.policy.round_robin import RoundRobin

__all__ = ["POLICIES", "create_policy"]

POLICIES: dict[str, Callable[[Draw], Policy]] = {
    "round_robin": lambda draw: RoundRobin(),
    "power_of_two": PowerOfTwo,
    "least_outstanding": lambda draw: LeastOutstanding(),
    "greedy": lambda draw: Greedy(),
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
        ) from None
    return make(draw)
