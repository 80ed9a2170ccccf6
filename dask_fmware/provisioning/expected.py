"""What there have to be replicas for: calls at the peak of the forecasts, those that wait, those that are under way.

It remembers what a single look cannot tell: the peak of the last minutes, what became of rises, how much more came than
was foreseen, and how much more room than the projection says was found to be needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from dask_fmware.provisioning.capacity import CallClass
from dask_fmware.provisioning.demand import call_classes
from dask_fmware.provisioning.filling import Filling, Soon, filled
from dask_fmware.provisioning.forecast import Peak
from dask_fmware.provisioning.passing import Passing
from dask_fmware.provisioning.pressure import Pressure
from dask_fmware.provisioning.steps import Stock
from dask_fmware.provisioning.surprise import Surprise
from dask_fmware.provisioning.times import Times
from dask_fmware.provisioning.views import ModelLoad, Observation, WorkflowDemand

__all__ = ["Asked", "Expectation", "Expected"]

FEWEST_CALLS = 1e-3  # under way, that keep the last replica, or have the first started


@dataclass(frozen=True, slots=True)
class Asked:
    """What there has to be replicas for; see `sizing.size`."""

    classes: tuple[CallClass, ...]
    bursts: Mapping[str, float]
    pressure: Mapping[str, float]
    backlog: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Expected:
    """What one look leads to expect."""

    soon: Asked  # when a replica that starts now has loaded
    full: Asked  # when the load has lasted
    shares: Mapping[str, float]  # by model, calls soon as a share of those of a load that has lasted
    notes: Mapping[str, str]  # by workflow, what is expected beyond its rate
    kept: Mapping[str, str]  # by model of whose calls no more are expected, why it has a replica


class Expectation:
    """Remembers from look to look.

    Parameters
    ----------
    miss
        Share of the runs that may be late.
    """

    def __init__(self, miss: float) -> None:
        self._miss = miss
        self._pressure = Pressure(miss)
        self._peaks: dict[str, Peak] = {}
        self._surprises: dict[str, Surprise] = {}
        self._passing: dict[str, Passing] = {}
        self._filling = Filling()

    def observe(self, seen: Observation, stock: Stock, times: Times, now: float) -> Expected:
        """Take in a look."""
        loads, notes = self._loads(seen, times, now)
        classes = call_classes(loads, times.inventory)
        under_way, kept = _under_way({calls.model for calls in classes}, seen.models, times, now)
        classes += under_way
        shares = self._filling.observe(classes, self._soon(seen, stock, times, now))
        soon = Asked(
            tuple(filled(classes, shares)), _bursts(seen.workflows), self._pressure.update(seen.models, stock, now), {}
        )
        soon = replace(soon, backlog=_backlog(soon.classes, seen.models, shares, times))
        return Expected(soon, replace(soon, classes=tuple(classes)), shares, notes, kept)

    def _loads(self, seen: Observation, times: Times, now: float) -> tuple[list[WorkflowDemand], dict[str, str]]:
        """Workflows at the peak of their forecasts."""
        loads, notes = [], {}
        for workflow in seen.workflows:
            lead_s = times.flow_lead_s(workflow)
            if _is_quiet(workflow, seen.models, times, now):
                self._peaks.pop(workflow.name, None)
                continue
            coming = workflow.rate + max(workflow.trend, 0.0) * lead_s
            coming = min(coming, 2 * workflow.rate) if workflow.rate else coming
            peak = self._peaks.setdefault(workflow.name, Peak()).observe(now, coming, times.flow_stays_s(workflow))
            surprise = self._surprises.setdefault(workflow.name, Surprise(self._miss))
            room = surprise.observe(now, lead_s, peak, workflow.rate, _late(workflow, seen.models))
            if peak * room > 0:
                loads.append(replace(workflow, rate=peak * room))
            words = [f"{coming:.3g} runs/s expected in {lead_s:.0f} s"] if coming > 1.05 * workflow.rate else []
            if room > 1.01:
                words.append(f"{room:.2f} times that, as more came before than was foreseen")
            if words:
                notes[workflow.name] = ", ".join(words)
        return loads, notes

    def _soon(self, seen: Observation, stock: Stock, times: Times, now: float) -> Soon:
        """What is there, and how much of what comes is to be believed."""
        believed = {}
        for flow in seen.workflows:
            passing = self._passing.setdefault(flow.name, Passing())
            believed[flow.name] = passing.observe(now, flow.rate, times.flow_lead_s(flow), times.flow_stays_s(flow))
        models = times.inventory.models
        lead_s = {model: times.lead_s(model) for model in models}
        stays_s = {model: times.stays_s(model) for model in models}
        return Soon(times.inventory, seen.models, stock.ready, lead_s, stays_s, believed, now)


def _under_way(
    known: set[str], loads: Mapping[str, ModelLoad], times: Times, now: float
) -> tuple[list[CallClass], dict[str, str]]:
    """Calls of models of which no more are expected, which keep the last replica or have the first started; and why."""
    classes, kept = [], {}
    for model, load in loads.items():
        if model in known or not times.inventory.of(model) or _is_idle(model, load, times, now):
            continue
        rate = max(load.held_urgent, FEWEST_CALLS) / times.catch_up_s(model)
        classes.append(CallClass("", "", model, rate, 512, 128, inf, False))
        if not load.held:
            kept[model] = f"its last calls run, or ended less than {times.stays_s(model):.0f} s ago"
        elif not load.held_urgent:
            kept[model] = f"{load.held_in_background} calls of background work wait"
    return classes, kept


def _is_quiet(workflow: WorkflowDemand, loads: Mapping[str, ModelLoad], times: Times, now: float) -> bool:
    """Whether no model of a workflow has had a call in all of the idle period, however high the load was before."""
    found = {model: loads.get(model) for model in workflow.models}
    had_calls = any(load is not None and load.last_call > -inf for load in found.values())
    return had_calls and all(load is not None and _is_idle(name, load, times, now) for name, load in found.items())


def _is_idle(model: str, load: ModelLoad, times: Times, now: float) -> bool:
    """Whether a model has had no call in all of the idle period."""
    return not load.held and not load.running and now - load.last_call >= times.stays_s(model)


def _backlog(
    classes: Sequence[CallClass], loads: Mapping[str, ModelLoad], shares: Mapping[str, float], times: Times
) -> dict[str, float]:
    """Calls a second that work off what waits, as a share of what comes, by model.

    It takes no room of its own for variance: replicas that have room work a backlog off with it.
    """
    asked: dict[str, float] = {}
    for calls in classes:
        asked[calls.model] = asked.get(calls.model, 0.0) + calls.rate
    backlog = {}
    for model, rate in asked.items():
        waiting = loads.get(model, ModelLoad()).held_urgent - rate  # what waits for a second is no backlog
        if waiting > 0:
            most = max(shares.get(model, inf), 1.0) - 1  # no more slots than calls
            backlog[model] = round(min(waiting / times.catch_up_s(model) / rate, most), 2)
    return backlog


def _late(workflow: WorkflowDemand, loads: Mapping[str, ModelLoad]) -> float | None:
    """Share of the runs of the last minute that were late, at the model that fared worst; None if none ended."""
    found = [loads[model] for model in workflow.models if model in loads]
    return max((load.missed / load.ended for load in found if load.ended), default=None)


def _bursts(workflows: Sequence[WorkflowDemand]) -> dict[str, float]:
    """By model, the burstiness of the workflow that comes in the largest clumps."""
    bursts: dict[str, float] = {}
    for workflow in workflows:
        for model in workflow.models:
            bursts[model] = max(bursts.get(model, 1.0), workflow.burstiness)
    return bursts
