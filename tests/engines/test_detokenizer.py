"""Text from tokens, with stop strings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dask_fmware_workers.engines.detokenizer import Detokenizer

letters = st.text(alphabet="ab", max_size=6)


@given(st.lists(letters, max_size=12), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string_whatever_the_tokens(pieces: list[str], stops: list[str]) -> None:
    text, shown = Detokenizer(pieces.__getitem__, stops), ""
    whole = ""
    for token, piece in enumerate(pieces):
        shown += text.add(token)
        whole += piece
        if text.is_stopped:
            break
        assert whole.startswith(shown)
        assert len(whole) - len(shown) < max(map(len, stops), default=1)  # no more is held than may begin a stop
    shown += text.rest()
    ends = [whole.index(stop) for stop in stops if stop in whole]
    assert text.is_stopped == bool(ends)
    assert shown == whole[: min(ends)] if ends else shown == whole


def test_bytes_of_a_character_are_held_back_by_the_decoder() -> None:
    text = Detokenizer({1: None, 2: "é"}.get)
    assert (text.add(1), text.add(2), text.rest()) == ("", "é", "")
