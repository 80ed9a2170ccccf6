"""What our layer adds: empty calls through the runtime, beside plain Dask, in one run.

    python -m benchmarks.overhead [--rounds N | --quick]

Four systems on equal clusters (a scheduler in this process, one light worker, two workers for calls):

- ``stock``: Dask as it comes, empty coroutines;
- ``tuned``: the same with the streams' send intervals at 50 us, as `LocalModelCluster` sets them;
- ``by hand``: the same intervals; each coroutine calls an engine that answers at once, which a worker plugin
  holds: what one writes without us, no routing, no slots, no account;
- ``fmware``: the same intervals and engine; each call is held, routed, granted, streamed and accounted.

One cluster is up at a time, and rounds alternate between the systems. Reported are medians over rounds and
ratios of medians; a round takes the best of three for whole graphs, which shared machines disturb most.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from statistics import median
from typing import Any, TypeAlias

import dask
import numpy as np
from dask._task_spec import Task, TaskRef
from distributed import Client, Nanny, Scheduler, SchedulerPlugin, WorkerPlugin, get_worker, worker_client
from distributed.deploy.spec import SpecCluster
from rich.progress import track

import dask_fmware as fm
from benchmarks.support.empty_calls import DEPLOYMENT, ROUNDS, SLOTS, chain, rounds, single
from benchmarks.support.environment import environment, write
from dask_fmware.compile.graph import instantiate, new_run_id
from dask_fmware.model.engine import Request

INTERVAL_S = 50e-6
Graph: TypeAlias = tuple[dict[str, Task], str]  # and the key of its result
Graphs: TypeAlias = Callable[[int], Graph]  # of so many tasks, each on the one before
Rounds: TypeAlias = Callable[[], Graph]


async def empty(x: Any = None) -> str:
    return "x"


def plain_graph(length: int) -> Graph:
    """Return a chain of empty tasks, as plain Dask has it."""
    run_id = new_run_id()
    graph: dict[str, Task] = {}
    for i in range(length):
        key = f"empty{i}-{run_id}"
        graph[key] = Task(key, empty, TaskRef(f"empty{i - 1}-{run_id}") if i else "x")
    return graph, key


def fmware_graph(length: int) -> Graph:
    """Return the same chain as model calls."""
    return _tasks((chain if length == 3 else single)(x="x"))


def fmware_rounds() -> Graph:
    """Return a loop as a workflow has it."""
    return _tasks(rounds(x="x"))


def _tasks(made: Any) -> Graph:
    graph, keys = instantiate(made._template, {"x": "x"}, made.run_id)
    return graph, keys[0]


def call_in_rounds(call: Callable[[Any], Awaitable[Any]]) -> Any:
    """Call on the result of the call before, from inside a task, as Dask's documentation shows it."""
    value: Any = "x"
    with worker_client() as client:
        for _ in range(ROUNDS):
            value = client.submit(call, value, pure=False).result()
    return value


def rounds_of(call: Callable[[Any], Awaitable[Any]]) -> Rounds:
    """Return what makes such a task."""

    def made() -> Graph:
        key = f"rounds-{new_run_id()}"
        return {key: Task(key, call_in_rounds, call)}, key

    return made


async def call_by_hand(x: Any = None) -> dict[str, Any]:
    """What a user would write to call an engine on a worker."""
    engine = get_worker().plugins["engine"].engine
    start, text, usage = time.perf_counter(), "", None
    prompt = x["text"] if isinstance(x, dict) else x
    async for delta in engine.generate(Request("r", 1, prompt)):
        text += delta.text
        usage = delta.usage
    return {"text": text, "output_tokens": usage.output_tokens, "latency_s": time.perf_counter() - start}


def by_hand_graph(length: int) -> Graph:
    """Return the same chain as calls by hand."""
    run_id = new_run_id()
    graph: dict[str, Task] = {}
    for i in range(length):
        key = f"call{i}-{run_id}"
        graph[key] = Task(key, call_by_hand, TaskRef(f"call{i - 1}-{run_id}") if i else "x")
    return graph, key


class EngineByHand(WorkerPlugin):
    """Holds an engine on a worker."""

    name = "engine"

    def setup(self, worker: Any) -> None:
        from benchmarks.support.null_engine import NullEngine

        self.engine = NullEngine(slots=SLOTS, context_tokens=2048)


