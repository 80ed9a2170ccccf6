"""``dask fmware serve`` as a process, and what it refuses before it starts one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from click.testing import CliRunner

from dask_fmware.cli import fmware
from dask_fmware.cluster import foreground
from dask_fmware.testing import deployment

TEXT = "It is 42, as everybody knows."
FLOWS = """
import dask_fmware as fm

small = fm.Model("small")


@fm.workflow(slo=fm.SLO(ttft_s=60.0))
def ask(question):
    return small("Answer {question}", question=question, max_tokens=16)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "served_flows.py").write_text(FLOWS)
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(deployment("small", text=TEXT)))
    (tmp_path / "tokens").write_text("\ufeff# who may\nblue blue-token\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.cluster
def test_it_serves_until_it_is_interrupted(folder: Path) -> None:
    asked = ["serve", "served_flows:ask", "--deployment", "deployment.yaml", "--port", "0", "--tokens", "tokens"]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "dask_fmware", *asked],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=folder,
    ) as command:  # fmt: skip
        try:
            assert command.stdout is not None
            first = command.stdout.readline()
            assert first.startswith("Serving ask at http://127.0.0.1:"), (first, command.stderr)
            assert "curl" in command.stdout.readline()
            children = psutil.Process(command.pid).children(recursive=True)
            asking = urllib.request.Request(
                first.split()[3] + "/workflows/ask",
                json.dumps({"inputs": {"question": "Why?"}}).encode(),
                {"Authorization": "Bearer blue-token"},
            )
            with urllib.request.urlopen(asking, timeout=60) as answer:
                assert json.load(answer)["result"] == TEXT
            os.killpg(command.pid, signal.SIGINT)  # as a terminal does
            _, said = command.communicate(timeout=60)
        finally:
            command.kill()
    assert command.returncode == 130
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["served_flows:ask"], "give --address of a running cluster, or --deployment FILE"),
        (["served_flows:nobody", "--deployment", "deployment.yaml"], "has no 'nobody'"),
        (["served_flows:ask", "--deployment", "other.yaml"], "calls model 'small', which is not deployed"),
        (["served_flows:ask", "--deployment", "deployment.yaml", "--tokens", "bad"], "line 2: write TENANT TOKEN"),
        (["served_flows:ask", "--deployment", "deployment.yaml", "--tokens", "twice"], "was given to another above"),
        (["served_flows:ask", "--deployment", "deployment.yaml", "--tokens", "empty"], "has no token"),
        (["served_flows:ask", "--deployment", "deployment.yaml", "--tokens", "indented"], "has no token"),
        (["served_flows:ask", "--deployment", "deployment.yaml", "--tokens", "latin"], "is no text in UTF-8"),
        (["served_flows:ask", "--deployment", "deployment.yaml", "--tokens", "wide"], "does not fit into a header"),
        (["served_flows:ask", "--deployment", "deployment.yaml", "--tokens", "long"], "at most 200 characters"),
        (["served_flows:ask", "--deployment", "deployment.yaml", "--tokens", "bell"], "no control or invisible"),
        (
            ["served_flows:ask", "--deployment", "deployment.yaml", "--allow-host", "a:80"],
            "'a:80' is no name of a host",
        ),
        (["served_flows:ask", "--address", "nowhere"], "is no address of a scheduler"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(folder: Path, asked: list[Any], message: str) -> None:
    (folder / "other.yaml").write_text(yaml.safe_dump(deployment("large")))
    (folder / "bad").write_text("blue b\nred my secret\n")
    (folder / "twice").write_text("blue same\nred same\n")
    (folder / "empty").write_text("# nobody\n")
    (folder / "indented").write_text("  #alice secret\n\t# bob\n")
    (folder / "latin").write_bytes("blue gr\xfcn-secret".encode("latin-1"))
    (folder / "wide").write_text("blue gr\xfcn-secret", encoding="utf-8")
    (folder / "long").write_text("b" * 201 + " secret")
    (folder / "bell").write_text("bl\aue secret")
    result = CliRunner().invoke(fmware, ["serve", *asked])
    assert result.exit_code == 2
    assert message in result.output
    assert "secret" not in result.output
    assert "same" not in result.output


def test_a_port_that_is_taken_is_said_before_anything_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "run_in_foreground", lambda main: pytest.fail("a cluster is started"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        asked = ["served_flows:ask", "--deployment", "deployment.yaml", "--port", port]
        result = CliRunner().invoke(fmware, ["serve", *asked])
    assert result.exit_code == 2
    assert f"cannot listen at 127.0.0.1:{port}" in result.output
