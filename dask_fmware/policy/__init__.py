"""How calls are routed: one small pure class for each policy, behind one protocol. Floor 1."""

from dask_fmware.policy.protocol import Bind, CallView, Choice, Park, Policy, ReplicaView, Wait
from dask_fmware.policy.registry import POLICIES, create_policy, policy_names

__all__ = [
    "POLICIES",
    "Bind",
    "CallView",
    "Choice",
    "Park",
    "Policy",
    "ReplicaView",
    "Wait",
    "create_policy",
    "policy_names",
]
