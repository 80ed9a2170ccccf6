"""The whole demo in processes of its own: what it writes, and that Ctrl-C leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

pytestmark = pytest.mark.cluster

SCRIPTED = """\
accelerators:
  cpu: {cards: 2}
models:
  small:
    engine: scripted
    arguments: {token_s: 0.02}
    on: {cpu: {latency: {first_token_s: 0.02, output_token_s: 0.02}}}
  large:
    engine: scripted
    arguments: {token_s: 0.02}
    on: {cpu: {latency: {first_token_s: 0.02, output_token_s: 0.02}}}
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def start(environment):
    """Start the demo as the leader of a process group, as a shell does."""
    started = []

    def command(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", "fmware", "demo", *map(str, arguments)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield command
    for process in started:
        for left in _group(process.pid):
            left.kill()
        process.kill()
        process.communicate()


@pytest.fixture
def scripted(tmp_path):
    path = tmp_path / "scripted.yaml"
    path.write_text(SCRIPTED)
    return path


def _group(leader):
    """Processes of a group, the leader apart."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.pid != leader:
                found.append(process)
        except ProcessLookupError:
            pass
    return found


def _read_until(process, text):
    read = []
    for line in process.stdout:
        read.append(line)
        if text in line:
            return
    pytest.fail(f"no line with {text!r} in:\n{''.join(read)}")


def test_every_run_and_call_is_recorded_and_no_text(start, tmp_path):
    file = tmp_path / "runs.json"
    process = start(
        "--runs", "6", "--rate", "4", "--json", file, "--dashboard-port", "0", "--policy", "least_outstanding"
    )
    output, _ = process.communicate(timeout=110)
    assert process.returncode == 0, output
    assert "goodput" in output
    assert ", 0 failed runs." in output
    assert all(character.isprintable() or character == "\n" for character in output)
    data = json.loads(file.read_text())
    assert len(data["runs"]) == data["summary"]["total"]["finished"] == 6
    assert {run["report"]["state"] for run in data["runs"]} == {"finished"}
    assert data["policy"] == "least_outstanding"
    assert {replica["engine"] for replica in data["replicas"]} == {"llama.cpp"}
    assert all(
        call["attempts"] for run in data["runs"] for call in run["report"]["calls"] if call["state"] == "finished"
    )
    attempts = [attempt for run in data["runs"] for call in run["report"]["calls"] for attempt in call["attempts"]]
    again = [attempt["error"] for attempt in attempts if attempt["outcome"] != "finished"]
    assert all(error.startswith("no token in time") for error in again), "a busy machine is no fault of the demo"
    assert f"{len(again)} {'retry' if len(again) == 1 else 'retries'}, 0 failed runs." in output
    assert data["command"].startswith("dask fmware demo --runs 6")
    assert {"processor", "cores", "memory_bytes"} <= set(data["hardware"])
    from dask_fmware.demo.inputs import MESSAGES, QUESTIONS

    assert not any(text in file.read_text() for text in (*MESSAGES, *QUESTIONS))


@pytest.mark.parametrize("moment", ["passages", pytest.param("arrivals", marks=pytest.mark.slow)])
def test_interrupt_at_any_moment_leaves_no_process(start, scripted, moment):
    process = start("--deployment", scripted, "--runs", "500", "--rate", "20", "--dashboard-port", "0")
    _read_until(process, moment)
    _interrupt(process)


@pytest.mark.slow
def test_demo_of_a_trace_is_recorded_and_kept_until_it_is_interrupted(start, scripted, tmp_path):
    trace, file = tmp_path / "trace.csv", tmp_path / "runs.json"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{n},{9000 * n},{n}\n" for n in range(1, 9)))
    process = start("--deployment", scripted, "--trace", trace, "--runs", "5", "--rate", "8", "--slo", "30",
                    "--json", file, "--keep", "--dashboard-port", "0")  # fmt: skip
    _read_until(process, "kept")
    _interrupt(process)
    data = json.loads(file.read_text())
    assert [run["arrival_s"] for run in data["runs"]] == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])
    assert len({run["padding_tokens"] for run in data["runs"]}) == 5
    assert {run["report"]["ttft_slo_s"] for run in data["runs"]} == {30.0}
    assert "prompts are scaled by" in data["trace"]


def _interrupt(process):
    """Press Ctrl-C: a terminal sends it to the whole group."""
    known = _group(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert output.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in output
    _, alive = psutil.wait_procs([*known, *_group(process.pid)], timeout=20)
    assert alive == []


@pytest.mark.slow
def test_failed_runs_are_shown_with_their_reason(start, scripted):
    scripted.write_text(
        SCRIPTED.replace("token_s: 0.02}\n    on", "token_s: 0.02, rules: [{when: Shop, fault: error}]}\n    on")
    )
    process = start("--deployment", scripted, "--runs", "4", "--rate", "20", "--dashboard-port", "0")
    output, _ = process.communicate(timeout=110)
    assert process.returncode == 1, output
    assert "shopping: failed" in output
