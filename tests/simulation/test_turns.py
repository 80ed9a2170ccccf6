"""Beyond saturation, what stands behind others is served too: nothing waits for ever."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest

from dask_fmware.simulation.scenario import load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

STARTS = 2000
CALL_S = 0.01 * 81 + 0.0002 * 300  # on a card that it has to itself, about


def scenario(slots: int, cards: int, load: float, length_s: float) -> dict[str, object]:
    node = {"model": "m", "prompt": 300, "output": 80, "answers": True}
    chat = {"slo": {"ttft_s": 0.5}, "nodes": {"a": node}}
    hosting = {"slots": slots, "plain": {"w0": 0.01, "w1": 0.0, "w2": 0.0002}}
    return {
        "version": 1,
        "name": "turns",
        "cards": {"X": {"count": cards}},
        "models": {"m": {"on": {"X": hosting}}},
        "workflows": {"chat": chat | {"share": 0.9}, "job": {"share": 0.05, "nodes": {"a": node}},
                      "later": {"share": 0.05, "priority": -1, "nodes": {"a": node}}},
        "arrivals": {"kind": "poisson", "rate": load * slots * cards / CALL_S, "duration_s": length_s},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("slots", "cards", "load"),
    [(8, 2, 1.5), (8, 2, 3.0), (1, 10, 1.5), pytest.param(1, 2, 3.0, marks=pytest.mark.slow)],
)
def test_while_urgent_calls_take_each_slot_those_behind_have_their_turns(slots: int, cards: int, load: float) -> None:
    length_s = STARTS * CALL_S / slots / cards
    spec = load_scenario(scenario(slots, cards, load, length_s))
    late, done = Counter[str](), Counter[str]()
    for one in World(spec, "slack", Workload(spec, 1).runs(), 1).play():
        if not one.met or one.run.deadline == inf:
            late[one.run.workflow] += 1
            done[one.run.workflow] += one.finished_at < length_s
    assert all(done[workflow] >= STARTS / 1000 for workflow in ("chat", "job", "later")), done
    assert late["chat"] > 10 * done["chat"], (late, done)  # and yet a turn is rare
