"""Whoever follows the chunks of a stream has the answer in the end, whatever its attempts said on the way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.client.shown import Shown
from dask_fmware.model.completion import Chunk

TEXTS = st.text("ab", max_size=6)  # few letters, so that attempts often begin alike


class Reader:
    def __init__(self) -> None:
        self.text, self.chunks = "", 0

    def read(self, chunk: Chunk | None) -> None:
        if chunk is not None:
            self.text = chunk.text if chunk.restarted else self.text + chunk.text
            self.chunks += 1


@given(attempts=st.lists(st.lists(TEXTS, max_size=4), max_size=4), final=TEXTS)
def test_a_reader_has_the_final_text_and_sees_nothing_twice(attempts: list[list[str]], final: str) -> None:
    shown, reader = Shown(), Reader()
    for pieces in attempts:
        text = ""
        for piece in pieces:
            text += piece
            before = reader.text
            reader.read(shown.grown(text))
            assert reader.text == shown.text
            assert reader.text.startswith(text)
            assert reader.text == before or reader.text == text
    reader.read(shown.whole(final))
    assert reader.text == final
    chunks = reader.chunks
    reader.read(shown.whole(final))
    assert reader.chunks == chunks


def test_an_attempt_that_says_something_else_begins_anew() -> None:
    shown = Shown()
    assert shown.grown("so it is") == Chunk("so it is")
    assert shown.grown("so") is None
    assert shown.grown("so what") == Chunk("so what", restarted=True)
