"""The faults of a soak: what befalls the processes of a cluster, one every few seconds."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, TypeAlias, get_args

from distributed import Client, Nanny
from distributed.core import Status

import dask_fmware as fm
from dask_fmware.compile.steps import HOST

__all__ = ["TTL_S", "Chaos", "Kind", "tell_engine"]

Kind: TypeAlias = Literal[
    "kill",  # a worker, by SIGKILL
    "segfault",  # a worker, by SIGSEGV
    "stop",  # a worker, by SIGSTOP, and on again
    "freeze",  # the same until Dask takes it for dead
    "retire",  # a worker, gracefully; another takes its place
    "client",  # a client with runs under way, by SIGKILL
    "crash",  # an engine: it raises from then on
    "hang",  # an engine: it is silent from then on
    "memory",  # an engine: it takes all there is, which ends its process
    "poison",  # a call that ends every process it comes to
]
WEIGHTS = {
    "kill": 4,
    "segfault": 2,
    "stop": 4,
    "freeze": 1,
    "retire": 3,
    "client": 3,
    "crash": 3,
    "hang": 2,
    "memory": 2,
    "poison": 1,
}
TOLD = {"crash": "crash", "hang": "hang", "memory": "exhaust"}  # what its engine is told
TTL_S = 15.0  # without a heartbeat, after which Dask starts a worker again
CLIENT_S = 30.0  # in which a client process must have submitted


class Chaos:
    """Draws faults by a seed and lets them happen to a cluster.

    Parameters
    ----------
    cluster, client
        Asynchronous.
    pause_s
        Mean time between two faults, Poisson.
    poison
        Submits a run that kills what it runs on.
    """

    def __init__(
        self, cluster: fm.LocalModelCluster, client: Client, seed: int, pause_s: float, poison: Callable[[], None]
    ) -> None:
        self.injected: Counter[str] = Counter()
        self.clients_runs = 0  # submitted by clients that were killed
        self.problems: list[str] = []
        self._cluster, self._client, self._poison = cluster, client, poison
        self._draws = random.Random(seed)
        self._pause_s = pause_s
        self._under_way: set[asyncio.Task[None]] = set()
        self._busy: set[str] = set()  # workers to which something is happening
        self._numbers = 0

    async def play(self) -> None:
        """Inject until cancelled, then heal what is under way."""
        try:
            while True:
                await asyncio.sleep(self._draws.expovariate(1 / self._pause_s))
                kind: Kind = self._draws.choices(get_args(Kind), [WEIGHTS[kind] for kind in get_args(Kind)])[0]
                task = asyncio.create_task(self._befall(kind), name=kind)
                self._under_way.add(task)
                task.add_done_callback(self._over)
        finally:
            await asyncio.gather(*self._under_way, return_exceptions=True)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            why = f"{type(error).__name__}: {error}" + (f" ({error.__cause__!r})" if error.__cause__ else "")
            self.problems.append(f"fault '{task.get_name()}' could not be injected: {why}")

    async def _befall(self, kind: Kind) -> None:
        if kind == "client":
            await self._kill_a_client()
        elif kind == "poison":
            self._poison()
        elif (name := self._victim(replica=kind in TOLD)) is not None:
            self._busy.add(name)
            try:
                await self._strike(kind, name, self._cluster.workers[name])
            finally:
                self._busy.discard(name)
        else:
            return
        self.injected[kind] += 1

    def _victim(self, *, replica: bool) -> str | None:
        """A worker that is up and that nothing happens to; replicas rather than light workers."""
        there = [
            name
            for name, nanny in self._cluster.workers.items()
            if name not in self._busy
            and isinstance(nanny, Nanny)
            and nanny.status == Status.running
            and nanny.pid is not None
            and not (replica and name.startswith("light"))
        ]
        return self._draws.choice(there) if there else None

    async def _strike(self, kind: Kind, name: str, nanny: Nanny) -> None:
        pid = nanny.pid
        match kind:
            case "kill":
                _signal(pid, signal.SIGKILL)
            case "segfault":
                _signal(pid, signal.SIGSEGV)
            case "stop" | "freeze":
                _signal(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(self._draws.uniform(0.5, 8.0) if kind == "stop" else 2.5 * TTL_S)
                finally:
                    _signal(pid, signal.SIGCONT)
            case "retire":
                await self._retire(name, nanny)
            case _:
                await self._client.run(tell_engine, TOLD[kind], workers=[nanny.worker_address], on_error="ignore")

    async def _retire(self, name: str, nanny: Nanny) -> None:
        pid = nanny.pid
        await self._client.retire_workers([nanny.worker_address])
        try:
            async with asyncio.timeout(60):
                while nanny.status not in (Status.closed, Status.failed):
                    if nanny.pid not in (pid, None):
                        return  # another fault was quicker, and its nanny has started it again
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return  # it was stopped meanwhile, given up for dead and taken in again when it went on
        self._cluster.workers.pop(name, None)
        await self._cluster._correct_state()

    async def _kill_a_client(self) -> None:
        self._numbers += 1
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.support.soak_flows",
            self._cluster.scheduler_address,
            str(self._numbers),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            self.clients_runs += int(await asyncio.wait_for(process.stdout.readline(), CLIENT_S) or 0)
            await asyncio.sleep(self._draws.uniform(0.0, 1.0))
        except TimeoutError:
            pass  # killed while it starts or submits, which is a fault as well
        finally:
            with suppress(ProcessLookupError):  # it has just ended by itself
                process.kill()
            await process.wait()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # its nanny has another one by now


def tell_engine(what: str, dask_worker: Any) -> None:
    """Let the engine of a worker fail in one of its ways (runs on the worker)."""
    loaded = dask_worker.plugins[HOST].loaded
    if loaded is not None:
        getattr(loaded.engine, what)()
