"""A replica as its worker announces it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import PositiveInt

from dask_fmware.spec.deployment import Latency

__all__ = ["ACCELERATOR_LABEL", "CARD_LABEL", "MODEL_LABEL", "Replica", "in_sight", "label", "read_label"]

MODEL_LABEL = "fm-model"
ACCELERATOR_LABEL = "fm-accelerator"
CARD_LABEL = "fm-card"


def label(kind: str, name: str) -> str:
    """Name of the worker resource that labels a worker: ``fm-model:small``."""
    return f"{kind}:{name}"


def read_label(resources: object, kind: str) -> str | None:
    """Value of a label among the names of a worker's resources, or None.

    >>> read_label({"fm-model:small": 1, "GPU": 1}, MODEL_LABEL)
    'small'
    """
    prefix = kind + ":"
    for name in resources if isinstance(resources, dict) else ():
        if isinstance(name, str) and name.startswith(prefix):
            return name[len(prefix) :]
    return None


def in_sight(name: str) -> str:
    r"""Return a name that Dask lets anybody give as screens can show it: what is invisible is written out.

    >>> print(in_sight("a\u202eb"), in_sight("größe"))
    a\u202eb größe
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine serving one model on one worker, ready for calls."""

    replica_id: str  # address of its worker; a restarted worker is another replica
    name: str  # name of its worker, stable over restarts
    model: str
    accelerator: str
    card: str  # replicas with equal cards share the hardware
    slots: PositiveInt
    context_tokens: PositiveInt
    longest_token_bytes: PositiveInt
    engine: str
    engine_version: str
    latency: Latency  # a figure until a profile replaces it
    load_s: float = 0.0  # seconds from the start of loading to ready
    profile: str | None = None  # JSON of `dask_fmware.profile.record.LiveProfile`; None: only `latency` is known
    card_slots: int | None = None  # calls at once over all replicas of its card; None: no bound but their slots
    incarnation: int = 0  # engines that died on its worker before; what was meant for those is not for this one

    def serves_on_as(self, other: Replica) -> bool:
        """Whether `other` is this engine, which serves on and knows its speed anew."""
        return replace(self, profile=other.profile, latency=other.latency) == other != self
