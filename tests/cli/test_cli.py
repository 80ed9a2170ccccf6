"""What holds of every command, and what the smaller ones say."""

import json
import subprocess
import sys
from functools import partial

import pytest

from dask_fmware.cli import fmware
from dask_fmware.cluster.local import LocalModelCluster
from dask_fmware.errors import EngineError, WorkflowError


@pytest.mark.parametrize("command", [[], *([name] for name in fmware.commands)])
def test_every_command_has_help(invoke, command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


def test_help_imports_neither_distributed_nor_an_engine():
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom dask_fmware.cli import fmware\n"
        "assert CliRunner().invoke(fmware, ['demo', '--help']).exit_code == 0\n"
        "print([m for m in ('distributed', 'dask', 'xllamacpp', 'bokeh', 'rich', 'pydantic') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"


def test_dask_has_our_command():
    from importlib.metadata import entry_points

    (point,) = entry_points(group="dask_cli", name="fmware")
    assert point.load() is fmware


@pytest.mark.parametrize("kind", ["deployment", "workflow", "scenario"])
def test_schema_is_a_json_schema(invoke, kind):
    schema = json.loads(invoke("schema", kind).output)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"deployment": "accelerators", "workflow": "block", "scenario": "arrivals"}[kind] in schema["properties"]


def test_demo_deployment_satisfies_the_printed_schema(invoke):
    import jsonschema

    from dask_fmware.demo.machine import demo_deployment

    schema = json.loads(invoke("schema", "deployment").output)
    jsonschema.validate(json.loads(demo_deployment([0, 1]).to_json()), schema)


PLANNED = """\
import dask_fmware as fm

small = fm.Model("small")


@fm.workflow(slo=fm.SLO(ttft_s=60.0))
def quick(question):
    return small("Answer {question}", question=question, max_tokens=1, name="answer")


@fm.workflow(slo=fm.SLO(ttft_s=60.0))
def thorough(question):
    notes = small("Think about {question}", question=question, max_tokens=1000, name="think")
    return small("Answer {notes}", notes=notes, max_tokens=1, name="answer")
"""

PRICED = """\
accelerators:
  cpu: {cards: 40, price_per_hour: 1.0}
models:
  small:
    engine: emulated
    on: {cpu: {latency: {first_token_s: 0.02, output_token_s: 0.02}}}
"""


def test_the_slo_of_a_plan_is_of_each_workflow_that_is_named(invoke, deployment, tmp_path, monkeypatch):
    deployment.write_text(PRICED)
    (tmp_path / "planned_flows.py").write_text(PLANNED)
    monkeypatch.chdir(tmp_path)
    asked = ["plan", "--deployment", deployment]
    for name in ("quick", "thorough"):
        asked += ["--workflow", f"planned_flows:{name}", "--rate", 1]
    kept = invoke(*asked)
    assert kept.exit_code == 0, kept.output
    result = invoke(*asked, "--slo", "5000ms")
    assert result.exit_code == 2
    assert "workflow 'thorough': ttft_s=5 is below the best possible" in " ".join(result.output.split())


def test_a_plan_is_told_how_many_items_a_map_has(invoke, deployment, tmp_path, monkeypatch):
    deployment.write_text(PRICED)
    mapped = (
        PLANNED
        + """

@fm.workflow(slo=fm.SLO(e2e_s=60.0))
def many(questions):
    return fm.map(lambda one: small("Answer {o}", o=one, max_tokens=9, name="answer"), questions, name="each")
"""
    )
    (tmp_path / "mapped_flows.py").write_text(mapped)
    monkeypatch.chdir(tmp_path)
    asked = ["plan", "--deployment", deployment, "--workflow", "mapped_flows:many", "--rate", 1]
    assert "map 'each' is planned with 1 item" in " ".join(invoke(*asked).output.split())
    told = invoke(*asked, "--items", "each=20")
    assert told.exit_code == 0, told.output
    assert "map 'each': 20 items side by side" in " ".join(told.output.split())


