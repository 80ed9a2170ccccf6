"""Which replicas were asked for, which are there, and which of them are on their way out.

It brings together what an executor has asked for, what the machine knows and what workers report as failed. A replica
that was ready once and is lost is waited for, as a nanny brings it back; one that is lost again and again has failed.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dask_fmware.provisioning import ReplicaNow
from dask_fmware.provisioning.views import ReplicaState
from dask_fmware.runtime.demand import Demand
from dask_fmware.spec.provisioning import Provisioning
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_scheduler.services.leave import Leave
from dask_fmware_scheduler.services.pools import Key, Pools

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["ReplicaWatch"]

LOSSES, LOSSES_S = 3, 300.0  # a replica that is lost so often in so many seconds has failed
STOPPED_S = 90.0  # after which an executor is told once more to stop a replica, and a pool to shrink
BACK_S = 30.0  # beside its load time, within which a lost replica comes back
THERE = ("ready", "shut", "draining")


class _Known:
    """What is known of one replica."""

    __slots__ = (
        "address", "had_served", "is_draining", "is_ours", "is_overdue", "kind", "load_s", "losses", "since", "state",
        "told_at",
    )  # fmt: skip

    def __init__(self, kind: Key, now: float) -> None:
        self.kind = kind
        self.address = ""  # of its worker; empty if it has none
        self.is_ours = False  # an executor has asked for it
        self.told_at: float | None = None  # when an executor was told to stop it
        self.is_overdue = False  # told to be stopped long ago, and still there at this look
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
        self._pools = Pools()
        self._shrinks_until = 0.0  # a pool whose worker has not come yet gets smaller

    def look(
        self, requested: Sequence[Mapping[str, Any]], pools: Sequence[Sequence[Any]], demand: Demand, now: float
    ) -> tuple[ReplicaNow, ...]:
        """Return every replica as it is; see `ProvisioningService.provision` for the arguments."""
        fleet = {state.replica.name: state for state in self._router.machine.fleet}
        asked = {str(one["name"]): (str(one["model"]), str(one["accelerator"])) for one in requested}
        errors = {str(one["name"]): str(one.get("error") or "") for one in requested}
        asked |= self._of_pools({(str(model), str(on)): int(count) for model, on, count in pools}, fleet)
        ours = set(asked)
        for name, state in fleet.items():  # started by someone else: they serve, and are not ours to stop
            asked.setdefault(name, (state.replica.model, state.replica.accelerator))
        self._forget_all_but(asked, now)
        made = []
        for name, kind in asked.items():
            known = self._known.setdefault(name, _Known(kind, now))
            known.kind, known.is_ours = kind, name in ours
            replica = self._one(name, known, fleet.get(name), errors.get(name, ""), demand, now)
            if known.told_at is not None:  # its executor has not finished with it; it still takes its place
                replica = replace(replica, state="stopping")
            made.append(replica if known.is_ours else replace(replica, is_ours=False))
        return tuple(made)

    def counts(self) -> dict[Key, tuple[int, int]]:
        """Requested and ready replicas by kind."""
        requested = Counter(known.kind for known in self._known.values())
        ready = Counter(known.kind for known in self._known.values() if known.state == "ready")
        return {key: (count, ready[key]) for key, count in requested.items()}

    def sizes(self, starts: Mapping[Key, int]) -> dict[Key, int]:
        """How many workers there are to be of each kind that is asked for by number, with those to be started now."""
        staying = Counter(known.kind for known in self._known.values() if known.is_ours and known.told_at is None)
        return {key: staying[key] + starts.get(key, 0) for key in {*self._pools, *starts}}

    def address(self, name: str) -> str:
        """Address of a replica's worker; empty if it has none."""
        return known.address if (known := self._known.get(name)) is not None else ""

    # -- leave -----------------------------------------------------------------------------------

    def drain(self, name: str, lease_s: float) -> None:
        """Give a replica no more calls."""
        if (known := self._known.get(name)) is not None and known.address:
            known.is_draining = True
            self._router.service(Leave).drain([known.address], lease_s)

    def resume(self, name: str) -> None:
        """Give a replica calls again."""
        if (known := self._known.get(name)) is not None and known.address:
            known.is_draining = False
            self._router.service(Leave).drain([known.address], 0.0)

    def renew(self, lease_s: float) -> None:
        """Keep those on leave that are."""
        if on_leave := [known.address for known in self._known.values() if known.is_draining and known.address]:
            self._router.service(Leave).drain(on_leave, lease_s)

    def stopping(self, name: str, now: float) -> bool:
        """An executor is told to stop a replica; False if it has to wait.

        Who shrinks a pool is let choose among what may go, whatever its pool: so pools shrink one at a time. One that
        it did not choose is counted in once more before it is told again: who is told the same number hears nothing.
        """
        known = self._known[name]
        if known.kind in self._pools:
            others = [other for other in self._going() if other.address and other.kind != known.kind]
            if known.is_overdue or others:
                return False
            if not known.address:
                self._shrinks_until = now + STOPPED_S
        known.told_at = now
        return True

    def tell_again(self) -> None:
        """A new executor knows nothing of what the one before it was told to stop."""
        for known in self._known.values():
            known.told_at = None

    def going(self, now: float) -> set[str] | None:
        """Addresses of the workers whose replicas are to be stopped; None while none is."""
        going = self._going()
        if not going and now >= self._shrinks_until:
            return None
        return {known.address for known in going if known.address}

    # -- details ---------------------------------------------------------------------------------

    def _going(self) -> list[_Known]:
        return [known for known in self._known.values() if known.told_at is not None]

    def _one(self, name: str, known: _Known, state: Any, error: str, demand: Demand, now: float) -> ReplicaNow:
        model, accelerator = known.kind
        if state is not None:
            address = state.replica.replica_id
            if known.address and known.address != address:
                known.is_draining = False  # another worker of the same name
            known.address = address
            known.load_s = state.replica.load_s
            serving: ReplicaState = "shut" if state.standing.is_shut(now) else "ready"
            known.become("draining" if known.is_draining else serving, now)
            running = len(state.running)
            idle_since = demand.idle_since(address, running, known.since, now)
            is_away = (
                state.standing.is_draining and not known.is_draining
            )  # somebody measures its card, or Dask has paused it
            return ReplicaNow(
                name, model, accelerator, known.state, known.since, running, state.waiting, idle_since,
                state.replica.load_s, is_ours=not is_away, takes_calls=not is_away, card=state.replica.card,
            )  # fmt: skip
        if known.address:
            demand.forget(known.address)
            known.address = ""
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

    def _of_pools(self, sizes: Mapping[Key, int], fleet: Mapping[str, Any]) -> dict[str, Key]:
        there: dict[Key, list[str]] = defaultdict(list)
        for name, state in fleet.items():
            there[state.replica.model, state.replica.accelerator].append(name)
        going = {name for name, known in self._known.items() if known.told_at is not None}
        return dict(self._pools.names(sizes, there, self._known, going))

    def _forget_all_but(self, asked: Mapping[str, Any], now: float) -> None:
        self._known = {name: known for name, known in self._known.items() if name in asked}
        for known in self._known.values():
            known.is_overdue = known.told_at is not None and now - known.told_at >= STOPPED_S
            if known.is_overdue:
                known.told_at = None
