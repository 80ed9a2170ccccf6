"""A fingerprint in two parts: of code, and of what that holds besides, such as the arguments of a partial function.

Outputs that were begun by a version which knew the first part alone are compared by that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dask_fmware.evaluation.sources.source import digest

__all__ = ["Mark", "is_same", "joined"]


@dataclass(frozen=True, slots=True)
class Mark:
    """The fingerprint of something that is given as code."""

    code: str
    held: str = ""  # "" where it holds nothing

    def __str__(self) -> str:
        return f"{self.code}+{self.held}" if self.held else self.code


def joined(parts: Iterable[object]) -> Mark:
    """Return the fingerprint of all parts; those that are marks count with what they hold.

    >>> str(joined(["a", Mark("b")])) == digest(["a", "b"])
    True
    >>> str(joined(["a", Mark("b", "c")])).partition("+")[0] == digest(["a", "b"])
    True
    """
    listed = list(parts)
    held = [part.held if isinstance(part, Mark) else "" for part in listed]
    code = digest([part.code if isinstance(part, Mark) else part for part in listed])
    return Mark(code, digest(held) if any(held) else "")


def is_same(recorded: str, wanted: str) -> bool:
    """Whether what was recorded is what is wanted, as far as the version that recorded it could tell.

    >>> is_same("a+b", "a+b"), is_same("a", "a+b"), is_same("a+b", "a+c")
    (True, True, False)
    """
    return recorded == wanted or ("+" not in recorded and recorded == wanted.partition("+")[0])
