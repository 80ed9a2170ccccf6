"""Planning a fleet: `fm.plan`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from dask_fmware.compile.profiles import profiles_of
from dask_fmware.errors import DeploymentError, SpecError
from dask_fmware.profile.assumptions import Assumptions
from dask_fmware.profile.record import Profile
from dask_fmware.provisioning.ahead import FleetPlan, Load, fleet_plan
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.documents import load_deployment, load_workflow
from dask_fmware.spec.provisioning import Provisioning
from dask_fmware.spec.record import checked, shorten
from dask_fmware.spec.slo import SLO, checked_slo
from dask_fmware.spec.workflow import Workflow

__all__ = ["plan"]


def plan(
    deployment: Deployment | str | os.PathLike[str] | Mapping[str, Any],
    workflow: Any,
    rate: float,
    slo: SLO | None = None,
    *,
    others: Sequence[tuple[Any, float]] = (),
    quantile: float | None = None,
    cards: int | None = None,
    profiles: Sequence[Profile] | None = None,
    **assumed: Any,
) -> FleetPlan:
    """Say which cards a load needs, what they cost, what share of the runs is in time, and what else would do.

    Parameters
    ----------
    deployment
        Models, where they may run, prices. A `Deployment`, a path of its document, or a dictionary.
    workflow
        A decorated function, a `Workflow`, or a path of its document.
    rate
        Runs a second.
    slo
        Of `workflow`, instead of its own.
    others
        Further workflows with their rates, on the same cards, each with the SLO of its own.
    quantile
        Share of the runs that shall be in time; left out: of the deployment, or 0.95.
    cards
        Most cards of each type, instead of those of the deployment.
    profiles
        Measured profiles; left out: those of the profile store.
    **assumed
        By node: ``prompt_tokens``, ``output_tokens``, ``task_s``, ``odds``, ``rounds`` and ``items``, of a map that has
        another number than 1 as a rule; see `dask_fmware.profile.assumptions.Assumptions`.

    Returns
    -------
    FleetPlan
        The cheapest mix that attains the quantile and what else would do: replicas, cards, price an hour in the
        deployment's currency, and the share of runs in time. Prints as a table.

    Raises
    ------
    SpecError
        An objective is below the best possible, a price is missing, a model is not deployed, embeds where text is
        asked for, fits no card, its speed is unknown, or something is assumed of a node that no workflow has.

    Examples
    --------
    >>> print(fm.plan("deployment.yaml", rag, rate=20, slo=fm.SLO(ttft_s=2)))  # doctest: +SKIP
    """
    slo = checked_slo(slo)
    made = load_deployment(deployment)
    if cards is not None:
        if not isinstance(cards, int) or cards < 1:
            raise SpecError(f"cards={cards!r}: give the most cards of each type, a whole number of at least 1")
        types = {
            name: card.model_copy(update={"cards": cards, "cores": None}) for name, card in made.accelerators.items()
        }
        made = made.model_copy(update={"accelerators": types})
    options = made.provisioning or Provisioning()
    if quantile is not None:
        options = checked(Provisioning, {**options.model_dump(), "quantile": quantile}, DeploymentError, "fm.plan")
    loads = [_load(workflow, rate, slo), *(_load(*pair) for pair in _pairs(others))]
    for load in loads:
        load.workflow.check_models(made)
    assumptions = Assumptions.of(assumed, [load.workflow for load in loads])
    return fleet_plan(made, loads, profiles_of(profiles), options=options, assumptions=assumptions)


def _pairs(others: Any) -> list[tuple[Any, Any]]:
    if not isinstance(others, list | tuple):
        others = [others]
    for other in others:
        if not isinstance(other, list | tuple) or len(other) != 2:
            raise SpecError(
                f"others={shorten(repr(others))}: give pairs of a workflow and its runs a second, such as [(rag, 5.0)]"
            )
    return list(others)


def _load(workflow: Any, rate: Any, slo: SLO | None = None) -> Load:
    spec = _spec(workflow)
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise SpecError(f"workflow '{spec.name}': rate={rate!r}; give runs a second, a number above 0")
    return Load(spec, float(rate), slo)


def _spec(workflow: Any) -> Workflow:
    if isinstance(workflow, Workflow):
        return workflow
    found = getattr(workflow, "workflow", None)
    if isinstance(found, Workflow):
        return found
    return load_workflow(workflow)
