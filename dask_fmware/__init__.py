"""SLA-aware serving of foundation-model workflows on Dask.

``import dask_fmware as fm`` gives all names below. Those that need `distributed` import it when they
are first used, so that describing workflows and deployments costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_fmware.client.explain import explain as explain
    from dask_fmware.client.install import install as install
    from dask_fmware.client.install import status as status
    from dask_fmware.client.install import uninstall as uninstall
    from dask_fmware.client.install import wait_ready as wait_ready
    from dask_fmware.client.planning import plan as plan
    from dask_fmware.client.profiling import profile_models as profile_models
    from dask_fmware.client.recording import record as record
    from dask_fmware.client.report import Report as Report
    from dask_fmware.client.report import report as report
    from dask_fmware.client.report import reports as reports
    from dask_fmware.client.scaling import scale as scale
    from dask_fmware.client.session import Session as Session
    from dask_fmware.client.stream import stream as stream
    from dask_fmware.cluster.local import LocalModelCluster as LocalModelCluster
    from dask_fmware.cluster.provision import provision as provision
    from dask_fmware.compile.collection import BoundWorkflow as BoundWorkflow
    from dask_fmware.compile.collection import workflow as workflow
    from dask_fmware.errors import FMwareError as FMwareError
    from dask_fmware.evaluation import scorers as scorers
    from dask_fmware.evaluation.compare import compare as compare
    from dask_fmware.evaluation.evaluate import evaluate as evaluate
    from dask_fmware.model.completion import Chunk as Chunk
    from dask_fmware.model.completion import Completion as Completion
    from dask_fmware.simulation.run import simulate as simulate
    from dask_fmware.spec.deployment import Deployment as Deployment
    from dask_fmware.spec.provisioning import Provisioning as Provisioning
    from dask_fmware.spec.slo import SLO as SLO
    from dask_fmware.spec.tracing import Model as Model
    from dask_fmware.spec.tracing import loop as loop
    from dask_fmware.spec.tracing import map_
    from dask_fmware.spec.tracing import switch as switch
    from dask_fmware.spec.tracing import task as task
    from dask_fmware.spec.workflow import Workflow as Workflow

    map = map_

__version__ = "0.1.0"

_NAMES = {
    "SLO": "dask_fmware.spec.slo",
    "BoundWorkflow": "dask_fmware.compile.collection",
    "Chunk": "dask_fmware.model.completion",
    "Completion": "dask_fmware.model.completion",
    "Deployment": "dask_fmware.spec.deployment",
    "FMwareError": "dask_fmware.errors",
    "LocalModelCluster": "dask_fmware.cluster.local",
    "Model": "dask_fmware.spec.tracing",
    "Provisioning": "dask_fmware.spec.provisioning",
    "Report": "dask_fmware.client.report",
    "Session": "dask_fmware.client.session",
    "Workflow": "dask_fmware.spec.workflow",
    "compare": "dask_fmware.evaluation.compare",
    "evaluate": "dask_fmware.evaluation.evaluate",
    "explain": "dask_fmware.client.explain",
    "install": "dask_fmware.client.install",
    "loop": "dask_fmware.spec.tracing",
    "map": "dask_fmware.spec.tracing:map_",
    "plan": "dask_fmware.client.planning",
    "profile_models": "dask_fmware.client.profiling",  # `profile` is the package of laws and stores
    "record": "dask_fmware.client.recording",
    "provision": "dask_fmware.cluster.provision",
    "report": "dask_fmware.client.report",
    "reports": "dask_fmware.client.report",
    "scorers": "dask_fmware.evaluation:scorers",
    "scale": "dask_fmware.client.scaling",
    "simulate": "dask_fmware.simulation.run",
    "status": "dask_fmware.client.install",
    "stream": "dask_fmware.client.stream",
    "switch": "dask_fmware.spec.tracing",
    "task": "dask_fmware.spec.tracing",
    "uninstall": "dask_fmware.client.install",
    "wait_ready": "dask_fmware.client.install",
    "workflow": "dask_fmware.compile.collection",
}

__all__ = [*_NAMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        message = f"module 'dask_fmware' has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])  # a traceback names the nearest
    module, _, attribute = _NAMES[name].partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
