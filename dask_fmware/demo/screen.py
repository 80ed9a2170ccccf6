"""What the demo shows while it runs. Calm on a terminal, plain lines without control characters in a pipe."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from dask_fmware.demo.drive import Tally

__all__ = ["Screen"]

WIDTH = 96
INDENT = "  "
REFRESH_S = 0.25
WORD = re.compile(r"(\s*)(\S+)")
SILENT_SHARE = 0.25  # of the runs, between two lines in a pipe


class Screen:
    """Prints the demo."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=False)
        self.width = min(WIDTH, self.console.width)
        plain = self.console.options.ascii_only
        self.tick, self.dot = ("+", "-") if plain else ("✓", "·")

    def title(self, text: str) -> None:
        """Print a heading."""
        self.console.print()
        self.console.print(Text(f"{INDENT}{text}", style="bold"))

    def note(self, text: str, style: str = "dim") -> None:
        """Print a paragraph."""
        paragraph = Text(self._plain(text), style=style).wrap(self.console, self.width - len(INDENT))
        for line in paragraph:
            line.rstrip()
            self.console.print(Text(INDENT) + line, no_wrap=True, overflow="ignore", crop=False)

    def fact(self, name: str, text: str) -> None:
        """Print that something is done."""
        line = Text(f"{INDENT}{self.tick} ", style="green") + Text(f"{name:<10}", style="default")
        self.console.print(line + Text(self._plain(text), style="dim"), overflow="ignore", no_wrap=True, crop=False)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show that something takes a while; the line goes when it is done."""
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(Text(f"{text} ..."), spinner="dots"):
            yield

    def replicas(self, replicas: list[dict[str, Any]]) -> None:
        """Print the replicas."""
        table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
        table.add_column(f"{INDENT}  replica")
        table.add_column("card")
        table.add_column("engine")
        table.add_column("slots", justify="right")
        table.add_column("loaded in", justify="right")
        for item in sorted(replicas, key=lambda replica: str(replica["name"])):
            table.add_row(
                Text(f"{INDENT}  {item['name']}"),
                Text(str(item["card"])),
                Text(f"{item['engine']} {item['engine_version']}"),
                str(item["slots"]),
                f"{item['load_s']:.1f} s",
            )
        self.console.print(table)

    async def answer(self, chunks: AsyncIterator[Any]) -> tuple[float, float]:
        """Print an answer while it is generated; return seconds to its first chunk and to its end."""
        start = monotonic()
        first_s, column, begun, is_apart = 0.0, 0, False, False
        async for chunk in chunks:
            first_s = first_s or monotonic() - start
            if chunk.restarted:
                begun = False
                self.console.print(Text(f"\n{INDENT}(the answer starts again)", style="yellow"))
            text = _printable(str(chunk.text))
            for space, word in WORD.findall(text):
                new_word = bool(space) or is_apart or not begun
                is_apart = False
                if new_word and (not begun or column + 1 + len(word) > self.width):
                    self.console.print(Text(("\n" if begun else "") + INDENT + word), end="", crop=False)
                    column, begun = len(INDENT) + len(word), True
                else:
                    self.console.print(Text(f" {word}" if new_word else word), end="", crop=False)
                    column += new_word + len(word)
            is_apart = text[-1:].isspace() or (is_apart and not text)  # from the first word of the next chunk
        self.console.print()
        return first_s, monotonic() - start

    @asynccontextmanager
    async def load(self, tally: Tally, lasts_s: float) -> AsyncIterator[None]:
        """Show how far a load is until the block ends."""
        follow = self._bar if self.console.is_terminal else self._lines
        showing = asyncio.create_task(follow(tally, lasts_s))
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
            if tally.ended == tally.planned:
                self.console.print(f"{INDENT}{self._plain(_counts(tally))}", soft_wrap=True)

    async def _bar(self, tally: Tally, lasts_s: float) -> None:
        start = monotonic()
        columns = (TextColumn(f"{INDENT}"), BarColumn(bar_width=32), TextColumn("{task.description}"))
        with Progress(*columns, console=self.console, auto_refresh=False, transient=True) as progress:
            bar = progress.add_task("", total=tally.planned)
            while True:
                left = max(0, round(lasts_s - (monotonic() - start)))
                wait = f"{left // 60}:{left % 60:02d} of arrivals left" if left else "waiting for the last"
                text = self._plain(f"{_counts(tally)} · {wait}")
                progress.update(bar, completed=tally.ended, description=text, refresh=True)
                await asyncio.sleep(REFRESH_S)

    async def _lines(self, tally: Tally, lasts_s: float) -> None:
        shown = 0.0
        while True:
            share = tally.ended / tally.planned
            if shown + SILENT_SHARE <= share < 1:
                shown = share
                self.console.print(f"{INDENT}{self._plain(_counts(tally))}", soft_wrap=True)
            await asyncio.sleep(REFRESH_S)

    def _plain(self, text: str) -> str:
        return text.replace("·", self.dot).encode("ascii", "replace").decode() if self.dot == "-" else text


def _counts(tally: Tally) -> str:
    failed = f" · {tally.failed} failed" if tally.failed else ""
    return (
        f"{tally.submitted} of {tally.planned} submitted · {tally.ended} finished · {tally.met} met their SLO{failed}"
    )


def _printable(text: str) -> str:
    """Model output is data: what steers a terminal becomes a question mark."""
    return "".join(c if c.isspace() or unicodedata.category(c)[0] != "C" else "?" for c in text)
