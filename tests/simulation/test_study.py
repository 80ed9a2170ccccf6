"""Studies: rows, frame, pictures and page; loads of every kind of arrivals; and what the command prints and refuses."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from distributed import Client, LocalCluster

import dask_fmware as fm
from dask_fmware.cli import fmware
from dask_fmware.errors import DeploymentError, SpecError
from dask_fmware.policy.round_robin import RoundRobin
from dask_fmware.simulation import run
from dask_fmware.simulation.arrivals import arrivals
from dask_fmware.simulation.closed_loop import ClosedLoop, endless, slots
from dask_fmware.simulation.run import cells, saturation
from dask_fmware.simulation.scenario import TraceArrivals
from dask_fmware.simulation.study import Study
from tests.simulation.test_world import SERIAL, scenario


@pytest.fixture(scope="module")
def study() -> Study:
    return fm.simulate(scenario(), ["slack", "greedy"], [4, 16], seeds=3)


def test_a_single_policy_or_load_may_be_given_by_itself() -> None:
    assert [row["policy"] for row in fm.simulate(scenario(), "greedy", 4, seeds=1).rows] == ["greedy"]
    with pytest.raises(SpecError, match="give names; what makes yours goes into"):
        fm.simulate(scenario(), [RoundRobin()], 4, seeds=1)  # type: ignore[list-item]
    with pytest.raises(SpecError, match="seeds='3': give numbers, not texts"):
        fm.simulate(scenario(), "greedy", 4, seeds="3")


def test_a_study_has_a_row_for_each_policy_and_load(study: Study) -> None:
    assert [(row["load"], row["policy"]) for row in study.rows] == [
        (4, "slack"), (4, "greedy"), (16, "slack"), (16, "greedy")
    ]  # fmt: skip
    for row in study.rows:
        assert row["goodput_low"] <= row["goodput"] <= row["goodput_high"]
        assert row["ttft_p50_s"] <= row["ttft_p95_s"] <= row["ttft_p99_s"] <= row["latest_s"]
        assert row["scale_95"] <= row["scale_99"]
        assert row["share_fast"] + row["share_slow"] == pytest.approx(1.0)
        assert row["cost"] > 0
        assert 0.0 <= row["late_work"] <= 1.0
    slack, greedy = study.rows[2:]
    assert slack["below"] == 0.0
    assert greedy["below"] == pytest.approx(slack["goodput"] - greedy["goodput"])
    assert slack["parked_calls"] > greedy["parked_calls"] == 0


def test_what_is_named_twice_is_played_once() -> None:
    told: list[str] = []
    made = fm.simulate(scenario(), ["slack", "greedy", "slack"], [4, 4], seeds=[1, 0, 1], told=told.append)
    assert [row["policy"] for row in made.rows] == ["slack", "greedy"]
    assert told == [f"{policy}, load 4, seed {seed}" for policy in ("slack", "greedy") for seed in (1, 0)]


class Counting(ThreadPoolExecutor):
    """Knows how much it was given to do."""

    taken = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.taken += 1
        return super().submit(*args, **kwargs)


def test_what_comes_of_it_does_not_depend_on_where_it_is_played(study: Study) -> None:
    told: list[str] = []
    with Counting(2) as executor:
        elsewhere = fm.simulate(scenario(), ["slack", "greedy"], [4, 16], 3, told.append, executor)
    assert elsewhere.rows == study.rows
    assert executor.taken == 12, "each simulation is played there"
    assert told[:4] == ["slack, load 4, seed 0", "slack, load 4, seed 1", "slack, load 4, seed 2",
                        "greedy, load 4, seed 0"]  # fmt: skip


async def test_a_study_is_played_on_a_dask_cluster(study: Study) -> None:
    async with (
        LocalCluster(n_workers=2, processes=False, dashboard_address=None, asynchronous=True) as cluster,
        Client(cluster, asynchronous=True, set_as_default=False) as client,
    ):
        playing = fm.simulate, scenario(), ["slack", "greedy"], [4, 16], 3, None, client.get_executor()
        elsewhere = await asyncio.to_thread(*playing)
    assert elsewhere.rows == study.rows


def test_a_study_is_a_frame_a_figure_and_a_page(study: Study, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    assert isinstance(study.frame, pandas.DataFrame)
    assert list(study.frame["policy"]) == ["slack", "greedy"] * 2
    assert pandas.DataFrame(study).equals(study.frame)
    assert len(study.plot().axes) == 6
    study.to_html(tmp_path / "page.html", {"command": "a <b>"})
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 6
    assert "a &lt;b&gt;" in page
    assert "<table>" in study._repr_html_()


@pytest.mark.parametrize(
    "arrivals",
    [
        {"kind": "poisson", "rate": 1.0, "duration_s": 60.0},
        {"kind": "gamma", "rate": 1.0, "duration_s": 60.0, "burstiness": 4.0},
        {"kind": "trace", "path": "TRACE", "time_scale": 1.0},
    ],
)
def test_twice_the_load_is_twice_as_fast(arrivals: dict[str, Any], tmp_path: Path) -> None:
    rows = "".join(f"{i},{10 + i},{5}\n" for i in range(60))
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    if "path" in arrivals:
        arrivals = {**arrivals, "path": str(tmp_path / "trace.csv")}
    made = scenario(arrivals=arrivals)
    one, two = cells(made, ["greedy"], [1.0, 2.0], range(4))
    if arrivals["kind"] == "trace":
        assert one.measured[0].runs == two.measured[0].runs == 60
        assert two.measured[0].timeline[-1][0] == pytest.approx(one.measured[0].timeline[-1][0] / 2)
    else:
        assert two.mean("runs") == pytest.approx(2 * one.mean("runs"), rel=0.3)


@pytest.fixture
def soon_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saturation is measured on fewer runs, for tests that do not ask how exact it is."""
    monkeypatch.setattr(run, "LEAST_ENDS", 100)


