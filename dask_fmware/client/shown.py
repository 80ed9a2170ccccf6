"""What a reader of a stream has seen of an answer that several attempts may give, one after the other."""

from __future__ import annotations

from dask_fmware.model.completion import Chunk

__all__ = ["Shown"]


class Shown:
    """The text that was shown, of whichever attempt.

    Examples
    --------
    >>> shown = Shown()
    >>> [None if chunk is None else chunk.text for chunk in map(shown.grown, ("so it", "so", "so it is"))]
    ['so it', None, ' is']
    """

    def __init__(self) -> None:
        self.text = ""

    def grown(self, text: str) -> Chunk | None:
        """Return what to show of an attempt with this text so far: nothing as long as it says what was shown before."""
        return None if self.text.startswith(text) else self.whole(text)

    def whole(self, text: str) -> Chunk | None:
        """Return what to show so that this and no more is shown: the rest of it, or all of it anew."""
        before, self.text = self.text, text
        if text == before:
            return None
        if text.startswith(before):
            return Chunk(text[len(before) :])
        return Chunk(text, restarted=True)  # this attempt says something else than was shown
