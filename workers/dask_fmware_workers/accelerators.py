"""What cards a worker has, and whether a model fits into the memory that is free on one.

Probing is in `nvidia_cards`, `nvidia_bytes` and `cpu_card`; everything else is pure. NVIDIA cards are asked through
NVML (the ``gpu`` extra), a CPU card is a set of cores with the memory that this process may use. AMD, Ascend and
other cards are known by the label of their worker only: their memory is not checked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dask_fmware.errors import EngineLoadError

__all__ = ["Card", "Need", "check_memory", "cpu_card", "nvidia_bytes", "nvidia_cards", "see_only", "visible"]

GIB = 1 << 30
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Card:
    """One card of this machine, at one moment."""

    kind: str  # "nvidia" or "cpu"
    name: str  # as its maker calls it
    index: int = 0  # among cards of its kind
    uuid: str = ""
    memory_bytes: int | None = None  # in all; None: unknown
    free_bytes: int | None = None
    cores: tuple[int, ...] = ()  # of a CPU card

    def __str__(self) -> str:
        return f"{self.name} (cores {', '.join(map(str, self.cores))})" if self.cores else f"{self.name} #{self.index}"


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that a replica takes, without the buffers of its engine."""

    weight_bytes: int
    kv_bytes: int = 0  # of the whole cache
    because: str = ""  # what the cache is for

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.kv_bytes


def check_memory(need: Need, card: Card, *, what: str) -> None:
    """Refuse a replica that cannot fit.

    Raises
    ------
    EngineLoadError
        If more is needed than is free; names both figures. What nobody knows is not refused.

    Examples
    --------
    >>> check_memory(Need(14 * GIB, 2 * GIB), Card("nvidia", "L4", free_bytes=22 * GIB), what="llama.cpp")
    """
    if card.free_bytes is None or need.total_bytes <= card.free_bytes:
        return
    cache = f" + KV cache {_gib(need.kv_bytes)}{need.because and f' for {need.because}'}" if need.kv_bytes else ""
    total = f" of {_gib(card.memory_bytes)}" if card.memory_bytes is not None else ""
    raise EngineLoadError(
        f"{what} needs {_gib(need.total_bytes)} (weights {_gib(need.weight_bytes)}{cache}) and {card} has "
        f"{_gib(card.free_bytes)} free{total}; lower slots or context_tokens, or place it on a larger accelerator"
    )


def visible(cards: Sequence[Card], devices: str | None) -> list[Card]:
    """Return the cards that ``CUDA_VISIBLE_DEVICES`` lets a process see, in its order.

    Examples
    --------
    >>> cards = [Card("nvidia", "L4", index=i, uuid=f"GPU-{i}a") for i in range(3)]
    >>> [card.index for card in visible(cards, "2,GPU-0")]
    [2, 0]
    """
    if devices is None:
        return list(cards)
    found: list[Card] = []
    for name in devices.split(","):
        named = name.strip()
        card = next((c for c in cards if named and (str(c.index) == named or c.uuid.startswith(named))), None)
        if card is None or card in found:
            break  # as CUDA does: what follows an unknown device is not seen
        found.append(card)
    return found


def nvidia_cards(devices: str | None = None) -> list[Card]:
    """Return the NVIDIA cards that this process may use; none without NVML or a driver.

    Parameters
    ----------
    devices
        As ``CUDA_VISIBLE_DEVICES``, whose value is the default.
    """
    with _nvml() as nvml:
        cards = [_nvidia_card(nvml, index) for index in range(nvml.nvmlDeviceGetCount())] if nvml is not None else []
    return visible(cards, os.environ.get("CUDA_VISIBLE_DEVICES") if devices is None else devices)


def nvidia_bytes(processes: Collection[int]) -> int | None:
    """Return the memory that processes hold on the NVIDIA cards; None where nobody can tell.

    In a container NVML knows processes by ids that are not seen inside, and some drivers do not tell what one holds.
    """
    found: list[int | None] = []
    with _nvml() as nvml:
        if nvml is None:
            return None
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                running = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index))
            except nvml.NVMLError:
                continue
            found += [one.usedGpuMemory for one in running if one.pid in processes]
    known = [size for size in found if size is not None]
    return sum(known) if known else None


@contextmanager
def _nvml() -> Iterator[Any]:
    """Speak to the driver; None without `nvidia-ml-py` or a driver."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        yield None
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def see_only(devices: Sequence[int | str]) -> None:
    """Let this process, and what it starts, use these CUDA devices and no others.

    CUDA counts the quickest first unless it is told to; then numbers are those of NVML and ``nvidia-smi``.

    Raises
    ------
    EngineLoadError
        If CUDA has been started in this process with others: it reads the variable once.
    """
    wanted = ",".join(map(str, devices))
    torch = sys.modules.get("torch")
    if os.environ.get("CUDA_VISIBLE_DEVICES") != wanted and torch is not None and torch.cuda.is_initialized():
        raise EngineLoadError(
            f"this worker uses CUDA already, with CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r}, and "
            f"its card is made of devices {wanted}; give each replica a worker process of its own"
        )
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ["CUDA_VISIBLE_DEVICES"] = wanted


def _nvidia_card(nvml: Any, index: int) -> Card:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError:  # lost: its neighbours keep their numbers
        return Card("nvidia", "NVIDIA card", index)

    def ask(function: str) -> Any:
        try:
            return getattr(nvml, function)(handle)
        except nvml.NVMLError:  # not every card tells everything, a slice of one least of all
            return None

    memory = ask("nvmlDeviceGetMemoryInfo")
    name, uuid = (_text(ask(function)) for function in ("nvmlDeviceGetName", "nvmlDeviceGetUUID"))
    return Card(
        kind="nvidia",
        name=name or "NVIDIA card",
        index=index,
        uuid=uuid,
        memory_bytes=None if memory is None else int(memory.total),
        free_bytes=None if memory is None else int(memory.free),
    )


def cpu_card(cores: Sequence[int] | None = None) -> Card:
    """Return a set of cores of this machine, by default all that this process may use.

    What is free is what the machine can give without swapping, and no more than its control group may take.
    """
    import psutil  # comes with distributed

    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    limit, used = _number(CGROUP / "memory.max"), _number(CGROUP / "memory.current")
    if limit is not None:
        total, free = min(total, limit), min(free, max(0, limit - _unreclaimable(used or 0)))
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    wanted = tuple(sorted(allowed if cores is None else cores))
    return Card("cpu", "CPU", memory_bytes=total, free_bytes=free, cores=wanted)


def _unreclaimable(used: int) -> int:
    """Bytes of a control group that are no file cache."""
    try:
        lines = (CGROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return used
    cached = sum(int(line.split()[1]) for line in lines if line.startswith(("active_file ", "inactive_file ")))
    return max(0, used - cached)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max": no limit


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _gib(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else f"{size_bytes / GIB:.2f} GiB"
