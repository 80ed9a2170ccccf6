"""A replica is killed under load: when its call runs elsewhere, what clients see, when the card serves again.

    python -m benchmarks.recovery --ray-env RAY_ENV [--kills 10] [--every 12] [--load 0.25]

RAG at a quarter of saturation, so that the other card is mostly free: what is timed is the recovery and not a queue.
Every so many seconds the process that has the fast card is killed (SIGKILL), on either system alike: the card server
knows whose the card is, and when the same call asks for a card again. Runs that fail are failures that a client sees.
All kills of a system are on one cluster that goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from rich.progress import track

from benchmarks.overload import drawn
from benchmarks.support.card_server import ask, holders
from benchmarks.support.environment import environment, write
from benchmarks.support.systems import SYSTEMS, card_server, ray_python, running
from benchmarks.support.trial import FAST

__all__ = ["outcome"]

COMPARED = ("ray", "slack")
FIRST_S, LAST_S = 10.0, 20.0  # before the first kill, after the last one
SEED = 1000


async def kill(socket: str) -> dict[str, Any]:
    """Kill the process that has the fast card, as soon as one has it."""
    while FAST not in (found := await holders(socket)):  # noqa: ASYNC110 (another process knows)
        await asyncio.sleep(0.01)
    held = found[FAST]
    os.kill(held["pid"], signal.SIGKILL)
    return {**held, "at": perf_counter()}


def outcome(killed: dict[str, Any], record: list[dict[str, Any]]) -> dict[str, Any]:
    """What came of one kill, in seconds after it; None for what did not come."""
    node = killed["call"].partition("/")[2]
    after = [turn for turn in record if turn["began"] > killed["at"] and turn["pid"] != killed["pid"]]
    again = [turn["began"] for turn in after if turn["card"] == FAST and turn["call"].endswith(node)]
    rerouted = [turn["asked"] for turn in after if turn["call"] == killed["call"]]
    since = {"rerouted_s": min(rerouted, default=None), "same_model_again_s": min(again, default=None)}
    return {name: at - killed["at"] if at is not None else None for name, at in since.items()}


def seen_by_clients(seen: list[dict[str, Any]], slo_s: dict[str, float]) -> dict[str, Any]:
    """What came of the runs."""
    met = [view for view in seen if view["first_s"] is not None and view["first_s"] <= slo_s[view["run_id"]]]
    return {
        "runs": len(seen),
        "failed": sum(bool(view["error"]) for view in seen),
        "errors": sorted({view["error"].partition(":")[0] for view in seen if view["error"]}),
        "goodput": len(met) / len(seen),
    }


async def measure(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Kill so many times on each system."""
    python = ray_python(asked.ray_env)
    runs = drawn(SEED, asked.load, (FIRST_S + asked.kills * asked.every + LAST_S) / 60.0, 1.0)
    slo_s = {run.run_id: run.ttft_slo_s for run in runs}
    found = []
    async with card_server() as socket:
        for name in track(COMPARED, description="systems"):
            async with running(SYSTEMS[name], socket, python) as system:
                await system.run(drawn(SEED + 100, asked.load, 0.2, 1.0))
                await ask(socket)
                playing = asyncio.create_task(system.run(runs))
                await asyncio.sleep(FIRST_S)
                killed = []
                for _ in range(asked.kills):
                    killed.append(await kill(socket))
                    await asyncio.sleep(asked.every)
                seen, record = (await playing)["seen"], await ask(socket)
                kills = [outcome(one, record) for one in killed]
                found.append({"system": name, **seen_by_clients(seen, slo_s), "calls": len(record), "kills": kills})
    return found


def row(one: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [f"{one['failed']} of {one['runs']}", ", ".join(one["errors"]) or "-", f"{one['goodput']:.2f}"]
    for name in ("rerouted_s", "same_model_again_s"):
        times = [kill[name] for kill in one["kills"]]
        came = sorted(time for time in times if time is not None)
        never = f", never in {len(times) - len(came)} of {len(times)}" if len(came) < len(times) else ""
        p99 = quantiles(came, n=100, method="inclusive")[98] if len(came) > 1 else max(came, default=0.0)
        cells.append((f"{median(came):.2f} / {p99:.2f} s" if came else "-") + never)
    return f"| {one['system']} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ray-env", metavar="FOLDER", help="virtual environment with Ray (or the variable RAY_ENV)")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--every", type=float, default=12.0, help="seconds from one kill to the next")
    parser.add_argument("--load", type=float, default=0.25, help="times saturation")
    asked = parser.parse_args()
    found = asyncio.run(measure(asked))
    where = environment(seed=SEED)
    lines = [
        "# A killed replica, real systems",
        "",
        f"`{where['command']}` on {where['processor']}, {where['cores']} cores; RAG at {asked.load:g} of saturation, a "
        f"replica killed every {asked.every:g} s, {asked.kills} times; times p50 / p99 of these (p99 interpolated).",
        "",
        "| system | runs that failed for their client | errors | in time | killed call at another engine after | "
        "same model on that card again after |",
        "|---|---|---|---|---|---|",
        *map(row, found),
    ]
    text = "\n".join(lines)
    print(text)
    write("recovery", {"environment": where, "systems": found}, text)


if __name__ == "__main__":
    main()
