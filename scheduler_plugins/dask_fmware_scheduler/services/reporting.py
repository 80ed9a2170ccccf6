"""Answers questions of clients: reports of runs, and the state of the runtime in plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dask_fmware.model.messages import PROTOCOL_VERSION
from dask_fmware.model.replica import Replica
from dask_fmware.model.report import PackedReport
from dask_fmware.profile.record import LiveProfile
from dask_fmware.runtime.foresight.live_slack import CallSlack
from dask_fmware.runtime.replicas.slots import ReplicaState
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_scheduler.services.drift import drift_sentence
from dask_fmware_scheduler.services.observing import Observing
from dask_fmware_scheduler.services.provisioning import ProvisioningService
from dask_fmware_scheduler.services.turns import Turns

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["Reporting"]


class Reporting:
    """Reads what the router and its services know; a `Service`."""

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """What clients ask."""
        return {"fmware_report": self.report, "fmware_reports": self.reports, "fmware_status": self.status}

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """None."""
        return {}

    def start(self) -> None:
        """Nothing to begin."""

    def close(self) -> None:
        """Nothing to end."""

    async def report(self, run_id: str) -> dict[str, Any] | None:
        """Return the report of a run, or None (RPC); during the run with what its calls have left.

        All is as it is at one time but that, which takes longest: a map may have thousands of calls that wait, and the
        loop of the scheduler gets its turn in between.
        """
        machine, now = self._router.machine, self._router.clock()
        report = machine.report(run_id)
        if report is None:
            return None
        wire, slacks, turns = report.to_wire(), dict[str, CallSlack](), Turns()
        for call_id, slack in machine.slack(run_id, now):
            slacks[call_id] = slack
            await turns.next()
        for call in wire["calls"]:
            if (left := slacks.get(call["call_id"])) is not None:
                call["latest_start_at"] = left.latest_start - report.submitted
                call["live_slack_s"] = left.slack_s
            if call.get("lacked") and call["state"] == "held":
                call["lacked"] += self._failures(call["model"])
        return wire

    def _failures(self, model: str) -> str:
        """Why replicas of a model that nobody serves are not there, as far as they said it."""
        if self._router.machine.fleet.first(model) is not None:
            return ""
        failed = [known for known in self._router.service(Arrivals).failed.values() if known["model"] == model]
        return "".join(
            f"; {known['name']} {'tries again after' if known['will_retry'] else 'has given up'}: {known['error']}"
            for known in failed[:3]
        )

    async def reports(self, run_ids: list[str] | None = None) -> list[PackedReport]:
        """Return the reports of these runs, or of all that are remembered (RPC), packed; see `RunReport.packed`.

        There may be ten thousand, so the loop of the scheduler gets its turn in between.
        """
        runs = self._router.machine.runs
        made: list[PackedReport] = []
        turns = Turns()
        for report in runs.all_packed() if run_ids is None else runs.packed(run_ids):
            made.append(report)
            await turns.next()
        return made

    def status(self) -> dict[str, Any]:
        """Return the state of the runtime in plain values (RPC)."""
        router, machine = self._router, self._router.machine
        return {
            "version": PROTOCOL_VERSION,
            "deployment": router.deployment.model_dump_json(),  # as text: lists would arrive as tuples
            "policy": machine.policy.name,
            "held": machine.held,
            "runs": router.service(Observing).history.live_runs,
            "light_workers": len(router.placement.light),
            "failures": dict(router.failures),
            "provisioning": router.service(ProvisioningService).status(),
            "failed_replicas": [
                dict(message, worker=worker) for worker, message in router.service(Arrivals).failed.items()
            ],
            "replicas": [self._replica(state) for state in machine.fleet],
        }

    def _replica(self, state: ReplicaState) -> dict[str, Any]:
        replica, now = state.replica, self._router.clock()
        return {
            "worker": replica.replica_id,
            "name": replica.name,
            "model": replica.model,
            "accelerator": replica.accelerator,
            "card": replica.card,
            "slots": replica.slots,
            "running": state.begun,
            "waiting": state.waiting,
            "state": state.standing.word(now),
            "draining": state.standing.is_draining,
            "shut": state.standing.is_shut(now),  # by the rate limit of its server
            "paused": self._router.dask.is_paused(replica.replica_id),
            "engine": replica.engine,
            "engine_version": replica.engine_version,
            "load_s": replica.load_s,
            "latency": self._router.machine.fleet.latency(replica).model_dump(),
            "profiled": replica.profile is not None,
            "speed": _source(replica),
            **self._pace(replica),
        }

    def _pace(self, replica: Replica) -> dict[str, Any]:
        """How a replica runs beside its profile."""
        known = self._router.machine.fleet.corrections.of(replica)
        drift = known.speed.detector.drift if known is not None else None
        return {
            "correction": {"decode": known.decode, "prefill": known.prefill} if known is not None else None,
            "drift": drift_sentence(replica, drift) if drift is not None else None,
        }


def _source(replica: Replica) -> str:
    """Where the speed of a replica is known from."""
    if replica.profile is None:
        return "latency figure"
    return LiveProfile.from_wire(replica.profile).source or "profile"
