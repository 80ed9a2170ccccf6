"""A replica of a real cluster is slowed in mid-run by processes on its core: noticed? Are predictions right again?

    python -m benchmarks.slowed_replica --seeds 3

A `LocalModelCluster` with one llama.cpp replica that is pinned to a core is profiled, then serves calls whose number at
a time changes; all else keeps to the other cores. After a while processes that never rest are started on the replica's
core, and the same calls come again. Judged is what the running system itself says: the predictions of each attempt in
`fm.reports`, the drift in `fm.status`, the event of the topic ``fmware-drift`` and the warning in the scheduler's log.
In the end they go, which must be noticed too. Right again is: as right as before.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import dask.config
from distributed import Client

import dask_fmware as fm
from benchmarks.support.environment import environment, write
from dask_fmware_workers.profiling import WORDS

MODEL = {"layers": 4, "width": 384, "heads": 6}
SLOTS = 4
STAGE = 20  # calls between two changes of the load
SETTLED = 50  # calls after which predictions must be right again
PATIENCE_CALLS = 200
NOTED = 1.25  # times slower than before, as a machine that does other work too is never quite at its profile
NODES = {"label": ((60, 120), 8), "rewrite": ((30, 60), 20), "answer": ((100, 250), 48), "summary": ((200, 320), 32)}


def _workflow(node: str, max_tokens: int) -> Any:
    @fm.workflow
    def ask(text: str) -> Any:
        return fm.Model("small")("{text}", text=text, name=node, max_tokens=max_tokens)

    return ask


WORKFLOWS = {node: _workflow(node, max_tokens) for node, (_words, max_tokens) in NODES.items()}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call as the scheduler reports it."""

    predicted_ttft_s: float
    predicted_s: float
    bound_s: float
    ttft_s: float
    took_s: float


class Load:
    """Calls on a cluster, and what came of them.

    Parameters
    ----------
    client
        Of the cluster.
    seed
        Of prompts, nodes and changes of the load.
    """

    def __init__(self, client: Client, seed: int) -> None:
        self.client, self.seed = client, seed
        self.begin()

    def begin(self) -> None:
        """Begin with the same calls again, but for the first word of each prompt."""
        self.random, self.submitted, self.target = random.Random(self.seed), 0, SLOTS
        self.outstanding: deque[Any] = deque()

    def serve(self, calls: int) -> list[Outcome]:
        """Submit so many calls, at most `target` at a time, and wait for all of them."""
        futures = [self._submit() for _ in range(calls)]
        while self.outstanding:
            self.outstanding.popleft().result()
        return [_outcome(report.data) for report in fm.reports(self.client, futures)]

    def _submit(self) -> Any:
        draw = self.random
        if self.submitted % STAGE == 0:
            self.target = draw.randint(1, 2 * SLOTS)
        self.submitted += 1
        while len(self.outstanding) >= self.target:
            self.outstanding = deque(future for future in self.outstanding if not future.done())
            time.sleep(0.002)
        node = draw.choice(list(NODES))
        (low, high), _ = NODES[node]
        text = " ".join([f"{time.monotonic_ns():x}"[-8:], *draw.choices(WORDS, k=draw.randint(low, high))])
        future = self.client.compute(WORKFLOWS[node](text=text))
        self.outstanding.append(future)
        return future


def _outcome(run: Any) -> Outcome:
    (call,) = run.calls
    last = call.last
    return Outcome(
        last.predicted_ttft_s, last.predicted_s, last.bound_s, last.first_token_at - last.started_at,
        last.ended_at - last.started_at,
    )  # fmt: skip


def figures(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Errors of some calls."""
    found = list(outcomes)
    return {
        "calls": len(found),
        "latency_s": median(o.took_s for o in found),
        "predicted_s": median(o.predicted_s for o in found),
        "error": median(abs(o.predicted_s - o.took_s) / o.took_s for o in found),
        "ttft_error": median(abs(o.predicted_ttft_s - o.ttft_s) / o.ttft_s for o in found),
        "below_p90": sum(o.took_s <= o.bound_s for o in found) / len(found),
    }


def pace(client: Client) -> tuple[float, str | None]:
    """By how much `fm.status` corrects decoding steps, and the drift that it tells."""
    (replica,) = fm.status(client)["replicas"]
    return replica["correction"]["decode"], replica["drift"]


def until_noticed(client: Client, load: Load, usual: float, *, slower: bool) -> tuple[list[Outcome], str]:
    """Serve until `fm.status` tells that the replica has become slower (or no longer is); also how long that took."""
    load.begin()
    outcomes: list[Outcome] = []
    start = time.monotonic()
    while True:
        decode, told = pace(client)
        if (decode > NOTED * usual and told is not None) == slower:
            return outcomes, f"after {len(outcomes)} calls ({time.monotonic() - start:.1f} s)"
        if len(outcomes) >= PATIENCE_CALLS:
            return outcomes, f"not within {len(outcomes)} calls"
        outcomes += load.serve(5)


def keep_to(pids: Iterable[int], cores: set[int]) -> None:
    """Let processes, with all of their threads, run on some cores only."""
    for task in (task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()):
        os.sched_setaffinity(int(task.name), cores)


class Told(logging.Handler):
    """Keeps what the router warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def measure(client: Client, core: int, competitors: int, calls: int, seed: int) -> dict[str, Any]:
    """Serve, slow the replica down, serve on, let it go, serve on."""
    log, events = Told(), list[str]()
    logging.getLogger("dask_fmware.router").addHandler(log)
    client.subscribe_topic("fmware-drift", lambda event: events.append(event[1]["text"]))
    load = Load(client, seed)
    load.serve(SETTLED)  # lengths of prompts and answers are learnt
    load.begin()
    before = load.serve(SETTLED + calls)[SETTLED:]
    usual, told_before = pace(client)
    busy = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    rivals = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(competitors)]
    try:
        slowed, noticed = until_noticed(client, load, usual, slower=True)
        sentence = pace(client)[1]
        slowed += load.serve(max(SETTLED + calls - len(slowed), SETTLED))
        correction = pace(client)[0]
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()
    again, back = until_noticed(client, load, usual, slower=False)
    again += load.serve(max(SETTLED + calls - len(again), SETTLED))
    logging.getLogger("dask_fmware.router").removeHandler(log)
    return {
        "seed": seed,
        "outcomes": {
            "usual": before,
            "slowed, calls 1 to 50": slowed[:SETTLED],
            "slowed, later calls": slowed[SETTLED:],
            "alone again, calls 1 to 50": again[:SETTLED],
            "alone again, later calls": again[SETTLED:],
        },
        "drift told before": told_before,
        "corrections": {"before": usual, "when slowed": correction, "in the end": pace(client)[0]},
        "noticed": noticed,
        "end noticed": back,
        "fm.status": sentence,
        "events": events,
        "log": [line for line in log.lines if "times its profile" in line],
    }


