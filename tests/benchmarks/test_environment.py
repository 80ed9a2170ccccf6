"""A result says the command that makes it again."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.support.environment import asked_then

ROOT = Path(__file__).parents[2]
SOURCE = "from benchmarks.support.environment import environment\n\nprint(environment()['command'])\n"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["-m", "measured", "--seed", "1"], "python -m measured --seed 1"),
        (["-m", "measured.loss"], "python -m measured.loss"),
        (["-m", "measured.deep", "/somewhere/data.csv"], "python -m measured.deep data.csv"),
        (["measured/loss.py"], "python measured/loss.py"),
    ],
)
def test_the_command_names_the_module_the_package_or_the_file(
    arguments: list[str], command: str, tmp_path: Path
) -> None:
    for file in ("__main__.py", "loss.py", "deep/__main__.py"):
        path = tmp_path / "measured" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SOURCE)
    out = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert out.stdout.strip() == command, out.stderr


@pytest.mark.parametrize("entry", ["-m measured.loss", "measured/loss.py"])
def test_a_command_says_the_options_of_a_result(entry: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    assert asked_then(parser, f"python {entry} --rates 5 8") == argparse.Namespace(rates=[5.0, 8.0], seeds=3)
