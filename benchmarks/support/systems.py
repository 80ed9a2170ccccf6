"""Starts the systems under test and the card server as processes, and runs cells on them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.card_server import ask
from benchmarks.support.trial import FAST, Cell, Clock, PlannedRun, plan

__all__ = ["RAY_DEFAULTS", "SYSTEMS", "System", "card_server", "ray_python", "run_cell", "running"]

ROOT = Path(__file__).parents[2]
LINE_BYTES = 1 << 26
CELL_S = 300.0  # no cell takes longer
START_S = 180.0
RAY_DEFAULTS = {"RAY_worker_niceness": "0"}  # replicas at 15, as is the default, would come last


@dataclass(frozen=True, slots=True)
class System:
    """How one system is started."""

    name: str
    module: str
    options: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    on_ray: bool = False


SYSTEMS = {
    system.name: system
    for system in (
        System("ray", "benchmarks.ray_serve.system", on_ray=True),
        System("ray local", "benchmarks.ray_serve.system", ("--prefer-local", "yes"), on_ray=True),
        System("ray ongoing 100", "benchmarks.ray_serve.system", ("--max-ongoing", "100"), on_ray=True),
        System("ray ongoing 1", "benchmarks.ray_serve.system", ("--max-ongoing", "1"), on_ray=True),
        System("ray queued 5", "benchmarks.ray_serve.system", ("--max-queued", "5"), on_ray=True),
        System(
            "ray throughput", "benchmarks.ray_serve.system", (), (("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1"),), on_ray=True
        ),
        *(
            System(policy, "benchmarks.support.dask_system", ("--policy", policy))
            for policy in ("slack", "greedy", "target", "least_outstanding", "power_of_two")
        ),
    )
}


def ray_python(given: str | None) -> str:
    """Return Ray's interpreter, or say how to make one."""
    folder = given or os.environ.get("RAY_ENV")
    python = Path(folder or "") / "bin" / "python"
    if not folder or not python.exists():
        raise SystemExit(
            "Ray Serve runs in an environment of its own. Make one:\n"
            '    python3 -m venv RAY_ENV && RAY_ENV/bin/pip install "ray[serve]" -e .\n'
            f"and name it: --ray-env RAY_ENV, or the variable RAY_ENV (it is {folder!r})"
        )
    return str(python)


async def _spawn(*command: str, environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment,
        limit=LINE_BYTES,
        start_new_session=True,
    )


async def _end(process: asyncio.subprocess.Process, patience_s: float) -> None:
    """End a process and what it has started."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), patience_s)
    except TimeoutError:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    await process.wait()


@asynccontextmanager
async def card_server() -> AsyncIterator[str]:
    """Run a card server; gives its socket."""
    with tempfile.TemporaryDirectory(prefix="cards-") as folder:
        socket = f"{folder}/cards"
        process = await _spawn(
            sys.executable, "-m", "benchmarks.support.card_server", socket, environment=dict(os.environ)
        )
        try:
            assert process.stdout is not None
            await process.stdout.readline()
            yield socket
        finally:
            await _end(process, 2.0)


class Running:
    """A system that is up."""

    def __init__(self, system: System, process: asyncio.subprocess.Process, socket: str, ready: dict[str, Any]) -> None:
        self.system, self.socket, self.ready = system, socket, ready
        self._process = process

    async def run(self, runs: Sequence[PlannedRun], patience_s: float = CELL_S) -> dict[str, Any]:
        """Run these and return what was seen."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([asdict(run) for run in runs]).encode() + b"\n")
        await self._process.stdin.drain()
        line = await asyncio.wait_for(self._process.stdout.readline(), patience_s)
        if not line:
            raise RuntimeError(f"system '{self.system.name}' has ended; its errors are above")
        seen: dict[str, Any] = json.loads(line)
        return seen


@asynccontextmanager
async def running(system: System, socket: str, python: str, *options: str) -> AsyncIterator[Running]:
    """Run a system, with further options, until the end of the with statement."""
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "scheduler_plugins", "workers"))
    environment = {**os.environ, "PYTHONPATH": paths, **RAY_DEFAULTS, **dict(system.environment)}
    interpreter = python if system.on_ray else sys.executable
    process = await _spawn(
        interpreter, "-m", system.module, "--socket", socket, *system.options, *options, environment=environment
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        if not line:
            raise RuntimeError(f"system '{system.name}' did not start; its errors are above")
        yield Running(system, process, socket, json.loads(line)["ready"])
    finally:
        await _end(process, 20.0)


async def run_cell(one: Running, cell: Cell) -> dict[str, Any]:
    """Run a cell on a system and return what is kept of it."""
    runs = plan(cell)
    await ask(one.socket)
    clock = Clock()
    watching = asyncio.create_task(clock.watch())
    seen = await one.run(runs)
    watching.cancel()
    record = await ask(one.socket)
    calls = {call.name: call for run in runs for call in run.calls}
    late_s = [
        turn["ended"] - turn["began"] - calls[turn["call"]].alone_s[turn["card"]]
        for turn in record
        if turn["call"] in calls
    ]
    by_id = {run.run_id: run for run in runs}
    for view in seen["seen"]:
        view["met"] = view["first_s"] is not None and view["first_s"] <= by_id[view["run_id"]].ttft_slo_s
        view["slo_s"] = by_id[view["run_id"]].ttft_slo_s
    begin = min((turn["asked"] for turn in record), default=0.0)
    return {
        "system": one.system.name,
        **asdict(cell),
        "runs": [_rounded(view) for view in seen["seen"]],
        "calls": [
            [turn["call"], turn["card"], *(round(turn[at] - begin, 4) for at in ("asked", "began", "ended"))]
            for turn in record
        ],
        "goodput": sum(view["met"] for view in seen["seen"]) / len(runs),
        "ttft_mean_s": _mean([view["first_s"] for view in seen["seen"]]),
        "latency_mean_s": _mean([view["done_s"] for view in seen["seen"]]),
        "fast_share": sum(turn["card"] == FAST for turn in record) / max(len(record), 1),
        "failed": sum(bool(view["error"]) for view in seen["seen"]),
        "calls_made": len(record),
        "calls_planned": len(calls),
        "late_p50_s": float(np.percentile(late_s, 50)) if late_s else None,
        "late_p95_s": float(np.percentile(late_s, 95)) if late_s else None,
        "late_max_s": max(late_s, default=None),
        "client_stall_s": seen["stall_s"],
        "machine_stall_s": clock.worst_s,  # seen by a process that takes no part
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rounded(view: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in view.items()}
