"""The provisioner in virtual time: the planner that runs on clusters, as the controller of a simulated fleet."""

from __future__ import annotations

from dask_fmware.errors import CapacityError
from dask_fmware.profile.replica import Limits
from dask_fmware.provisioning import CardType, Inventory, Kind, Observation, Plan, Planner, ReplicaNow, Step
from dask_fmware.runtime import Machine
from dask_fmware.runtime.demand import Demand
from dask_fmware.simulation.fleet import VirtualFleet
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["ProvisioningController", "inventory_of_scenario"]


def inventory_of_scenario(scenario: Scenario) -> Inventory:
    """Return the cards and kinds of a scenario; one replica takes a card."""
    cards = {name: CardType(name, card.limit, 1, card.price_per_hour) for name, card in scenario.cards.items()}
    kinds = {}
    for model, spec in scenario.models.items():
        for accelerator, hosting in spec.on.items():
            limits = Limits(hosting.slots, max(hosting.step_tokens, hosting.slots + 1), hosting.kv_tokens)
            kinds[model, accelerator] = Kind(
                model, accelerator, hosting.step_law, limits, hosting.load_s.typical,
                scenario.cards[accelerator].price_per_hour, "the scenario",
            )  # fmt: skip
    return Inventory(cards, kinds)


class ProvisioningController:
    """A `simulation.fleet.Controller` that does what a planner says.

    Parameters
    ----------
    scenario
        Cards and hostings.
    options
        Of the planner.
    """

    def __init__(self, scenario: Scenario, options: Provisioning) -> None:
        self.planner = Planner(inventory_of_scenario(scenario), options)
        self.plans: list[Plan] = []  # those that had something to do
        self._demand: Demand | None = None
        self._known_failures = 0

    def control(self, fleet: VirtualFleet, machine: Machine, now: float) -> float | None:
        """Plan and perform."""
        if self._demand is None:
            self._demand = Demand(machine)
            machine.observers.append(self._demand)
        demand = self._demand
        failed = [
            ReplicaNow(
                f"{model}-{accelerator}-failed-{i}", model, accelerator, "failed", at, error="it could not start"
            )
            for i, (at, model, accelerator) in enumerate(fleet.failed_starts)
            if i >= self._known_failures
        ]
        self._known_failures = len(fleet.failed_starts)
        self.planner.failures.observe(failed, now)
        replicas = []
        for replica in fleet:
            if replica.state == "gone":
                continue
            state = machine.fleet.get(replica.replica_id)
            running = max(replica.running, len(state.running) if state is not None else 0)
            replicas.append(
                ReplicaNow(
                    replica.replica_id, replica.model, replica.accelerator,
                    replica.state, replica.since, running, state.waiting if state is not None else 0,
                    demand.idle_since(replica.replica_id, running, replica.since, now),
                )
            )  # fmt: skip
        flows = demand.workflows(now)
        plan = self.planner.plan(Observation(flows, demand.models(now), tuple(replicas)), now)
        if plan.steps:
            self.plans.append(plan)
        for step in plan.steps:
            self._perform(step, fleet)
        return now + self.planner.options.interval_s

    def _perform(self, step: Step, fleet: VirtualFleet) -> None:
        match step.kind:
            case "start":
                try:
                    fleet.start(step.model, step.accelerator)
                except CapacityError:
                    return  # cards that a failure holds; the next plan sees it
            case "swap":
                fleet.drain(step.replica)
            case "drain":
                fleet.drain(step.replica)
            case "resume":
                fleet.drain(step.replica, draining=False)
            case "stop":
                fleet.stop(step.replica, step.reason)
