"""Which replicas were asked for, which are there, and which of them are on their way out.

It brings together what an executor has asked for, what the machine knows and what workers report as failed. A replica
that was ready once and is lost is waited for, as a nanny brings it back; one that is lost again and again has failed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dask_fmware.provisioning import ReplicaNow
from dask_fmware.provisioning.views import ReplicaState
from dask_fmware.runtime.demand import Demand
from dask_fmware.spec.provisioning import Provisioning
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_scheduler.services.leave import Leave

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["ReplicaWatch"]

LOSSES, LOSSES_S = 3, 300.0  # a replica that is lost so often in so many seconds has failed
STOPPED_S = 90.0  # after which an executor is told once more to stop a replica, and a pool to shrink
BACK_S = 30.0  # beside its load time, within which a lost replica comes back
THERE = ("ready", "shut", "draining")


class _Known:
    __slots__ = ("had_served", "is_draining", "load_s", "losses", "since", "state")

    def __init__(self, now: float) -> None:
        self.state: ReplicaState = "starting"
        self.since = now
        self.had_served = False
        self.is_draining = False
        self.load_s = 0.0  # that it took when it came last
        self.losses: deque[float] = deque(maxlen=LOSSES)

    def become(self, state: ReplicaState, now: float) -> None:
        if state != self.state:
            if self.state in THERE and state == "starting":
                self.losses.append(now)
            if not {state, self.state} <= {"ready", "shut"}:  # a limit is nothing that begins anew
                self.since = now
            self.state = state
        if state in THERE:
            self.had_served = True


class ReplicaWatch:
    """Follows replicas by name.

    Parameters
    ----------
    router
        Its machine, and failures that workers report.
    options
        Patience.
    """

    def __init__(self, router: ReplicaRouter, options: Provisioning) -> None:
        self.options = options
        self._router = router
        self._known: dict[str, _Known] = {}
        self._kinds: dict[str, tuple[str, str]] = {}
        self._addresses: dict[str, str] = {}
        self._going: dict[str, float] = {}  # name -> when an executor was told to stop it
        self._overdue: set[str] = set()  # told to stop long ago, and still there
        self._ours: set[str] = set()
        self._pooled: set[tuple[str, str]] = set()  # kinds of which workers are asked for by number
        self._awaited: dict[tuple[str, str], list[str]] = {}  # kind -> placeholders of those that have not come
        self._placeholders = 0  # so many were ever named
        self._shrinks_until = 0.0  # a pool whose worker has not come yet gets smaller

    def look(
        self, requested: Sequence[Mapping[str, Any]], pools: Sequence[Sequence[Any]], demand: Demand, now: float
    ) -> tuple[ReplicaNow, ...]:
        """Return every replica as it is; see `ProvisioningService.provision` for the arguments."""
        fleet = {state.replica.name: state for state in self._router.machine.fleet}
        asked: dict[str, tuple[str, str, str]] = {
            str(one["name"]): (str(one["model"]), str(one["accelerator"]), str(one.get("error") or ""))
            for one in requested
        }
        pooled = {(str(model), str(accelerator)): int(count) for model, accelerator, count in pools}
        self._pooled = set(pooled)
        for name, key in self._of_pools(pooled, fleet):
            asked[name] = (*key, "")
        self._ours = set(asked)
        for name, state in fleet.items():  # started by someone else: they serve, and are not ours to stop
            asked.setdefault(name, (state.replica.model, state.replica.accelerator, ""))
        self._forget_all_but(asked, now)
        made = []
        for name, (model, accelerator, error) in asked.items():
            known = self._known.setdefault(name, _Known(now))
            self._kinds[name] = (model, accelerator)
            replica = self._one(name, known, fleet.get(name), error, model, accelerator, demand, now)
            if name in self._going:  # its executor has not finished with it; it still takes its place
                replica = replace(replica, state="stopping")
            made.append(replica if name in self._ours else replace(replica, is_ours=False))
        return tuple(made)

    def counts(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Requested and ready replicas by kind."""
        requested: Counter[tuple[str, str]] = Counter()
        ready: Counter[tuple[str, str]] = Counter()
        for name, known in self._known.items():
            requested[self._kinds[name]] += 1
            ready[self._kinds[name]] += known.state == "ready"
        return {key: (count, ready[key]) for key, count in requested.items()}

    def sizes(self, starts: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
        """How many workers there are to be of each kind that is asked for by number, with those to be started now."""
        staying = Counter(self._kinds[name] for name in self._ours if name not in self._going)
        return {key: staying[key] + starts.get(key, 0) for key in {*self._pooled, *starts}}

    def address(self, name: str) -> str:
        """Address of a replica's worker; empty if it has none."""
        return self._addresses.get(name, "")

    # -- leave -----------------------------------------------------------------------------------

    def drain(self, name: str, lease_s: float) -> None:
        """Give a replica no more calls."""
        if (known := self._known.get(name)) is not None and (address := self.address(name)):
            known.is_draining = True
            self._router.service(Leave).drain([address], lease_s)

    def resume(self, name: str) -> None:
        """Give a replica calls again."""
        if (known := self._known.get(name)) is not None and (address := self.address(name)):
            known.is_draining = False
            self._router.service(Leave).drain([address], 0.0)

    def renew(self, lease_s: float) -> None:
        """Keep those on leave that are."""
        on_leave = [self._addresses[n] for n, k in self._known.items() if k.is_draining and n in self._addresses]
        if on_leave:
            self._router.service(Leave).drain(on_leave, lease_s)

    def stopping(self, name: str, now: float) -> bool:
        """An executor is told to stop a replica; False if it has to wait.

        Who shrinks a pool is let choose among what may go, whatever its pool: so pools shrink one at a time. One that
        it did not choose is counted in once more before it is told again: who is told the same number hears nothing.
        """
        key = self._kinds[name]
        if key in self._pooled:
            if name in self._overdue:
                return False
            if any(self._kinds[other] != key for other in self._going if other in self._addresses):
                return False
            if name not in self._addresses:
                self._shrinks_until = now + STOPPED_S
        self._going[name] = now
        return True

    def tell_again(self) -> None:
        """A new executor knows nothing of what the one before it was told to stop."""
        self._going.clear()

    def going(self, now: float) -> set[str] | None:
        """Addresses of the workers whose replicas are to be stopped; None while none is."""
        if not self._going and now >= self._shrinks_until:
            return None
        return {self._addresses[name] for name in self._going if name in self._addresses}

    # -- details ---------------------------------------------------------------------------------

    def _one(
        self, name: str, known: _Known, state: Any, error: str, model: str, accelerator: str, demand: Demand, now: float
    ) -> ReplicaNow:
        if state is not None:
            address = state.replica.replica_id
            if self._addresses.get(name, address) != address:
                known.is_draining = False  # another worker of the same name
            self._addresses[name] = address
            known.load_s = state.replica.load_s
            serving: ReplicaState = "shut" if state.standing.is_shut(now) else "ready"
            known.become("draining" if known.is_draining else serving, now)
            running = len(state.running)
            idle_since = demand.idle_since(address, running, known.since, now)
            return ReplicaNow(
                name, model, accelerator, known.state, known.since, running, state.waiting, idle_since,
                state.replica.load_s,
            )  # fmt: skip
        if (address := self._addresses.pop(name, None)) is not None:
            demand.forget(address)
        if known.is_draining:  # lost on its way out: there is nothing to wait for
            known.become("draining", now)
            return ReplicaNow(name, model, accelerator, "draining", known.since)
        known.become("starting", now)
        fault, is_hopeless = self._fault(name, known, error, now)
        if fault:
            return ReplicaNow(name, model, accelerator, "failed", known.since, error=fault, is_hopeless=is_hopeless)
        return ReplicaNow(name, model, accelerator, "starting", known.since)

    def _fault(self, name: str, known: _Known, error: str, now: float) -> tuple[str, bool]:
        """Why a replica that does not serve will not be waited for, and whether it never will."""
        if error:
            return error, False
        for message in self._router.service(Arrivals).failed.values():
            if message["name"] == name and (not known.had_served or not message["will_retry"]):
                return str(message["error"]), not message["will_retry"]
        if len(known.losses) == LOSSES and now - known.losses[0] < LOSSES_S:
            return f"it was lost {LOSSES} times in {now - known.losses[0]:.0f} s", False
        patience_s = self.options.start_timeout_s
        if known.had_served:
            patience_s = max(self.options.load_s, known.load_s) + self.options.boot_s + BACK_S
        if now - known.since > patience_s:
            return f"it did not come within {patience_s:.0f} s", False
        return "", False

    def _of_pools(
        self, pools: Mapping[tuple[str, str], int], fleet: Mapping[str, Any]
    ) -> list[tuple[str, tuple[str, str]]]:
        """Names of the replicas of pools: those that are there, and a placeholder for each that is to come.

        One that comes takes the place of who was asked for first. Those that are to go count no more, and have none.
        """
        found = []
        for key, count in pools.items():
            there = [name for name, s in fleet.items() if (s.replica.model, s.replica.accelerator) == key]
            awaited = self._awaited.setdefault(key, [])
            del awaited[: sum(name not in self._known for name in there)]
            to_come = max(count - sum(name not in self._going for name in there), 0)
            while len(awaited) > to_come:
                awaited.remove(next((name for name in awaited if name in self._going), awaited[0]))
            while len(awaited) < to_come:
                self._placeholders += 1
                awaited.append(f"{key[0]}-{key[1]}-pending-{self._placeholders}")
            found += [(name, key) for name in (*there, *awaited)]
        return found

    def _forget_all_but(self, asked: Mapping[str, Any], now: float) -> None:
        for name in [name for name in self._known if name not in asked]:
            del self._known[name]
            self._kinds.pop(name, None)
            self._addresses.pop(name, None)
        self._overdue = {name for name, since in self._going.items() if name in asked and now - since >= STOPPED_S}
        self._going = {n: since for n, since in self._going.items() if n in asked and n not in self._overdue}
