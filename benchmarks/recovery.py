"""A replica is killed under load: what its clients see, and when its card serves that model again.

    python -m benchmarks.recovery --ray-env RAY_ENV [--kills 3]

RAG at about half of saturation. After some seconds the process that has the fast card is killed (SIGKILL), on either
system alike: the card server knows whose the card is. Runs that fail are failures that a client sees.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from statistics import median
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
LOAD, MINUTES, KILL_AT_S = 0.5, 0.75, 10.0
SEED = 1000


async def kill(socket: str) -> dict[str, Any]:
    """Kill the process that has the fast card, as soon as one has it."""
    while FAST not in (found := await holders(socket)):  # noqa: ASYNC110 (another process knows)
        await asyncio.sleep(0.01)
    held = found[FAST]
    os.kill(held["pid"], signal.SIGKILL)
    return {**held, "at": perf_counter()}


def outcome(
    seen: list[dict[str, Any]], slo_s: dict[str, float], killed: dict[str, Any], record: list[dict[str, Any]]
) -> dict[str, Any]:
    """What came of one kill."""
    node = killed["call"].partition("/")[2]
    again = [
        turn["began"] - killed["at"]
        for turn in record
        if turn["card"] == FAST and turn["pid"] != killed["pid"] and turn["began"] > killed["at"]
        and turn["call"].endswith(node)
    ]  # fmt: skip
    met = [view for view in seen if view["first_s"] is not None and view["first_s"] <= slo_s[view["run_id"]]]
    return {
        "runs": len(seen),
        "failed": sum(bool(view["error"]) for view in seen),
        "errors": sorted({view["error"].partition(":")[0] for view in seen if view["error"]}),
        "goodput": len(met) / len(seen),
        "same_model_again_s": min(again, default=None),
        "calls": len(record),
    }


async def measure(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Kill so many times, the systems in turn."""
    python = ray_python(asked.ray_env)
    found = []
    async with card_server() as socket:
        for number, name in track([(i, name) for i in range(asked.kills) for name in COMPARED], description="kills"):
            runs = drawn(SEED + number, LOAD, MINUTES, 1.0)
            async with running(SYSTEMS[name], socket, python) as system:
                await system.run(drawn(SEED + 100 + number, LOAD, 0.2, 1.0))
                await ask(socket)
                playing = asyncio.create_task(system.run(runs))
                await asyncio.sleep(KILL_AT_S)
                killed = await kill(socket)
                seen = await playing
                slo_s = {run.run_id: run.ttft_slo_s for run in runs}
                found.append({"system": name, **outcome(seen["seen"], slo_s, killed, await ask(socket))})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ray-env", metavar="FOLDER", help="virtual environment with Ray (or the variable RAY_ENV)")
    parser.add_argument("--kills", type=int, default=3)
    asked = parser.parse_args()
    found = asyncio.run(measure(asked))
    where = environment(seed=SEED)
    lines = [
        "# A killed replica, real systems",
        "",
        f"`{where['command']}` on {where['processor']}, {where['cores']} cores; RAG at {LOAD:g} of saturation, "
        f"{60 * MINUTES:g} s; medians of {asked.kills} kills.",
        "",
        "| system | runs that failed for their client | errors | in time | same model on that card again after |",
        "|---|---|---|---|---|",
    ]
    for name in COMPARED:
        mine = [one for one in found if one["system"] == name]
        back = [one["same_model_again_s"] for one in mine if one["same_model_again_s"] is not None]
        lines.append(
            f"| {name} | {sum(one['failed'] for one in mine)} of {sum(one['runs'] for one in mine)} | "
            f"{', '.join(sorted({error for one in mine for error in one['errors']})) or '-'} | "
            f"{median(one['goodput'] for one in mine):.2f} | "
            + (
                f"{median(back):.1f} s"
                if len(back) == len(mine)
                else f"never in {len(mine) - len(back)} of {len(mine)}"
            )
            + " |"
        )
    text = "\n".join(lines)
    print(text)
    write("recovery", {"environment": where, "kills": found}, text)


if __name__ == "__main__":
    main()