@pytest.mark.usefixtures("soon_found")
def test_a_load_is_relative_to_saturation_where_arrivals_have_no_rate() -> None:
    made = scenario(arrivals={"kind": "poisson", "duration_s": 20.0})
    (cell,) = cells(made, ["greedy"], [0.5], range(4))
    assert cell.mean("runs") == pytest.approx(0.5 * saturation(made) * 20.0, rel=0.3)


@pytest.mark.usefixtures("soon_found")
def test_saturation_and_arrivals_are_of_the_trace_that_is_there_now(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    made = scenario(arrivals={"kind": "trace", "path": str(path)})
    found = []
    for output, rows in ((5, 60), (50, 30)):
        text = "".join(f"{i},20,{output}\n" for i in range(rows))
        path.write_text("arrival_s,prompt_tokens,output_tokens\n" + text)
        (cell,) = cells(made, ["greedy"], [1.0], range(1))
        assert cell.measured[0].runs == rows
        found.append(saturation(made))
    assert found[1] < 0.5 * found[0]


@pytest.mark.usefixtures("soon_found")
def test_runs_that_would_rather_be_rejected_are_as_much_load_as_others() -> None:
    """Of three calls in a chain, with hardly more time than they take alone: nearly all are late at saturation."""
    call = {"model": "small", "prompt": 20, "output": 5}
    nodes = {"a": call, "b": {**call, "after": ["a"]}, "c": {**call, "after": ["b"], "answers": True}}
    flow = {"nodes": nodes, "slo": {"on": "fast", "factor": 1.05}}
    finish, reject = (
        saturation(scenario(workflows={"w": {**flow, "on_miss": on_miss}})) for on_miss in ("finish", "reject")
    )
    assert finish == reject > 0.0


def test_saturation_is_what_a_steady_stream_can_just_be_served_at() -> None:
    made = scenario(arrivals={"kind": "poisson", "duration_s": 150.0})

    def waits(load: float) -> float:
        (cell,) = cells(made, ["greedy"], [load], range(1))
        return cell.mean("latest_s")

    assert waits(0.8) < 20.0 < 25.0 < waits(1.3)


def test_a_closed_loop_keeps_as_many_runs_under_way_and_ends_after_so_many() -> None:
    made = scenario(arrivals={"kind": "poisson", "duration_s": 20.0})
    outcomes = ClosedLoop(endless(made, 0), 3, made, "greedy", most_ends=50).play()
    ended = [outcome for outcome in outcomes if outcome.finished_at < inf]
    assert (len(ended), len(outcomes) - len(ended)) == (50, 3)
    for outcome in ended:
        at = outcome.finished_at - 1e-6
        assert sum(o.run.arrival <= at < o.finished_at for o in outcomes) == 3
    assert slots(made) == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no arrival in it"),
        ("a,b\n1,2\n", "line 2: needs numbers in the columns"),
        ("arrival_s,prompt_tokens,output_tokens\n1,2,3\nx,2,3\n", "line 3: needs numbers"),
        ("arrival_s,prompt_tokens,output_tokens\n1,2,3\nnan,2,3\n", "line 3: needs numbers.*got nan"),
        ("arrival_s,prompt_tokens,output_tokens\n1,inf,3\n", "line 2: needs numbers.*got 1, inf, 3"),
        ("arrival_s,prompt_tokens,output_tokens\n1,2,-3\n", "line 2: needs numbers.*tokens not below 0"),
    ],
)
def test_a_damaged_trace_is_named(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(text)
    made = scenario(arrivals={"kind": "trace", "path": str(tmp_path / "trace.csv"), "time_scale": 1.0})
    with pytest.raises(SpecError, match=match):
        fm.simulate(made, ["greedy"], seeds=1)


@pytest.mark.parametrize("cut", [slice(None, -12), slice(12, None), slice(None, 30)])
def test_a_compressed_trace_that_is_damaged_is_named(cut: slice, tmp_path: Path) -> None:
    text = "arrival_s,prompt_tokens,output_tokens\n" + "1,2,3\n" * 200
    (tmp_path / "trace.csv.gz").write_bytes(b"\x1f\x8b" + gzip.compress(text.encode())[2:][cut])
    made = scenario(arrivals={"kind": "trace", "path": str(tmp_path / "trace.csv.gz")})
    with pytest.raises(SpecError, match=r"trace .*csv\.gz: "):
        fm.simulate(made, ["greedy"], seeds=1)


def test_a_trace_begins_with_its_first_arrival_whatever_its_clock(tmp_path: Path) -> None:
    found = []
    for clock_s in (0, 1_700_000_000):
        rows = "".join(f"{clock_s + i},10,5\n" for i in range(60))
        (tmp_path / f"{clock_s}.csv").write_text("\ufeffarrival_s,prompt_tokens,output_tokens\n" + rows)
        trace = TraceArrivals(kind="trace", path=str(tmp_path / f"{clock_s}.csv"), duration_s=20.0)
        found.append([round(arrival.at, 3) for arrival in arrivals(trace, random.Random(1), None)])
    assert found[0] == found[1]
    assert len(found[0]) == 20


def test_a_start_off_the_clock_of_a_trace_is_told_with_its_times(tmp_path: Path) -> None:
    rows = "".join(f"{1_700_000_000 + i},10,5\n" for i in range(60))
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    spec = {"kind": "trace", "path": str(tmp_path / "trace.csv"), "time_scale": 1.0, "start_s": 0, "duration_s": 20}
    with pytest.raises(SpecError, match="within 20 s from 0 on its clock, which goes from 1700000000 to 1700000059"):
        fm.simulate(scenario(arrivals=spec), ["greedy"], seeds=1)


def test_what_cannot_be_played_is_said_before_anything_is() -> None:
    with pytest.raises(DeploymentError, match=r"no policy is called 'best' \(known: greedy"):
        fm.simulate(scenario(), ["slack", "best"])
    with pytest.raises(SpecError, match="a load must be positive, got -1"):
        fm.simulate(scenario(), ["slack"], [-1])
    for load in (0.2, 8.4):
        with pytest.raises(SpecError, match="is a number of runs"):
            fm.simulate(scenario(), ["slack"], [load])
    with pytest.raises(SpecError, match="at least one policy, one load and one seed"):
        fm.simulate(scenario(), [])
    with pytest.raises(SpecError, match="no run ended"):
        fm.simulate(scenario(cards={"fast": {"count": 0}, "slow": {"count": 0}}), ["slack"])


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(fmware, ["simulate", *arguments])


def test_the_command_prints_a_table_and_writes_files(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(SERIAL, sort_keys=False))
    result = simulate(str(path), "--policy", "greedy", "--policy", "slack", "--policy", "greedy", "--load", "6",
                      "--seeds", "2", "--processes", "1", "--json", str(tmp_path / "rows.json"),
                      "--html", str(tmp_path / "page.html"))  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "below greedy" in result.output
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 2
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_without_a_load_a_window_has_the_runs_that_its_scenario_says(tmp_path: Path) -> None:
    (row,) = fm.simulate(scenario(), "greedy", seeds=1).rows
    assert row["load"] == row["runs"] == SERIAL["arrivals"]["count"] > 1
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(SERIAL, sort_keys=False))
    told = tmp_path / "rows.json"
    assert simulate(str(path), "--policy", "greedy", "--seeds", "1", "--json", str(told)).exit_code == 0
    assert json.loads(told.read_text())[0]["runs"] == row["runs"]


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(SERIAL, sort_keys=False))
    for seeds, shown in (("1", False), ("2", True)):
        asked = ("--policy", "greedy", "--policy", "slack", "--load", "6", "--seeds", seeds, "--processes", "1")
        result = simulate(str(path), *asked, "--html", str(tmp_path / "page.html"))
        assert (" - " in result.output, " to " in result.output) == (shown, shown)
        page = (tmp_path / "page.html").read_text()
        assert ("interval over seeds" in page, "interval of that difference" in page) == (shown, shown)


