"""`workflow.budgets(deployment)`: reads the deployment and the profiles, and lets the core split the SLO."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import dask.config

from dask_fmware.profile.budgets import Assumptions, Budgets, budgets
from dask_fmware.profile.record import Profile
from dask_fmware.profile.store import ProfileStore, default_location
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.documents import load_deployment
from dask_fmware.spec.slo import SLO
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
    if isinstance(deployment, Mapping):
        deployment = load_deployment(json.dumps(dict(deployment)))
    elif not isinstance(deployment, Deployment):
        deployment = load_deployment(deployment)
    if profiles is None:
        profiles = dask.config.get("fmware.profiles", None) or default_location()
    if isinstance(profiles, (str, os.PathLike)):
        profiles = ProfileStore(profiles)
    if isinstance(profiles, ProfileStore):
        profiles, _problems = profiles.scan()
    return budgets(workflow, deployment, profiles, slo=slo, assumptions=Assumptions(**assumed))
