"""The provisioning service: sees demand and replicas, asks the planner, drains, and tells the executor what to start
and stop.

The executor lives beside the cluster object (`dask_fmware.cluster.provisioner`) and asks by RPC; it may be restarted
or replaced at any time, as all that is known is here or on the workers. Replicas are drained by lease: if nobody asks
any more, for three looks at the least, they are given calls again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dask_fmware.errors import DeploymentError, FMwareError
from dask_fmware.model.replica import Replica
from dask_fmware.profile.law import StepLaw
from dask_fmware.provisioning import Observation, Plan, Planner, Step, inventory_of
from dask_fmware.provisioning.inventory import law_of_latency
from dask_fmware.runtime import Event
from dask_fmware.runtime.actions import Action
from dask_fmware.runtime.demand import Demand
from dask_fmware.spec.provisioning import Provisioning
from dask_fmware_scheduler.services.replica_watch import ReplicaWatch

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["TOPIC", "ProvisioningService"]

logger = logging.getLogger("dask_fmware.provisioning")

TOPIC = "fmware-provisioning"  # of Dask's event log
KEPT = 200  # steps that the status shows
LEASE_S = 30.0  # of a drained replica, renewed by each look; who has not asked for so long is gone
LOOKS = 3  # that it lasts for at least


class ProvisioningService:
    """Plans for whoever can start workers; a `Service` and an observer of the machine."""

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router
        self._planner: Planner | None = None
        self._demand: Demand | None = None
        self._watch: ReplicaWatch | None = None
        self._plan: Plan | None = None
        self._reasons: dict[str, str] = {}
        self._log: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._manager = ""
        self.is_asked = False  # whether somebody starts and stops replicas, and has asked of late
        self._asked_at = 0.0
        self._error = ""
        self._busy = asyncio.Lock()
        self._lapse: asyncio.TimerHandle | None = None
        self.changed: Callable[[], None] = lambda: None  # told when `is_asked` has

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """What executors and clients ask."""
        return {"fmware_provision": self.provision, "fmware_provision_over": self.over, "fmware_scale": self.scale}

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """None."""
        return {}

    def start(self) -> None:
        """Watch demand from the start, so that the first plan knows it."""
        self._demand = Demand(self._router.machine)
        self._router.machine.observers.append(self)

    def close(self) -> None:
        """Forget; replicas on leave come back by themselves."""
        self._planner = None
        self.is_asked = False
        if self._lapse is not None:
            self._lapse.cancel()

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """Take note of an event of the machine."""
        if self._demand is not None:
            self._demand.observe(event, actions, now)

    # -- what is asked ---------------------------------------------------------------------------

    async def provision(
        self,
        manager: str,
        requested: Sequence[Mapping[str, Any]] = (),
        pools: Sequence[Sequence[Any]] = (),
        options: str | None = None,
    ) -> dict[str, Any]:
        """Look at everything and return the steps that are the executor's, and the sizes of its pools (RPC).

        Parameters
        ----------
        manager
            Which executor asks; the latest to ask with options is the one that is answered.
        requested
            Workers that it has asked for: name, model, accelerator, and the error of those that could not start.
        pools
            Where workers are asked for by number and not by name: model, accelerator, count.
        options
            JSON of `Provisioning`, with the first question of an executor; None to go on. A service that was made
            anew answers that it ``wants_options``.
        """
        async with self._busy:
            if options is None and self._planner is None:
                return {"wants_options": True}
            if options is not None:
                try:
                    self._begin(manager, options)
                except FMwareError as error:
                    return {"error": str(error)}
            elif manager != self._manager:
                return {"error": f"another provisioner ({self._manager}) has taken over", "is_over": True}
            return await self._look(requested, pools)

    def over(self, manager: str) -> None:
        """Take note that an executor has ended: what has drained serves again when its lease ends (RPC)."""
        if manager == self._manager and self._watch is not None:
            self._manager = ""
            self._watch.tell_again()
            self._asked(False)

    def scale(self, wanted: Sequence[Sequence[Any]] | None) -> dict[str, Any]:
        """Keep so many replicas of each model and accelerator, by hand; None: decide by load again (RPC)."""
        try:
            if self._planner is None or not self.is_asked:
                why = "nothing on this cluster starts or stops replicas"
                if self._planner is not None:
                    why += f" any more: nobody has asked what to do for {self._router.clock() - self._asked_at:.0f} s"
                return {
                    "error": f"{why}; call cluster.adapt(fm.Provisioning()) or fm.provision(cluster) first",
                    "is_early": True,
                }
            if wanted is None:
                self._planner.wanted = None
                return {}
            counts = {(str(model), str(accelerator)): int(count) for model, accelerator, count in wanted}
            self._planner.wanted = self._checked(self._planner, counts)
        except FMwareError as error:
            return {"error": str(error)}
        return {}

    def status(self) -> dict[str, Any] | None:
        """Return desired, requested and ready replicas by kind, and the latest steps; None while nobody provisions."""
        if self._planner is None or self._watch is None:
            return None
        desired = {key: count for key, count in self._desired().items() if count}
        counts = self._watch.counts()
        known = {model for model, _ in (*desired, *counts)}
        inventory = self._planner.inventory
        at_zero = {inventory.of(model)[0].key for model in inventory.models if model not in known}
        kinds = sorted({*desired, *counts, *at_zero})
        return {
            "mode": "manual" if self._planner.wanted is not None else self._planner.options.mode,
            "manager": self._manager,
            "asked_at": self._asked_at + self._router.clock.set_by_s,
            "error": self._error,
            "is_planned": self._plan is not None or self._planner.wanted is not None,
            "cost_per_hour": self._plan.cost_per_hour if self._plan is not None else 0.0,
            "replicas": [
                {
                    "model": model,
                    "accelerator": accelerator,
                    "desired": desired.get((model, accelerator), 0),
                    "requested": counts.get((model, accelerator), (0, 0))[0],
                    "ready": counts.get((model, accelerator), (0, 0))[1],
                }
                for model, accelerator in kinds
            ],
            "reasons": dict(self._reasons),
            "steps": list(self._log),
        }

    def going(self) -> set[str] | None:
        """Workers whose replicas have been drained to be stopped; None while nothing is to be stopped."""
        return self._watch.going(self._router.clock()) if self._watch is not None and self.is_asked else None

    # -- one look --------------------------------------------------------------------------------

    @property
    def _lease_s(self) -> float:
        """For how long an answer holds: some looks, however far apart they are."""
        return max(LEASE_S, LOOKS * self._planner.options.interval_s) if self._planner is not None else LEASE_S

    def _asked(self, is_asked: bool) -> None:
        """Somebody asks, and is awaited again within a lease; or nobody does any more."""
        if self._lapse is not None:
            self._lapse.cancel()
        self._lapse = asyncio.get_running_loop().call_later(self._lease_s, self._asked, False) if is_asked else None
        if is_asked is not self.is_asked:
            self.is_asked = is_asked
            self.changed()

    def _begin(self, manager: str, text: str) -> None:
        options = Provisioning.model_validate_json(text)
        wanted = self._planner.wanted if self._planner is not None else None
        self._planner = Planner(inventory_of(self._router.deployment, options), options)
        self._planner.wanted = wanted
        if self._watch is None:
            self._watch = ReplicaWatch(self._router, options)
        self._watch.options = options
        self._watch.tell_again()
        self._manager = manager
        logger.info("Provisioner %s decides by %s", manager, options.mode)

    async def _look(self, requested: Sequence[Mapping[str, Any]], pools: Sequence[Sequence[Any]]) -> dict[str, Any]:
        assert self._planner is not None
        assert self._watch is not None
        assert self._demand is not None
        now = self._asked_at = self._router.clock()
        self._asked(True)
        self._watch.renew(self._lease_s)
        for key, law in self._speeds().items():
            self._planner.learn_speed(key, law)
        replicas = self._watch.look(requested, pools, self._demand, now)
        seen = Observation(self._demand.workflows(now), self._demand.models(now), replicas)
        try:
            plan = await asyncio.to_thread(self._planner.plan, seen, now)
        except FMwareError as error:
            if str(error) != self._error:
                logger.error("No plan: %s", error)
            self._error = str(error)
            return {"error": self._error, "steps": []}
        self._error = ""
        self._plan, self._reasons = plan, dict(plan.reasons)
        told = [wire for step in plan.steps if (wire := self._perform(step, now)) is not None]
        starts = Counter((wire["model"], wire["accelerator"]) for wire in told if wire["step"] == "start")
        sizes = [[*key, count] for key, count in self._watch.sizes(starts).items()]
        return {"steps": told, "sizes": sizes}

    def _perform(self, step: Step, now: float) -> dict[str, Any] | None:
        """Do what is the scheduler's, return what is the executor's."""
        assert self._watch is not None
        worker = self._watch.address(step.replica)
        wire = {
            "at": now, "step": step.kind, "model": step.model, "accelerator": step.accelerator,
            "replica": step.replica, "reason": step.reason,
        }  # fmt: skip
        if step.kind == "stop" and not self._watch.stopping(step.replica, now):
            return None
        self._say(wire)
        match step.kind:
            case "drain" | "swap":  # the card of a swap is free when its replica has gone; then the start follows
                self._watch.drain(step.replica, self._lease_s)
                return None
            case "resume":
                self._watch.resume(step.replica)
                return None
        return {**wire, "worker": worker}

    def _say(self, wire: dict[str, Any]) -> None:
        self._log.append(wire)
        self._router.dask.log_event(TOPIC, wire)
        what = wire["replica"] or f"a replica of {wire['model']} on {wire['accelerator']}"
        logger.info("%s %s: %s", str(wire["step"]).capitalize(), what, wire["reason"])

    def _speeds(self) -> dict[tuple[str, str], StepLaw]:
        """What ready replicas say of kinds whose speed nothing else tells, or have measured as a profile."""
        assert self._planner is not None
        kinds: dict[tuple[str, str], list[Replica]] = {}
        for state in self._router.machine.fleet:
            kinds.setdefault((state.replica.model, state.replica.accelerator), []).append(state.replica)
        found: dict[tuple[str, str], StepLaw] = {}
        for key, replicas in kinds.items():
            known = self._planner.inventory.kinds.get(key)
            law = self._router.machine.fleet.corrections.usual([r for r in replicas if r.profile is not None])
            if known is not None and law is not None:
                found[key] = law
            elif known is not None and known.law is None:
                found[key] = law_of_latency(replicas[0].latency)
        return found

    def _desired(self) -> Mapping[tuple[str, str], int]:
        """What is asked for by hand, also before it is planned; else by the latest plan, or what there is before it."""
        if self._planner is not None and self._planner.wanted is not None:
            return self._planner.wanted
        if self._plan is not None:
            return self._plan.desired
        assert self._watch is not None
        return {key: requested for key, (requested, _) in self._watch.counts().items()}

    def _checked(self, planner: Planner, counts: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
        """Refuse what cannot be; kinds that are not named keep what they have."""
        inventory = planner.inventory
        kept = dict(self._desired())
        for (model, accelerator), count in counts.items():
            if (model, accelerator) not in inventory.kinds:
                known = ", ".join(f"{m} on {a}" for m, a in inventory.kinds)
                raise DeploymentError(f"scale: model '{model}' is not deployed on '{accelerator}' (deployed: {known})")
            if count < 0:
                raise DeploymentError(f"scale: {count} replicas of '{model}' on '{accelerator}'; give 0 or more")
            kept[model, accelerator] = count
        for name, card in inventory.cards.items():
            asked = sum(count for (_, accelerator), count in kept.items() if accelerator == name)
            if asked > card.places:
                raise DeploymentError(
                    f"scale: {asked} replicas on '{name}' in all, its {card.cards} cards hold {card.places}; "
                    "lower the numbers or raise cards or replicas_per_card in the deployment"
                )
        if not inventory.is_within(kept, most := planner.options.max_cost_per_hour):
            raise DeploymentError(
                f"scale: all replicas together would cost {inventory.cost_per_hour(kept):g} an hour, "
                f"max_cost_per_hour is {most:g}; lower the numbers or raise it in fm.Provisioning"
            )
        return kept