def test_a_page_compares_no_policy_with_itself_and_says_no_cost_without_prices(tmp_path: Path) -> None:
    def head(policies: list[str], **changes: Any) -> str:
        fm.simulate(scenario(**changes), policies, [6.0], seeds=2).to_html(tmp_path / "page.html")
        return (tmp_path / "page.html").read_text().split("<th", 1)[1]

    free = {name: {**card, "price_per_hour": 0.0} for name, card in SERIAL["cards"].items()}
    assert ">below the first</th>" not in head(["greedy"])
    assert ">below the first</th>" in head(["greedy", "slack"])
    assert ">cost</th>" in head(["greedy"])
    assert ">cost</th>" not in head(["greedy"], cards=free)


def test_brackets_in_a_description_are_printed_and_not_taken_for_markup(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump({**SERIAL, "description": "cards [/slow] and [fast] ones"}, sort_keys=False))
    result = simulate(str(path), "--policy", "greedy", "--load", "6", "--seeds", "1")
    assert result.exit_code == 0, result.output
    assert "cards [/slow] and [fast] ones" in result.output


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((), "give a SCENARIO or --record"),
        (("SCENARIO", "--add", "fast=1"), "--add and --slo change a --record"),
        (("SCENARIO", "--add", "fast"), "is not a card type and a number"),
        (("SCENARIO", "--slo", "soon"), "is not a positive time"),
        (("SCENARIO", "--load", "-3"), "not in the range"),
        (("SCENARIO", "--seeds", "0"), "not in the range"),
        (("SCENARIO", "--policy", "best"), "no policy is called 'best'"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments: tuple[str, ...], match: str, tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(SERIAL, sort_keys=False))
    result = simulate(*[str(path) if a == "SCENARIO" else a for a in arguments])
    assert result.exit_code == 2
    assert match in result.output
