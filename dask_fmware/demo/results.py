"""The demo's summary on the screen: goodput and latencies, then where calls ran."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dask_fmware.demo.summary import Percentiles, Summary

__all__ = ["show_summary"]

INDENT = "  "
SHOWN_FAILURES = 5


def show_summary(console: Console, summary: Summary) -> None:
    """Print the figures of a load."""
    console.print()
    console.print(_workflows(summary))
    console.print(Text(f"{INDENT}TTFT and latency in seconds from submission.", style="dim"))
    console.print()
    console.print(_nodes(summary))
    console.print()
    if summary.token_s:
        paces = ", ".join(f"{1e3 * pace:.1f} ms on {name}" for name, pace in summary.token_s.items())
        console.print(Text(f"{INDENT}One token took {paces} (median of calls).", style="dim"))
    failed = len(summary.failures)
    said = f"{_many(summary.retries, 'retry', 'retries')}, {_many(failed, 'failed run', 'failed runs')}."
    console.print(Text(f"{INDENT}{said}", style="red" if failed else "dim"))
    for reason in summary.failures[:SHOWN_FAILURES]:
        console.print(Text(f"{INDENT}{reason}", style="red"))
    if failed > SHOWN_FAILURES:
        console.print(Text(f"{INDENT}and {failed - SHOWN_FAILURES} more", style="red"))


def _table(first: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(f"{INDENT}{first}", no_wrap=True)
    return table


def _workflows(summary: Summary) -> Table:
    table = _table("workflow")
    for name in ("runs", "goodput", "TTFT p50", "p90", "p99", "latency p50", "p90", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    for item in (*summary.workflows, summary.total):
        table.add_row(
            Text(f"{INDENT}{item.workflow}"),
            str(item.runs),
            Text(_percent(item.met, item.runs), style=_colour(item.goodput)),
            *_seconds(item.ttft_s),
            *_seconds(item.latency_s),
            style="bold" if item is summary.total else "",
        )
    return table


def _nodes(summary: Summary) -> Table:
    table = _table("node")
    accelerators = list(summary.by_accelerator)
    for name in ("calls", *accelerators):
        table.add_column(name, justify="right", no_wrap=True)
    for item in summary.nodes:
        table.add_row(
            Text(f"{INDENT}{item.workflow}.{item.node}"),
            str(item.calls),
            *(_percent(item.by_accelerator.get(name, 0), item.calls) for name in accelerators),
        )
    table.add_row(
        f"{INDENT}all",
        str(summary.calls),
        *(_percent(summary.by_accelerator[name], summary.calls) for name in accelerators),
        style="bold",
    )
    return table


def _seconds(figures: Percentiles) -> tuple[str, ...]:
    return tuple("-" if value is None else f"{value:.2f}" for value in (figures.p50, figures.p90, figures.p99))


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _colour(goodput: float) -> str:
    return "green" if goodput >= 0.95 else "yellow" if goodput >= 0.7 else "red"
