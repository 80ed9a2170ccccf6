"""Small scenarios and the faults that befall them, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from dask_fmware.simulation.scenario import Scenario

__all__ = ["HEALED_S", "Fault", "Kind", "draw_faults", "draw_scenario"]

Kind: TypeAlias = Literal[
    "kill",  # a worker: all it has is lost
    "crash",  # an engine: its worker says so of each attempt
    "outage",  # every replica of a model
    "cut",  # a worker is not heard for a while: all it says comes at once, or it is given up first
    "slow",
    "flap",  # drained and back, several times
    "drain",
    "start",  # a further replica, cold
    "clock",  # the wall clock is set
    "cancel",  # a client lets go of a run
    "withdraw",  # Dask takes a call back, because an input was lost
    "lose result",  # of the next call that finishes
    "undeliver",  # the next assignments do not reach their worker
]

LAST_S = 20.0  # of the arrivals
HEALED_S = 40.0  # no fault later than this; from then on every model has replicas


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong; `pick` and `size` in [0, 1) say where and how much, whatever is there by then."""

    kind: Kind
    at_s: float
    pick: float
    size: float


def draw_faults(seed: int) -> list[Fault]:
    """Draw 4 to 20 faults, by time."""
    draws = random.Random(f"faults {seed}")
    count = draws.randint(4, 20)
    kinds = get_args(Kind)
    made = [
        Fault(draws.choice(kinds), draws.uniform(0.0, 0.9 * HEALED_S), draws.random(), draws.random())
        for _ in range(count)
    ]
    return sorted(made, key=lambda fault: fault.at_s)


def draw_scenario(seed: int) -> Scenario:
    """Draw one or two models on one to three types of card, and one to three workflows."""
    draws = random.Random(f"scenario {seed}")
    cards = {
        name: {
            "count": (count := draws.randint(1, 2)),
            "most": count + 2,
            **({"slots": draws.randint(1, 3)} if draws.random() < 0.2 else {}),
        }
        for name in draws.sample(("H100", "A100", "L4"), draws.randint(1, 3))
    }
    models = {name: {"on": _hostings(draws, list(cards))} for name in ("small", "large")[: draws.randint(1, 2)]}
    document = {
        "cards": cards,
        "models": models,
        "workflows": {
            name: _workflow(draws, name, list(models))
            for name in draws.sample(("one", "chain", "fan", "switch", "agent"), draws.randint(1, 3))
        },
        "arrivals": {"kind": "window", "count": draws.randint(5, 25), "window_s": draws.uniform(1.0, LAST_S)},
        "hop_s": draws.choice((0.0, 0.01)),
        "history": draws.choice((0, 3)),
        "warm_start": draws.random() < 0.5,
        "name": f"faults {seed}",
        "delivery_s": draws.choice((0.0, 0.01, 0.05)),
    }
    return Scenario.model_validate(document)


def _hostings(draws: random.Random, cards: list[str]) -> dict[str, Any]:
    on = draws.sample(cards, draws.randint(1, len(cards)))
    return {
        card: {
            "plain": {
                "w0": draws.choice((0.005, 0.02, 0.1)),
                "w1": draws.choice((0.0, 1e-4)),
                "w2": draws.choice((0.0, 1e-3)),
            },
            "slots": draws.choice((1, 1, 2, 4)),
            "load_s": {"uniform": [0.0, draws.uniform(0.1, 6.0)]},
            "failed_starts": draws.choice((0.0, 0.0, 0.4)),
            **({"kv_tokens": 1200} if draws.random() < 0.2 else {}),
        }
        for card in on
    }


def _workflow(draws: random.Random, shape: str, models: list[str]) -> dict[str, Any]:
    def call(**more: Any) -> dict[str, Any]:
        prompt, output = {"uniform": [5, 200]}, {"uniform": [1, 60]}
        return {"model": draws.choice(models), "prompt": prompt, "output": output, **more}

    answer = call(answers=True)
    match shape:
        case "one":
            nodes = {"a": answer}
        case "chain":
            nodes = {
                "a": call(),
                "code": {"after": ["a"], "seconds": {"uniform": [0.0, 0.5]}},
                "b": {**answer, "after": ["code"]},
            }
        case "fan":
            nodes = {
                "m": call(items={"values": [1, 2, 5]}),
                "b": call(),
                "c": {**answer, "after": ["m", "b"]},
            }
        case "switch":
            nodes = {
                "a": call(decides={"left": 0.5, "right": 0.5}),
                "b": {**answer, "after": ["a"], "when": {"a": "left"}},
                "c": {**call(answers=True), "after": ["a"], "when": {"a": "right"}},
            }
        case _:
            nodes = {"l": call(rounds={"values": [1, 2, 4]}), "b": {**answer, "after": ["l"]}}
    return {
        "nodes": nodes,
        "slo": draws.choice((None, {"ttft_s": 0.5}, {"ttft_s": 3.0}, {"ttft_s": 30.0})),
        "on_miss": draws.choice(("finish", "finish", "reject")),
        "tenant": draws.choice(("default", "other")),
        "priority": draws.choice((0, 0, -100)),
    }
