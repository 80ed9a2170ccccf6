"""What policies leave to hindsight, beside them in every table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import dask_fmware as fm
from dask_fmware.cli import fmware
from dask_fmware.errors import SpecError
from dask_fmware.simulation.hindsight import most_served_in_time
from dask_fmware.simulation.page import summary, table
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from tests.simulation.test_world import SERIAL

BATCHING: dict[str, Any] = {
    "cards": {"A": {"count": 1}},
    "models": {"m": {"on": {"A": {"slots": 4, "plain": {"w0": 0.02}}}}},
    "workflows": {
        "chat": {
            "slo": {"ttft_s": 0.5},
            "nodes": {"a": {"model": "m", "prompt": 50, "output": {"uniform": [5, 60]}, "answers": True}},
        }
    },
    "arrivals": {"kind": "window", "count": 40, "window_s": 4.0},
}


def test_hindsight_is_never_worse_than_a_policy_nor_better_than_the_bound() -> None:
    pytest.importorskip("scipy")
    study = fm.simulate(SERIAL, ["slack", "greedy", "round_robin"], [4, 40], seeds=2, hindsight=True)
    for row in study.rows:
        assert row["goodput"] <= row["hindsight"] <= row["no_schedule_above"] <= 1.0
    assert study.left[40].hindsight < 1.0
    pytest.importorskip("matplotlib")
    assert f"; the best schedule found with hindsight has {study.left[40].hindsight:.1%}; 2 seeds" in summary(study)
    assert "no schedule above" in table(study)


def test_engines_that_batch_have_a_schedule_with_hindsight_and_no_bound() -> None:
    study = fm.simulate(BATCHING, ["slack", "greedy"], seeds=1, hindsight=True)
    assert max(row["goodput"] for row in study.rows) <= study.left[40].hindsight < 1.0
    assert study.left[40].no_schedule_above is None
    assert "hindsight" in table(study)
    assert "no schedule above" not in table(study)


def test_runs_without_an_objective_are_in_nobodys_way_with_hindsight() -> None:
    flows = {**BATCHING["workflows"], "job": {"nodes": BATCHING["workflows"]["chat"]["nodes"]}}
    study = fm.simulate({**BATCHING, "workflows": flows}, ["greedy"], seeds=1, hindsight=True)
    assert study.rows[0]["goodput"] < study.left[40].hindsight <= 1.0
    with pytest.raises(SpecError, match="no workflow has an slo, so hindsight has nothing to tell"):
        fm.simulate({**BATCHING, "workflows": {"job": flows["job"]}}, ["greedy"], seeds=1, hindsight=True)


def test_the_command_shows_it_below_the_policies_of_each_load(tmp_path: Path) -> None:
    path, rows = tmp_path / "scenario.yaml", tmp_path / "rows.json"
    path.write_text(yaml.safe_dump(BATCHING, sort_keys=False))
    asked = [
        "simulate",
        str(path),
        "--policy",
        "slack",
        "--load",
        "20",
        "--load",
        "40",
        "--seeds",
        "1",
        "--processes",
        "1",
    ]
    result = CliRunner().invoke(fmware, [*asked, "--hindsight", "--json", str(rows)])
    assert result.exit_code == 0, result.output
    assert result.output.count("best found with hindsight") == 2
    assert {row["hindsight"] >= row["goodput"] for row in json.loads(rows.read_text())} == {True}
    assert "hindsight" not in CliRunner().invoke(fmware, asked).output
    pytest.importorskip("matplotlib")
    CliRunner().invoke(fmware, [*asked, "--hindsight", "--html", str(tmp_path / "page.html")])
    assert "--hindsight</code>" in (tmp_path / "page.html").read_text(), "the command that made it"


def test_runs_of_a_model_without_a_replica_are_in_no_schedule() -> None:
    """A provisioner might start one; the simulation of a study has none."""
    pytest.importorskip("scipy")
    node = {"model": "rare", "prompt": 50, "output": 10, "answers": True}
    document = {
        **SERIAL,
        "cards": {**SERIAL["cards"], "B": {"count": 0, "most": 1, "slots": 1}},
        "models": {**SERIAL["models"], "rare": {"on": {"B": {"plain": {"w0": 0.01}}}}},
        "workflows": {**SERIAL["workflows"], "other": {"slo": {"ttft_s": 1.0}, "nodes": {"n": node}}},
    }
    (row,) = fm.simulate(document, ["slack"], 12, seeds=1, hindsight=True).rows
    assert 0.0 < row["goodput"] <= row["hindsight"] <= row["no_schedule_above"] < 1.0


def test_a_schedule_with_hindsight_has_the_load_times_of_the_policies() -> None:
    model = {"on": {"A": {"slots": 4, "plain": {"w0": 0.02}, "load_s": {"uniform": [1, 30]}}}}
    flow = {**BATCHING["workflows"]["chat"], "slo": {"ttft_s": 9.0}}
    made = Scenario.model_validate({**BATCHING, "models": {"m": model}, "workflows": {"chat": flow}})
    runs = Workload(made, 0).runs()
    some = [any(one.met for one in World(made, "slack", runs, seed).play()) for seed in range(8)]
    assert set(some) == {True, False}
    assert [most_served_in_time(made, runs, tries=3, seed=seed) > 0 for seed in range(8)] == some
