"""Simulations in several processes: the same figures, and an end when they are asked to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from click.testing import CliRunner

from dask_fmware.cli import fmware
from tests.simulation.test_world import SERIAL

WAIT_S = 60.0


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(SERIAL, sort_keys=False))
    return path


def test_two_processes_find_what_one_finds(scenario: Path, tmp_path: Path) -> None:
    rows = []
    for processes in ("1", "2"):
        out = tmp_path / f"{processes}.json"
        asked = ["simulate", str(scenario), "--load", "6", "--seeds", "2", "--processes", processes, "--json", str(out)]
        result = CliRunner().invoke(fmware, asked)
        assert result.exit_code == 0, result.output
        rows.append(json.loads(out.read_text()))
    assert rows[0] == rows[1]


def playing(command: subprocess.Popen[Any]) -> list[psutil.Process]:
    """Its processes, once they are deep in a simulation."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = [one for one in psutil.Process(command.pid).children() if "spawn_main" in " ".join(one.cmdline())]
        if len(found) == 2 and all(one.cpu_times().user > 3.0 for one in found):
            return found
        assert command.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("end", ["interrupt", "kill one"])
def test_an_end_leaves_no_process_and_no_traceback(scenario: Path, end: str) -> None:
    asked = ["simulate", str(scenario), "--load", "20000", "--seeds", "4", "--processes", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "dask_fmware", *asked], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as command:
        try:
            children = playing(command)
            if end == "interrupt":
                os.killpg(command.pid, signal.SIGINT)  # as a terminal does
            else:
                children[0].kill()
            _, said = command.communicate(timeout=WAIT_S)
        finally:
            command.kill()
    assert "Traceback" not in said
    if end == "interrupt":
        assert command.returncode == 130
        assert "0 of 4 cells were played; nothing is written" in said
    else:
        assert command.returncode == 1
        assert "one of 2 processes was ended from outside" in said
    _, alive = psutil.wait_procs(children, timeout=WAIT_S)
    assert not alive
