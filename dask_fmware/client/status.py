"""The state of a runtime: plain values that a notebook shows as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

__all__ = ["RuntimeStatus"]

MOST_ROWS = 24  # replicas that get a row each; more are summed up by model and accelerator
CELL = "padding:3px 10px;border-bottom:1px solid rgba(128,128,128,.3);text-align:left;color:inherit;background:none"
NUMBER = CELL.replace("left", "right")
SOFT, WARN = '<span style="opacity:.7">', '<div style="color:#c2410c">'


class RuntimeStatus(dict[str, Any]):
    """What `fm.status` returns: a dictionary of plain values, shown in a notebook as a table of replicas."""

    def _repr_html_(self) -> str:
        replicas = sorted(self["replicas"], key=lambda replica: (replica["model"], replica["name"]))
        facts = (
            f"{len(replicas):,} replicas ready · policy {self['policy']} · "
            f"{self['held']:,} calls held · {self['light_workers']:,} light workers"
        )
        table = _each(replicas) if len(replicas) <= MOST_ROWS else _by_kind(replicas)
        return (
            '<div style="font-family:system-ui,sans-serif;font-size:13px;color:inherit">'
            f'<div style="margin:0 0 6px"><b>runtime</b> {SOFT}{escape(facts)}</span></div>'
            f"{table if replicas else ''}{''.join(f'{WARN}{escape(line)}</div>' for line in self.troubles)}</div>"
        )

    @property
    def troubles(self) -> Iterable[str]:
        """Replicas that failed, and hooks of the router that did, a sentence each."""
        for replica in self["failed_replicas"]:
            fate = "will be tried again" if replica["will_retry"] else "failed for good"
            yield f"replica {replica['name']} of model {replica['model']} {fate}: {replica['error']}"
        for hook, count in self["failures"].items():
            yield f"the router failed {count} times in {hook}; see the scheduler's log"


def _each(replicas: list[Mapping[str, Any]]) -> str:
    rows = [
        _row(
            (r["name"], r["model"], f"{r['card']} ({r['accelerator']})", r["engine"], _state(r)),
            (f"{r['running']} of {r['slots']}", r["waiting"]),
        )
        for r in replicas
    ]
    return _table(("replica", "model", "card", "engine", "state"), ("running", "waiting"), rows)


def _state(replica: Mapping[str, Any]) -> str:
    return "draining" if replica["draining"] else replica.get("drift") or "ready"


def _by_kind(replicas: list[Mapping[str, Any]]) -> str:
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for replica in replicas:
        kinds.setdefault((replica["model"], replica["accelerator"]), []).append(replica)
    rows = [
        _row(
            kind,
            (
                f"{len(members):,}",
                f"{sum(r['running'] for r in members):,} of {sum(r['slots'] for r in members):,}",
                f"{sum(r['waiting'] for r in members):,}",
                f"{sum(r['draining'] for r in members):,}",
            ),
        )
        for kind, members in kinds.items()
    ]
    return _table(("model", "accelerator"), ("replicas", "running", "waiting", "draining"), rows)


def _row(texts: Iterable[Any], numbers: Iterable[Any]) -> str:
    cells = [*(f'<td style="{CELL}">{escape(str(text))}</td>' for text in texts)]
    cells += [f'<td style="{NUMBER}">{escape(str(number))}</td>' for number in numbers]
    return f"<tr>{''.join(cells)}</tr>"


def _table(texts: Iterable[str], numbers: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th style="{CELL}">{name}</th>' for name in texts)
    head += "".join(f'<th style="{NUMBER}">{name}</th>' for name in numbers)
    return (
        '<div style="overflow-x:auto;max-width:100%">'
        '<table style="border-collapse:collapse;color:inherit;font-size:13px">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
