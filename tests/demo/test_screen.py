import asyncio
import io

import pytest
from rich.console import Console

from dask_fmware.demo.drive import Tally
from dask_fmware.demo.results import show_summary
from dask_fmware.demo.screen import Screen
from dask_fmware.demo.summary import summarise
from dask_fmware.model.completion import Chunk
from dask_fmware.model.report import RunReport


@pytest.fixture
def made():
    """A screen of 40 columns that writes into a pipe, and what it wrote."""
    file = io.StringIO()
    return Screen(Console(file=file, width=40, highlight=False)), file


async def _chunks(*texts):
    for text in texts:
        yield text if isinstance(text, Chunk) else Chunk(text)


async def test_answer_is_wrapped_at_words_as_it_comes(made):
    screen, file = made
    await screen.answer(_chunks(*(f" word{n}" for n in range(20)), ".", " x", "y"))
    lines = file.getvalue().splitlines()
    assert all(len(line) <= 40 and line.startswith("  word") for line in lines)
    assert " ".join(file.getvalue().split()).endswith("word19. xy")


async def test_words_of_two_chunks_are_apart_where_white_space_ends_the_first(made):
    screen, file = made
    await screen.answer(_chunks("foo ", "bar", "\n\n", "", "baz", "!"))
    assert file.getvalue().split() == ["foo", "bar", "baz!"]


async def test_answer_cannot_steer_the_terminal(made):
    screen, file = made
    await screen.answer(_chunks(" a\x1b[2Jb", " \x07", " [red]c[/red]"))
    assert file.getvalue().split() == ["a?[2Jb", "?", "[red]c[/red]"]


async def test_answer_that_starts_again_says_so(made):
    screen, file = made
    await screen.answer(_chunks(" one", Chunk(" two", restarted=True)))
    assert "starts again" in file.getvalue()
    assert file.getvalue().splitlines()[-1] == "  two"


async def test_pipe_gets_lines_and_no_control_characters(made):
    screen, file = made
    tally = Tally(planned=4)
    async with screen.load(tally, lasts_s=1.0):
        tally.submitted = tally.ended = 2
        await asyncio.sleep(0)
        tally.submitted = tally.ended = tally.met = 4
    with screen.working("Waiting"):
        pass
    assert file.getvalue().replace("\n", "").isprintable()
    assert "4 of 4 submitted" in file.getvalue()


def test_console_without_unicode_gets_ascii():
    raw = io.BytesIO()
    screen = Screen(Console(file=io.TextIOWrapper(raw, encoding="ascii", write_through=True), width=60))
    screen.fact("cluster", "4 replicas · ready")
    screen.note("→ text")
    assert raw.getvalue().isascii()


def test_failed_runs_are_listed_with_their_reasons():
    file = io.StringIO()
    runs = [RunReport(str(n), "rag", "default", 0, 0.0, "failed", f"reason {n} [x]") for n in range(7)]
    show_summary(Console(file=file, width=100), summarise(runs))
    shown = file.getvalue()
    assert "7 failed runs" in shown
    assert "rag: failed, reason 0 [x]" in shown
    assert "and 2 more" in shown
