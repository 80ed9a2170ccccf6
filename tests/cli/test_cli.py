import importlib.util
import json
import subprocess
import sys
from functools import partial

import pytest
from click.testing import CliRunner

from dask_fmware.cli import fmware
from dask_fmware.cluster.local import LocalModelCluster
from dask_fmware.errors import EngineError, WorkflowError
from dask_fmware_workers.engines import ENGINES

DEPLOYMENT = """\
accelerators:
  cpu: {cards: 1}
models:
  small:
    arguments: {tiny: {}}
    on: {cpu: {}}
"""


@pytest.fixture
def invoke():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(fmware, [str(a) for a in arguments])


@pytest.fixture
def deployment(tmp_path):
    path = tmp_path / "deployment.yaml"
    path.write_text(DEPLOYMENT)
    return path


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


def test_check_sums_up_a_deployment(invoke, deployment):
    result = invoke("check", deployment)
    assert result.exit_code == 0
    assert "1 models, 1 replicas, sound" in result.output
    assert "1 of 1 places used" in result.output


def test_check_names_the_line_of_a_mistake(invoke, deployment):
    deployment.write_text(DEPLOYMENT.replace("on: {cpu: {}}", "on: {gpu: {}}"))
    result = invoke("check", deployment)
    assert result.exit_code == 2
    assert "line 6" in result.output
    assert "no such accelerator" in result.output
    assert "Traceback" not in result.output


def test_check_says_where_speeds_are_known_from_and_names_the_place_of_one_that_does_not_exist(invoke, tmp_path):
    path = tmp_path / "deployment.yaml"
    text = """
accelerators: {H100: {cards: 1}}
models: {m: {engine: vllm, arguments: {model: m}, catalog: NAME, on: {H100: {}}}}
"""
    path.write_text(text.replace("NAME", "Llama-3.1-8B"))
    assert "speed on H100: catalog, Llama-3.1-8B on H100" in invoke("check", str(path)).output
    path.write_text(text.replace("NAME", "Lama-8B"))
    result = invoke("check", str(path))
    assert result.exit_code
    assert "models.m.on.H100: the catalog has no" in result.output


def test_check_refuses_a_policy_that_does_not_exist(invoke, deployment):
    deployment.write_text(DEPLOYMENT + "router: {policy: magic}\n")
    result = invoke("check", deployment)
    assert result.exit_code == 2
    assert "deployment.yaml, line 7, column 10: router.policy: " in result.output
    assert "'magic'" in result.output


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("engine: opnai", "line 2, column 38: models.small.on.cpu: engine 'opnai' does not exist; there are"),
        (
            "engine: openai, arguments: {api_key: sk}",
            "unknown arguments ['api_key']; it takes base_url, model, dialect",
        ),
        ("engine: openai", "models.small.on.cpu: engine 'openai': base_url and model missing; add it to"),
        ("engine: openai, arguments: {base_url: 3, model: m}", "base_url=3 is a int; write http://host:8000/v1"),
        ("engine: llama.cpp", "give exactly one of 'gguf' (a file) and 'tiny' (a random model)"),
        ("engine: llama.cpp, slots: 500, arguments: {tiny: {}}", "slots=500 is not an integer in 1..256"),
        ("engine: vllm", "engine 'vllm': model missing"),
        ("engine: vllm-serve", "engine 'vllm-serve': model missing"),
        ("engine: transformers", "engine 'transformers': model missing"),
        ("engine: emulated", "emulated: give exactly one of law, catalog and profile, got none of them"),
    ],
)
def test_check_holds_engines_and_the_names_of_their_arguments_against_their_classes(invoke, deployment, engine, said):
    small = f"{{{engine}, on: {{cpu: {{}}}}}}"
    deployment.write_text(f"accelerators: {{cpu: {{cards: 1}}}}\nmodels: {{small: {small}}}\n")
    result = invoke("check", deployment)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_check_holds_provisioning_against_the_models(invoke, deployment):
    deployment.write_text(DEPLOYMENT + "provisioning: {models: {smal: {min_replicas: 1}}}\n")
    result = invoke("check", deployment)
    assert result.exit_code == 2
    assert "provisioning.models.smal: no such model (deployed: small)" in result.output


def test_check_says_which_engine_cannot_be_checked_where_it_runs(invoke, deployment, monkeypatch):
    monkeypatch.setitem(ENGINES, "llama.cpp", "no_such_module:Engine")
    result = invoke("check", deployment)
    assert result.exit_code == 0
    assert "not checked here: engine 'llama.cpp': cannot import no_such_module:Engine" in result.output


def test_check_recognises_a_workflow(invoke, tmp_path):
    from dask_fmware.demo.rag import rag

    path = tmp_path / "rag.yaml"
    path.write_text(rag.workflow.to_yaml())
    result = invoke("check", path)
    assert result.exit_code == 0, result.output
    assert "workflow 'rag': 3 nodes, sound" in result.output
    assert "rewrite > retrieve > answer" in result.output
    assert "ttft_s=2.5" in result.output


