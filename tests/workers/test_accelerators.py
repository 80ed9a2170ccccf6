"""Cards without cards: NVML is played, memory is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dask_fmware.errors import EngineLoadError
from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware_workers import accelerators
from dask_fmware_workers.accelerators import (
    GIB,
    Card,
    Need,
    check_memory,
    cpu_card,
    nvidia_bytes,
    nvidia_cards,
    see_only,
    visible,
)


class FakeNvml:
    """As much of `pynvml` as is asked."""

    class NVMLError(Exception):
        pass

    def __init__(self, names: list[Any], *, has_driver: bool = True, tells_all: bool = True) -> None:
        self.names, self.has_driver, self.tells_all = names, has_driver, tells_all
        self.open = 0
        self.held: dict[int, int | None] = {}  # by process, on each card

    def nvmlInit(self) -> None:
        if not self.has_driver:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> Any:
        return self.names[handle]

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}{handle}-ab"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if not self.tells_all:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(total=24 * GIB, free=(20 - handle) * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:
        if not self.tells_all:
            raise self.NVMLError("Not Supported")
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.held.items()]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*names: Any, **options: Any) -> FakeNvml:
        fake = FakeNvml(list(names), **options)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return fake

    return install


def test_every_nvidia_card_is_told_with_name_and_memory(nvml: Any) -> None:
    fake = nvml("NVIDIA L4", b"NVIDIA H100")
    first, second = nvidia_cards()
    assert first == Card("nvidia", "NVIDIA L4", 0, "GPU-00-ab", 24 * GIB, 20 * GIB)
    assert (second.name, second.free_bytes, str(second)) == ("NVIDIA H100", 19 * GIB, "NVIDIA H100 #1")
    assert fake.open == 0


def test_without_library_or_driver_there_are_no_cards(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml("NVIDIA L4", has_driver=False)
    assert nvidia_cards() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia_cards() == []


def test_what_a_card_does_not_tell_is_unknown(nvml: Any) -> None:
    nvml("NVIDIA L4", tells_all=False)
    assert (nvidia_cards()[0].memory_bytes, nvidia_cards()[0].free_bytes) == (None, None)


def test_a_lost_card_keeps_its_number_and_its_neighbours_are_told(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = nvml("a", "b", "c")
    fake.held = {7: GIB}
    handle_of = fake.nvmlDeviceGetHandleByIndex

    def lost(index: int) -> int:
        if index == 1:
            raise fake.NVMLError("GPU is lost")
        return handle_of(index)

    monkeypatch.setattr(fake, "nvmlDeviceGetHandleByIndex", lost, raising=False)
    assert [(card.index, card.free_bytes) for card in nvidia_cards()] == [(0, 20 * GIB), (1, None), (2, 18 * GIB)]
    assert [card.name for card in nvidia_cards("2")] == ["c"]
    assert nvidia_bytes({7}) == 2 * GIB
    check_memory(Need(999 * GIB), nvidia_cards("1")[0], what="llama.cpp")  # what nobody knows is not refused


def test_only_visible_cards_count(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml("a", "b", "c")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [card.name for card in nvidia_cards()] == ["b"]
    assert [card.name for card in nvidia_cards("GPU-22,0")] == ["c", "a"]


def test_what_processes_hold_is_added_over_cards(nvml: Any) -> None:
    fake = nvml("a", "b")
    fake.held = {7: GIB, 8: 2 * GIB, 9: 4 * GIB, 10: None}
    assert nvidia_bytes({7, 9, 10}) == 2 * 5 * GIB
    assert nvidia_bytes({11}) is None  # in a container: nobody of ours
    assert nvidia_bytes({10}) is None  # a driver that does not tell
    assert fake.open == 0


def test_a_card_that_does_not_tell_its_processes_and_a_machine_without_cards(nvml: Any) -> None:
    nvml("a", tells_all=False)
    assert nvidia_bytes({7}) is None
    nvml("a", has_driver=False)
    assert nvidia_bytes({7}) is None


@pytest.mark.parametrize(
    ("devices", "seen"), [(None, [0, 1]), ("", []), ("1,0", [1, 0]), ("0,7,1", [0]), ("0,0", [0]), ("-1", [])]
)
def test_devices_are_read_as_cuda_reads_them(devices: str | None, seen: list[int]) -> None:
    cards = [Card("nvidia", "L4", index, f"GPU-{index}") for index in range(2)]
    assert [card.index for card in visible(cards, devices)] == seen


def test_a_model_that_does_not_fit_names_both_figures_and_the_next_step() -> None:
    card = Card("nvidia", "L4", memory_bytes=24 * GIB, free_bytes=15 * GIB)
    with pytest.raises(
        EngineLoadError,
        match=r"m\.gguf' needs 16\.00 GiB \(weights 14\.00 GiB \+ KV cache 2\.00 GiB for 4 slots\) and L4 #0 has "
        r"15\.00 GiB free of 24\.00 GiB; lower slots",
    ):
        check_memory(Need(14 * GIB, 2 * GIB, "4 slots"), card, what="'m.gguf'")
    check_memory(Need(14 * GIB, 1 * GIB), card, what="it just fits")
    check_memory(Need(99 * GIB), Card("label", "Ascend"), what="nobody knows")


def test_a_cpu_card_is_its_cores_and_what_its_group_may_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(accelerators, "CGROUP", tmp_path)
    free = cpu_card().free_bytes
    assert free is not None
    assert free > 0
    (tmp_path / "memory.max").write_text("max\n")
    assert cpu_card((3, 1)).cores == (1, 3)
    (tmp_path / "memory.max").write_text("100000\n")
    (tmp_path / "memory.current").write_text("70000\n")
    assert cpu_card().free_bytes == 30000
    (tmp_path / "memory.stat").write_text("anon 10000\nactive_file 20000\ninactive_file 30000\nfile_mapped 9\n")
    assert cpu_card().free_bytes == 80000
    assert cpu_card().memory_bytes == 100000


def test_a_replica_sees_the_devices_of_its_card_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setitem(sys.modules, "torch", Torch(started=False))
    see_only([2, "GPU-3"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,GPU-3"
    monkeypatch.setitem(sys.modules, "torch", Torch(started=True))
    see_only([2, "GPU-3"])  # as it is already
    with pytest.raises(EngineLoadError, match=r"uses CUDA already, with CUDA_VISIBLE_DEVICES='2,GPU-3', .*devices 0,1"):
        see_only([0, 1])


ASKED = "import os; print(os.environ['CUDA_DEVICE_ORDER'], os.environ['CUDA_VISIBLE_DEVICES'])"


@pytest.mark.parametrize("asked", [None, "FASTEST_FIRST"])
def test_devices_are_numbered_as_nvml_numbers_them_unless_it_was_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", asked or "")
    if asked is None:
        monkeypatch.delenv("CUDA_DEVICE_ORDER")
    see_only([1])
    assert os.environ["CUDA_DEVICE_ORDER"] == (asked or "PCI_BUS_ID")
    child = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=True)
    assert child.stdout.split() == [asked or "PCI_BUS_ID", "1"]


class Torch:
    """As much of PyTorch as tells whether CUDA has been started."""

    def __init__(self, *, started: bool) -> None:
        self.cuda = self
        self.is_initialized = lambda: started


async def test_a_placement_on_several_devices_shows_them_to_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    document = deployment("small")
    document["accelerators"]["cpu"]["devices"] = [[4, 5]]
    async with InProcessCluster(document) as cluster:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"
        await cluster.settled()
