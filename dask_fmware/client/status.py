"""The state of a runtime: plain values that are shown as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, TypeAlias

from dask_fmware.observe.failed import failed_in_words
from dask_fmware.spec.columns import in_columns

__all__ = ["RuntimeStatus"]

MOST_NAMED = 3  # replicas of a sentence
MOST_ROWS = 24  # replicas that get a row each; more are summed up by model and accelerator
CELL = "padding:3px 10px;border-bottom:1px solid rgba(128,128,128,.3);text-align:left;color:inherit;background:none"
NUMBER = CELL.replace("left", "right")
SOFT, WARN = '<span style="opacity:.7">', '<div style="color:#c2410c">'

_Replica: TypeAlias = Mapping[str, Any]


class RuntimeStatus(dict[str, Any]):
    """What `fm.status` returns: a dictionary of plain values, shown as a table of replicas where it is printed."""

    def __str__(self) -> str:
        return "\n".join([*self.lines, *self.troubles])

    def _repr_html_(self) -> str:
        return (
            '<div style="font-family:system-ui,sans-serif;font-size:13px;color:inherit">'
            f'<div style="margin:0 0 6px"><b>runtime</b> {SOFT}{escape(self._facts)}</span></div>'
            f"{self._table.html() if self['replicas'] else ''}"
            f"{''.join(f'{WARN}{escape(line)}</div>' for line in self.troubles)}</div>"
        )

    @property
    def lines(self) -> list[str]:
        """What there is and does, in a line, and the table of replicas."""
        return [f"runtime: {self._facts}", *in_columns(self._table.lines)]

    @property
    def _facts(self) -> str:
        count, serving = len(self["replicas"]), sum(_serves(one) for one in self["replicas"])
        some = f"{serving:,} of " if serving < count else ""
        return (
            f"{some}{_many(count, 'replica')} ready · policy {self['policy']} · "
            f"{_many(self['runs'], 'run')} under way · {_many(self['held'], 'call')} held · "
            f"{_many(self['light_workers'], 'light worker')}"
        )

    @property
    def _table(self) -> _Table:
        replicas = sorted(self["replicas"], key=lambda replica: (replica["model"], replica["name"]))
        return _each(replicas) if len(replicas) <= MOST_ROWS else _by_kind(replicas)

    @property
    def troubles(self) -> Iterable[str]:
        """Replicas that failed, are paused or run off their profile, and hooks of the router that failed, in words."""
        yield from failed_in_words(self["failed_replicas"])
        replicas = sorted(self["replicas"], key=lambda replica: str(replica["name"]))
        if names := [replica["name"] for replica in replicas if replica.get("paused")]:
            yield (
                f"Dask has paused {', '.join(names[:MOST_NAMED])}{_more(names)}: they have reached the memory limit of "
                "their workers, which counts the engine; start workers that host a model with --memory-limit 0"
            )
        if drifts := [replica["drift"] for replica in replicas if replica.get("drift")]:
            yield f"{'; '.join(drifts[:MOST_NAMED])}{_more(drifts)}"
        for hook, count in self["failures"].items():
            yield f"the router failed {count} times in {hook}; see the scheduler's log"


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _more(told: list[str]) -> str:
    return f" and {len(told) - MOST_NAMED:,} more" if len(told) > MOST_NAMED else ""


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


def _serves(replica: _Replica) -> bool:
    """Whether it takes calls."""
    return replica["state"] not in ("draining", "shut")


def _state(replica: _Replica) -> str:
    """In one or two words, beside those of `RuntimeStatus.troubles`."""
    if replica.get("paused"):
        return "paused"
    if replica["state"] == "ready" and replica.get("drift"):
        return "off profile"
    return str(replica["state"])


def _kv_used(replica: _Replica) -> str:
    used = (replica.get("engine_state") or {}).get("kv_used")
    return "" if used is None else f"{used:.0%}"


def _prefix_hits(replica: _Replica) -> str:
    """Share of prompt tokens that the prefix cache answered."""
    state = replica.get("engine_state") or {}
    queried = state.get("prefix_queried_tokens")
    return f"{state['prefix_hit_tokens'] / queried:.0%}" if queried else ""


def _pace(replica: _Replica) -> str:
    """Milliseconds for each token, by the figure that calls are routed with."""
    return f"{1e3 * replica['latency']['output_token_s']:.2f}"


TOLD: Mapping[str, Callable[[_Replica], str]] = {"KV cache": _kv_used, "prefix hits": _prefix_hits, "ms/token": _pace}
"""Columns that are shown where any replica has something in them."""


def _each(replicas: list[_Replica]) -> _Table:
    told = {name: [cell(replica) for replica in replicas] for name, cell in TOLD.items()}
    told = {name: cells for name, cells in told.items() if any(cells)}
    rows: list[tuple[Any, ...]] = [
        (
            *(r["name"], r["model"], f"{r['card']} ({r['accelerator']})", r["engine"], _state(r)),
            *(f"{r['running']} of {r['slots']}", r["waiting"]),
            *(cells[n] or "-" for cells in told.values()),
        )
        for n, r in enumerate(replicas)
    ]
    return _Table(("replica", "model", "card", "engine", "state"), ("running", "waiting", *told), rows)


def _by_kind(replicas: list[_Replica]) -> _Table:
    kinds: dict[tuple[str, str], list[_Replica]] = {}
    for replica in replicas:
        kinds.setdefault((replica["model"], replica["accelerator"]), []).append(replica)
    rows: list[tuple[Any, ...]] = [
        (
            *kind,
            _states(members),
            f"{len(members):,}",
            f"{sum(r['running'] for r in members):,} of {sum(r['slots'] for r in members):,}",
            f"{sum(r['waiting'] for r in members):,}",
        )
        for kind, members in kinds.items()
    ]
    return _Table(("model", "accelerator", "state"), ("replicas", "running", "waiting"), rows)


def _states(replicas: list[_Replica]) -> str:
    """The state of all of them, or how many are in which."""
    counts = Counter(map(_state, replicas))
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count:,} {state}" for state, count in counts.most_common())