def test_check_tells_documents_in_one_line_and_prompts_with_colons(invoke, tmp_path):
    import json

    import dask_fmware as fm

    made = fm.workflow(
        lambda q: fm.Model("m")("Which cards for {q}?\naccelerators: the list\n", q=q, name="answer"), name="plans"
    ).workflow
    scenario = {
        "name": "two",
        "cards": {"fast": {"count": 2}},
        "models": {"m": {"on": {"fast": {"plain": {"w0": 0.01}}}}},
        "workflows": {"chat": {"nodes": {"say": {"model": "m", "prompt": 20, "output": 5, "answers": True}}}},
        "arrivals": {"kind": "poisson", "duration_s": 10},
    }
    documents = {
        "line.json": (json.dumps(json.loads(made.to_json())), "workflow 'plans': 1 nodes, sound"),
        "prompt.yaml": (made.to_yaml(), "workflow 'plans': 1 nodes, sound"),
        "scenario.json": (json.dumps(scenario), "scenario 'two': 1 workflows, sound"),
    }
    for name, (text, said) in documents.items():
        (tmp_path / name).write_text(text)
        result = invoke("check", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert said in result.output


def test_check_of_a_missing_file_says_so(invoke, tmp_path):
    result = invoke("check", tmp_path / "nothing.yaml")
    assert result.exit_code == 2
    assert "no such file" in result.output


def test_draw_takes_a_decorated_function(invoke):
    result = invoke("draw", "dask_fmware.demo.shopping:shopping")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("flowchart")
    assert "intent" in result.output


def test_draw_writes_html_by_the_ending_of_the_file(invoke, tmp_path):
    from dask_fmware.demo.rag import rag

    document, picture = tmp_path / "rag.json", tmp_path / "rag.html"
    document.write_text(rag.workflow.to_json())
    result = invoke("draw", document, "-o", picture)
    assert result.exit_code == 0, result.output
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_here:rag", "cannot import"),
        ("dask_fmware.demo.rag:nothing", "has no 'nothing'"),
        ("dask_fmware.demo.rag:retrieve", "not a workflow"),
        ("nothing.yaml", "no such file"),
        ("rag", "no such file; write module:name, such as flows:rag, or the path of a document"),
        ("flows.rag", "no such file; write module:name, such as flows:rag, or the path of a document"),
        (":rag", "is no name of a module; give module:name, such as flows:rag"),
        (".flows:rag", "'.flows' is no name of a module; give module:name, such as flows:rag"),
    ],
)
def test_draw_says_what_it_cannot_find(invoke, name, said):
    result = invoke("draw", name)
    assert result.exit_code == 2
    assert said in result.output


def test_an_error_of_a_module_is_its_own_and_not_that_a_name_is_missing(invoke, tmp_path, monkeypatch):
    (tmp_path / "mistyped_flows.py").write_text("import math\nmath.squareroot(4)\n")
    monkeypatch.chdir(tmp_path)
    result = invoke("draw", "mistyped_flows:rag")
    assert isinstance(result.exception, AttributeError)
    assert "squareroot" in str(result.exception)


def test_draw_writes_only_what_the_ending_of_the_file_says(invoke, tmp_path):
    picture = tmp_path / "rag.png"
    result = invoke("draw", "dask_fmware.demo.rag:rag", "-o", picture)
    assert result.exit_code == 2
    assert "no picture is written as '.png'; name it .svg, .html or .mmd, or give" in result.output.replace("\n", " ")
    assert not picture.exists()
    assert invoke("draw", "dask_fmware.demo.rag:rag", "-o", picture.with_suffix(".mmd")).exit_code == 0


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
    result = invoke(*asked, "--slo", 5)
    assert result.exit_code == 2
    assert "workflow 'thorough': ttft_s=5 is below the best possible" in " ".join(result.output.split())


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
        (["plan", "--deployment", "D", "--workflow", "W", "--rate", "1", "--slo", "-1"], "-1.0 is not in the range"),
        (
            ["plan", "--deployment", "D", "--workflow", "dask_fmware.demo.rag:rag", "--rate=1", "--output-tokens=a=²"],
            "'a=²'; write NODE=N",
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "has no column 'question'; did you mean 'questions'? (input 'question' of workflow 'rag' takes it"),
        (
            ["--input", "question=questions", "--input", "question=answer"],
            "'question' is given twice, as questions and",
        ),
        (["--input", "question=questions", "--id", "number"], "has no column 'number'"),
        (["--input", "question=questions", "--score", "exact"], "expected"),
        (
            ["--input", "question=questions", "--score", "regex"],
            "--score regex: give exact, fuzzy, json, regex:PATTERN",
        ),
        (["--input", "question=questions", "--score", "regex:"], "--score regex:: give exact"),
        (["--input", "question=questions", "--score", "json:a.json"], "--score json:a.json: give exact"),
        (
            ["--input", "question=questions", "--score", "regex:A=", "--score", "regex:B"],
            "two scorers are named 'matches'; name them: scorers={'name': scorer, ...}, in a shell --score NAME=SCORER",
        ),
        (["--input", "question=questions", "--tenant", ""], "fm.evaluate: tenant: "),
        (["--input", "question=questions"], "calls model 'large', which is not deployed"),
        (["--input", "question=questions", "--max-errors", "nan"], "max_errors=nan must be a number of rows"),
        (["--input", "question=questions", "--tenant", "without scipy"], "fm.evaluate needs scipy; pip install"),
    ],
)
def test_evaluate_refuses_what_does_not_go_together_before_it_starts_a_cluster(
    invoke, deployment, tmp_path, monkeypatch, arguments, said
):
    monkeypatch.setattr("dask_fmware.cluster.foreground.run_in_foreground", lambda work: pytest.fail("was started"))
    if "without scipy" in arguments:
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "scipy" else found(name))
    data = tmp_path / "data.csv"
    data.write_text("questions,answer\nwhy?,because\n")
    where = ["-o", tmp_path / "out", "--deployment", deployment]
    result = invoke("evaluate", "dask_fmware.demo.rag:rag", data, *where, *arguments)
    assert result.exit_code == 2
    assert said in result.output.replace("\n", " ")


