"""How many runs could have been in time on engines that batch, had all been known: the best schedule that was found.

The runs that are cheapest by their true lengths are served as if no others had come, by the very engines and a policy;
all others follow when these are done. Each such schedule is feasible, so its runs in time are a count that somebody
could have reached; what is searched for is how many runs to serve. The lengths of runs are what no policy can know: it
knows nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dask_fmware.simulation.clairvoyant import true_calls
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.world import World

__all__ = ["card_time_s", "most_served_in_time"]

TRIES = 8


def card_time_s(scenario: Scenario, run: SampledRun) -> float:
    """Seconds of a full card that the calls of a run take at least: their prompts, and their parts of full batches."""
    total_s = 0.0
    for node in run.nodes:
        for model, (prompt, output) in true_calls(node):
            total_s += min(
                hosting.step_law.prompt_s(prompt)
                + output * hosting.step_law.decode_s(hosting.limits.slots, hosting.limits.slots * (prompt + output / 2))
                / hosting.limits.slots
                for hosting in scenario.models[model].on.values()
            )  # fmt: skip
    return total_s


def most_served_in_time(
    scenario: Scenario,
    runs: Sequence[SampledRun],
    policy: str = "slack",
    known: int = 0,
    tries: int = TRIES,
    seed: int = 0,
) -> int:
    """Return how many runs the best schedule that was found has in time, and never less than `known`.

    Parameters
    ----------
    scenario
        Cards and models.
    runs
        What arrives.
    policy
        Serves the runs that are chosen.
    known
        Runs in time of another schedule of the same runs, such as a policy's own.
    tries
        Schedules that are played, at least 3.
    seed
        Of load times and failed starts, as of the policies that it is held beside.
    """
    dearest = sorted(runs, key=lambda run: (card_time_s(scenario, run), run.run_id))
    found: dict[int, int] = {}

    def in_time(count: int) -> int:
        if count not in found:
            chosen = {run.run_id for run in dearest[:count]}
            served = World(scenario, policy, [run for run in runs if run.run_id in chosen], seed).play()
            found[count] = sum(outcome.met for outcome in served)
        return found[count]

    low, high = min(known, len(runs) - 1), len(runs)  # fewer runs than are known to be in time are not worth a try
    golden = (5**0.5 - 1) / 2
    while len(found) < tries and high - low > 1:  # too few leave cards idle, too many are in the way
        left, right = round(high - golden * (high - low)), round(low + golden * (high - low))
        if in_time(left) >= in_time(right):
            high = right
        else:
            low = left
    return max([known, *found.values()])
