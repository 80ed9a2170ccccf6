"""What the machine wants done. A shell performs these in order; every one carries a reason for people."""

from __future__ import annotations

from typing import TypeAlias

from dask_fmware.errors import FMwareError
from dask_fmware.model.immutable import immutable

__all__ = ["Action", "Assign", "Fail", "Hold", "Move", "Refuse", "Skip"]


@immutable
class Assign:
    """Run a call on a replica, which has a slot for it, or has one in a moment."""

    call_id: str
    replica_id: str
    attempt: int
    priority: float  # of the engine's own queue, lower first
    reason: str
    stall_s: float = 0.0  # without a token, after which the attempt is given up; 0 is never
    incarnation: int = 0  # of the replica's engine
    wait_s: float = 0.0  # that it may be ahead of its slot, after which it comes back; 0: a slot is free
    overdue_s: float = 0.0  # without its first token, after which that is to be said; 0 is never


@immutable
class Hold:
    """Keep a call from running until an `Assign` follows."""

    call_id: str
    reason: str


@immutable
class Move:
    """End an attempt that has no token yet, so that its call is tried elsewhere; one that has some goes on."""

    call_id: str
    replica_id: str
    attempt: int
    reason: str


@immutable
class Skip:
    """Let a call on a branch that was not taken pass without an engine slot."""

    call_id: str
    reason: str


@immutable
class Fail:
    """End a held call with an error."""

    call_id: str
    error: FMwareError

    @property
    def reason(self) -> str:
        """The error in words."""
        return str(self.error)


@immutable
class Refuse:
    """End a run with an error before any of it has started."""

    run_id: str
    error: FMwareError

    @property
    def reason(self) -> str:
        """The error in words."""
        return str(self.error)


Action: TypeAlias = Assign | Hold | Move | Skip | Fail | Refuse
