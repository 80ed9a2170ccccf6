"""The machine that the demo runs on: its cores, what it is, and the deployment that fits it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from dask_fmware.errors import DeploymentError
from dask_fmware.policy import create_policy
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.documents import load_deployment

__all__ = ["available_cores", "demo_deployment", "hardware", "own_deployment", "versions", "with_policy"]

MODELS = ("small", "large")  # what the workflows call


def available_cores() -> list[int]:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def demo_deployment(cores: Sequence[int]) -> Deployment:
    """Return the demo's own deployment, its cards pinned to the first cores if there are enough."""
    made = load_deployment(files("dask_fmware.demo").joinpath("deployment.yaml").read_text(encoding="utf-8"))
    enough = len(cores) >= len(made.accelerators) and hasattr(os, "sched_getaffinity")
    cards = {
        name: card.model_copy(update={"cores": [[cores[index]]] if enough else None})
        for index, (name, card) in enumerate(made.accelerators.items())
    }
    return made.model_copy(update={"accelerators": cards})


def own_deployment(path: Path) -> Deployment:
    """Read a user's deployment for the demo.

    Raises
    ------
    DeploymentError
        If it is unsound or lacks a model that the workflows call.
    """
    made = load_deployment(path)
    missing = [name for name in MODELS if name not in made.models]
    if missing:
        raise DeploymentError(
            f"{path}: the demo calls the models {' and '.join(MODELS)}, and {' and '.join(missing)} is not deployed "
            f"(deployed: {', '.join(made.models)}); add it under models"
        )
    return made


def with_policy(deployment: Deployment, policy: str | None, seed: int) -> Deployment:
    """Return the deployment with a policy, or its own, and a seed; DeploymentError if there is no such policy."""
    name = policy or deployment.router.policy
    create_policy(name, lambda: 0.0)  # refuses an unknown name before anything is started
    return deployment.model_copy(update={"router": deployment.router.model_copy(update={"policy": name, "seed": seed})})


def hardware() -> dict[str, Any]:
    """Describe the machine in plain values."""
    cores = available_cores()
    return {
        "processor": _processor(),
        "cores": len(cores),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": list(os.getloadavg()),
    }


def versions() -> dict[str, str]:
    """Return the versions that matter to figures."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}"}
    for name in ("dask-fmware", "dask", "distributed", "xllamacpp"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
