"""Predicted against measured TTFT and latency on a live engine under changing load.

    python -m benchmarks.prediction --engine llama.cpp --calls 2200 --seed 0
    python -m benchmarks.prediction --engine emulated --calls 2200 --seed 0

One engine in this process is profiled, then serves calls whose number at a time changes every 60 calls. Each call is
predicted when it is submitted, from what a scheduler would know: messages reach it 1 ms late, prompts are bytes to it,
lengths of answers come from history. Every predictor sees the same calls. With llama.cpp a process is then
started on the engine's core, and predictions must be right again within 50 calls. The emulated engine plays its
profile exactly, so there is nothing to correct; a second one then serves as many calls, whose steps take `--pace` times
what the profile of the first says, as a card does that throttles.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.support.environment import RESULTS, environment
from benchmarks.support.scheduler_view import Known, Prediction, SchedulerView
from dask_fmware.model.engine import Engine, Request, Sampling
from dask_fmware.profile.meter import StepMeter
from dask_fmware.profile.progress import EngineFacts, PartialProfile, TraceRecord
from dask_fmware.profile.record import Profile, ProfileKey
from dask_fmware.profile.replica import Limits
from dask_fmware.profile.step_report import StepReporter
from dask_fmware_workers.engines import create_engine
from dask_fmware_workers.memory import Footprint
from dask_fmware_workers.profiling import WORDS, measure

MESSAGE_S = 0.001  # a message to the scheduler
WARM = 100  # calls that are not judged
STAGE = 60  # calls between two changes of the load
SETTLED = 50  # calls after which a slowed replica must be predicted well again
NODES = {  # prompt words, output tokens
    "label": ((60, 120), 4),
    "rewrite": ((30, 60), 20),
    "answer": ((100, 250), 48),
    "summary": ((200, 320), 32),
}
TINY = {"layers": 4, "width": 384, "heads": 6}


@dataclass(slots=True)
class Outcome:
    """One call."""

    number: int
    phase: str  # "usual", "slowed" or "paced"
    node: str
    ttft_s: float
    latency_s: float
    predicted: Prediction


class Run:
    """Calls on one engine."""

    def __init__(self, engine: Engine, profile: Profile, seed: int) -> None:
        made = engine.capabilities
        self.engine, self.slots = engine, made.slots
        law = profile.step_law
        self.view = SchedulerView(law, Limits(made.slots, profile.step_tokens or made.context_tokens))
        self.reporter = StepReporter(law, profile.step_tokens)
        self.meter = StepMeter(made.slots)
        self.random = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.began = perf_counter()
        self.outcomes: list[Outcome] = []
        self.freed = asyncio.Event()
        self.outstanding = 0

    def now(self) -> float:
        return perf_counter() - self.began

    async def serve(self, calls: int, phase: str) -> None:
        """Submit calls; at most so many at a time as the stage of the load says."""
        tasks = []
        target = self.slots
        for number in range(calls):
            if number % STAGE == 0:
                low = self.random.random() < 0.15
                target = (
                    self.random.randint(1, self.slots) if low else self.random.randint(self.slots + 2, 5 * self.slots)
                )
            while self.outstanding >= target:
                self.freed.clear()
                await self.freed.wait()
            await asyncio.sleep(self.random.expovariate(1 / 0.01))
            tasks.append(asyncio.create_task(self.call(len(self.outcomes), phase)))
            self.outstanding += 1
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    async def call(self, number: int, phase: str) -> None:
        draw, view = self.random, self.view
        node = draw.choice(list(NODES))
        (low, high), max_tokens = NODES[node]
        text = " ".join([f"{draw.getrandbits(32):x}", *draw.choices(WORDS, k=draw.randint(low, high))])
        id_ = f"{draw.getrandbits(64):x}"
        request = Request(id_, max_tokens, text, sampling=Sampling(seed=draw.getrandbits(31)))
        start = self.now()
        known = Known(node, len(text), max_tokens, start)
        predicted = view.predict(node, len(text), max_tokens, start)
        view.submitted(id_, known, start)
        counted, said, ttft_s = 0, 0.0, math.nan
        prompt = round(len(text) * view.tokens_per_byte)
        self.meter.submitted(id_, prompt, start)
        usage = None
        async with aclosing(self.engine.generate(request)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                at = self.now()
                usage = delta.usage or usage
                if delta.tokens:
                    counted += delta.tokens
                    self.meter.token(id_, at, delta.tokens)
                    if math.isnan(ttft_s):
                        ttft_s = at - start
                    if counted == delta.tokens or at - said > 0.05:
                        said = at
                        self.loop.call_later(MESSAGE_S, view.progress, id_, counted, at)
        latency_s = self.now() - start
        self.meter.ended(id_, self.now())
        for step in self.meter.take():
            if (report := self.reporter.add(step)) is not None:
                self.loop.call_later(MESSAGE_S, view.stepped, report, self.now())
        assert usage is not None
        self.outcomes.append(Outcome(number, phase, node, ttft_s, latency_s, predicted))
        self.outstanding -= 1
        self.freed.set()
        self.loop.call_later(
            MESSAGE_S, view.ended, id_, usage.prompt_tokens, usage.output_tokens, ttft_s, latency_s, predicted,
            self.now() + MESSAGE_S,
        )  # fmt: skip


async def profiled(engine: Engine, name: str, repeats: int) -> Profile:
    """Profile an engine as `dask fmware profile` does."""
    made = engine.capabilities
    key = ProfileKey(model="benchmark", accelerator="here", engine=name, engine_version=made.engine_version)
    part = PartialProfile(key=key, facts=EngineFacts(slots=made.slots, context_tokens=made.context_tokens))
    for number, experiment in enumerate(part.to_do(repeats)):
        question = {"kind": "streams", "seed": number, **asdict(experiment)}
        answer = await measure(engine, question, Footprint(), {})
        part = part.with_traces(experiment, tuple(TraceRecord.model_validate(t) for t in answer["traces"]))
    return part.profile("benchmarks.prediction", np.random.default_rng(0))


def engine_arguments(name: str, core: int) -> dict[str, Any]:
    if name == "llama.cpp":
        return {"tiny": TINY, "slots": 4, "context_tokens": 1024, "cores": [core]}
    catalog = {"model": "Llama-3.1-8B", "accelerator": "L40S"}
    return {
        "catalog": catalog, "slots": 8, "context_tokens": 1024, "step_tokens": 512, "time_scale": 1.0,
        "stream_interval_s": 0.001, "load_s": 0.0,
    }  # fmt: skip


@contextlib.contextmanager
def competitor(core: int) -> Iterator[None]:
    """A process that never rests on the engine's core."""
    code = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def errors(outcomes: list[Outcome], what: str, predictor: str) -> dict[str, float]:
    taken = [abs(getattr(o.predicted, what)[predictor] - getattr(o, what)) / getattr(o, what) for o in outcomes]
    return {"median": float(np.median(taken)), "p90": float(np.quantile(taken, 0.9))}


