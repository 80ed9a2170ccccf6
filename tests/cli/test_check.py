"""What `fmware check` says of documents: that they are sound, or which line is wrong."""

import json

import pytest

import dask_fmware as fm
from dask_fmware.profile.arguments import arguments_digest, engine_arguments
from dask_fmware.profile.fit import Fit, PhaseFit
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.record import Profile, ProfileKey, Provenance
from dask_fmware.profile.store import ProfileStore
from dask_fmware.spec.documents import load_deployment
from dask_fmware_workers.engines import ENGINES


def test_check_sums_up_a_deployment(invoke, deployment):
    result = invoke("check", deployment)
    assert result.exit_code == 0
    assert "1 model, 1 replica, sound" in result.output
    assert "1 of 1 places used" in result.output


def test_check_names_the_line_of_a_mistake(invoke, deployment):
    deployment.write_text(deployment.read_text().replace("on: {cpu: {}}", "on: {gpu: {}}"))
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


def test_check_says_which_speeds_were_measured(invoke, deployment, tmp_path):
    arguments = engine_arguments(load_deployment(deployment), "small", "cpu")
    key = ProfileKey(
        model="small", accelerator="cpu", engine="llama.cpp", engine_version="1", arguments=arguments_digest(arguments)
    )
    phase = PhaseFit("plain", 12, 0.01, 0.02, 0.03, 0.04)
    fit = Fit(StepLaw.plain(0.001, 1e-6, 1e-4, 0.0), phase, phase, (1, 512), (1, 8), (1, 4000))
    ProfileStore(str(tmp_path / "store")).put(Profile.of(key, fit, Provenance(kind="measured", source="a test")))
    measured = "speed on cpu: profile, small on cpu (llama.cpp 1, arguments"
    assert measured in invoke("check", deployment, "--store", tmp_path / "store").output
    assert "not known before it is profiled" in invoke("check", deployment, "--store", tmp_path / "empty").output


def test_check_reads_the_trace_of_a_scenario(invoke, tmp_path):
    path, arrivals = tmp_path / "scenario.yaml", tmp_path / "mine.csv"
    path.write_text(
        f"""
version: 1
cards: {{A100: {{count: 1}}}}
models: {{m: {{on: {{A100: {{plain: {{w0: 0.01}}}}}}}}}}
workflows: {{one: {{slo: {{ttft_s: 1}}, nodes: {{answer: {{model: m, prompt: 9, output: 9, answers: true}}}}}}}}
arrivals:
  kind: trace
  path: {arrivals}
"""
    )
    arrivals.write_text("arrival_s,prompt_tokens,output_tokens\n3,10,20\n7,10,20\n")
    assert "arrivals: 2 of a trace, in 4 s" in invoke("check", path).output
    arrivals.write_text("time,in,out\n3,10,20\n")
    result = invoke("check", path)
    assert result.exit_code == 2
    assert "scenario.yaml, line 8" in result.output
    assert "mine.csv, line 2: needs numbers in the columns arrival_s, prompt_tokens and output_tokens" in result.output


def test_check_refuses_a_policy_that_does_not_exist(invoke, deployment):
    deployment.write_text(deployment.read_text() + "router: {policy: magic}\n")
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
    deployment.write_text(deployment.read_text() + "provisioning: {models: {smal: {min_replicas: 1}}}\n")
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
        "scenario.json": (json.dumps(scenario), "scenario 'two': 1 workflow, sound"),
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
    assert "scenario 'two': 1 workflow, sound" in result.output
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


@pytest.mark.parametrize(("engine", "arguments"), [("vllm", "{model: m}"), ("transformers", "{model: m}")])
def test_check_says_that_an_engine_gives_no_vectors(invoke, tmp_path, engine, arguments):
    path = tmp_path / "deployment.yaml"
    path.write_text(f"""
accelerators: {{L4: {{cards: 1}}}}
models: {{bge: {{engine: {engine}, embeds: true, arguments: {arguments}, on: {{L4: {{}}}}}}}}
""")
    result = invoke("check", str(path))
    assert result.exit_code == 2
    assert f"models.bge.on.L4: engine '{engine}' gives no vectors (embeds: true)" in result.output


def test_check_shows_which_models_embed(invoke, tmp_path):
    path = tmp_path / "deployment.yaml"
    path.write_text("""
accelerators: {L4: {cards: 1}}
models: {bge: {engine: emulated, embeds: true, arguments: {law: {w0: 0.01, w1: 0, w2: 0, w3: 0}}, on: {L4: {}}}}
""")
    result = invoke("check", str(path))
    assert result.exit_code == 0
    assert "context 2,048 tokens, embeds" in result.output
