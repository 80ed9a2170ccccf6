"""The rules of the house, checked by their tools: floors, types, style."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["dask_fmware", "scheduler_plugins", "workers", "tests", "benchmarks", "examples"]


def check(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def test_imports_point_down_the_floors() -> None:
    check("-c", "import sys; from importlinter.cli import lint_imports_command as c; sys.argv = ['lint-imports']; c()")


@pytest.mark.timeout(300)
def test_the_pure_floors_are_strictly_typed() -> None:
    check("-m", "mypy")


def test_the_sources_follow_the_style() -> None:
    check("-m", "ruff", "check", "--quiet", *SOURCES)


def test_the_sources_are_formatted() -> None:
    check("-m", "ruff", "format", "--check", "--quiet", *SOURCES)