def coverage(outcomes: list[Outcome], what: str) -> dict[str, float]:
    """Share of calls below their predicted p90, with Wilson's 95 % interval."""
    count = len(outcomes)
    share = sum(getattr(o, what) <= getattr(o.predicted, what.replace("_s", "_p90_s")) for o in outcomes) / count
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return {"share": share, "low": middle - half, "high": middle + half}


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Figures of some calls."""
    return {
        "calls": len(outcomes),
        "waiting_over_half": sum(o.predicted.waiting_share > 0.5 for o in outcomes) / len(outcomes),
        "ttft_s": {p: errors(outcomes, "ttft_s", p) for p in ("static", "corrected", "average")},
        "latency_s": {p: errors(outcomes, "latency_s", p) for p in ("static", "projected", "corrected")},
        "coverage": {what: coverage(outcomes, what) for what in ("ttft_s", "latency_s")},
        "median_ttft_s": statistics.median(o.ttft_s for o in outcomes),
    }


async def paced(options: argparse.Namespace, arguments: dict[str, Any], profile: Profile) -> list[Outcome]:
    """Calls on another engine whose steps take longer than the profile says."""
    engine = create_engine(options.engine, {**arguments, "time_scale": options.pace})
    await engine.start()
    try:
        run = Run(engine, profile, options.seed + 1)
        await run.serve(options.calls, "paced")
    finally:
        await engine.close()
    return run.outcomes


async def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    core = max(os.sched_getaffinity(0))
    arguments = engine_arguments(options.engine, core)
    engine = create_engine(options.engine, arguments)
    load_before = os.getloadavg()[0]
    await engine.start()
    try:
        profile = await profiled(engine, options.engine, options.repeats)
        run = Run(engine, profile, options.seed)
        await run.serve(options.calls, "usual")
        slowed_at = run.now()
        if options.slowed:
            with competitor(core):
                await run.serve(options.slowed, "slowed")
    finally:
        await engine.close()
    if options.reports:
        lines = [" ".join(f"{seconds:.9f}" for seconds in report) for report in run.view.reports]
        options.reports.write_text("\n".join(lines) + "\n")
    others = await paced(options, arguments, profile) if options.pace != 1 else []
    usual = [o for o in run.outcomes if o.phase == "usual"]
    slowed = [o for o in run.outcomes if o.phase == "slowed"]
    result: dict[str, Any] = {
        "engine": options.engine,
        "arguments": arguments,
        "environment": {
            **environment(seed=options.seed, packages=("dask", "distributed", "numpy")),
            "load_average": f"{load_before:.1f} before, {os.getloadavg()[0]:.1f} after",
        },
        "profile": {
            "law": profile.law.model_dump(exclude_defaults=True),
            "step_tokens": profile.step_tokens,
            "decode": profile.decode.model_dump() if profile.decode else None,
            "prefill": profile.prefill.model_dump() if profile.prefill else None,
        },
        "usual": summary(usual[WARM:]),
        "correction": {"decode": run.view.speed.correction.decode, "prefill": run.view.speed.correction.prefill},
    }
    if slowed:
        result["slowed"] = {
            "first_50": summary(slowed[:SETTLED]),
            "after_50": summary(slowed[SETTLED:]),
            "drifts": [{"ratio": d.ratio, "since_s_after_start": d.since_s - slowed_at} for d in run.view.drifts],
        }
    if others:
        result["pace"], result["paced"] = options.pace, summary(others[WARM:])
    result["calls"] = [
        {
            "phase": o.phase, "node": o.node, "ttft_s": round(o.ttft_s, 5), "latency_s": round(o.latency_s, 5),
            "ttft": {k: round(v, 5) for k, v in o.predicted.ttft_s.items()},
            "latency": {k: round(v, 5) for k, v in o.predicted.latency_s.items()},
            "ttft_p90": round(o.predicted.ttft_p90_s, 5), "latency_p90": round(o.predicted.latency_p90_s, 5),
            "waiting_share": round(o.predicted.waiting_share, 3),
        }
        for o in [*run.outcomes, *others]
    ]  # fmt: skip
    return result


def markdown(result: dict[str, Any]) -> str:
    """Tables of one engine."""
    names = {
        "static": "profile as measured", "projected": "+ step times", "corrected": "+ step times, pace of calls",
        "average": "mean of the last 20 TTFTs",
    }  # fmt: skip
    about = result["environment"]
    machine = f"{about['processor']}, {about['cores']} cores, load average: {about['load_average']}"
    lines = [f"## {result['engine']}", "", f"`{about['command']}`", "", machine, ""]
    parts = [("after the first 100 calls", result["usual"])]
    if "slowed" in result:
        parts += [
            ("a process on its core: calls 1 to 50", result["slowed"]["first_50"]),
            ("a process on its core: later calls", result["slowed"]["after_50"]),
        ]
    if "paced" in result:
        parts.append(
            (f"another engine, steps of {result['pace']:g} times the profile's, after 100 calls", result["paced"])
        )
    for title, part in parts:
        cover = part["coverage"]
        lines += [
            f"{title}: {part['calls']:,} calls, waiting is over half of TTFT for {part['waiting_over_half']:.0%}, "
            f"median TTFT {part['median_ttft_s']:.2f} s", "",
            "| prediction | TTFT median error | p90 | latency median error | p90 |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for key, name in names.items():
            # the pace of finished calls is about tokens after the first
            cells = [part["ttft_s"].get("corrected" if key == "projected" else key), part["latency_s"].get(key)]
            shown = [f"{cell['median']:.1%} | {cell['p90']:.0%}" if cell else "- | -" for cell in cells]
            lines.append(f"| {name} | {' | '.join(shown)} |")
        said = ", ".join(
            f"{what.removesuffix('_s')} {c['share']:.1%} ({c['low']:.1%} to {c['high']:.1%})"
            for what, c in cover.items()
        )
        lines += ["", f"below the predicted p90: {said}", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["llama.cpp", "emulated"], default="llama.cpp")
    parser.add_argument("--calls", type=int, default=2200)
    parser.add_argument("--slowed", type=int, default=None, help="calls beside a competing process")
    parser.add_argument(
        "--pace", type=float, default=1.25, help="emulated: steps of a second engine over the profile's; 1 for none"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the profile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reports", type=Path, help="file for reports of steps, see benchmarks.correction_memory")
    options = parser.parse_args()
    if options.calls <= WARM:
        parser.error(f"--calls {options.calls}: the first {WARM} are not judged; ask for more")
    if options.slowed is None:
        options.slowed = 300 if options.engine == "llama.cpp" else 0
    if options.engine != "emulated":
        options.pace = 1.0
    elif options.pace <= 0:
        parser.error(f"--pace {options.pace}: steps take time; give a number above 0")
    result = asyncio.run(benchmark(options))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"prediction_{options.engine}.json").write_text(json.dumps(result) + "\n")
    (RESULTS / f"prediction_{options.engine}.md").write_text(markdown(result) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
