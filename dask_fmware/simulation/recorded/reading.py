"""Reads a log into what can be simulated."""

from __future__ import annotations

from pathlib import Path

from dask_fmware.errors import SpecError
from dask_fmware.simulation.recorded.facts import Facts
from dask_fmware.simulation.recorded.fleet import delivery_s, fleet_of
from dask_fmware.simulation.recorded.recorded import Recorded
from dask_fmware.simulation.recorded.runs import rebuilt
from dask_fmware.simulation.replay import open_log, scenario_of
from dask_fmware.simulation.scenario import FleetScenario

__all__ = ["read_recorded"]


def read_recorded(path: str | Path) -> Recorded:
    """Read what a log holds.

    Raises
    ------
    SpecError
        It is no event log, or nothing in it can be simulated.
    """
    with open_log(path) as (head, lines):
        facts = Facts(None if head.scenario is None else head.started)  # what befalls its cards is told from there on
        facts.read(lines)
    if not facts.presence.replicas:
        raise SpecError(
            f"event log {path}: no replica was ever ready, so there is no cluster to simulate; record while one serves"
        )
    found = [one for plan in facts.roots if (one := rebuilt(facts, plan)) is not None]
    if not found:
        raise SpecError(f"event log {path}: no run finished while it was recorded; record for longer")
    runs, outcomes = [run for run, _ in found], [outcome for _, outcome in found]
    fleet: FleetScenario | None = scenario_of(head)
    changed = 0  # a scenario says itself what befalls its replicas
    if fleet is None:
        told = fleet_of(facts.presence.replicas, head.tenants)
        fleet = told.model_copy(update={"delivery_s": delivery_s(told, runs, facts.calls)})
        changed = facts.presence.changed(runs[0].arrival, max(outcome.finished_at for outcome in outcomes))
    return Recorded(head, fleet, runs, outcomes, len(facts.roots) - len(runs), changed, facts.assigned)
