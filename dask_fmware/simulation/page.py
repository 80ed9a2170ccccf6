"""A study as one page of HTML: what was asked, what came of it in a sentence, pictures, and all numbers below."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from dask_fmware.simulation.pictures import PICTURES, load_is, picture
from dask_fmware.simulation.report import shown
from dask_fmware.simulation.scenario import Hosting, Scenario, WindowArrivals

if TYPE_CHECKING:
    from dask_fmware.simulation.study import Study

__all__ = ["counted", "page", "table"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #0f172a; max-width: 1180px; margin: 2.5rem auto;
  padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.lead { color: #475569; margin: .3rem 0 1.2rem; } .said { font-size: 1.15rem; margin: 1rem 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 1.2rem; }
.pictures > div { border: 1px solid #e2e8f0; border-radius: 10px; padding: .6rem; } svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e2e8f0; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
tr.best td { background: #eff6ff; font-weight: 600; } .wide { overflow-x: auto; }
footer { color: #64748b; font-size: 13px; margin-top: 2rem; }
"""

COUNT = "count"  # instead of a format: a mean of counts, see `counted`

COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("load", "load", "{:g}", "runs in the window, or how many times saturation or the scenario's own rate"),
    ("policy", "policy", "{}", ""),
    ("goodput", "goodput", "{:.3f}", "share of runs with an objective that were in time"),
    ("goodput_low", "from", "{:.3f}", "95 % interval over seeds"),
    ("goodput_high", "to", "{:.3f}", "95 % interval over seeds"),
    ("below", "below the first", "{:+.3f}", "goodput of the first policy minus this one, seed by seed"),
    ("below_low", "from", "{:+.3f}", "95 % interval of that difference"),
    ("below_high", "to", "{:+.3f}", "95 % interval of that difference"),
    ("ttft_p50_s", "TTFT p50", "{:.2f} s", "time to first token"),
    ("ttft_p95_s", "p95", "{:.2f} s", "time to first token"),
    ("ttft_p99_s", "p99", "{:.2f} s", "time to first token"),
    ("latency_p50_s", "latency p50", "{:.2f} s", "time to the complete answer"),
    ("latency_p99_s", "p99", "{:.2f} s", "time to the complete answer"),
    ("latest_s", "latest", "{:.1f} s", "the longest any run took"),
    ("scale_95", "95 % within", "{:.2f} SLO", "how far the SLO must be relaxed for 95 % to meet it"),
    ("scale_99", "99 % within", "{:.2f} SLO", "how far the SLO must be relaxed for 99 % to meet it"),
    ("finished_late", "late", COUNT, "runs that missed and were served all the same, mean over seeds"),
    ("rejected", "rejected", COUNT, "runs that would have been late and asked for that, mean over seeds"),
    ("failed", "failed", COUNT, "other runs that ended without an answer, mean over seeds"),
    ("never_ended", "never ended", COUNT, "runs that nothing could serve any more, mean over seeds"),
    ("parked_calls", "parked", COUNT, "calls started although they were found too late, mean over seeds"),
    ("late_work", "late work", "{:.0%}", "share of the engines' work that went to runs that missed"),
    ("cost", "cost", "{:.3g}", "of the cards in use until the simulation ended"),
    ("hindsight", "hindsight", "{:.3f}", "goodput of the best schedule that was found with all lengths known"),
    ("no_schedule_above", "no schedule above", "{:.3f}", "goodput that no schedule exceeds"),
    ("runs", "runs", "{:.0f}", "mean over seeds"),
    ("judged", "judged", "{:.0f}", "runs with an objective; all where none has one; mean over seeds"),
)


def page(study: Study, facts: Mapping[str, str]) -> str:
    """Return the page; `facts` are told at its foot."""
    scenario = study.scenario
    pictures = "".join(f"<div>{_svg(study, name)}</div>" for name in PICTURES)
    told = " &middot; ".join(f"{escape(key)}: <code>{escape(value)}</code>" for key, value in facts.items())
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width'><title>{escape(scenario.name)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{escape(scenario.name)}</h1>"
        f"<p class='lead'>{escape(scenario.description)}</p><p>{escape(_setting(scenario))}</p>"
        f"<p class='said'>{escape(summary(study))}</p><div class='pictures'>{pictures}</div>"
        f"<h2>All numbers</h2><div class='wide'>{table(study)}</div><footer>{told}</footer></body></html>\n"
    )


