import json
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from distributed import Client

import dask_fmware as fm
from dask_fmware.cli import fmware
from dask_fmware.client.install import install, status

pytestmark = pytest.mark.cluster

DEPLOYMENT = """\
accelerators:
  cpu: {cards: 2}
models:
  small:
    engine: scripted
    arguments: {token_s: 0.001}
    on: {cpu: {replicas: 2}}
"""
PATIENCE_S = 60


@fm.task
def shout(text):
    return str(text).upper()


@fm.workflow
def greet(name):
    small = fm.Model("small")
    return shout(small("Greet {n}", n=name, max_tokens=8))


@pytest.fixture
def deployment(tmp_path):
    path = tmp_path / "deployment.yaml"
    path.write_text(DEPLOYMENT)
    return path


@pytest.fixture
def start():
    """Start `dask ...` commands and end them with the test."""
    started = []

    def command(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        started.append(process)
        return process

    yield command
    for process in reversed(started):
        process.terminate()
    for process in started:
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_cluster_started_by_hand_runs_workflows(start, deployment, tmp_path):
    file = tmp_path / "scheduler.json"
    start(
        "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file,
        "--preload", "dask_fmware_scheduler.preload", "--fm-deployment", deployment,
    )  # fmt: skip
    wait_for(lambda: file.exists() and file.read_text().endswith("}"), "the scheduler did not start")
    address = json.loads(file.read_text())["address"]
    worker = ["worker", address, "--no-dashboard", "--nthreads", "6"]
    preload = ["--preload", "dask_fmware_workers.preload", "--fm-deployment", deployment]
    start(*worker, "--name", "light", "--no-nanny", *preload)
    start(*worker, "--name", "by-option", *preload, "--fm-model", "small", "--fm-accelerator", "cpu")
    start(*worker, "--name", "by-label", "--no-nanny", "--resources", "fm-model:small=1 fm-accelerator:cpu=1", *preload)
    with Client(address, set_as_default=False) as client:
        fm.wait_ready(client, timeout_s=PATIENCE_S)
        wait_for(lambda: status(client)["light_workers"] == 1, "the light worker is not there")
        state = status(client)
        assert {replica["name"] for replica in state["replicas"]} == {"by-option", "by-label"}
        install(client, str(deployment))  # the same: nothing to do
        future = client.compute(greet("Ada"))
        assert future.result(timeout=PATIENCE_S).isupper()
        assert fm.report(future).data.calls[0].last.accelerator == "cpu"
        assert status(client)["failures"] == {}
        shown = CliRunner().invoke(fmware, ["status", address])
        assert shown.exit_code == 0
        assert {"by-option", "by-label"} <= set(shown.output.split())
        as_json = CliRunner().invoke(fmware, ["status", address, "--json"])
        assert json.loads(as_json.output)["light_workers"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scheduler", "--preload", "dask_fmware_scheduler.preload"], "Missing option '--fm-deployment'"),
        (["scheduler", "--preload", "dask_fmware_scheduler.preload", "--fm-deployment", "gone.yaml"], "no such file"),
        (
            ["worker", "tcp://127.0.0.1:1", "--preload", "dask_fmware_workers.preload", "--fm-model", "tiny"],
            "'tiny' is not deployed (deployed: small)",
        ),
        (
            ["worker", "tcp://127.0.0.1:1", "--preload", "dask_fmware_workers.preload", "--fm-model", "small",
             "--fm-accelerator", "gpu"],
            "not deployed on 'gpu' (deployed on: cpu)",
        ),
        (
            ["worker", "tcp://127.0.0.1:1", "--preload", "dask_fmware_workers.preload", "--fm-accelerator", "cpu"],
            "give that too",
        ),
    ],
)  # fmt: skip
def test_wrong_options_end_the_command(arguments, said, deployment):
    from distributed.cli.dask_scheduler import main as scheduler
    from distributed.cli.dask_worker import main as worker

    command = {"scheduler": scheduler, "worker": worker}[arguments[0]]
    given = arguments[1:]
    if "--fm-model" in given or "--fm-accelerator" in given:
        given = [*given, "--fm-deployment", str(deployment)]
    result = CliRunner().invoke(command, given)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_the_accelerator_must_be_named_where_a_model_has_several(deployment):
    from distributed.cli.dask_worker import main as worker

    text = deployment.read_text().replace("{cards: 2}", "{cards: 2}\n  gpu: {cards: 1}")
    deployment.write_text(text.replace("{cpu: {replicas: 2}}", "{cpu: {replicas: 2}, gpu: {}}"))
    asked = ["tcp://127.0.0.1:1", "--preload", "dask_fmware_workers.preload", "--fm-deployment", str(deployment)]
    result = CliRunner().invoke(worker, [*asked, "--fm-model", "small"])
    assert result.exit_code == 2
    assert "deployed on cpu, gpu; say which of them this worker has" in " ".join(result.output.split())
