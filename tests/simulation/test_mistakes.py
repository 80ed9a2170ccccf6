"""Scenarios with mistakes in them: refused in words when they are read, not by a traceback while they are played."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import dask_fmware as fm
from dask_fmware.cli import fmware
from dask_fmware.errors import SpecError
from dask_fmware.runtime.eventlog import EventLog, Head
from dask_fmware.simulation.scenario import load_scenario

small = fm.Model("small")


@fm.workflow
def ask(question):
    return small("Answer {question}", question=question)


SOUND: dict[str, Any] = {
    "cards": {"A": {"count": 1}, "B": {"count": 1}},
    "models": {"m": {"on": {"A": {"plain": {"w0": 0.01}}}}},
    "workflows": {
        "w": {"slo": {"ttft_s": 1.0}, "nodes": {"a": {"model": "m", "prompt": 10, "output": 10, "answers": True}}}
    },
    "arrivals": {"kind": "poisson", "rate": 2.0, "duration_s": 10.0},
}


def changed(path: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(SOUND)
    *above, last = path.split(".")
    at: dict[str, Any] = document
    for key in above:
        at = at[key]
    at[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("workflows.w.nodes.a.prompt", {"lognormal": [0, 0.3]}, "median above 0"),
        ("workflows.w.nodes.a.prompt", {"lognormal": [50, 1000]}, "deviation of its log"),
        ("workflows.w.nodes.a.prompt", {"lognormal": [50, -0.3]}, "deviation of its log"),
        ("workflows.w.nodes.a.output", {"uniform": [20, 10]}, "write the smaller one first"),
        ("workflows.w.nodes.a.output", {"values": [-3, 10]}, "not below 0"),
        ("workflows.w.nodes.a.output", {"fixed": 5, "least": 10, "most": 2}, r"most \(2\) is below least \(10\)"),
        ("workflows.w.nodes.a.decides", {"x": 0, "y": 0}, "a.decides: probabilities"),
        ("workflows.w.nodes.a.decides", {"x": 1, "y": -0.5}, "a.decides: probabilities"),
        ("workflows.w.nodes.b", {"prompt": 10, "output": 5}, "say which model"),
        ("workflows.w.share", 0, "nothing arrives"),
        ("workflows.w.slo", {"on": "Z"}, r"no card 'Z'.*\(such cards: A\)"),
        ("workflows.w.slo", {"on": "B"}, r"no card 'B'.*\(such cards: A\)"),
        ("workflows.w.slo", {"factor": 0}, "factor of 0 needs plus_s"),
        ("workflows.w.slo", {"e2e_s": 1.0, "plus_s": 5.0}, "leave out e2e_s, or on, factor and plus_s"),
    ],
)
def test_a_mistake_is_said_when_the_scenario_is_read(path: str, value: object, said: str) -> None:
    load_scenario(SOUND)
    with pytest.raises(SpecError, match=said):
        load_scenario(changed(path, value))


def given_instead(tmp_path: Path) -> dict[str, Any]:
    """What users have at hand and take for a scenario."""
    deployment = {"accelerators": {"A": {"cards": 1}}, "models": {"small": {"engine": "emulated", "on": {"A": {}}}}}
    record = tmp_path / "run.jsonl.gz"
    with gzip.open(record, "wt", encoding="utf-8") as file:
        EventLog(Head("slack", 0, 3, 10, {"small": (1024, 4)}, is_complete=True), file.write)
    documents = {
        "deployment.yaml": json.dumps(deployment),
        "workflow.yaml": ask.workflow.to_yaml(),
        "unsound.yaml": "accelerators:\n  A: {cards: many}\n",
        "torn.yaml": "name: ask\nblock: {nodes: [",
    }
    for name, text in documents.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return {
        "a record": record,
        "a deployment": fm.Deployment.model_validate(deployment),
        "its document": str(tmp_path / "deployment.yaml"),
        "its dictionary": deployment,
        "a workflow": ask,
        "its own": ask.workflow,
        "a workflow's document": tmp_path / "workflow.yaml",
        "an unsound deployment": tmp_path / "unsound.yaml",
        "an unsound dictionary": {"accelerators": {}},
        "a workflow that is no YAML": tmp_path / "torn.yaml",
    }


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "a record",
            "is a record of runs and no scenario; 'dask fmware simulate --record FILE' plays it",
        ),
        ("a deployment", "this is a deployment and no scenario, which .* or record some runs with fm.record"),
        ("its document", "is a deployment .* 'dask fmware schema scenario'"),
        ("its dictionary", "this is a deployment .* fm.plan says"),
        ("a workflow", "this is a workflow and no scenario"),
        ("its own", "this is a workflow and no scenario"),
        ("a workflow's document", "is a workflow and no scenario"),
        ("an unsound deployment", "is a deployment and no scenario"),
        ("an unsound dictionary", "this is a deployment and no scenario"),
        ("a workflow that is no YAML", "is a workflow and no scenario"),
    ],
)
def test_what_is_taken_for_a_scenario_is_named_with_what_takes_it(tmp_path: Path, what: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        fm.simulate(given_instead(tmp_path)[what])


@pytest.mark.parametrize("source", ["none.jsonl.gz", "a\0b", "x" * 5000, "a: [", 3, None])
def test_what_is_nothing_of_ours_is_refused_as_before(source: Any) -> None:
    with pytest.raises(SpecError, match=r"no such file|cannot be read|read from a path or a text"):
        fm.simulate(source)


def test_an_objective_is_not_reckoned_by_a_first_card_that_does_not_host_the_model() -> None:
    document = changed("workflows.w.slo", {"plus_s": 1.0})
    document["cards"] = {"B": {"count": 1}, "A": {"count": 1}}
    with pytest.raises(SpecError, match=r"w\.slo\.on: no card 'B'"):
        load_scenario(document)


def test_check_refuses_more_replicas_than_cards(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(json.dumps(changed("models.m.on.A.replicas", 5), indent=1), encoding="utf-8")
    asked = CliRunner().invoke(fmware, ["check", str(path), "--as", "scenario"])
    assert asked.exit_code == 2
    assert "wants 5 replicas on 1 cards" in asked.output


def test_a_failure_names_its_card_as_it_is_called() -> None:
    with pytest.raises(SpecError, match=r"no card 'A-00' \(known: A-0 to A-0"):
        load_scenario({**SOUND, "failures": [{"card": "A-00", "at_s": 1.0}]})
