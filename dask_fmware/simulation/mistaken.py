"""What was given where a scenario is wanted, in words, and what takes it: records, deployments and workflows."""

from __future__ import annotations

import os
from typing import Any

from dask_fmware.errors import SpecError
from dask_fmware.simulation.replay import open_log
from dask_fmware.spec.documents import load_deployment, load_workflow
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
    kind = "deployment" if _is_deployment(source) else "workflow" if _is_workflow(source) else None
    if kind is None:
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


def _is_deployment(source: Any) -> bool:
    try:
        load_deployment(source)
        return True
    except SpecError:
        return False


def _is_workflow(source: Any) -> bool:
    if isinstance(getattr(source, "workflow", source), Workflow):
        return True
    try:
        load_workflow(source)
        return True
    except SpecError:
        return False
