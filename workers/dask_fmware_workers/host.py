"""The model host: a worker plugin that turns a Dask worker into a replica, and serves light workers too.

A worker whose resources name a model and an accelerator (``fm-model:small``, ``fm-accelerator:L4``)
loads that model's engine in the background and announces itself when it serves; loading in `setup`
would stop the worker's heartbeats and hold up every other worker of the cluster.

The host owns the life of the engine: it loads it, and starts it again after a crash. What the router knows of that is
told by `Presence`, and calls run in `CallRunner`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

from distributed import Worker, WorkerPlugin

from dask_fmware.compile.steps import HOST
from dask_fmware.compile.values import plain
from dask_fmware.errors import DeploymentError, EngineCrashedError, NotInstalledError
from dask_fmware.model.call import ModelCall
from dask_fmware.model.carrying import pack, unpack
from dask_fmware.model.completion import Completion
from dask_fmware.model.engine import Engine
from dask_fmware.model.messages import Branched, Carried, GiveBack, GiveUp, Grant, ReplicaReady
from dask_fmware.model.plan import SwitchRule
from dask_fmware.model.replica import ACCELERATOR_LABEL, CARD_LABEL, MODEL_LABEL, read_label
from dask_fmware.observe.exposition import expose, withdraw
from dask_fmware.spec.deployment import Deployment
from dask_fmware.streams import keep_no_messages, measure_no_messages, send_promptly
from dask_fmware_workers.bodies import BodyClient
from dask_fmware_workers.dask_internals import Reschedule, WorkerInternals
from dask_fmware_workers.loading import Labels, Loaded, load
from dask_fmware_workers.memory import file_bytes
from dask_fmware_workers.metrics import WorkerMetrics
from dask_fmware_workers.pace import EnginePace
from dask_fmware_workers.presence import FIRST_RETRY_S, LAST_RETRY_S, Presence
from dask_fmware_workers.profiling import measure
from dask_fmware_workers.runner import CallRunner
from dask_fmware_workers.state_reports import StateReports

__all__ = ["ModelHost"]

logger = logging.getLogger("dask_fmware.host")

ENDS = frozenset({"memory", "error", "rescheduled", "released", "cancelled", "forgotten"})  # of what a task has begun
CLOSE_S = 30.0  # for an engine to close; a thread of it that hangs cannot be stopped


class ModelHost(WorkerPlugin):  # type: ignore[misc]
    """Hosts the model that a worker's labels name, and runs calls on it.

    Parameters
    ----------
    deployment
        Where engine, arguments and slots of the model are found.
    stream_interval_s
        Pause between two messages to the scheduler, or None for Dask's own (2 ms).
    incarnation
        Of its first engine: above those of a host that it replaces, whose grants are not for it.
    """

    name = HOST
    idempotent = True

    def __init__(self, deployment: Deployment, *, stream_interval_s: float | None = None, incarnation: int = 0) -> None:
        self.deployment = deployment
        self.stream_interval_s = stream_interval_s
        self._first_incarnation = incarnation

    def setup(self, worker: Worker) -> None:
        """Begin; returns at once."""
        self.dask = WorkerInternals(worker)
        self.bodies = BodyClient(self.dask)
        self.state_reports = StateReports(self.dask.send, self._crashed)
        self.loaded: Loaded | None = None
        self.pace: EnginePace | None = None  # of the engine that is loaded
        self._measured: Engine | None = None  # by a profiler, at this moment
        self._pause_s = 0.0  # before the engine is started again after a crash
        self._ready_at = 0.0
        resources = self.dask.resources
        self.labels = Labels(
            self.dask.name,
            self.dask.address,
            read_label(resources, MODEL_LABEL),
            read_label(resources, ACCELERATOR_LABEL),
            read_label(resources, CARD_LABEL),
        )
        self.presence = Presence(self.dask, self.labels, self._replica, self._connected)
        self.metrics = WorkerMetrics(self.labels, lambda: self.loaded)
        self.runner = CallRunner(
            self.metrics.counting(self.dask.send), self._crashed, self.metrics.counting(self.dask.send_with_result)
        )
        self.runner.incarnation = self._first_incarnation
        expose(self.metrics.series)
        self.dask.serve(
            {
                "fmware_stream": self.runner.streams.serve,
                "fmware_profile": self.profile,
                "fmware_profiled": self.profiled,
            }
        )
        self.dask.listen(
            {
                Grant.op: self._on_grant,
                GiveUp.op: self._on_give_up,
                GiveBack.op: self._on_give_back,
                Carried.op: self._on_carried,
            }
        )
        self.dask.give_up_dead_peers_after(2.0)
        self._begin(self._serve())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = asyncio.ensure_future(work)
        self._work.add_done_callback(_log_fault)

    async def teardown(self, worker: Worker) -> None:
        """Abort what runs and close the engine."""
        withdraw(self.metrics.series)
        self._work.cancel()
        await asyncio.wait([self._work, *self.presence.close()], timeout=1)
        await self.bodies.close()
        loaded = self.loaded
        self._unload()
        if loaded is not None and not await self._closed(loaded.engine):
            logger.error("Worker '%s' closes without its engine, which hangs", self.dask.name)

    def replaced(self) -> int:
        """Tell the router that this host serves no more, as another takes its place; return that one's incarnation."""
        if self.loaded is not None:
            why = DeploymentError("another deployment is installed on its cluster, whose engine it loads instead")
            self.presence.tell_failure(why, will_retry=True, incarnation=self.runner.incarnation)
        return self.runner.incarnation + 1

    def _unload(self) -> None:
        self.loaded = None
        self.state_reports.stop()
        if self.pace is not None:
            self.pace.close()
            self.pace = None

    # -- becoming a replica ----------------------------------------------------------------------

    async def _serve(self) -> None:
        """Load the engine, if there is one to load, and announce this worker; try again after a failure."""
        wait_s = FIRST_RETRY_S
        while self.labels.model is not None and self.loaded is None:
            try:
                self.loaded = await load(self.deployment, self.labels)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                hopeless = isinstance(error, DeploymentError)
                await self.presence.announce_failure(
                    error, will_retry=not hopeless, incarnation=self.runner.incarnation
                )
                self.runner.incarnation += 1  # the router takes none that is not above what failed
                if hopeless:
                    return
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LAST_RETRY_S)
            else:
                ready = self.loaded.replica
                self.pace = EnginePace(self.dask.address, self.dask.send, ready.slots, ready.profile)
                if self.dask.threads < ready.slots:
                    logger.warning(
                        "Worker '%s' has %d threads for %d slots of model '%s', so no more than %d calls run at once; "
                        "start it with --nthreads %d",
                        *(self.dask.name, self.dask.threads, ready.slots, ready.model),
                        *(self.dask.threads, ready.slots + 2),
                    )
            self._ready_at = perf_counter()
            if self.loaded is not None:
                self.runner.slots.count = self.loaded.replica.slots
                self.runner.prices = self.loaded.engine.capabilities.price_per_million_tokens
        await self.presence.announce()

    def _crashed(self, engine: Engine, error: EngineCrashedError) -> None:
        """An engine died under a call: stop being a replica, and start it again."""
        if self.loaded is not None and engine is self.loaded.engine:
            self._unload()
            self.presence.tell_failure(error, will_retry=True, incarnation=self.runner.incarnation)
            self.runner.engine_died()  # attempts end after that was told: nobody is sent there
            self._work.cancel()  # it may still be announcing the engine
            if perf_counter() - self._ready_at > LAST_RETRY_S:
                self._pause_s = 0.0  # it served for a while
            self._begin(self._recover(engine))

    async def _recover(self, engine: Engine) -> None:
        if not await self._closed(engine):
            hangs = EngineCrashedError(f"its engine hangs: it could not be closed within {CLOSE_S:g} s")
            self.presence.tell_failure(hangs, will_retry=self.dask.has_nanny, incarnation=self.runner.incarnation)
            if self.dask.has_nanny:
                await self.dask.end_process()
            return  # what it holds cannot be had back
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(max(2 * self._pause_s, FIRST_RETRY_S), LAST_RETRY_S)
        await self._serve()

    async def _closed(self, engine: Engine) -> bool:
        """Close an engine; return whether it came to an end with that."""
        closing = asyncio.ensure_future(engine.close())
        await asyncio.wait([closing], timeout=CLOSE_S)
        if not closing.done():
            return False
        if not closing.cancelled() and (error := closing.exception()) is not None:
            where = "Model '%s': what is left of its engine could not be closed"
            logger.error(where, self.labels.model, exc_info=error)
        return True

    def _replica(self) -> ReplicaReady | None:
        """What the router is told of the engine that serves."""
        return None if self.loaded is None else replace(self.loaded.replica, incarnation=self.runner.incarnation)

    def _connected(self) -> None:
        stream = self.dask.stream
        keep_no_messages(stream)
        measure_no_messages(stream)
        if self.loaded is not None:
            self.state_reports.follow(self.loaded.engine)
        if self.stream_interval_s is not None:
            send_promptly(stream, self.stream_interval_s)

    def greeted(self, version: int) -> None:
        """A router came after us."""
        self.presence.greeted(version)

    async def profile(self, question: dict[str, Any]) -> dict[str, Any]:
        """Measure something on this worker's engine, which has no calls meanwhile (RPC)."""
        loaded = self.loaded
        if loaded is None:
            return {"error": f"worker '{self.dask.name}' has no engine that serves"}
        if question["kind"] == "key":
            key = loaded.profile_key
            if key is None:
                return {"error": "its engine tells no name or version"}
            size, size_now = loaded.weight_bytes, await asyncio.to_thread(file_bytes, loaded.arguments)
            if None not in (size, size_now) and size != size_now:
                return {"error": "the files of its weights were replaced since it loaded them; start it again"}
            return {"key": key.model_dump(), "weight_bytes": size}
        if self._measured is loaded.engine:  # for somebody whose lease ended while this went on
            return {
                "error": f"worker '{self.dask.name}' is being measured already: an experiment of an earlier profiler "
                "still runs; profile again when it is done"
            }
        self._measured = loaded.engine
        try:
            return await measure(loaded.engine, question, loaded.footprint, loaded.arguments, loaded.weight_bytes)
        finally:
            if self._measured is loaded.engine:
                self._measured = None

    async def profiled(self, profile: str) -> None:
        """Announce a profile that was made since this worker loaded its engine, and its latency figure (RPC)."""
        if self.loaded is not None:
            self.loaded = self.loaded.profiled(profile)
            if self.pace is not None:
                self.pace.profiled(profile)
            await self.presence.announce()

    # -- what steps ask for ----------------------------------------------------------------------

    def _on_grant(self, **message: Any) -> None:
        self.runner.grant(Grant.from_wire(message))

    def _on_give_up(self, **message: Any) -> None:
        self.runner.give_up(GiveUp.from_wire(message))

    def _on_give_back(self, **message: Any) -> None:
        for call_id in self.runner.give_back():
            self.dask.send_back(call_id)

    async def call(
        self, call: ModelCall, run_id: str, call_id: str, values: Mapping[str, Any], *, stays: bool = False
    ) -> Completion | list[Any]:
        """Run a granted call on this worker's engine."""
        if not self.presence.is_known:
            raise NotInstalledError(
                f"{call.where}: the scheduler runs no replica router; call fm.install(client, deployment)"
            )
        if self.loaded is None or not self.runner.is_granted(call_id):  # its engine died while it was on its way here
            self.runner.withdraw(call_id)
            raise await self._sent_back(call, call_id)
        completion = await self.runner.run(self.loaded.engine, call, call_id, values, self.pace)
        self.made(run_id, call_id, call.decides, completion, stays=stays)
        return completion

    async def _sent_back(self, call: ModelCall, call_id: str) -> Exception:
        """Return what ends an attempt that is not to be: its router gives the call away anew, if that is still there.

        Another router, which was installed meanwhile, will never grant it: sent back, it would come again without end.
        """
        try:
            is_known = await self.dask.ask_scheduler("fmware_knows", call_id=call_id)
        except OSError:
            is_known = True  # or nobody hears of it
        fault: Exception = Reschedule(f"{call.where}: not granted to worker '{self.dask.name}'")
        if not is_known:
            fault = NotInstalledError(
                f"{call.where}: the dask-fmware runtime was uninstalled while this run was under way; the one that is "
                "installed now does not know it, submit it again"
            )
        return fault

    def skip(self, call_id: str) -> None:
        """A call is on a branch that was not taken."""
        self.runner.skip(call_id)

    def made(self, run_id: str, key: str, rules: tuple[SwitchRule, ...], value: Any, *, stays: bool = False) -> None:
        """Tell the router what a value decides, and give it the value if that is small; callable from any thread.

        What `stays` is kept here until somebody fetches it.
        """
        if not self.presence.is_known:
            return
        for rule in rules:
            self.dask.send(Branched(run_id, rule.switch, rule.branch(plain(value))).to_wire())
        if not stays and (packed := pack(value)) is not None:
            self.dask.send_with_result(Carried(key, packed).to_wire())

    def _on_carried(self, **message: Any) -> None:
        """Another worker made a small result that a task needs which is to come here."""
        carried = Carried.from_wire(message)
        self.dask.hold(carried.key, unpack(carried.value))

    async def submit(self, graph: dict[str, Any], keys: list[str], key: str) -> list[Any]:
        """Run the bodies of a map or loop, for the task `key`."""
        return await self.bodies.run(graph, keys, key)

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Abort what a task has under way when Dask lets go of the task; Dask itself stops no coroutine.

        One that failed is let go of when it is to be tried again, maybe here: its next grant has come by then. One that
        was cancelled and is asked for again while it still runs ends for both: that grant is not used any more.
        """
        is_over = start in ("error", "released")
        if not is_over and finish in ENDS and isinstance(key, str):
            self.runner.withdraw(key)
            self.bodies.cancel(key)


def _log_fault(work: asyncio.Task[None]) -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        logger.error("Model host: %s", error, exc_info=error)
