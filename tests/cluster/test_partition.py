"""A network that is cut between scheduler and replica, on real processes in two network namespaces."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(400)]

UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--kill-child", "--fork"]  # needs no rights of root


@pytest.fixture
def namespace() -> list[str]:
    """Command that runs another one in a network namespace where it may make lines."""
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"'{tool}' is not installed (util-linux and iproute2)")
    probe = ["sh", "-c", "ip link add near type veth peer name far && unshare --net true"]
    tried = subprocess.run([*UNSHARE, *probe], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"network namespaces cannot be made here: {tried.stderr.strip()}")
    return UNSHARE


@pytest.mark.parametrize("story", ["brief", "long"])
def test_a_line_that_is_cut_and_restored_loses_no_run(namespace: list[str], story: str, tmp_path: Path) -> None:
    command = [*namespace, sys.executable, "-m", "tests.cluster.partition", story, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=350)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert done.stdout.endswith("done\n")