def test_scorers_of_one_kind_are_told_apart_by_names(invoke, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("dask_fmware.cluster.foreground.run_in_foreground", lambda work: "done")
    monkeypatch.setattr("dask_fmware.evaluation.job.Job.of", lambda *_, **given: asked.append(given["scorers"]))
    (tmp_path / "data.csv").write_text("question\nwhy?\n")
    scores = ["regex:a=b", "yes=regex:Y=1", "exact=exact:right", "whole=dask_fmware.demo.rag:retrieve"]
    options = [word for text in scores for word in ("--score", text)]
    where = [tmp_path / "data.csv", "-o", tmp_path / "out", "--address", "tcp://127.0.0.1:1"]
    assert invoke("evaluate", "dask_fmware.demo.rag:rag", *where, *options).exit_code == 0
    assert [scorer.name for scorer in asked[0]] == ["matches", "yes", "exact", "whole"]
    assert [scorer.function("Y=1") for scorer in asked[0][:2]] == [False, True]


@pytest.mark.parametrize(
    ("options", "said"),
    [([], "run the same command again to go on"), (["--overwrite"], "again, without --overwrite, to go on")],
)
def test_an_interrupted_evaluation_says_how_to_go_on(invoke, tmp_path, monkeypatch, options, said):
    def interrupted(work):
        raise KeyboardInterrupt

    monkeypatch.setattr("dask_fmware.cluster.foreground.run_in_foreground", interrupted)
    (tmp_path / "data.csv").write_text("question\nwhy?\n")
    asked = [tmp_path / "data.csv", "-o", tmp_path / "out", "--address", "tcp://127.0.0.1:1", *options]
    result = invoke("evaluate", "dask_fmware.demo.rag:rag", *asked)
    assert result.exit_code == 130
    assert said in result.output


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


def test_a_scenario_is_checked_like_other_documents(invoke, tmp_path):
    path = tmp_path / "scenario.yaml"
    path.write_text(
        "name: two\ncards: {fast: {count: 2}}\n"
        "models: {m: {on: {fast: {plain: {w0: 0.01}}}}}\n"
        "workflows: {chat: {slo: {ttft_s: 1}, nodes: {say: {model: m, prompt: 20, output: 5, answers: true}}}}\n"
        "arrivals: {kind: poisson, duration_s: 10}\n"
    )
    result = invoke("check", path)
    assert result.exit_code == 0, result.output
    assert "scenario 'two': 1 workflows, sound" in result.output
    path.write_text(path.read_text().replace("count: 2", "count: -2"))
    assert "cards.fast.count: input should be greater" in invoke("check", path).output


def test_check_of_a_scenario_looks_into_the_catalog(invoke, tmp_path):
    path = tmp_path / "scenario.yaml"
    path.write_text(
        "name: two\ncards: {A10: {count: 2}}\n"
        "models: {m: {on: {A10: {catalog: [Llama-7B, A11]}}}}\n"
        "workflows: {chat: {slo: {ttft_s: 1}, nodes: {say: {model: m, prompt: 20, output: 5, answers: true}}}}\n"
        "arrivals: {kind: poisson, duration_s: 10}\n"
    )
    result = invoke("check", path)
    assert result.exit_code == 2
    assert "models.m.on.A10.catalog: the catalog has no figures" in " ".join(result.output.split())


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