class TuneScheduler(SchedulerPlugin):
    """The send intervals of `LocalModelCluster`, without its runtime."""

    name = "tune"

    async def start(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        for worker in scheduler.workers:
            self.add_worker(scheduler, worker)
        for comm in scheduler.client_comms.values():
            comm.interval = INTERVAL_S

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        scheduler.stream_comms[worker].interval = INTERVAL_S


class TuneWorker(WorkerPlugin):
    """The same on the worker's side."""

    name = "tune"

    def setup(self, worker: Any) -> None:
        worker.batched_stream.interval = INTERVAL_S


class System:
    """One cluster and the graphs it runs."""

    def __init__(self, name: str, graph: Graphs, rounds: Rounds) -> None:
        self.name, self.graph, self.rounds = name, graph, rounds
        if name == "fmware":
            with dask.config.set({"distributed.worker.preload": ["benchmarks.support.null_engine"]}):
                self.cluster: Any = fm.LocalModelCluster(DEPLOYMENT, dashboard_address=None)
        else:
            options = {"host": "127.0.0.1", "nthreads": SLOTS + 2, "dashboard": False, "memory_limit": 0}
            light = {**options, "nthreads": 8}
            specs = [light, options, options]
            self.cluster = SpecCluster(
                workers={str(i): {"cls": Nanny, "options": spec} for i, spec in enumerate(specs)},
                scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}},
                silence_logs=40,
            )
        self.client = Client(self.cluster, set_as_default=False)
        self.client.wait_for_workers(3)
        if name == "fmware":
            fm.wait_ready(self.client)
        if name != "stock":
            self.client.scheduler_comm.interval = INTERVAL_S
        if name in ("tuned", "by hand"):
            self.client.register_plugin(TuneScheduler())
            self.client.register_plugin(TuneWorker())
            self.client.register_plugin(EngineByHand())

    def close(self) -> None:
        self.client.close()
        self.cluster.close()

    # -- measurements ----------------------------------------------------------------------------

    def latencies_s(self, made: Rounds, repeats: int) -> list[float]:
        """Seconds from submission to result of one graph after another."""
        out = []
        for _ in range(repeats):
            graph, key = made()
            start = time.perf_counter()
            self.client.get(graph, key)
            out.append(time.perf_counter() - start)
        return out

    def calls_per_s(self, concurrency: int, seconds: float) -> float:
        """Single calls in a closed loop."""

        async def loop() -> float:
            done, end = 0, time.perf_counter() + seconds

            async def one() -> None:
                nonlocal done
                while time.perf_counter() < end:
                    graph, key = self.graph(1)
                    future = self.client.get(graph, key, sync=False)
                    await future
                    done += 1

            start = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(concurrency)))
            return done / (time.perf_counter() - start)

        return self._on_loop(loop)

    def tasks_per_s(self, length: int, chains: int) -> tuple[float, float]:
        """Many chains in one graph: tasks per second, and CPU seconds of scheduler and client for each task."""
        graph: dict[str, Task] = {}
        keys = []
        for _ in range(chains):
            made, key = self.graph(length)
            graph |= made
            keys.append(key)
        start, cpu = time.perf_counter(), time.process_time()
        self.client.get(graph, keys)
        spent, cpu = time.perf_counter() - start, time.process_time() - cpu
        return chains * length / spent, cpu / (chains * length)

    def warm(self) -> None:
        """Have connections made and code compiled."""
        self.latencies_s(lambda: self.graph(3), 20)
        self.latencies_s(self.rounds, 3)
        self.tasks_per_s(1, 300)

    def measure(self, chains: int, seconds: float, size: int) -> Iterator[tuple[str, float]]:
        """Yield each figure with its name."""
        spent = self.latencies_s(lambda: self.graph(3), chains)
        yield "chain of 3, p50 ms", 1e3 * float(np.percentile(spent, 50))
        yield "chain of 3, p99 ms", 1e3 * float(np.percentile(spent, 99))
        in_rounds = self.latencies_s(self.rounds, max(chains // ROUNDS, 5))
        yield f"round of a loop of {ROUNDS}, p50 ms", 1e3 * float(np.percentile(in_rounds, 50)) / ROUNDS
        for concurrency in (1, 8, 64):
            yield f"calls/s at concurrency {concurrency}", self.calls_per_s(concurrency, seconds)
        for what, length in (("flat graph", 1), ("chains of 3", 3)):
            best = [self.tasks_per_s(length, size // length) for _ in range(3)]
            yield f"tasks/s, {what}", max(rate for rate, _ in best)
            yield f"scheduler and client CPU us/task, {what}", 1e6 * min(cpu for _, cpu in best)

    def _on_loop(self, work: Callable[[], Awaitable[float]]) -> float:
        return asyncio.run_coroutine_threadsafe(work(), self.client.loop.asyncio_loop).result()


SYSTEMS: dict[str, tuple[Graphs, Rounds]] = {
    "stock": (plain_graph, rounds_of(empty)),
    "tuned": (plain_graph, rounds_of(empty)),
    "by hand": (by_hand_graph, rounds_of(call_by_hand)),
    "fmware": (fmware_graph, fmware_rounds),
}


def measure(rounds: int, quick: bool) -> dict[str, Any]:
    """Run all measurements on one system after the other, in rounds: an idle cluster beside would take part."""
    chains, seconds, size = (60, 1.0, 600) if quick else (150, 2.0, 1500)
    raw: dict[str, dict[str, list[float]]] = {name: {} for name in SYSTEMS}
    for name in track([name for _ in range(rounds) for name in SYSTEMS], description="systems in turn"):
        system = System(name, *SYSTEMS[name])
        try:
            system.warm()
            for measured, value in system.measure(chains, seconds, size):
                raw[name].setdefault(measured, []).append(value)
        finally:
            system.close()
    return raw


def table(raw: dict[str, dict[str, list[float]]]) -> str:
    """Return the medians and ratios as markdown."""
    lines = [
        "| | stock Dask | tuned Dask | by hand | dask-fmware | fmware / stock | fmware / tuned | fmware / by hand |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in raw["stock"]:
        values = [median(raw[system][name]) for system in SYSTEMS]
        ratios = [values[-1] / value for value in values[:-1]]
        lines.append(f"| {name} | " + " | ".join([f"{v:.4g}" for v in values] + [f"{r:.2f}" for r in ratios]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round; nothing is written")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds over all systems (default 5)")
    asked = parser.parse_args()
    quick = asked.quick
    raw = measure(1 if quick else asked.rounds, quick)
    made = table(raw)
    print(made)
    if not quick:
        where = environment()
        note = (
            f"`{where['command']}`, {where['processor']}, {where['cores']} cores, "
            f"Python {where['python']}, distributed {where['versions']['distributed']}."
        )
        write("overhead", {"environment": where, "raw": raw}, f"{made}\n\n{note}")


if __name__ == "__main__":
    main()
