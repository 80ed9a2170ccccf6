"""How long things take on what there is: until a replica has loaded, and for how long one stays that is not needed."""

from __future__ import annotations

from dataclasses import dataclass

from dask_fmware.provisioning.inventory import Inventory
from dask_fmware.provisioning.views import WorkflowDemand
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["Times"]

CATCH_UP_S = 10.0  # in which calls that wait are worked off, unless loading takes longer: they make others late


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, by model and by workflow; those of a workflow are of its slowest model."""

    inventory: Inventory
    options: Provisioning

    def load_s(self, model: str) -> float:
        """From the request for a replica until it is ready."""
        return max((kind.load_s for kind in self.inventory.of(model)), default=self.options.load_s)

    def lead_s(self, model: str) -> float:
        """How far ahead a start must be asked for."""
        return self.load_s(model) + 2 * self.options.interval_s

    def stays_s(self, model: str) -> float:
        """For how long a replica stays that is not needed."""
        return self.options.patience_s(self.load_s(model))

    def catch_up_s(self, model: str) -> float:
        """In which calls that wait are to be worked off."""
        return max(CATCH_UP_S, self.load_s(model))

    def flow_lead_s(self, workflow: WorkflowDemand) -> float:
        """How far ahead its starts must be asked for."""
        return max(map(self.lead_s, workflow.models), default=self.options.load_s + 2 * self.options.interval_s)

    def flow_stays_s(self, workflow: WorkflowDemand) -> float:
        """For how long its replicas stay that are not needed."""
        return max(map(self.stays_s, workflow.models), default=self.options.patience_s())
