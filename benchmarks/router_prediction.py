"""What the router predicts by a closed form, beside the projection of the Profiler and beside what came of it.

    python -m benchmarks.router_prediction --seeds 3

In virtual time, so that nothing but the predictors errs: one replica by a step-time law, calls that come by a Poisson
process and wait centrally while its slots are taken, as under the router. When a call is given to the replica, `router`
is `policy.estimate.expected_s`, `finished` the same with what finished calls taught
(`runtime.learning.corrections.Pace`), and `projection` is `profile.projection.Projection` of the very sequences that
run. Nobody knows who will come. Calls that start on an idle replica are left out, as all agree there.
"""

from __future__ import annotations

import argparse
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from benchmarks.support.environment import environment, write
from dask_fmware.model.report import AttemptReport
from dask_fmware.policy.estimate import expected_parts_s, expected_s
from dask_fmware.policy.protocol import ReplicaView
from dask_fmware.profile.emulation import EmulatedBatch
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.projection import Projection
from dask_fmware.profile.quantiles import load_band
from dask_fmware.profile.replica import Limits, ReplicaLoad, SequenceState
from dask_fmware.runtime.learning.corrections import Pace, Prediction
from dask_fmware.spec.deployment import Latency

LAWS = {
    "GPU, straight": StepLaw.plain(0.012, 6e-5, 4e-5, 1.5e-8, 1e-9),
    "GPU, curves": StepLaw(
        0.012, Curve((4e-5, 2e-5, 6e-5), (8.0, 64.0)), Curve((3e-8, 2e-8), (1024.0,)), 0.001,
        Curve((1e-5, 5e-5, 6e-5), (128.0, 1024.0)), Curve(), 1e-9,
    ),
    "llama.cpp on a core": StepLaw.plain(0.002, 1.5e-4, 1e-3, 1e-6),
}  # fmt: skip
CALLS = ((100, 8), (60, 20), (250, 48), (400, 32), (1000, 200))  # prompt and output tokens
FIGURE = Latency(first_token_s=0.01, output_token_s=0.01)  # not looked at where a law is known


@dataclass(slots=True)
class Started:
    """One call when it was given to the replica, and what came of it."""

    running: int
    predicted: Prediction
    router_ttft_s: float
    router_s: float
    finished_s: float
    projected_ttft_s: float
    projected_s: float
    began: float
    ttft_s: float = 0.0
    latency_s: float = 0.0


