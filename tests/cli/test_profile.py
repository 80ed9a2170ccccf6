from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from dask_fmware.cli import fmware
from dask_fmware.cli.profile import _narrowed
from dask_fmware.profile.fit import fit_law
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.points import StepPoint
from dask_fmware.profile.record import Profile, ProfileKey, Provenance
from dask_fmware.profile.store import ProfileStore

LAW = StepLaw.plain(0.01, 1e-4, 1e-3, 1e-6)


@pytest.fixture
def invoke():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(fmware, ["profile", *map(str, arguments)])


@pytest.fixture
def store(tmp_path):
    """A store with one measured profile."""
    pytest.importorskip("scipy")
    points = [
        StepPoint(LAW.step_s(0, b, c), batch=b, context_tokens=c) for b in (1, 2, 4, 8) for c in (100, 1000, 4000)
    ]
    points += [StepPoint(LAW.step_s(n, 0, 0), n, 1) for n in (16, 64, 256, 512)]
    points += [StepPoint(LAW.step_s(n, 4, 400), n, 1, 4, 400) for n in (16, 64, 256, 512)]
    key = ProfileKey(model="small", accelerator="L4", engine="vLLM", engine_version="1", arguments="1a2b")
    made = Profile.of(
        key, fit_law(points, np.random.default_rng(0)), Provenance(kind="measured", source="a test"), tuple(points),
        load_s=2.5, weight_bytes=16_000_000_000, kv_bytes_per_token=131072.0, largest_batch=8,
    )  # fmt: skip
    ProfileStore(tmp_path / "profiles").put(made)
    return tmp_path / "profiles"


def test_profile_needs_to_know_what_to_measure(invoke):
    result = invoke()
    assert result.exit_code == 2
    assert "--deployment FILE" in result.output


def test_profile_of_a_missing_deployment_is_one_line(invoke):
    result = invoke("--deployment", "nothing.yaml")
    assert result.exit_code == 2
    assert "no such file" in result.output


DEPLOYMENT = """\
accelerators: {fast: {cards: 2}, slow: {cards: 2}, spare: {cards: 1}}
models:
  small: {on: {fast: {}, slow: {}}}
  large: {on: {fast: {}}}
"""


def test_a_store_that_cannot_be_written_is_told_before_anything_is_loaded(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr("dask_fmware.cluster.local.LocalModelCluster", None)  # would fail otherwise
    path = tmp_path / "deployment.yaml"
    path.write_text(DEPLOYMENT)
    result = invoke("--deployment", str(path), "--store", str(path / "profiles"))
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert f"profile store {path / 'profiles'}: cannot be written (Not a directory)" in said
    assert "name another folder (--store DIR" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "lrge"], "no model is called 'lrge'; did you mean 'large'? (known: small, large)"),
        (["--accelerator", "H100"], "no accelerator is called 'H100' (known: fast, slow, spare)"),
        (["--model", "large", "--accelerator", "slow"], "no model that is asked for is deployed on an accelerator"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_loaded(invoke, tmp_path, monkeypatch, arguments, said):
    monkeypatch.setattr("dask_fmware.cluster.local.LocalModelCluster", None)  # would fail otherwise
    path = tmp_path / "deployment.yaml"
    path.write_text(DEPLOYMENT)
    result = invoke("--deployment", str(path), *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_only_what_is_measured_is_loaded(tmp_path):
    path = tmp_path / "deployment.yaml"
    path.write_text(DEPLOYMENT)

    def names(*only):
        return [replica.name for replica in _narrowed(path, *only).replicas()]

    assert names(None, None) == ["small-fast-0", "small-slow-0", "large-fast-1"]
    assert names(["small"], ["slow"]) == ["small-slow-0"]
    assert names(None, ["fast"]) == ["small-fast-0", "large-fast-1"]


def test_profile_without_a_scheduler_is_one_line(invoke):
    result = invoke("--address", "tcp://127.0.0.1:1", "--timeout", "0.5")
    assert result.exit_code == 1
    assert "no Dask scheduler answers" in result.output


def test_show_prints_what_was_measured(invoke, store):
    result = invoke("show", "--store", store)
    assert result.exit_code == 0, result.output
    for said in ("small", "L4", "vLLM 1", "16 GB", "131 kB", "2.5", "measured"):
        assert said in result.output


def test_show_says_that_an_entry_without_arguments_is_not_used(invoke, store):
    assert "earlier version" not in invoke("show", "--store", store).output
    (found,) = ProfileStore(store).scan()[0]
    ProfileStore(store).put(found.model_copy(update={"key": found.key.model_copy(update={"arguments": ""})}))
    said = invoke("show", "--store", store).output
    assert said.count("small on L4 (vLLM 1): an earlier version measured it") == 1
    assert "is not used; measure again: dask fmware profile" in said


def test_show_of_an_empty_store_says_what_to_run(invoke, tmp_path):
    result = invoke("show", "--store", tmp_path)
    assert result.exit_code == 0
    assert "dask fmware profile --deployment" in result.output


def test_show_of_a_model_that_was_not_measured_says_what_was(invoke, store):
    result = invoke("show", "--store", store, "--model", "smal")
    assert result.exit_code == 2
    assert "no profile of model 'smal'; did you mean 'small'? (models: small)" in result.output


def test_show_tells_of_a_damaged_entry_and_shows_the_rest(invoke, store):
    (store / "broken.json").write_text("{")
    result = invoke("show", "--store", store)
    assert result.exit_code == 0
    assert "broken.json" in result.output
    assert "small" in result.output


def test_show_writes_whole_documents_as_json(invoke, store):
    (document,) = json.loads(invoke("show", "--store", store, "--json").output)
    assert len(document["points"]) == 20


@pytest.mark.parametrize(("ending", "needed"), [("png", "matplotlib"), ("svg", "matplotlib"), ("html", "bokeh")])
def test_show_draws_by_the_ending_of_the_file(invoke, store, tmp_path, ending, needed):
    pytest.importorskip(needed)
    picture = tmp_path / f"profiles.{ending}"
    result = invoke("show", "--store", store, "--plot", picture)
    assert result.exit_code == 0, result.output
    assert picture.stat().st_size > 5000


def test_documents_are_json_though_they_are_drawn_too(invoke, store, tmp_path):
    pytest.importorskip("bokeh")
    picture = tmp_path / "profiles.html"
    result = invoke("show", "--store", store, "--json", "--plot", picture)
    assert len(json.loads(result.stdout)) == 1
    assert result.stderr == f"drawn into {picture}\n"
    assert picture.exists()


@pytest.mark.parametrize("name", ["profiles.xyz", "nowhere/profiles.png"])
def test_a_picture_that_cannot_be_drawn_is_one_line(invoke, store, tmp_path, name):
    result = invoke("show", "--store", store, "--plot", tmp_path / name)
    assert result.exit_code == 2
    assert "cannot be" in result.output or "cannot draw" in result.output or "needs matplotlib" in result.output


def test_nothing_to_draw_is_said(invoke, tmp_path):
    result = invoke("show", "--store", tmp_path / "empty", "--plot", tmp_path / "x.png")
    assert result.exit_code == 2
    assert "nothing to draw" in result.output


def test_catalog_lists_what_is_asked_for(invoke):
    result = invoke("catalog", "llama-3.1-8b")
    assert result.exit_code == 0
    assert "H100" in result.output
    assert "bundled figures" in result.output


def test_catalog_names_what_is_near(invoke):
    result = invoke("catalog", "lama-3.1-8c")
    assert result.exit_code == 2
    assert "Llama-3.1-8B" in result.output
