"""Cards through the real bindings of NVML, over a library that plays two of them (`nvml.c`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynvml")
COMPILER = shutil.which("cc") or shutil.which("gcc")
ASKING = """
import json, os
from dataclasses import asdict
from dask_fmware_workers.accelerators import nvidia_cards
from dask_fmware_workers.memory import Footprint
os.environ.setdefault("FAKE_NVML_PID", str(os.getpid()))
print(json.dumps({"cards": [asdict(card) for card in nvidia_cards()], "footprint": asdict(Footprint.now())}))
"""
GIB = 1 << 30

pytestmark = pytest.mark.skipif(
    COMPILER is None or not sys.platform.startswith("linux"), reason="needs a C compiler and Linux's loader"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml.c")
    made = [str(COMPILER), "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source)]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    return folder


def told(library: Path, **variables: str) -> dict[str, Any]:
    """What a process says that finds this library."""
    paths = {"LD_LIBRARY_PATH": str(library), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", ASKING],
        env={**environment, **paths, **variables},
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_cards_are_told_with_name_and_memory_as_far_as_the_library_does(library: Path) -> None:
    fast, slow = told(library)["cards"]
    assert (fast["name"], fast["uuid"]) == ("NVIDIA H100 80GB HBM3", "GPU-aaaa")
    assert (fast["memory_bytes"], fast["free_bytes"]) == (80 * GIB, 76 * GIB)
    assert (slow["name"], slow["index"], slow["free_bytes"]) == ("NVIDIA card", 1, 23 * GIB)


def test_only_cards_that_cuda_shows_count(library: Path) -> None:
    answer = told(library, CUDA_VISIBLE_DEVICES="GPU-bbbb")
    assert [card["uuid"] for card in answer["cards"]] == ["GPU-bbbb"]
    assert answer["footprint"]["card_bytes"] == GIB


def test_the_footprint_is_what_this_process_holds(library: Path) -> None:
    assert told(library)["footprint"]["gpu_bytes"] == 3 * GIB


def test_where_ids_are_those_outside_a_container_the_cards_are_known_at_least(library: Path) -> None:
    footprint = told(library, FAKE_NVML_PID="2")["footprint"]
    assert (footprint["gpu_bytes"], footprint["card_bytes"]) == (None, 5 * GIB)