def pooled(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Errors of each phase, over all seeds."""
    phases = results[0]["outcomes"]
    return {phase: figures(o for result in results for o in result["outcomes"][phase]) for phase in phases}


def markdown(phases: dict[str, dict[str, float]], results: list[dict[str, Any]], where: dict[str, Any]) -> str:
    lines = [
        "# A replica slowed in mid-run, on a real cluster", "", f"`{where['command']}`", "",
        "Median errors; p90 is the share of calls that took no longer than the bound predicted for nine of ten.", "",
        "| phase | calls | error of TTFT | latency | predicted | error of latency | p90 |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for phase, row in phases.items():
        lines.append(
            f"| {phase} | {row['calls']} | {row['ttft_error']:.1%} | {row['latency_s']:.3f} s | "
            f"{row['predicted_s']:.3f} s | {row['error']:.1%} | {row['below_p90']:.0%} |"
        )
    for result in results:
        made = result["corrections"]
        lines += [
            "",
            f"Seed {result['seed']}: the slowdown was noticed {result['noticed']}, its end {result['end noticed']}. "
            f"Decoding steps were corrected by {made['before']:.2f} before, {made['when slowed']:.2f} when slowed, "
            f"{made['in the end']:.2f} in the end.",
            "",
            f"- `fm.status`: {result['fm.status']}",
            *(f"- event: {text}" for text in result["events"]),
            *(f"- log: {text}" for text in result["log"]),
        ]
    machine = f"{where['processor']}, {where['cores']} cores; load {where['load_average']}; {where['versions']}"
    return "\n".join([*lines, "", machine])


def run(seed: int, cores: set[int], options: argparse.Namespace) -> dict[str, Any]:
    """One cluster, profiled, slowed and let go."""
    core = max(cores)
    keep_to([os.getpid()], cores)
    deployment = {
        "accelerators": {"cpu": {"cards": 1, "cores": [[core]]}},
        "models": {
            "small": {
                "engine": "llama.cpp", "slots": SLOTS, "context_tokens": 1024, "arguments": {"tiny": MODEL},
                "on": {"cpu": {}},
            }
        },
        "router": {"policy": options.policy},
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set({"fmware.profiles": folder}),
        fm.LocalModelCluster(deployment, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        fm.wait_ready(client)
        hosting = {replica["worker"] for replica in fm.status(client)["replicas"]}
        light = [pid for address, pid in client.run(os.getpid).items() if address not in hosting]
        keep_to([os.getpid(), *light], cores - {core})
        (made,) = fm.profile_models(client)
        if made.profile is None:
            raise SystemExit(f"the profile failed: {made.reason}")
        return measure(client, core, options.competitors, options.calls, seed)


def _columns(outcomes: list[Outcome]) -> dict[str, str]:
    """Calls as one line for each figure."""
    return {
        name: " ".join(f"{getattr(outcome, name):.4f}" for outcome in outcomes)
        for name in (field.name for field in fields(Outcome))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100, help="judged in each phase, after the first 50")
    parser.add_argument("--competitors", type=int, default=2, help="processes that are started on its core")
    parser.add_argument("--policy", default="greedy")
    parser.add_argument("--seeds", type=int, default=3, help="clusters, one after the other")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    cores = os.sched_getaffinity(0)
    results = [run(seed, cores, options) for seed in range(options.seeds)]
    phases = pooled(results)
    where = environment(seed=0, packages=("dask", "distributed", "xllamacpp"))
    where["load_average"] = f"{load_before:.1f} before, {os.getloadavg()[0]:.1f} after"
    text = markdown(phases, results, where)
    print(text)
    kept = [
        {**result, "outcomes": {phase: _columns(part) for phase, part in result["outcomes"].items()}}
        for result in results
    ]
    write("slowed_replica", {"environment": where, "phases": phases, "runs": kept}, text)


if __name__ == "__main__":
    main()