def summary(study: Study) -> str:
    """Say who did best at the highest load, and by how much."""
    load = study.busiest
    cells = sorted((study.cell(policy, load) for policy in study.policies), key=lambda cell: -cell.goodput.mean)
    shares: dict[str, list[str]] = {}  # as they are shown, the best first
    for cell in cells:
        shares.setdefault(f"{cell.goodput.mean:.1%}", []).append(cell.policy)
    (best, first), *others = shares.items()
    unit = load_is(study.scenario)
    at = f"With {load:g} {unit}" if isinstance(study.scenario.arrivals, WindowArrivals) else f"At {load:g} {unit}"
    at = at.replace("At 1 times ", "At ")
    said = f"{at}, {_both(first)} {'has' if len(first) == 1 else 'have'} {best} of runs in time"
    if others:
        share, next_ones = others[0]
        said += f", {_both(next_ones)} {'follows' if len(next_ones) == 1 else 'follow'} with {share}"
    if load in study.left:
        said += f"; the best schedule found with hindsight has {study.left[load].hindsight:.1%}"
    judged, runs, seeds = cells[0].mean("judged"), cells[0].mean("runs"), len(cells[0].measured)
    said += f"; {_number(seeds, 'seed')} of {_number(round(runs), 'run')}{' each' if seeds > 1 else ''}"
    return (
        f"{said}, {round(judged)} of them with an objective, which the shares are of." if judged < runs else f"{said}."
    )


def _number(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _both(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted(mean: float) -> str:
    """Return a mean of counts: one in three seeds is not none.

    >>> counted(1 / 3), counted(2.0), counted(1858.25)
    ('0.3', '2', '1858')
    """
    return f"{mean:.1f}" if mean < 10.0 and mean != round(mean) else f"{mean:.0f}"


def _said(value: Any, form: str) -> str:
    return "" if value is None else counted(value) if form == COUNT else shown(value, form)


def table(study: Study) -> str:
    """Return all numbers as a table."""
    rows = study.rows
    best = {load: max(row["goodput"] for row in rows if row["load"] == load) for load in study.loads}
    cells = [_cells(row, study) for row in rows]
    columns = [column for column in COLUMNS if any(told[column[0]] for told in cells)]
    head = "".join(f"<th title='{escape(hint)}'>{escape(name)}</th>" for _, name, _, hint in columns)
    shares = [key for key in rows[0] if key.startswith("share_")] if rows else []
    head += "".join(f"<th title='share of calls'>{escape(key[6:])}</th>" for key in shares)
    body = ""
    for row, told in zip(rows, cells, strict=True):
        line = "".join(f"<td>{escape(told[key])}</td>" for key, *_ in columns)
        line += "".join(f"<td>{row[key]:.0%}</td>" for key in shares)
        body += f"<tr{' class=best' if row['goodput'] == best[row['load']] else ''}>{line}</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def _cells(row: Mapping[str, Any], study: Study) -> dict[str, str]:
    """Texts of a row by column; what there is nothing to say of is empty."""
    told = {key: _said(row.get(key), form) for key, _, form, _ in COLUMNS}
    void: set[str] = set()
    if row["policy"] == study.policies[0]:  # the one that others are compared with
        void |= {"below", "below_low", "below_high"}
    if row["seeds"] == 1:  # of which there is no interval
        void |= {"goodput_low", "goodput_high", "below_low", "below_high"}
    if not study.has_prices:
        void.add("cost")
    return told | dict.fromkeys(void, "")


def _svg(study: Study, name: str) -> str:
    file = StringIO()
    picture(study, name).savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _setting(scenario: Scenario) -> str:
    cards = ", ".join(f"{card.count} {name}" for name, card in scenario.cards.items())
    models = ", ".join(
        f"{name} ({'; '.join(f'{on}: {_hosted(hosting)}' for on, hosting in spec.on.items())})"
        for name, spec in scenario.models.items()
    )
    flows = ", ".join(f"{name} of {_number(len(spec.nodes), 'node')}" for name, spec in scenario.workflows.items())
    return f"Cards: {cards}. Models: {models}. Workflows: {flows}. Arrivals: {scenario.arrivals.kind}."


def _hosted(hosting: Hosting) -> str:
    return _number(hosting.slots, "slot")
