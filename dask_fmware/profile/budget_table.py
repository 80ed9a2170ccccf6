"""Budgets as HTML for notebooks: the verdict, a table, and the workflow drawn with its budgets."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dask_fmware.profile.assumptions import of_unsized
from dask_fmware.spec.picture import picture

if TYPE_CHECKING:
    from dask_fmware.profile.node_budgets import Budgets

__all__ = ["to_html"]

CELL = "padding:4px 12px;border-bottom:1px solid rgba(128,128,128,.3);text-align:left;color:inherit;background:none"
DRAWN_NODES = 300


def to_html(budgets: Budgets) -> str:
    """Return an HTML fragment without scripts or network."""
    head, *body = budgets.rows
    colour = "#0d9f75" if budgets.feasible else "#d64545"
    rows = "".join(f"<tr>{''.join(_cell('td', cell) for cell in row)}</tr>" for row in body)
    assumed = "".join(f"<li>{escape(text)}</li>" for text in budgets.assumed)
    unsized = "".join(f"<div>{escape(line)}</div>" for line in of_unsized(budgets.unsized))
    drawn = picture(budgets.workflow, budgets.notes()) if len(budgets.workflow.nodes) <= DRAWN_NODES else ""
    return (
        '<div style="font-family:system-ui,sans-serif;font-size:13px;color:inherit">'
        f'<div style="margin:0 0 8px"><b>{escape(budgets.workflow.name)}</b> '
        f'<span style="color:{colour}">{escape(budgets.verdict)}</span></div>'
        f'<div style="overflow-x:auto;max-width:100%">{drawn}</div>'
        '<div style="overflow-x:auto;max-width:100%;margin:8px 0">'
        '<table style="border-collapse:collapse;color:inherit;font-size:13px">'
        f"<thead><tr>{''.join(_cell('th', cell) for cell in head)}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"<div>{escape(budgets.cost)}</div>{unsized}"
        f'<details style="opacity:.8"><summary>assumed</summary><ul>{assumed}</ul></details></div>'
    )


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="{CELL}">{escape(text)}</{tag}>'
