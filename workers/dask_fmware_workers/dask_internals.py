"""Everything we touch in `distributed.Worker` that carries no public promise, and nothing else.

Verified with distributed 2026.8; `tests/cluster` holds a contract test for each item.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from time import time
from typing import Any

import dask.config
from distributed import Client, Reschedule, Worker, WorkerPlugin
from distributed.batched import BatchedSend
from distributed.worker_state_machine import SecedeEvent, UpdateDataEvent

from dask_fmware.errors import RuntimeFaultError
from dask_fmware.model.replica import in_sight
from dask_fmware.streams import send_with_next

__all__ = ["Reschedule", "WorkerInternals"]


RESULT_FOLLOWS_S = 0.002
LAST_WORDS_S = 0.5  # for what was sent to leave before a process ends
GREETINGS = 20  # a scheduler that tells all clients of a cancellation tells those that just come, too


class WorkerInternals:
    """A worker, seen through the internals that hosting a model needs."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    @property
    def address(self) -> str:
        """Address by which the scheduler knows this worker."""
        return str(self.worker.contact_address or self.worker.address)

    @property
    def name(self) -> str:
        """Name of the worker, stable over restarts."""
        return in_sight(str(self.worker.name))

    @property
    def resources(self) -> dict[str, float]:
        """Declared resources, which serve as labels (Worker.state.total_resources)."""
        return {in_sight(name): count for name, count in self.worker.state.total_resources.items()}

    @property
    def threads(self) -> int:
        """Tasks that the worker runs at once, calls among them (Worker.state.nthreads)."""
        return int(self.worker.state.nthreads)

    def declare(self, resources: Mapping[str, float]) -> None:
        """Add resources before the worker registers (Worker.state.total_resources, available_resources)."""
        self.worker.state.total_resources.update(resources)
        self.worker.state.available_resources.update(resources)

    def plugin(self, name: str) -> Any:
        """Return a plugin by name; None if there is none (Worker.plugins)."""
        return self.worker.plugins.get(name)

    async def add_plugin(self, plugin: WorkerPlugin) -> None:
        """Add a plugin, and raise what its `setup` raises (Worker.plugin_add)."""
        await self.worker.plugin_add(plugin=plugin, catch_errors=False)

    def serve(self, handlers: Mapping[str, Callable[..., Any]]) -> None:
        """Answer RPCs (Worker.handlers)."""
        self.worker.handlers.update(handlers)

    def listen(self, handlers: Mapping[str, Callable[..., Any]]) -> None:
        """Take messages of the scheduler's stream (Worker.stream_handlers)."""
        self.worker.stream_handlers.update(handlers)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to the scheduler, before the result of the task that calls this, from any thread.

        (Worker.batched_send. On the loop it must not be deferred: the task's result would overtake it.)
        """
        self._on_loop(self.worker.batched_send, message)

    def send_with_result(self, message: dict[str, Any]) -> None:
        """Send a message in one batch with the result of the task that calls this, from any thread.

        The result follows a moment later; sent apart, the two cost each process a wake-up more. If none follows, the
        message goes alone soon after.
        """
        self._on_loop(self._add, message)

    def _on_loop(self, send: Callable[[dict[str, Any]], None], message: dict[str, Any]) -> None:
        try:
            is_there = asyncio.get_running_loop() is self.worker.loop.asyncio_loop
        except RuntimeError:
            is_there = False
        if is_there:
            send(message)
        else:
            self.worker.loop.add_callback(send, message)

    def _add(self, message: dict[str, Any]) -> None:
        send_with_next(self.worker.batched_stream, message, RESULT_FOLLOWS_S)

    def hold(self, key: str, value: Any) -> None:
        """Hold a result that another worker made, as if it had been fetched from there, and tell the scheduler.

        One that is held already, or on its way, is left alone. (Worker.handle_stimulus, UpdateDataEvent, which tells
        nobody; WorkerState.tasks; message "add-keys", to which the scheduler says if nobody needs it any more.)
        """
        if key not in self.worker.state.tasks:
            stimulus_id = f"fmware-hold-{time()}"
            self.worker.handle_stimulus(UpdateDataEvent(data={key: value}, stimulus_id=stimulus_id))
            self._add({"op": "add-keys", "keys": [key], "stimulus_id": stimulus_id})

    def send_back(self, key: str) -> None:
        """Have the scheduler take back a task that has not begun, as after `Reschedule` (message "reschedule")."""
        self.worker.batched_send({"op": "reschedule", "key": key, "stimulus_id": f"fmware-send-back-{time()}"})

    @property
    def stream(self) -> BatchedSend:
        """What goes to the scheduler (Worker.batched_stream)."""
        return self.worker.batched_stream

    async def ask_scheduler(self, op: str, **message: Any) -> Any:
        """Call an RPC of the scheduler; None if it does not know it."""
        return await getattr(self.worker.scheduler, op)(**message)

    def secede(self, key: str) -> None:
        """Give back the thread slot of an async task that only waits (Worker.handle_stimulus).

        No duration is told: the scheduler would take 0 s for the mean of its kind, and work stealing fails on that when
        the next of them is placed.
        """
        if key in self.worker.state.tasks:
            self.worker.handle_stimulus(
                SecedeEvent(key=key, compute_duration=None, stimulus_id=f"fmware-secede-{time()}")
            )

    def give_up_dead_peers_after(self, seconds: float) -> None:
        """Stop connecting to a dead worker sooner than after Dask's 30 s, during which a key would be stuck.

        Only in a worker process of its own (with a nanny), where nothing else reads the setting.
        """
        if self.has_nanny:
            dask.config.set({"distributed.comm.timeouts.connect": f"{seconds}s"})

    @property
    def has_nanny(self) -> bool:
        """Whether a nanny starts this process again when it has ended (Worker.nanny)."""
        return self.worker.nanny is not None

    async def end_process(self) -> None:
        """End this process at once, threads that hang included; its nanny starts another."""
        await asyncio.sleep(LAST_WORDS_S)
        os._exit(1)

    async def client(self) -> Client:
        """Return a client of this worker's own, to submit from inside tasks."""
        for _ in range(GREETINGS):
            client = Client(
                self.worker.scheduler.address,
                asynchronous=True,
                set_as_default=False,
                direct_to_workers=True,
                security=self.worker.security,
                name="fmware-bodies",
            )
            try:
                return await client
            except AssertionError:  # it was told something else along with its greeting (Client._ensure_connected)
                await client.close()
        raise RuntimeFaultError(
            f"no client of {self.worker.scheduler.address} could be made: it was told something else each of "
            f"{GREETINGS} times before it was greeted"
        )
