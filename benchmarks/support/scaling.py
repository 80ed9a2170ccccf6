"""One simulated fleet under a load that changes: kept as it is, scaled by a planner, or by what is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.support.day_loads import Around, Load, Trace, TraceOverDay
from dask_fmware.provisioning.capacity import CallClass
from dask_fmware.provisioning.sizing import size
from dask_fmware.runtime import Machine
from dask_fmware.simulation.fleet import VirtualFleet
from dask_fmware.simulation.provisioned import ProvisioningController, inventory_of_scenario
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import Outcome, World
from dask_fmware.spec.provisioning import Provisioning

__all__ = [
    "INTERVAL_S",
    "QUANTILE",
    "Case",
    "Foreseen",
    "Played",
    "foreseen",
    "scaled",
    "static",
    "static_day",
    "static_peak",
]

QUANTILE = 0.95
POLICY = "greedy"  # the default of deployments
MOST_CARDS = 120
INTERVAL_S = 5.0  # between two looks
PARTS = 60  # of the load, of which the worst is looked at
PROMPT = (1250, 0.6)  # median and sigma of tokens, where the load brings none
OUTPUT = (3000, 0.6)  # of a model that thinks before it answers
FEWEST = 20  # runs of a part that say anything


@dataclass(frozen=True)
class Case:
    """A load, what serves it, and by when it must answer."""

    load: Load
    model: str = "Llama-3.1-8B"  # both as in the catalog
    card: str = "L40S"
    kv_tokens: int = 200_000
    ttft_s: float = 1.0

    def scenario(self, load_s: float, count: int = 1) -> Scenario:
        """One call a run. What lengths are usual is known beforehand; a trace brings its own."""
        usual = self.load.load if isinstance(self.load, Around) else self.load
        usual = usual.trace if isinstance(usual, TraceOverDay) else usual
        prompt, output = usual.medians if isinstance(usual, Trace) else (PROMPT[0], OUTPUT[0])
        hosting = {"slots": 32, "kv_tokens": self.kv_tokens, "catalog": [self.model, self.card], "load_s": load_s}
        node = {
            "model": "llm",
            "answers": True,
            "prompt": {"lognormal": [prompt, PROMPT[1]], "most": 6000},
            "output": {"lognormal": [output, OUTPUT[1]], "most": 12000},
        }
        return Scenario.model_validate({
            "name": "day",
            "cards": {self.card: {"count": count, "most": MOST_CARDS, "price_per_hour": 1.0}},
            "models": {"llm": {"on": {self.card: hosting}}},
            "workflows": {"chat": {"slo": {"ttft_s": self.ttft_s}, "nodes": {"answer": node}}},
            "arrivals": {"kind": "poisson", "rate": 1.0, "duration_s": 1.0},
            "warm_start": True,
        })  # fmt: skip

    def runs(self, seed: int) -> Iterator[SampledRun]:
        """The same for every way."""
        workload = Workload(self.scenario(0.0), seed)
        return (workload.run("chat", f"r{i}", arrival) for i, arrival in enumerate(self.load.arrivals(seed)))


@dataclass(frozen=True)
class Played:
    """One simulation."""

    goodput: float
    goodput_worst: float
    card_hours: float
    changes: int


@dataclass
class Foreseen:
    """A controller that knows what comes: replicas by the arrivals of each window, ready when it begins.

    Each is asked for a load time before it is needed, and kept where it would be asked for again before it had gone.
    """

    case: Case
    window_s: float
    load_s: float
    seed: int
    changes: int = 0

    def __post_init__(self) -> None:
        inventory, options = inventory_of_scenario(self.case.scenario(0.0)), Provisioning(quantile=QUANTILE)
        parts: dict[int, list[SampledRun]] = {}
        for run in self.case.runs(self.seed):
            parts.setdefault(int(run.arrival // self.window_s), []).append(run)
        self._counts = {}
        for part, some in parts.items():
            lengths = [length for run in some for node in run.nodes for length in node.calls]
            prompt, output = (sum(one[i] for one in lengths) / len(lengths) for i in (0, 1))
            rate = len(some) / min(self.window_s, self.case.load.length_s - part * self.window_s)
            calls = CallClass("chat", "answer", "llm", rate, prompt, output, self.case.ttft_s, answers=True)
            self._counts[part] = sum(size(inventory, [calls], options).mix.replicas.values())

    def needed(self, now: float) -> int:
        """Most replicas from `now` until one that is asked for now is ready."""
        first, last = int(now // self.window_s), int((now + self.load_s) // self.window_s)
        return max([self._counts.get(part, 0) for part in range(first, last + 1)] + [1])

    def card_hours(self) -> float:
        """What it takes if nothing is late, so that no replica has calls left when it goes."""
        looks = range(int(self.case.load.length_s / INTERVAL_S))
        return sum(self.needed(look * INTERVAL_S) for look in looks) * INTERVAL_S / 3600

    def control(self, fleet: VirtualFleet, machine: Machine, now: float) -> float | None:
        """Start and drain; end what has drained."""
        for replica in [replica for replica in fleet if replica.state == "draining" and not replica.running]:
            fleet.stop(replica.replica_id)
            self.changes += 1
        here = [replica for replica in fleet if replica.state in ("starting", "ready")]
        missing = self.needed(now) - len(here)
        ready = sorted((replica for replica in here if replica.state == "ready"), key=lambda r: r.running)
        for replica in ready[: max(-missing, 0)]:
            fleet.drain(replica.replica_id)
        draining = [replica for replica in fleet if replica.state == "draining"][: max(missing, 0)]
        for replica in draining if missing > 0 else []:
            fleet.drain(replica.replica_id, draining=False)
        for _ in range(missing - len(draining)):
            fleet.start("llm", self.case.card)
        self.changes += abs(missing)
        return now + INTERVAL_S


def static(case: Case, seed: int, *, count: int) -> Played:
    """`count` replicas all the time."""
    return _played(case, seed, case.scenario(0.0, count), None)


def scaled(case: Case, seed: int, *, load_s: float, options: Provisioning, start: int) -> Played:
    """Replicas as `options` have it, from `start` of them."""
    spec = case.scenario(load_s, start)
    controller = ProvisioningController(spec, options)
    return _played(case, seed, spec, controller)


def foreseen(case: Case, seed: int, *, load_s: float, window_s: float) -> Played:
    """Replicas by the arrivals that each window will bring."""
    controller = Foreseen(case, window_s, load_s, seed)
    return _played(case, seed, case.scenario(load_s, controller.needed(0.0)), controller)


def _played(case: Case, seed: int, spec: Scenario, controller: ProvisioningController | Foreseen | None) -> Played:
    parts = [[0, 0] for _ in range(PARTS)]  # runs in time, all
    part_s = (case.load.load if isinstance(case.load, Around) else case.load).length_s / PARTS

    def ended(outcome: Outcome) -> None:
        part = parts[min(int(outcome.run.arrival / part_s), PARTS - 1)]
        part[0] += outcome.met
        part[1] += 1

    world = World(spec, POLICY, case.runs(seed), seed, controller=controller, ended=ended)
    world.play()
    worst = min(met / count for met, count in parts if count >= FEWEST)
    goodput = sum(met for met, _ in parts) / sum(count for _, count in parts)
    changes = 0
    if isinstance(controller, Foreseen):
        changes = controller.changes
    elif controller is not None:
        changes = sum(len(plan.steps) for plan in controller.plans)
    return Played(goodput, worst, sum(world.card_seconds.values()) / 3600.0, changes)


def static_peak(case: Case, seed: int, begin: int) -> int:
    """Least number of replicas that attain the quantile in every part, searched for from `begin` on.

    It is looked for around the busiest minutes, and then tried over the whole of the load: lengths change too.
    """
    part_s = case.load.length_s / PARTS
    busiest = Case(
        Around(case.load, min(8 * part_s, case.load.length_s)), case.model, case.card, case.kv_tokens, case.ttft_s
    )
    count = begin
    while count > 1 and static(busiest, seed, count=count - 1).goodput_worst >= QUANTILE:
        count -= 1
    if count == begin:
        while static(busiest, seed, count=count).goodput_worst < QUANTILE:
            count += 1
    while static(case, seed, count=count).goodput_worst < QUANTILE:
        count += 1
    return count


def static_day(case: Case, seed: int, most: int) -> int:
    """Least number of replicas up to `most` that attain the quantile over the whole of a load."""
    least, good = 1, most
    while least < good:
        middle = (least + good) // 2
        if static(case, seed, count=middle).goodput >= QUANTILE:
            good = middle
        else:
            least = middle + 1
    return good
