"""How a replica stands to calls: whether it may be given any, which, and how many at once.

A standing is a value, and `Fleet.restate` the one door through which a replica gets another. Whoever routes calls or
shows replicas asks it, and puts nothing together from its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

__all__ = ["READY", "WHOEVER", "Changes", "Standing", "Word"]

WHOEVER = ""  # the call is not known yet that a replica is kept for

Word: TypeAlias = Literal["ready", "draining", "shut", "kept", "on trial"]


class Changes(TypedDict, total=False):
    """What may change of a standing, by the names of its parts."""

    is_draining: bool
    opens_at: float
    kept_for: str | None
    is_on_trial: bool
    is_shaky: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How one replica stands.

    Parameters
    ----------
    is_draining
        It is given no more calls until it is said to be back: it goes, is on leave, or its worker is paused.
    opens_at
        It is shut until then, as its engine has no room for any call; 0: it is not. The machine opens it with the next
        event after that, so those who look in between say what time it is.
    kept_for
        The call that is alone on it; `WHOEVER` while it is emptied for one; None: it is kept for none. See `Apart`.
    is_on_trial
        It died under calls and has finished none since: it takes one at a time.
    is_shaky
        An attempt was taken by its engine, and none has finished since.
    """

    is_draining: bool = False
    opens_at: float = 0.0
    kept_for: str | None = None
    is_on_trial: bool = False
    is_shaky: bool = False

    @property
    def takes_calls(self) -> bool:
        """Whether it takes any call as things stand, be it one that must be alone."""
        return not self.is_draining and not self.opens_at

    @property
    def is_offered(self) -> bool:
        """Whether policies may give it calls."""
        return self.takes_calls and self.kept_for is None

    @property
    def is_single(self) -> bool:
        """Whether attempts run on it one at a time, however many slots it has, and nobody comes ahead."""
        return self.is_on_trial or self.kept_for is not None

    @property
    def is_doubted(self) -> bool:
        """Whether a call that finishes says something of it."""
        return self.is_on_trial or self.is_shaky

    def slots(self, count: int) -> int:
        """Of so many slots, those that attempts may hold at once."""
        return 1 if self.is_single else count

    # -- for those who look at any time ----------------------------------------------------------

    def is_shut(self, now: float) -> bool:
        """Whether its engine has no room for any call."""
        return self.opens_at > now

    def serves(self, now: float) -> bool:
        """Whether it takes calls at this time."""
        return not self.is_draining and not self.is_shut(now)

    def word(self, now: float) -> Word:
        """Its state in a word, the same wherever it is shown."""
        if self.is_draining:
            return "draining"
        if self.is_shut(now):
            return "shut"
        if self.kept_for is not None:
            return "kept"
        return "on trial" if self.is_on_trial else "ready"

    def in_words(self, now: float) -> str:
        """Its state, with how long it lasts or for whom it is where that is known."""
        match word := self.word(now):
            case "shut":
                return f"shut by its rate limit for {self.opens_at - now:.0f} s"
            case "kept":
                return "kept for a call that runs alone"
            case _:
                return word


READY = Standing()
"""As most stand."""
