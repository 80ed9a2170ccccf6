"""What was given where a scenario is wanted, in words, and what takes it: records, deployments and workflows."""

from __future__ import annotations

import os
from typing import Any

from dask_fmware.errors import SpecError
from dask_fmware.simulation.replay import open_log
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.documents import keys_of
from dask_fmware.spec.record import shorten
from dask_fmware.spec.workflow import Workflow

__all__ = ["instead_of_scenario"]


def instead_of_scenario(source: Any) -> str | None:
    """Say of what is no scenario what it is and what to do with it; None if it is nothing of ours.

    Parameters
    ----------
    source
        What was given: an object, a path, a text, or a dictionary.
    """
    is_file = isinstance(source, str | os.PathLike) and os.path.isfile(source)
    name = shorten(os.fspath(source)) if is_file else "this"
    if is_file and _is_record(source):
        return (
            f"{name} is a record of runs and no scenario; 'dask fmware simulate --record FILE' plays it with other "
            "cards, objectives or loads, 'dask fmware replay FILE' as it was"
        )
    if (kind := _kind(source)) is None:
        return None
    return (
        f"{name} is a {kind} and no scenario, which says cards, models, workflows and arrivals at once; write one (see "
        "'dask fmware schema scenario'), or record some runs with fm.record(client, 'run.jsonl.gz') and ask "
        "'dask fmware simulate --record run.jsonl.gz'; fm.plan says which cards a load needs"
    )


def _is_record(path: Any) -> bool:
    try:
        with open_log(path):
            return True
    except SpecError:
        return False


def _kind(source: Any) -> str | None:
    """What a document is meant to be, sound or not, or what an object is."""
    if isinstance(source, Deployment):
        return "deployment"
    if isinstance(getattr(source, "workflow", source), Workflow):
        return "workflow"
    keys = keys_of(source)
    return "deployment" if "accelerators" in keys else "workflow" if "block" in keys else None
