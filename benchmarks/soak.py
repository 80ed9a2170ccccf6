"""The contract under faults for as long as one likes, on real processes.

    python -m benchmarks.soak --minutes 30

A `LocalModelCluster` (two emulated models and one in llama.cpp, two replicas each, two light workers) serves runs
that come by a Poisson process, some of them streamed, while a fault befalls some process every few seconds
(`benchmarks.support.soak_faults`). Every run is followed to its end by its client. The event log of the router is held
against the contract afterwards; what the processes take of the machine is sampled throughout. Exits with 1 if anything
was lost, done twice, left behind or against the contract.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import CancelledError, Client, Future
from rich.progress import Progress, TextColumn, TimeRemainingColumn

import dask_fmware as fm
from benchmarks.support.environment import environment, write
from benchmarks.support.faulty_engine import POISON
from benchmarks.support.soak_faults import TTL_S, Chaos
from benchmarks.support.soak_flows import bind, deployment, single
from benchmarks.support.soak_report import draw, table
from dask_fmware.errors import FMwareError
from dask_fmware.model.completion import Completion
from dask_fmware.runtime.contract import Contract, check_log
from dask_fmware.runtime.eventlog import read_log
from dask_fmware.testing.leaks import scheduler_leaks

PATIENCE_S = 180.0  # for one run, after which it counts as lost
STREAMED = 0.3  # share of runs
SAMPLE_S = 5.0
COLLECT_S = 60.0  # Python leaves cycles alone until they are a quarter of all objects, which would look like growth
CONFIG = {
    "distributed.worker.preload": ["benchmarks.support.faulty_engine"],
    "distributed.scheduler.worker-ttl": f"{TTL_S}s",
    "distributed.admin.low-level-log-length": 100,  # else Dask's own books grow through the first hour
    "distributed.admin.log-length": 100,
    "distributed.admin.system-monitor.log-length": 600,
    "distributed.scheduler.events-cleanup-delay": "1m",  # of workers that are gone
}


@dataclass(slots=True)
class Sample:
    """What the processes take at one moment."""

    at_s: float
    main_mb: float  # scheduler, nannies and the client that follows the runs
    main_files: int
    workers_mb: float
    workers_files: int
    processes: int
    in_flight: int
    ended: int


@dataclass(slots=True)
class Tally:
    """What clients saw."""

    submitted: int = 0
    streamed: int = 0
    in_flight: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # answers that are not what was streamed, strange errors
    made_again: int = 0  # answers of which another text had been streamed before their result was lost
    progress_at: float = 0.0
    longest_pause_s: float = 0.0

    def progress(self) -> None:
        """A run has ended, or the first of several begins."""
        self.longest_pause_s = max(self.longest_pause_s, self.pause_s)
        self.progress_at = time.monotonic()

    def to_dict(self) -> dict[str, Any]:
        """For the table."""
        return {
            "submitted": self.submitted,
            "streamed": self.streamed,
            "ends": dict(self.ends),
            "lost": self.lost,
            "wrong": self.wrong,
            "made_again": self.made_again,
            "longest_pause_s": self.longest_pause_s,
        }

    @property
    def pause_s(self) -> float:
        """Since a run ended, while others were under way."""
        return time.monotonic() - self.progress_at if self.in_flight else 0.0


class Driver:
    """Submits runs and follows each to its end."""

    def __init__(self, client: Client, seed: int) -> None:
        self.tally = Tally()
        self._client = client
        self._draws = random.Random(seed)
        self._followed: set[asyncio.Task[None]] = set()

    async def play(self, rate: float) -> None:
        """Submit until cancelled."""
        due = time.monotonic()
        while True:
            due += self._draws.expovariate(rate)
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            self.submit(bind(self._draws, self.tally.submitted), streamed=self._draws.random() < STREAMED)

    def poison(self) -> None:
        """Submit a run that ends every process it comes to."""
        self.submit(single(f"{self.tally.submitted} {POISON}"), streamed=False)

    def submit(self, run: Any, *, streamed: bool) -> None:
        """Submit a run and follow it."""
        tally = self.tally
        tally.submitted += 1
        tally.streamed += streamed
        if not tally.in_flight:
            tally.progress()
        tally.in_flight += 1
        task = asyncio.create_task(self._follow(self._client.compute(run), streamed))
        self._followed.add(task)
        task.add_done_callback(self._followed.discard)

    async def settle(self) -> None:
        """Wait for all runs."""
        while self._followed:
            await asyncio.wait(self._followed)

    async def _follow(self, future: Future, streamed: bool) -> None:
        tally, shown = self.tally, ""
        try:
            async with asyncio.timeout(PATIENCE_S):
                if streamed:
                    async for chunk in fm.stream(future):
                        shown = chunk.text if chunk.restarted else shown + chunk.text
                result = await future.result()
            tally.ends["finished"] += 1
            if streamed and isinstance(result, Completion) and shown != result.text:
                report = await fm.report(future)
                if max(sum(one.outcome == "finished" for one in call.attempts) for call in report.data.calls) > 1:
                    tally.made_again += 1  # its result was lost with its worker when the stream had ended
                else:
                    tally.wrong.append(f"{future.key}: streamed {len(shown)} characters, answered {len(result.text)}")
        except TimeoutError:
            report = await fm.report(future)
            states = Counter(call.state for call in report.data.calls)
            tally.ends["no end"] += 1
            tally.lost.append(f"{future.key}: {future.status}, {report.data.state}, calls {dict(states)}\n{report}")
        except CancelledError:
            tally.ends["CancelledError"] += 1
            tally.wrong.append(f"{future.key}: cancelled by nobody")
        except FMwareError as error:
            tally.ends[type(error).__name__] += 1
        except Exception as error:  # every error that a client sees is to have a name of ours
            tally.ends[type(error).__name__] += 1
            tally.wrong.append(f"{future.key}: {type(error).__name__}: {error}")
        finally:
            tally.progress()
            tally.in_flight -= 1
            future.release()


def sample(started: float, tally: Tally) -> Sample:
    """Measure this process and its descendants."""
    me = psutil.Process()
    found = Sample(
        round(time.monotonic() - started, 1),
        me.memory_info().rss / 1e6,
        me.num_fds(),
        0.0,
        0,
        1,
        tally.in_flight,
        tally.ends.total(),
    )
    for child in me.children(recursive=True):
        try:
            with child.oneshot():
                found.workers_mb += child.memory_info().rss / 1e6
                found.workers_files += child.num_fds()
            found.processes += 1
        except psutil.Error:
            pass  # it died under our eyes
    return found


async def soak(asked: argparse.Namespace, log: Path) -> dict[str, Any]:
    """Serve under faults, then without, and say what came of it."""
    samples: list[Sample] = []
    cluster = await fm.LocalModelCluster(
        deployment(log, asked.policy), dashboard_address=None, asynchronous=True, silence_logs=50
    )
    client = await Client(cluster, asynchronous=True, set_as_default=False)
    try:
        await fm.wait_ready(client)
        driver = Driver(client, asked.seed)
        chaos = Chaos(cluster, client, asked.seed, asked.pause_s, driver.poison)
        started, seconds = time.monotonic(), 60 * asked.minutes
        playing = [asyncio.create_task(driver.play(asked.rate)), asyncio.create_task(chaos.play())]
        columns = ["{task.percentage:>3.0f} %", "{task.description}"]
        with Progress(*map(TextColumn, columns), TimeRemainingColumn()) as progress:
            shown = progress.add_task("soak", total=seconds)
            collected = started
            while (spent := time.monotonic() - started) < seconds:
                await asyncio.sleep(min(SAMPLE_S, seconds - spent))
                if time.monotonic() - collected >= COLLECT_S:
                    collected = time.monotonic()
                    gc.collect()
                samples.append(sample(started, driver.tally))
                tally = driver.tally
                said = (
                    f"{tally.submitted} runs, {tally.in_flight} under way, {dict(tally.ends)}, {dict(chaos.injected)}"
                )
                progress.update(shown, completed=time.monotonic() - started, description=said)
        held_s = time.monotonic() - started
        for task in playing:
            task.cancel()
        ended = await asyncio.gather(*playing, return_exceptions=True)
        problems = [f"{error!r}" for error in ended if not isinstance(error, asyncio.CancelledError)]
        await driver.settle()
        settled_s = time.monotonic() - started - held_s
        problems += chaos.problems
        left = await _settled(cluster)
    finally:
        await client.close()
        await cluster.close()
    return {
        "seconds": held_s,
        "settled_s": settled_s,
        "injected": dict(sorted(chaos.injected.items())),
        "clients_runs": chaos.clients_runs,
        "clients": driver.tally.to_dict(),
        "problems": problems,  # of the soak itself
        "left": left,
        "samples": [asdict(one) for one in samples],
    }


async def _settled(cluster: Any) -> list[str]:
    """What is left on the scheduler some time after all runs have been released."""
    for _ in range(200):
        if not (left := list(scheduler_leaks(cluster.scheduler))):
            return []
        await asyncio.sleep(0.1)
    return left


def survivors() -> list[str]:
    """Processes that outlive their cluster."""
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=10)
    # Python's own helpers of multiprocessing live as long as this process
    return [" ".join(one.cmdline()) for one in alive if "multiprocessing" not in " ".join(one.cmdline())]


def checked(log: Path) -> Contract:
    """Hold the event log against the contract."""
    with open(log, encoding="utf-8") as lines:
        return check_log(*read_log(lines, str(log)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="30, or 1 with --quick")
    parser.add_argument("--rate", type=float, default=3.0, help="runs a second, Poisson")
    parser.add_argument("--pause-s", type=float, default=4.0, help="mean time between two faults")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--policy", default="greedy")
    parser.add_argument("--quick", action="store_true", help="a short one, of which nothing is written")
    asked = parser.parse_args()
    asked.minutes = asked.minutes or (1.0 if asked.quick else 30.0)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    log = folder / "events.jsonl"
    with dask.config.set(CONFIG):
        found = asyncio.run(soak(asked, log))
    found["survivors"] = survivors()
    contract = checked(log)
    found["breaches"] = [str(breach) for breach in contract.breaches]
    found["counts"] = dict(sorted(contract.counts.items()))
    found = {"environment": environment(seed=asked.seed, packages=("dask", "distributed", "xllamacpp")), **found}
    text = table(found)
    print(text)
    clients = found["clients"]
    wrong = [*found["breaches"], *found["problems"], *found["left"], *found["survivors"]]
    wrong += [*clients["lost"], *clients["wrong"]]
    if not asked.quick:
        write("soak", found, text)
        draw(found)
    if wrong:
        print("\n".join(wrong[:50]))
        print(f"the event log is kept: {log}")
        sys.exit(1)
    log.unlink()
    folder.rmdir()


if __name__ == "__main__":
    main()
