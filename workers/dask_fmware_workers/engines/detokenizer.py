"""From tokens to text, as they come: whole characters only, and nothing of or after a stop string.

Pure but for the tokenizer that is handed in. Engines use it whose library knows tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Detokenizer"]


class Detokenizer:
    """Makes the text of one answer.

    Parameters
    ----------
    decode
        Takes one token id and returns the text that it completes, or None.
    stops
        The text ends before the first of these.

    Examples
    --------
    >>> text = Detokenizer({0: "one", 1: " tw", 2: "o", 3: " three"}.get, [" two"])
    >>> text.add(0), text.add(1), text.is_stopped
    ('one', '', False)
    >>> text.add(2), text.is_stopped
    ('', True)
    """

    def __init__(self, decode: Callable[[int], str | None], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._held = ""  # may be the beginning of a stop string
        self.is_stopped = False

    def add(self, token: int) -> str:
        """Return what can be shown once `token` has come."""
        self._held += self._decode(token) or ""
        if not self._stops:
            return self._take(len(self._held))
        ends = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.is_stopped = True
            return self._take(min(ends))
        return self._take(len(self._held) - max(map(self._overlap, self._stops)))

    def rest(self) -> str:
        """Return what was held back, when no more tokens come."""
        return "" if self.is_stopped else self._take(len(self._held))

    def _overlap(self, stop: str) -> int:
        """Longest end of what is held that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if stop.startswith(self._held[-size:])), 0)

    def _take(self, size: int) -> str:
        shown, self._held = self._held[:size], self._held[size:]
        return shown
