"""Runs that nothing can serve any more: they count as missed, their cost is paid, and every table can show them."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import dask_fmware as fm
from dask_fmware.cli import fmware
from dask_fmware.errors import SpecError
from dask_fmware.simulation.course import Outcome
from dask_fmware.simulation.provisioned import ProvisioningController
from dask_fmware.simulation.run import play
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.tally import measure
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import STUCK_S, World
from dask_fmware.spec.provisioning import Provisioning

ONE: dict[str, Any] = {"model": "m", "prompt": 10, "output": 10, "answers": True}
LOST: dict[str, Any] = {
    "cards": {"A": {"count": 1, "price_per_hour": 3.6}},
    "models": {"m": {"on": {"A": {"plain": {"w0": 0.01}, "slots": 4}}}},
    "workflows": {"w": {"nodes": {"n": ONE}, "slo": {"ttft_s": 1.0}}},
    "arrivals": {"kind": "window", "count": 100, "window_s": 100.0},
    "failures": [{"card": "A-0", "at_s": 20.0}],
}


def scenario(**changes: Any) -> Scenario:
    return Scenario.model_validate({**LOST, **changes})


def outcomes_of(made: Scenario, ended: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    return World(made, "slack", Workload(made, 0).runs(), ended=ended).play()


def test_runs_of_a_card_that_was_lost_for_good_are_missed_and_the_card_is_paid_until_then() -> None:
    told = play(scenario(), "slack", 0)
    arrived_later = sum(run.arrival > 20.0 for run in Workload(scenario(), 0).runs())
    assert (told.runs, told.never_ended, told.rejected) == (100, arrived_later, 0)
    assert told.goodput == (100 - arrived_later) / 100
    assert told.ttft_p99_s == told.latest_s == told.scale_99 == inf
    assert told.cost == pytest.approx(0.020)
    assert told == measure(scenario(), outcomes_of(scenario()), {"A": 20.0}), "kept or told of, they are the same"


def test_an_answer_that_began_in_time_and_was_broken_off_for_good_is_not_in_time() -> None:
    made = scenario(
        workflows={"w": {"nodes": {"n": {**ONE, "output": 100}}, "slo": {"ttft_s": 0.5}, "on_miss": "reject"}},
        arrivals={"kind": "window", "count": 1, "window_s": 0.1},
        failures=[{"card": "A-0", "at_s": 0.4, "down_s": 1.0}],
    )
    (outcome,) = outcomes_of(made)
    assert outcome.first_token_at < outcome.run.deadline, "it began in time"
    assert outcome.is_rejected, "its card was lost, and then it was too late to begin anew"
    assert not outcome.met
    told = measure(made, [outcome])
    assert (told.goodput, told.rejected, told.scale_95) == (0.0, 1, inf)


def test_who_takes_outcomes_as_they_come_is_told_of_runs_that_never_end() -> None:
    told: list[Outcome] = []
    assert outcomes_of(scenario(), told.append) == []
    assert len({outcome.run.run_id for outcome in told}) == len(told) == 100
    assert all(outcome.never_ended == (outcome.finished_at == inf) for outcome in told)


def test_a_token_of_an_answer_that_never_ends_is_none() -> None:
    nodes = {"n": ONE | {"output": 10_000}}
    made = scenario(workflows={"w": {"nodes": nodes, "slo": {"ttft_s": 1.0}}})
    told = [outcome for outcome in outcomes_of(made) if outcome.never_ended]
    assert told
    assert not any(outcome.met for outcome in told)


def test_a_model_without_a_replica_is_paid_for_while_its_runs_wait() -> None:
    models = {**LOST["models"], "n": {"on": {"B": {"plain": {"w0": 0.01}}}}}
    workflows = {
        "w": {"nodes": {"a": {"model": "m", "prompt": 9, "output": 9}, "b": ONE | {"model": "n", "after": ["a"]}}}
    }
    cards = {**LOST["cards"], "B": {"count": 0, "most": 1}}
    made = scenario(models=models, workflows=workflows, cards=cards, failures=())
    outcomes = outcomes_of(made)
    assert all(outcome.never_ended and not outcome.met for outcome in outcomes), "in time for nothing without an SLO"
    world = World(made, "slack", Workload(made, 0).runs())
    world.play()
    assert world.card_seconds["A"] == world.now > 90.0


def test_runs_under_way_when_a_simulation_is_cut_short_keep_what_they_had() -> None:
    nodes = {"n": ONE | {"output": 1000}}
    made = scenario(workflows={"w": {"nodes": nodes, "slo": {"ttft_s": 1.0}}}, failures=())
    cut = World(made, "slack", Workload(made, 0).runs()).play(50.0)
    assert any(outcome.never_ended and outcome.met for outcome in cut)


def test_a_cluster_that_halts_at_once_has_no_saturation() -> None:
    poisson = {"kind": "poisson", "duration_s": 20.0}
    with pytest.raises(SpecError, match="comes to a halt at once, so nobody knows what load it can bear"):
        fm.simulate(scenario(arrivals=poisson, failures=[{"card": "A-0", "at_s": 0.0}]), ["slack"], seeds=1)


def test_a_study_with_times_that_never_come_is_rows_a_figure_and_a_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    study = fm.simulate(scenario(), ["slack", "greedy"], [50, 100], seeds=2)
    assert [row["never_ended"] > 30 for row in study.rows] == [True] * 4
    study.plot().savefig(tmp_path / "study.png")
    study.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "never ended" in page
    assert "<td>never</td>" in page
    assert "inf" not in study._repr_html_()


def test_the_command_says_how_many_never_ended_and_writes_json_that_all_can_read(tmp_path: Path) -> None:
    path, rows = tmp_path / "scenario.yaml", tmp_path / "rows.json"
    path.write_text(yaml.safe_dump(LOST))
    asked = [str(path), "--policy", "slack", "--load", "100", "--seeds", "1", "--processes", "1", "--json", str(rows)]
    result = CliRunner().invoke(fmware, ["simulate", *asked])
    assert result.exit_code == 0, result.output
    assert "never ended" in result.output
    assert "inf" not in result.output.replace("infinity", "")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    (row,) = json.loads(rows.read_text(), parse_constant=refuse)
    assert (row["never_ended"], row["latest_s"]) == (79.0, None)


def test_tables_say_how_many_were_rejected_beside_times_that_never_come(tmp_path: Path) -> None:
    flow = {"nodes": {"n": ONE | {"output": 200}}, "slo": {"ttft_s": 0.5}, "on_miss": "reject"}
    document = LOST | {"workflows": {"w": flow}, "failures": [{"card": "A-0", "at_s": 20.0, "down_s": 5.0}]}
    path, log = tmp_path / "scenario.yaml", tmp_path / "run.jsonl"
    path.write_text(yaml.safe_dump(document))
    result = CliRunner().invoke(fmware, ["simulate", str(path), "--policy", "slack", "--seeds", "1"])
    assert result.exit_code == 0, result.output
    assert "rejected" in result.output
    assert "never ended" not in result.output
    made = Scenario.model_validate(document | {"failures": []})
    with log.open("w") as file:
        World(made, "slack", Workload(made, 0).runs(), log=file.write).play()
    result = CliRunner().invoke(fmware, ["simulate", "--record", str(log), "--slo", "20ms"])
    assert result.exit_code == 0, result.output
    assert "rejected" in result.output


def test_a_run_that_is_late_in_one_of_three_seeds_is_not_told_as_none() -> None:
    (row,) = (study := fm.simulate(scenario(failures=[{"card": "A-0", "at_s": 99.0}]), ["slack"], seeds=3)).rows
    assert 0.0 < row["never_ended"] < 10.0
    assert f"<td>{row['never_ended']:.1f}</td>" in study._repr_html_()


def test_runs_for_which_the_provisioner_may_start_nothing_never_end_and_the_simulation_does() -> None:
    cards = {"A": {"count": 0, "most": 1, "price_per_hour": 3.6}}
    made = scenario(cards=cards, failures=(), arrivals={"kind": "window", "count": 3, "window_s": 3.0})
    for options, ends in ((Provisioning(), True), (Provisioning(max_cost_per_hour=0.1), False)):
        runs, controller = Workload(made, 0).runs(), ProvisioningController(made, options)
        world = World(made, "slack", runs, controller=controller)
        assert [outcome.never_ended for outcome in world.play()] == [not ends] * 3
        assert world.now < 2 * STUCK_S


def test_what_if_a_recorded_card_were_gone_shows_runs_that_never_end(tmp_path: Path) -> None:
    made, log = scenario(failures=(), arrivals={"kind": "window", "count": 9, "window_s": 9.0}), tmp_path / "run.jsonl"
    with log.open("w") as file:
        World(made, "slack", Workload(made, 0).runs(), log=file.write).play()
    result = CliRunner().invoke(fmware, ["simulate", "--record", str(log), "--add", "A=-1"])
    assert result.exit_code == 0, result.output
    assert "never ended" in result.output


def test_a_simulation_to_which_no_run_comes_is_over_at_once() -> None:
    made = scenario(arrivals={"kind": "poisson", "rate": 0.01, "duration_s": 1.0})
    assert not Workload(made, 0).runs()
    with pytest.raises(SpecError, match="seed 0: no run ended; let more arrive"):
        play(made, "slack", 0, controller=ProvisioningController(made, Provisioning()))
    slow_for_good = scenario(failures=[{"card": "A-0", "at_s": 20.0, "slow": 2.0}])
    assert World(slow_for_good, "slack", []).play() == []
