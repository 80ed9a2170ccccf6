"""How far an evaluation is: figures, and a bar that shows them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Meter", "Progress", "progress_bar"]

RATE_S = 30.0  # that the rate is an average of


@dataclass(frozen=True, slots=True)
class Progress:
    """Figures at one moment."""

    done: int  # rows recorded, those of earlier sessions included
    total: int | None
    errors: int  # of this session
    running: int  # rows under way
    rate: float  # rows a second, lately
    cost: float | None
    note: str = ""  # why it does not go on
    score_errors: int = 0  # rows of this session that a scorer failed on

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at this rate."""
        if self.total is None or self.rate <= 0:
            return None
        return (self.total - self.done) / self.rate


@dataclass(slots=True)
class Meter:
    """Rows a second over the last half minute, or since the first row began: rows end, and are recorded, in bursts."""

    _seen: deque[tuple[float, int]] = field(default_factory=deque)
    _rows: int = 0
    _begun: float | None = None

    def begin(self, now: float) -> None:
        """Note that a row begins."""
        if self._begun is None:
            self._begun = now

    def add(self, rows: int, now: float) -> None:
        """Count rows that ended."""
        self._seen.append((now, rows))
        self._rows += rows

    def rate(self, now: float) -> float:
        """Rows a second up to now."""
        while self._seen and self._seen[0][0] < now - RATE_S:
            self._rows -= self._seen.popleft()[1]
        if self._begun is None:
            return 0.0
        return self._rows / max(min(now - self._begun, RATE_S), 1e-9)


@contextmanager
def progress_bar(title: str, *, shown: bool) -> Iterator[Callable[[Progress], None]]:
    """Show a bar on the error stream, or in a notebook; nothing if not wanted."""
    if not shown:
        yield lambda progress: None
        return
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[words]}"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, words="")
        begun: list[int] = []

        def tell(progress: Progress) -> None:
            if not begun:  # what earlier sessions did says nothing of the speed
                begun.append(progress.done)
                bar.reset(task, completed=progress.done, total=progress.total)
            bar.update(task, completed=progress.done, total=progress.total, words=_words(progress))

        yield tell


def _words(progress: Progress) -> str:
    parts = [f"{progress.rate:.1f} rows/s"]
    if progress.cost is not None:
        parts.append(f"cost {progress.cost:.4g}")
    if progress.errors:
        parts.append(f"[red]{progress.errors} errors[/red]")
    if progress.score_errors:
        parts.append(f"[red]{progress.score_errors} not scored[/red]")
    if progress.note:
        parts.append(f"[yellow]{progress.note}[/yellow]")
    return " · ".join(parts)
