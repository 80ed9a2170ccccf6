"""A comparison as HTML: figures, the differences drawn to scale, and the rows that changed most.

Answers are shown as text: jinja2 escapes every value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment

from dask_fmware.evaluation.compare import cells, number

if TYPE_CHECKING:
    from dask_fmware.evaluation.compare import Comparison, Measure

__all__ = ["fragment", "page"]

WIDTH, HEIGHT = 220, 22

# Colours that read on a light and on a dark notebook; a page of its own says which it is.
STYLE = """
.fmc { font: 14px/1.45 system-ui, sans-serif; color: inherit; max-width: 1120px; overflow-wrap: anywhere; }
.fmc h1 { font-size: 20px; margin: 0 0 4px; } .fmc h2 { font-size: 16px; margin: 28px 0 8px; }
.fmc .wide { overflow-x: auto; } .fmc table { border-collapse: collapse; width: 100%; color: inherit; }
.fmc th { text-align: right; white-space: nowrap; font-weight: 600; font-size: 12px; color: inherit; opacity: .7;
          padding: 4px 10px; }
.fmc td { text-align: right; padding: 5px 10px; border-top: 1px solid rgba(128,128,128,.3); white-space: nowrap;
          font-variant-numeric: tabular-nums; color: inherit; background: none; }
.fmc th:first-child, .fmc td:first-child, .fmc .left { text-align: left; }
.fmc .better { color: #0d9467; font-weight: 600; } .fmc .worse { color: #dc4b3e; font-weight: 600; }
.fmc .quiet { opacity: .7; } .fmc .note { color: #c2700c; margin: 4px 0; }
.fmc .row { border-top: 1px solid rgba(128,128,128,.3); padding: 12px 0; }
.fmc .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 16px;
             margin-top: 6px; }
.fmc pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.45 ui-monospace, monospace;
           color: inherit; background: rgba(128,128,128,.12); padding: 8px 10px; border-radius: 6px; }
.fmc svg { display: block; } .fmc .axis { stroke: #9ca3af; } .fmc .bar { stroke: #7c8aa0; stroke-width: 3; }
.fmc .bar.better { stroke: #0d9f75; } .fmc .bar.worse { stroke: #d92d20; }
.fmc .dot { fill: currentColor; } .fmc .dot.better { fill: #0d9467; } .fmc .dot.worse { fill: #dc4b3e; }
.fmc-page { margin: 24px; color: #1f2937; }
.fmc-page .fmc .better { color: #0b7a55; } .fmc-page .fmc .worse { color: #b42318; }
.fmc-page .fmc .note { color: #92400e; }
@media (prefers-color-scheme: dark) {
  .fmc-page { background: #111827; color: #e5e7eb; } .fmc-page .fmc .better { color: #34d399; }
  .fmc-page .fmc .worse { color: #f87171; } .fmc-page .fmc .note { color: #fbbf24; }
}
"""

FRAGMENT = """
<style>{{ style }}</style>
<div class="fmc">
<h1>{{ c.rows | thousands }} rows, two answers each</h1>
<div><b>A</b> {{ c.a }}<br><b>B</b> {{ c.b }}</div>
{% for note in c.notes %}<p class="note">{{ note }}</p>{% endfor %}
{% if c.only_a or c.only_b %}<p class="note">Left out: {{ c.only_a | thousands }} rows that only A has,
{{ c.only_b | thousands }} that only B has.</p>{% endif %}
<h2>Differences</h2>
<div class="wide"><table><thead><tr><th></th><th>A</th><th>B</th><th>B - A</th><th>95 % interval</th>
<th class="left"></th><th>p</th><th>B higher</th><th>B lower</th><th class="left">B is</th></tr></thead><tbody>
{% for m in measures %}
<tr><td>{{ m.cells[0] }}</td><td>{{ m.cells[1] }}</td><td>{{ m.cells[2] }}</td><td>{{ m.cells[3] }}</td>
<td class="quiet">{{ m.cells[4] }}</td><td class="left">{% if m.bar %}<svg width="{{ width }}" height="{{ height }}"
role="img" aria-label="{{ m.cells[4] }}"><line class="axis" x1="{{ m.bar.zero }}" x2="{{ m.bar.zero }}" y1="2"
y2="{{ height - 2 }}"/><line class="bar {{ m.kind }}" x1="{{ m.bar.low }}" x2="{{ m.bar.high }}" y1="{{ height / 2 }}"
y2="{{ height / 2 }}"/><circle class="dot {{ m.kind }}" cx="{{ m.bar.mean }}" cy="{{ height / 2 }}" r="4.5"/></svg>
{% endif %}</td><td>{{ m.cells[5] }}</td><td>{{ m.cells[6] }}</td><td>{{ m.cells[7] }}</td>
<td class="left {{ m.kind }}">{{ m.cells[8] }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="quiet">Same rows in A and B. p is of McNemar's exact test for truth values, else of a permutation test of the
mean difference, corrected for {{ measures | length }} measures (Holm). Each bar is the interval of its own scale, the
line is no difference. Higher is better for scores, lower for failures, times, tokens and cost.</p>
{% if c.changes %}<h2>Rows that changed most</h2>
{% for change in c.changes %}<div class="row"><b>{{ change.id }}</b> · {{ change.score }}
{{ change.a | figure }} →
<span class="{{ 'better' if change.b > change.a else 'worse' }}">{{ change.b | figure }}</span>
{% for name, text in change.inputs.items() %}<div><span class="quiet">{{ name }}</span> {{ text }}</div>{% endfor %}
<div class="pair"><div><span class="quiet">A</span><pre>{{ change.answer_a if change.answer_a is not none }}</pre></div>
<div><span class="quiet">B</span><pre>{{ change.answer_b if change.answer_b is not none }}</pre></div></div></div>
{% endfor %}{% endif %}
</div>
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>A against B</title></head><body class="fmc-page">{{ body | safe }}</body></html>
"""


def fragment(comparison: Comparison) -> str:
    """Return a comparison as a piece of HTML, for a notebook."""
    shown = [
        {"cells": cells(m), "kind": m.verdict if m.verdict in ("better", "worse") else "quiet", "bar": _bar(m)}
        for m in comparison.measures
    ]
    made = _environment().from_string(FRAGMENT)
    return str(made.render(c=comparison, measures=shown, style=STYLE, width=WIDTH, height=HEIGHT))


def page(comparison: Comparison) -> str:
    """Return a comparison as a page."""
    return str(_environment().from_string(PAGE).render(body=fragment(comparison)))


def _environment() -> Environment:
    made = Environment(autoescape=True, trim_blocks=True)
    made.filters["thousands"] = lambda value: f"{value:,}"
    made.filters["figure"] = number
    return made


def _bar(measure: Measure) -> dict[str, float] | None:
    """Return where zero, mean and interval are drawn: zero in the middle, the interval inside."""
    d = measure.difference
    if d.low is None or d.high is None:
        return None
    reach = max(abs(d.low), abs(d.high)) or 1.0
    middle, half = WIDTH / 2, WIDTH / 2 - 6
    return {
        "zero": middle,
        "low": round(middle + half * d.low / reach, 1),
        "high": round(middle + half * d.high / reach, 1),
        "mean": round(middle + half * d.mean / reach, 1),
    }
