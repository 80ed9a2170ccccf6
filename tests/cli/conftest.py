"""Commands as they are given in a shell, and a small deployment that is sound."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from dask_fmware.cli import fmware

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
