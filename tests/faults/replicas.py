"""Faults of replicas: they are lost, slow, drained and started at bad moments, and all is well again in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dask_fmware.simulation.agenda import Agenda
from dask_fmware.simulation.fleet import VirtualFleet
from dask_fmware.simulation.replicas import VirtualReplica
from dask_fmware.simulation.scenario import Scenario
from tests.faults.drawing import HEALED_S, Fault

__all__ = ["ReplicaFaults"]


class ReplicaFaults:
    """What befalls the replicas of one simulation."""

    def __init__(self, scenario: Scenario, agenda: Agenda, fleet: VirtualFleet) -> None:
        self._scenario = scenario
        self._agenda = agenda
        self._fleet = fleet
        self.kinds: Mapping[str, Callable[[Fault], bool]] = {
            "kill": self._kill,
            "outage": self._outage,
            "slow": self._slow,
            "flap": self._flap,
            "drain": self._drain,
            "start": self._start_one,
        }
        """Kind of a fault -> what makes it happen; False if there was nobody for it to befall."""

    def one(self, fault: Fault) -> VirtualReplica | None:
        """Return the replica that a fault befalls."""
        there = sorted(self._fleet, key=lambda replica: replica.replica_id)
        return there[int(fault.pick * len(there))] if there else None

    def back(self, model: str, accelerator: str, after_s: float) -> None:
        """Start a replica after some time, if there is room for one by then."""
        self._agenda.at(self._agenda.now + after_s, self._try_start, model, accelerator)

    def _try_start(self, model: str, accelerator: str) -> bool:
        if self._fleet.cards_left(accelerator) > 0:
            self._fleet.start(model, accelerator)
            return True
        for card in self._fleet.cards:
            if card.accelerator == accelerator and all(replica.model != model for replica in card.replicas):
                self._fleet.start(model, accelerator, card.name)
                return True
        return False

    def keep(self) -> None:
        """From some time on nothing fails, and every model has a replica again."""
        if self._agenda.now >= HEALED_S:
            for card in self._fleet.cards:
                if card.slow != 1.0:
                    self._fleet.slow_down(card.name, 1.0)
            for replica in list(self._fleet):
                if replica.state == "draining":
                    self._fleet.drain(replica.replica_id, False)
            for model, spec in self._scenario.models.items():
                if not any(replica.model == model for replica in self._fleet):
                    any(self._try_start(model, accelerator) for accelerator in spec.on)
        self._agenda.at(self._agenda.now + 1.0, self.keep)

    def _kill(self, fault: Fault) -> bool:
        replica = self.one(fault)
        if replica is None:
            return False
        self._fleet.stop(replica.replica_id, "its worker is gone")
        if fault.size < 0.7:
            self.back(replica.model, replica.accelerator, 5.0 * fault.size)
        return True

    def _outage(self, fault: Fault) -> bool:
        models = sorted(self._scenario.models)
        model = models[int(fault.pick * len(models))]
        for replica in [replica for replica in self._fleet if replica.model == model]:
            if self._fleet.get(replica.replica_id) is replica:
                self._fleet.stop(replica.replica_id, "its worker is gone")
                self.back(model, replica.accelerator, 8.0 * fault.size)
        return True

    def _slow(self, fault: Fault) -> bool:
        replica = self.one(fault)
        if replica is not None:
            self._fleet.slow_down(replica.card.name, 1.0 + 20.0 * fault.size)
        return replica is not None

    def _flap(self, fault: Fault) -> bool:
        replica = self.one(fault)
        if replica is None:
            return False
        for turn in range(6):
            self._agenda.at(self._agenda.now + 0.1 * turn, self._drain_one, replica.replica_id, turn % 2 == 0)
        return True

    def _drain(self, fault: Fault) -> bool:
        replica = self.one(fault)
        if replica is None:
            return False
        self._drain_one(replica.replica_id, True)
        self._agenda.at(self._agenda.now + 10.0 * fault.size, self._drain_one, replica.replica_id, False)
        return True

    def _drain_one(self, replica_id: str, draining: bool) -> None:
        if self._fleet.get(replica_id) is not None:
            self._fleet.drain(replica_id, draining)

    def _start_one(self, fault: Fault) -> bool:
        pairs = [(model, accelerator) for model, spec in self._scenario.models.items() for accelerator in spec.on]
        return self._try_start(*pairs[int(fault.pick * len(pairs))])
