"""`workflow.budgets(deployment)`: reads the deployment and the profiles, and lets the core split the SLO."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from dask_fmware.compile.profiles import profiles_of
from dask_fmware.profile.assumptions import Assumptions
from dask_fmware.profile.budgets import Budgets, budgets
from dask_fmware.profile.record import Profile
from dask_fmware.profile.store import ProfileStore
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.documents import load_deployment
from dask_fmware.spec.slo import SLO, checked_slo
from dask_fmware.spec.workflow import Workflow

__all__ = ["workflow_budgets"]


def workflow_budgets(
    workflow: Workflow,
    deployment: Deployment | str | os.PathLike[str] | Mapping[str, Any],
    profiles: Sequence[Profile] | ProfileStore | str | os.PathLike[str] | None = None,
    slo: SLO | None = None,
    **assumed: Any,
) -> Budgets:
    """Return the budgets of a workflow; see `WorkflowFunction.budgets`."""
    slo = checked_slo(slo)
    assumptions = Assumptions.of(assumed, [workflow])
    return budgets(workflow, load_deployment(deployment), profiles_of(profiles), slo=slo, assumptions=assumptions)