class ReplicaUnderLoad:
    """One replica and its central queue.

    Parameters
    ----------
    law, slots
        Of the replica.
    load
        Arrivals beside what it could serve with all slots taken.
    seed
        Of arrivals.
    """

    def __init__(self, law: StepLaw, slots: int, load: float, seed: int) -> None:
        self.law, self.limits = law, Limits(slots)
        self.batch = EmulatedBatch(law, self.limits)
        self.draw = random.Random(seed)
        one_s = sum(law.step_s(0, slots, slots * p) * o / slots + law.prefill_s(p) for p, o in CALLS) / len(CALLS)
        self.rate = load / one_s
        self.calls: dict[int, tuple[int, int]] = {}  # running: prompt and output tokens
        self.started: dict[int, Started] = {}
        self.prefill_until = 0.0
        self.pace = Pace()

    def play(self, calls: int) -> list[Started]:
        """Serve so many calls."""
        queue: deque[tuple[int, tuple[int, int]]] = deque()
        arrivals, now = deque[tuple[float, int]](), 0.0
        for number in range(calls):
            now += self.draw.expovariate(self.rate)
            arrivals.append((now, number))
        while arrivals or self.calls:
            due = arrivals[0][0] if arrivals else float("inf")
            now = min(due, self.batch.next_event_at)
            for output in self.batch.advance(now):
                self.gave(*output)
            if now == due:
                queue.append((arrivals.popleft()[1], self.draw.choice(CALLS)))
            while queue and len(self.calls) < self.limits.slots:
                self.start(now, *queue.popleft())
        return list(self.started.values())

    def start(self, now: float, number: int, call: tuple[int, int]) -> None:
        prompt, output = call
        running = [self._state(key, now) for key in self.calls]
        context = sum(p + o // 2 for p, o in self.calls.values())
        view = ReplicaView(
            "r", "r", "m", "a", "c", self.limits.slots, len(running), 0, len(running), FIGURE, 0.0, 0.0,
            law=self.law, prefill_until=self.prefill_until, context_tokens=context,
        )  # fmt: skip
        predicted = self.pace.predict(self._band(len(running)), *expected_parts_s(prompt, output, view, now))
        projected = Projection(ReplicaLoad(tuple(running)), self.limits, self.law).estimate(
            SequenceState(prompt, output)
        )
        self.started[number] = Started(
            len(running), predicted, expected_s(prompt, 0, view, now), predicted.by_law_s, predicted.latency_s,
            projected.ttft_s, projected.completion_s, now,
        )  # fmt: skip
        self.prefill_until = max(self.prefill_until, now) + self.law.prefill_s(prompt)
        self.calls[number] = call
        self.batch.add(now, number, prompt_tokens=prompt, output_tokens=output)

    def gave(self, at: float, kind: int, number: int) -> None:
        call = self.started[number]
        if kind == 0:
            call.ttft_s = at - call.began
            return
        call.latency_s = at - call.began
        _, output = self.calls.pop(number)
        told = call.predicted
        self.pace.observe(
            AttemptReport(
                1, "r", "r", "a", "c", "", 0.0, predicted_s=told.latency_s, first_by_law_s=told.first_by_law_s,
                by_law_s=told.by_law_s, bound_s=told.bound_s, band=told.band, first_token_at=call.ttft_s,
                ended_at=call.latency_s, output_tokens=output,
            )
        )  # fmt: skip

    def _state(self, number: int, now: float) -> SequenceState:
        prompt, output = self.calls[number]
        tokens = self.batch.tokens(number, now)
        return SequenceState(prompt, output, prompt if tokens else 0, tokens)

    def _band(self, running: int) -> int:
        return load_band(running, 0, self.limits.slots)


def errors(calls: Sequence[Started], predicted: str, measured: str) -> tuple[float, float]:
    """Median and 90th percentile of relative errors."""
    taken = [abs(getattr(c, predicted) - getattr(c, measured)) / getattr(c, measured) for c in calls]
    return median(taken), quantiles(taken, n=10)[8]


def measure(law: StepLaw, slots: int, load: float, seeds: int, calls: int) -> dict[str, Any]:
    """Errors of all predictors on calls that start beside others."""
    found = [c for seed in range(seeds) for c in ReplicaUnderLoad(law, slots, load, seed).play(calls) if c.running]
    return {
        "calls": len(found),
        "ttft": {
            "router": errors(found, "router_ttft_s", "ttft_s"),
            "projection": errors(found, "projected_ttft_s", "ttft_s"),
        },
        "latency": {
            "router": errors(found, "router_s", "latency_s"),
            "finished": errors(found, "finished_s", "latency_s"),
            "projection": errors(found, "projected_s", "latency_s"),
        },
        "apart": errors(found, "router_s", "projected_s"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=400)
    options = parser.parse_args()
    rows = [
        {"law": name, "slots": slots, "load": load, **measure(law, slots, load, options.seeds, options.calls)}
        for name, law in LAWS.items()
        for slots in (4, 16)
        for load in (0.5, 0.9, 1.5)
    ]
    where = environment(seed=0, packages=("numpy",))
    lines = [
        "# The router's prediction beside the projection", "", f"`{where['command']}`", "",
        "Relative errors, median (90th percentile), of calls that start beside others; load 1 takes all slots.", "",
        "| law | slots | load | TTFT: router | projection | latency: router | + finished calls | projection | apart |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        figures = [*row["ttft"].values(), *row["latency"].values(), row["apart"]]
        cells = [f"{middle:.0%} ({high:.0%})" for middle, high in figures]
        lines.append(f"| {row['law']} | {row['slots']} | {row['load']} | {' | '.join(cells)} |")
    print("\n".join(lines))
    write("router_prediction", {"environment": where, "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
