"""The state of a runtime: plain values that are shown as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from dask_fmware.observe.failed import failed_in_words
from dask_fmware.spec.columns import in_columns

__all__ = ["RuntimeStatus"]

MOST_NAMED = 3  # replicas of a sentence
MOST_ROWS = 24  # replicas that get a row each; more are summed up by model and accelerator
CELL = "padding:3px 10px;border-bottom:1px solid rgba(128,128,128,.3);text-align:left;color:inherit;background:none"
NUMBER = CELL.replace("left", "right")
SOFT, WARN = '<span style="opacity:.7">', '<div style="color:#c2410c">'


class RuntimeStatus(dict[str, Any]):
    """What `fm.status` returns: a dictionary of plain values, shown as a table of replicas where it is printed."""

    def __str__(self) -> str:
        return "\n".join([f"runtime: {self._facts}", *in_columns(self._table.lines), *self.troubles])

    def _repr_html_(self) -> str:
        return (
            '<div style="font-family:system-ui,sans-serif;font-size:13px;color:inherit">'
            f'<div style="margin:0 0 6px"><b>runtime</b> {SOFT}{escape(self._facts)}</span></div>'
            f"{self._table.html() if self['replicas'] else ''}"
            f"{''.join(f'{WARN}{escape(line)}</div>' for line in self.troubles)}</div>"
        )

    @property
    def _facts(self) -> str:
        return (
            f"{len(self['replicas']):,} replicas ready · policy {self['policy']} · "
            f"{self['held']:,} calls held · {self['light_workers']:,} light workers"
        )

    @property
    def _table(self) -> _Table:
        replicas = sorted(self["replicas"], key=lambda replica: (replica["model"], replica["name"]))
        return _each(replicas) if len(replicas) <= MOST_ROWS else _by_kind(replicas)

    @property
    def troubles(self) -> Iterable[str]:
        """Replicas that failed or are paused, and hooks of the router that failed, in a few sentences."""
        yield from failed_in_words(self["failed_replicas"])
        if names := sorted(replica["name"] for replica in self["replicas"] if replica.get("paused")):
            more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
            yield (
                f"Dask has paused {', '.join(names[:MOST_NAMED])}{more}: they have reached the memory limit of their "
                "workers, which counts the engine; start workers that host a model with --memory-limit 0"
            )
        for hook, count in self["failures"].items():
            yield f"the router failed {count} times in {hook}; see the scheduler's log"


@dataclass(frozen=True, slots=True)
class _Table:
    """Names and rows of columns, of texts first and then of numbers."""

    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    @property
    def lines(self) -> list[tuple[str, ...]]:
        """All of it as text."""
        return [self.texts + self.numbers, *(tuple(map(str, row)) for row in self.rows)] if self.rows else []

    def html(self) -> str:
        """All of it as HTML."""
        styles = [CELL] * len(self.texts) + [NUMBER] * len(self.numbers)

        def row(kind: str, cells: Iterable[Any]) -> str:
            styled = zip(styles, map(str, cells), strict=True)
            return "".join(
                ["<tr>", *(f'<{kind} style="{how}">{escape(cell)}</{kind}>' for how, cell in styled), "</tr>"]
            )

        return (
            '<div style="overflow-x:auto;max-width:100%">'
            '<table style="border-collapse:collapse;color:inherit;font-size:13px">'
            f"<thead>{row('th', self.texts + self.numbers)}</thead>"
            f"<tbody>{''.join(row('td', cells) for cells in self.rows)}</tbody></table></div>"
        )


def _each(replicas: list[Mapping[str, Any]]) -> _Table:
    rows: list[tuple[Any, ...]] = [
        (
            *(r["name"], r["model"], f"{r['card']} ({r['accelerator']})", r["engine"], _state(r)),
            *(f"{r['running']} of {r['slots']}", r["waiting"]),
        )
        for r in replicas
    ]
    return _Table(("replica", "model", "card", "engine", "state"), ("running", "waiting"), rows)


def _state(replica: Mapping[str, Any]) -> str:
    if replica.get("paused"):
        return "paused"
    if replica["draining"]:
        return "draining"
    return "rate limit" if replica.get("shut") else replica.get("drift") or "ready"


def _by_kind(replicas: list[Mapping[str, Any]]) -> _Table:
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for replica in replicas:
        kinds.setdefault((replica["model"], replica["accelerator"]), []).append(replica)
    rows: list[tuple[Any, ...]] = [
        (
            *kind,
            f"{len(members):,}",
            f"{sum(r['running'] for r in members):,} of {sum(r['slots'] for r in members):,}",
            f"{sum(r['waiting'] for r in members):,}",
            f"{sum(r['draining'] for r in members):,}",
        )
        for kind, members in kinds.items()
    ]
    return _Table(("model", "accelerator"), ("replicas", "running", "waiting", "draining"), rows)
