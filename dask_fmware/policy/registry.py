"""Policies by name, as deployments name them.

Another package adds its own through the entry point group ``dask_fmware.policies``, wherever it is installed::

    [project.entry-points."dask_fmware.policies"]
    "mine" = "my_package.policy:Mine"
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from dask_fmware.errors import DeploymentError
from dask_fmware.policy.greedy import Greedy
from dask_fmware.policy.least_outstanding import LeastOutstanding
from dask_fmware.policy.power_of_two import PowerOfTwo
from dask_fmware.policy.protocol import Draw, Policy
from dask_fmware.policy.round_robin import RoundRobin
from dask_fmware.policy.slack import Slack
from dask_fmware.policy.target import Target
from dask_fmware.spec.record import did_you_mean

__all__ = ["ENTRY_POINT_GROUP", "POLICIES", "create_policy", "policy_names"]

ENTRY_POINT_GROUP = "dask_fmware.policies"
PARTS = ("name", "order", "rank", "choose")

POLICIES: dict[str, Callable[[Draw], Policy]] = {
    "round_robin": lambda draw: RoundRobin(),
    "power_of_two": PowerOfTwo,
    "power_of_two_100": lambda draw: PowerOfTwo(draw, 100, "power_of_two_100"),
    "least_outstanding": lambda draw: LeastOutstanding(),
    "greedy": lambda draw: Greedy(),
    "target": lambda draw: Target(),
    "slack": lambda draw: Slack(),
}
"""What makes them, called with their source of random numbers. They win over entry points of the same name."""


def create_policy(name: str, draw: Draw) -> Policy:
    """Make a policy; `draw` is its only source of randomness.

    Raises
    ------
    DeploymentError
        If there is no policy of that name, or what is called so is none.
    """
    make = _maker(name)
    try:
        policy = make(draw)
    except Exception as error:  # whatever it is: a policy may be anybody's
        raise DeploymentError(
            f"policy '{name}' cannot be made: {type(error).__name__}: {error}; what makes it takes its source of "
            "random numbers"
        ) from error
    if missing := [part for part in PARTS if not hasattr(policy, part)]:
        raise DeploymentError(f"policy '{name}': {type(policy).__name__} has no {' and no '.join(missing)}")
    if policy.name != name:  # records and reports name it so, and are read by that
        raise DeploymentError(f"policy '{name}' calls itself '{policy.name}'; give it one name")
    return policy


def policy_names() -> list[str]:
    """Return every name that `create_policy` knows, sorted."""
    return sorted({*POLICIES, *entry_points(group=ENTRY_POINT_GROUP).names})


def _maker(name: str) -> Callable[[Draw], Policy]:
    if (make := POLICIES.get(name)) is not None:
        return make
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        try:
            found: Callable[[Draw], Policy] = point.load()
        except (ImportError, AttributeError) as error:
            raise DeploymentError(f"policy '{name}': cannot import {point.value} ({error})") from error
        return found
    known = policy_names()
    raise DeploymentError(f"no policy is called {name!r} (known: {', '.join(known)}){did_you_mean(name, known)}")
