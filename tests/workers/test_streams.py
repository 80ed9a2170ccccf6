"""The text of answers that a worker keeps for readers."""

from __future__ import annotations

from dask_fmware_workers.streams import KEEP_ENDED, AnswerStreams


async def _is_kept(streams: AnswerStreams, call_id: str) -> bool:
    return await streams.find(call_id, 1, patience_s=0.001) is not None


async def test_as_many_texts_are_kept_beside_one_that_takes_long_as_without() -> None:
    streams = AnswerStreams()
    long = streams.open("long", 1)
    for n in range(2 * KEEP_ENDED):
        streams.open(f"{n}", 1).end("finished")
    streams.open("next", 1)
    kept = [n for n in range(2 * KEEP_ENDED) if await _is_kept(streams, f"{n}")]
    assert kept == list(range(KEEP_ENDED, 2 * KEEP_ENDED))
    long.end("finished")
    streams.open("another", 1)
    assert await _is_kept(streams, "long")  # it ended last


async def test_a_stream_that_is_opened_again_is_the_new_one() -> None:
    streams = AnswerStreams()
    streams.open("a", 1).end("aborted")
    streams.open("b", 1)
    again = streams.open("a", 1)
    assert await streams.find("a", 1, patience_s=0.001) is again
