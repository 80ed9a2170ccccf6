"""Tables of one seed have no interval: it would be as wide as nothing."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

import pytest

from benchmarks import overload
from benchmarks.batch_beside import line
from benchmarks.paper_tables import _comparison
from benchmarks.slack_batching import KEPT, rows_of, shown
from benchmarks.support.curves import Curves
from benchmarks.support.environment import RESULTS
from tests.benchmarks.test_paper_tables import CELLS_OF_TWO

INTERVAL = re.compile(r"\(\S+ to \S+\)")


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_drain(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "simulated", lambda *_: 0.5)
    kept = json.loads((RESULTS / "overload_0.2.json").read_text())["cells"]
    found = [{**cell, "seed": seed} for seed in range(seeds) for cell in kept]
    made = overload.table(found, argparse.Namespace(load=2.0, minutes=10.0, time_scale=0.2))
    assert len(INTERVAL.findall(made)) == (5 if seeds > 1 else 0)
    assert ("intervals" in overload.seeds_told(found)) is (seeds > 1)


@pytest.mark.parametrize("seeds", [1, 2])
def test_systems_of_the_papers_experiment(seeds: int) -> None:
    curves = Curves([cell for cell in CELLS_OF_TWO if cell["seed"] <= seeds], ("ray", "slack"))
    assert len(INTERVAL.findall("\n".join(_comparison(curves, "ray")))) == (6 if seeds > 1 else 0)


@pytest.mark.parametrize("seeds", [1, 2])
def test_policies_on_batching_cards_and_beside_a_job(seeds: int) -> None:
    cell = dict.fromkeys(KEPT, 1.0)
    *_, row = rows_of(0.5, {"slack": [cell] * seeds, "greedy": [cell] * seeds})
    assert bool(INTERVAL.search(shown(row, is_first=False))) is (seeds > 1)
    beside: dict[str, Any] = {"policy": "slack", "load": 0.5, "seeds": seeds, "goodput_alone": 1.0, "idle_used": 0.9}
    beside |= {"goodput_beside": 1.0, "points_lost": 0.0, "points_lost_95": [0.0, 0.0], "idle_used_95": [0.9, 0.9]}
    assert len(INTERVAL.findall(line(beside))) == (2 if seeds > 1 else 0)
