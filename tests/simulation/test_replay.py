"""Event logs: the same decisions again, the first difference, damaged files, and recorded runs in virtual time."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dask_fmware.errors import SpecError, VersionMismatchError
from dask_fmware.policy import POLICIES
from dask_fmware.simulation.recorded import read_recorded
from dask_fmware.simulation.replay import replay
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.whatif import what_if
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from tests.simulation.test_world import SERIAL


def record(path: Path, policy: str = "slack", hedge_budget: float = 0.0, **changes: Any) -> World:
    made = Scenario.model_validate({**SERIAL, **changes})
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt") as file:  # type: ignore[operator]
        world = World(made, policy, Workload(made, 3).runs(), 3, log=file.write, hedge_budget=hedge_budget)
        world.play()
    return world


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_log_is_replayed_to_the_same_decisions(policy: str, tmp_path: Path) -> None:
    world = record(tmp_path / "a.jsonl.gz", policy, failures=[{"card": "fast-0", "at_s": 1.0, "down_s": 2.0}])
    found = replay(tmp_path / "a.jsonl.gz")
    assert found.difference is None
    assert found.decisions >= world.calls


def test_calls_that_are_tried_elsewhere_are_in_the_log_and_replayed(tmp_path: Path) -> None:
    slow = [{"card": "fast-0", "at_s": 0.1 + 2.0 * n, "down_s": 1.0, "slow": 1000.0} for n in range(10)]
    record(tmp_path / "a.jsonl", "greedy", 1.0, failures=slow)
    assert '["Move", "' in (tmp_path / "a.jsonl").read_text()
    assert replay(tmp_path / "a.jsonl").difference is None


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", "greedy")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines[40:], 40) if '"Assign"' in line)
    fast, slow = "-fast-0000", "-slow-0000"
    changed = lines[at].replace(fast, "-x").replace(slow, fast).replace("-x", slow)
    (tmp_path / "b.jsonl").write_text("".join([*lines[:at], changed, *lines[at + 1 :]]))
    difference = replay(tmp_path / "b.jsonl").difference
    assert difference is not None
    assert difference.line.number == at + 1
    assert f"line {at + 1}, " in str(difference)
    assert "recorded Assign" in str(difference)


def test_another_policy_decides_otherwise(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", "round_robin")
    text = (tmp_path / "a.jsonl").read_text().replace('"policy": "round_robin"', '"policy": "slack"', 1)
    (tmp_path / "a.jsonl").write_text(text)
    assert replay(tmp_path / "a.jsonl").difference is not None


def test_a_log_that_was_cut_short_ends_where_it_was_cut(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(text[: len(text) // 2])
    assert replay(tmp_path / "a.jsonl").difference is None


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("", SpecError, "its first line is no head"),
        ("[1]\n", SpecError, "its first line is no head"),
        ('{"dask_fmware_log": 99, "version": "9.9"}\n', VersionMismatchError, "written in format 99"),
        ('{"dask_fmware_log": 1}\n', SpecError, "its head is damaged"),
    ],
)
def test_what_is_no_log_is_refused(text: str, error: type[Exception], match: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(error, match=match):
        replay(tmp_path / "a")


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    lines[7] = lines[7].replace('"event"', '"evnt"')
    (tmp_path / "a.jsonl").write_text("".join(lines))
    with pytest.raises(SpecError, match=r"line 8: not a line of an event log \(no event 'event'\)"):
        replay(tmp_path / "a.jsonl")


def test_a_decision_whose_attempt_is_no_number_is_refused_with_its_line(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    number, told = next((n, json.loads(line)) for n, line in enumerate(lines) if '["Assign"' in line)
    told["do"][0][3] = "first"
    lines[number] = json.dumps(told) + "\n"
    (tmp_path / "a.jsonl").write_text("".join(lines))
    with pytest.raises(SpecError, match=rf"line {number + 1}: not a line of an event log .*'first'"):
        replay(tmp_path / "a.jsonl")


def test_a_node_whose_item_is_no_number_is_refused_with_its_line(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if "RunSubmitted" in line)
    lines[at] = lines[at].replace('"name":"', '"name":"map[x].', 1)
    assert "map[x]." in lines[at]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    with pytest.raises(SpecError, match=rf"line {at + 1}: .*node 'map\[x\]\..*number of an item"):
        replay(tmp_path / "a.jsonl")


def test_a_log_from_the_middle_cannot_be_replayed_but_simulated(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    head = {**json.loads(lines[0]), "is_complete": False, "scenario": None}
    (tmp_path / "a.jsonl").write_text(json.dumps(head) + "\n" + "".join(lines[1:]))
    with pytest.raises(SpecError, match="begins in the middle"):
        replay(tmp_path / "a.jsonl")
    assert len(read_recorded(tmp_path / "a.jsonl").runs) == 12


@pytest.mark.parametrize("policy", ["slack", "greedy", "power_of_two"])
def test_a_recorded_simulation_is_simulated_alike(policy: str, tmp_path: Path) -> None:
    world = record(tmp_path / "a.jsonl", policy)
    recorded, simulated = list(what_if(read_recorded(tmp_path / "a.jsonl")))
    again = list(what_if(read_recorded(tmp_path / "a.jsonl"), [policy, "greedy", "greedy"]))
    assert [answer.policy for answer in again] == [policy, policy, *(["greedy"] if policy != "greedy" else [])]
    assert recorded.measured.goodput == sum(outcome.met for outcome in world.outcomes) / 12
    assert simulated.measured.ttft_mean_s == pytest.approx(recorded.measured.ttft_mean_s)
    assert simulated.measured.latest_s == pytest.approx(recorded.measured.latest_s)


def test_more_cards_a_wider_objective_and_less_load_help(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", "greedy", arrivals={"kind": "window", "count": 30, "window_s": 5.0})
    recorded = read_recorded(tmp_path / "a.jsonl")

    def goodput(**changes: Any) -> float:
        answer = list(what_if(recorded, ["greedy"], **changes))[-1]
        return answer.measured.goodput

    as_it_was = goodput()
    assert as_it_was < 0.7
    assert goodput(add={"fast": 3}) > as_it_was
    assert goodput(slo_s=60.0) == 1.0
    assert goodput(load=0.05) > as_it_was
    assert goodput(add={"fast": -1}) < as_it_was + 0.01
    with pytest.raises(SpecError, match=r"no card 'H9' was recorded \(known: fast, slow\)"):
        recorded.with_cards({"H9": 1})
    with pytest.raises(SpecError, match="1 cards 'slow' were recorded, 2 cannot be taken away"):
        recorded.with_cards({"slow": -2})


def test_cards_may_be_added_to_a_type_of_which_none_was_in_use(tmp_path: Path) -> None:
    cards = {**SERIAL["cards"], "spare": {"count": 0, "most": 2, "slots": 1}}
    hosted = {"plain": {"w0": 0.01}, "replicas": 0}
    models = {name: {"on": {**spec["on"], "spare": hosted}} for name, spec in SERIAL["models"].items()}
    record(tmp_path / "a.jsonl", "greedy", cards=cards, models=models)
    fleet = read_recorded(tmp_path / "a.jsonl").with_cards({"spare": 2})
    assert sum(card.startswith("spare") for _, card in fleet.placement()) == 2 * len(models)


@pytest.mark.parametrize("second", ["e2e_s", "finish_by"])
def test_a_recorded_run_with_two_bounds_is_held_to_both(second: str, tmp_path: Path) -> None:
    """Of the end alone, which is of the machine's clock, and of both; a clock of real machines counts from 1970."""
    world = record(tmp_path / "a.jsonl", "greedy", arrivals={"kind": "window", "count": 12, "window_s": 30.0})
    ends = {one.run.run_id: one.finished_at for one in world.outcomes}
    since_1970 = 1.7e9
    log = []
    for line in map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines()):
        line["at" if "at" in line else "started"] += since_1970
        plan = line.get("is", {}).get("plan", {})
        if "objective" in plan:
            spent_s = ends[plan["run_id"]] + since_1970 - line["at"]
            late = 0.5 if plan["run_id"] in ("r0", "r1") else 1.5  # two are late with their end
            bound_s = late * spent_s + (line["at"] if second == "finish_by" else 0.0)
            plan["objective"] = {"ttft_s": 60.0, second: bound_s} if plan["run_id"] != "r1" else {second: bound_s}
        log.append(json.dumps(line) + "\n")
    (tmp_path / "b.jsonl").write_text("".join(log))
    recorded = read_recorded(tmp_path / "b.jsonl")
    was, again, later = [one.measured for one in what_if(recorded, ["greedy"], load=0.5)]
    assert was.goodput == again.goodput == pytest.approx(10 / 12)
    assert [was.scale_99, again.scale_99] == pytest.approx([2.0, 2.0], abs=1e-4)
    assert was.judged == later.judged == 12
    assert later.goodput == was.goodput, "each has as much time as it had, and the cluster was not full"


@pytest.mark.parametrize("read", [replay, read_recorded])
def test_a_compressed_log_that_is_damaged_is_told_in_words(read: Any, tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl.gz")
    data = bytearray((tmp_path / "a.jsonl.gz").read_bytes())
    data[200:400] = bytes(200)
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    with pytest.raises(SpecError, match=r"event log \S+a\.jsonl\.gz"):
        read(tmp_path / "a.jsonl.gz")