def test_status_without_a_scheduler_is_one_line(invoke):
    result = invoke("status", "tcp://127.0.0.1:1", "--timeout", "0.5")
    assert result.exit_code == 1
    assert "no Dask scheduler answers" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("raised", "code"), [(WorkflowError("x"), 2), (EngineError("x"), 1), (KeyboardInterrupt(), 130)]
)
def test_exit_codes_tell_who_is_to_blame(invoke, monkeypatch, deployment, raised, code):
    def fail(path):
        raise raised

    monkeypatch.setattr("dask_fmware.spec.documents.load_deployment", fail)
    assert invoke("check", deployment).exit_code == code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "nonsense"], "'nonsense' is no address of a scheduler (missing port number"),
        (["status", "http://127.0.0.1:8787"], "write it like tcp://127.0.0.1:8786"),
        (["status", "tcp://127.0.0.1:9", "--timeout", "-1"], "-1.0 is not in the range x>0"),
        (["status", "tcp://127.0.0.1:9", "--timeout", "nan"], "nan is not a finite number"),
        (["status", "tcp://127.0.0.1:9", "--timeout", "inf"], "inf is not a finite number"),
        (["profile", "--deployment", "D", "--timeout", "nan"], "nan is not a finite number"),
        (["demo", "--rate", "nan"], "nan is not a finite number"),
        (["demo", "--slo", "inf"], "inf is not a finite number"),
        (["simulate", "D", "--load", "nan"], "nan is not a finite number"),
        (["plan", "--deployment", "D", "--workflow", "dask_fmware.demo.rag:rag", "--rate", "-3"], "not in the range"),
        (["plan", "--deployment", "D", "--workflow", "my/flows.py", "--rate", "1"], "such as flows:my_workflow"),
        (["plan", "--deployment", "D", "--workflow", "W", "--rate", "1", "--slo", "-1"], "'-1' is not a positive time"),
        (
            ["plan", "--deployment", "D", "--workflow", "dask_fmware.demo.rag:rag", "--rate=1", "--output-tokens=a=²"],
            "'a=²'; write NODE=N",
        ),
        (
            ["plan", "--deployment", "D", "--workflow", "dask_fmware.demo.rag:rag", "--rate=1", "--items=each"],
            "'each'; write NODE=N, e.g. each=200",
        ),
        (
            ["plan", "--deployment", "D", "--workflow", "dask_fmware.demo.rag:rag", "--rate=1"]
            + 2 * ["--output-tokens", "answer=10"],
            "'answer' is given twice, as 10 and as 10; give it once",
        ),
        (["simulate", "--record", "D", "--add", "L4=1", "--add", "L4=2"], "'L4' is given twice, as 1 and as 2"),
        (["simulate", "D", "--json", "nowhere/rows.json"], "'nowhere' is no folder; give another path"),
        (["simulate", "--record", "D", "--html", "a.html"], "--html is for a SCENARIO"),
        (["simulate", "--record", "D", "--first-seed", "1"], "--first-seed is for a SCENARIO"),
        (["draw", "dask_fmware.demo.rag:rag", "-o", "nowhere/rag.svg"], "cannot be written"),
        (["compare", "a", "b", "--html", "nowhere/report.html"], "cannot be written"),
        (["profile", "show", "--plot", "nowhere/points.png"], "cannot be written"),
    ],
)
def test_what_is_asked_wrongly_is_refused_before_any_work(invoke, deployment, arguments, said):
    result = invoke(*(deployment if word == "D" else word for word in arguments))
    assert result.exit_code == 2
    assert said in result.output.replace("\n", " ")


@pytest.mark.parametrize("command", ["evaluate", "serve"])
def test_models_that_load_for_longer_than_is_waited_are_said_in_a_line(invoke, tmp_path, monkeypatch, command):
    monkeypatch.setattr("dask_fmware.cluster.local.LocalModelCluster", partial(LocalModelCluster, processes=False))
    (tmp_path / "data.csv").write_text("question\nwhy?\n")
    slow = {"engine": "emulated", "arguments": {"law": {"w0": 0.01}, "load_s": 60.0}, "on": {"cpu": {}}}
    document = {"accelerators": {"cpu": {"cards": 2}}, "models": {"small": slow, "large": slow}}
    (tmp_path / "slow.json").write_text(json.dumps(document))
    given = {"evaluate": [tmp_path / "data.csv", "-o", tmp_path / "out"], "serve": ["--port", "0"]}[command]
    where = ["--deployment", tmp_path / "slow.json", "--timeout", "0.1"]
    result = invoke(command, "dask_fmware.demo.rag:rag", *given, *where)
    assert result.exit_code == 1
    assert "2 of 2 replicas are not ready after 0.1 s" in result.output
    assert "need a larger --timeout" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runs", "0"], "0 is not in the range"),
        (["--policy", "magic"], "no policy is called 'magic'"),
        (["--trace", "nothing.csv"], "cannot be read"),
        (["--deployment", "nothing.yaml"], "no such file"),
        (["--json", "nowhere/runs.json"], "cannot be written"),
        (["--slo", "0"], "0 is not in the range"),
    ],
)
def test_demo_refuses_wrong_options_before_it_starts_anything(invoke, arguments, said):
    result = invoke("demo", *arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_demo_refuses_a_deployment_without_its_models(invoke, deployment):
    result = invoke("demo", "--deployment", deployment)
    assert result.exit_code == 2
    assert "large is not deployed" in result.output
