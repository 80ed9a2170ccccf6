"""The resource provisioner's decisions: which replicas to start, drain and stop, from demand, cards and step-time laws.

Pure: time is passed in, nothing is measured or performed here. `demand` says what is asked for, `expected` what is to
come, `capacity` what a replica bears, `mix` which cards are cheapest, `planner` what to do now; `simple` and
`queue_length` are other ways to count replicas, for comparison.
"""

from dask_fmware.provisioning.inventory import CardType, Inventory, Kind, inventory_of
from dask_fmware.provisioning.planner import Planner
from dask_fmware.provisioning.views import (
    ModelLoad,
    NodeDemand,
    Observation,
    Plan,
    ReplicaNow,
    Step,
    WorkflowDemand,
)

__all__ = [
    "CardType",
    "Inventory",
    "Kind",
    "ModelLoad",
    "NodeDemand",
    "Observation",
    "Plan",
    "Planner",
    "ReplicaNow",
    "Step",
    "WorkflowDemand",
    "inventory_of",
]
