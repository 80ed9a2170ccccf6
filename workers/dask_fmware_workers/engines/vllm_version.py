"""Which vLLM is installed here, as its engines say of themselves."""

from __future__ import annotations

import importlib.metadata

__all__ = ["vllm_version"]


def vllm_version() -> str:
    """Return the version of vLLM, whose builds for CPUs have another name; empty where none is installed.

    It looks through all that is installed, which takes a moment.
    """
    builds = importlib.metadata.packages_distributions().get("vllm")
    return importlib.metadata.version(builds[0]) if builds else ""
