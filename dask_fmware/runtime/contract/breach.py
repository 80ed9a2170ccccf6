"""What is found: a promise that was broken, and the points of the contract that promises belong to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ATTEMPTS", "ENDS", "MISSES", "PLACES", "Breach"]

ENDS, ATTEMPTS, PLACES, MISSES = 1, 2, 3, 4  # points of the contract


@dataclass(frozen=True, slots=True)
class Breach:
    """A promise that was broken."""

    point: int  # of the contract
    at: float  # on the machine's clock
    what: str

    def __str__(self) -> str:
        return f"point {self.point}, at {self.at:.3f}: {self.what}"
