"""The Bokeh documents of the page: figures without data, which the page's script fills in the browser."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bokeh.document import Document
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    DatetimeTickFormatter,
    FactorRange,
    HoverTool,
    LogTickFormatter,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.plotting import figure
from jinja2 import Environment, FileSystemLoader

from dask_fmware.observe.figures import COLUMNS, slack_labels
from dask_fmware_scheduler.dashboard.dask_internals import dashboard_templates

__all__ = ["PANELS", "documents"]

# Told apart by readers who see no red or no green too, by hue or by lightness (after Okabe and Ito).
GOOD, BAD, FAILED, REJECTED, UNJUDGED = "#14b08a", "#c2410c", "#7e57c2", "#e6b800", "#56b4e9"
BLUE, ORANGE, GREY = "#3b82f6", "#f0883e", "#8b949e"

PANELS: dict[str, str] = {
    "overview": "Overview",
    "attainment": "Goodput over time",
    "throughput": "Runs that ended",
    "latency": "Latency quantiles",
    "waiting": "Waiting calls",
    "workflow": "Workflow",
    "blame": "Where runs miss",
    "replicas": "Replicas",
    "slack": "Slack of waiting calls",
    "predictions": "Predicted against measured",
    "groups": "Workflows and tenants",
    "provisioning": "Provisioning",
}
VERDICTS = {
    "met": ("within SLO", GOOD),
    "missed": ("too late", BAD),
    "failed": ("failed", FAILED),
    "rejected": ("rejected", REJECTED),
    "unjudged": ("no verdict", UNJUDGED),
}
LATENCIES = {
    "ttft50": ("first token p50", BLUE, "solid"),
    "ttft95": ("first token p95", BLUE, "dashed"),
    "e2e50": ("done p50", ORANGE, "solid"),
    "e2e95": ("done p95", ORANGE, "dashed"),
}
WAITING = {"held": ("held", BLUE), "parked": ("parked", GREY)}
LEGENDS: dict[str, list[tuple[str, str, str]]] = {  # in HTML, where they wrap; that of predictions is the script's
    "throughput": [*((*shown, "fill") for shown in VERDICTS.values()), ("submitted", GREY, "dotted")],
    "latency": list(LATENCIES.values()),
    "slack": [(*shown, "fill") for shown in WAITING.values()],
}
PLOTS = ("attainment", "throughput", "latency", "waiting", "slack", "predictions")


def documents() -> dict[str, Callable[..., None]]:
    """Return the documents by path: the page, and each panel by itself."""
    made: dict[str, Callable[..., None]] = {"/fmware": partial(_document, panels=tuple(PANELS), is_page=True)}
    for panel in PANELS:
        made[f"/individual-fmware-{panel}"] = partial(_document, panels=(panel,), is_page=False)
    return made


def _document(server: Any, extra: dict[str, Any], doc: Document, *, panels: tuple[str, ...], is_page: bool) -> None:
    series = ColumnDataSource({name: [] for name in COLUMNS}, name="series-data")
    for panel in panels:
        if panel in PLOTS:
            plot = _MAKERS[panel](series)
            plot.name = panel
            doc.add_root(plot)
    for root in doc.roots:
        for model in root.references():
            model.syncable = False  # else each browser would send what it draws back to the scheduler
    doc.title = "Dask: FMware" if is_page else f"Dask: {PANELS[panels[0]]}"
    doc.template = _environment().get_template("page.html" if is_page else "panel.html")
    shown = {"panels": {panel: PANELS[panel] for panel in panels}, "plots_drawn": PLOTS, "legends": LEGENDS}
    doc.template_variables.update({**extra, **shown})


def _environment() -> Environment:
    folder = Path(__file__).parent / "templates"
    return Environment(
        loader=FileSystemLoader([folder, dashboard_templates()]), autoescape=False
    )  # as Dask: what is put in is ours, names of users are only in the JSON


def _figure(**options: Any) -> Any:
    plot = figure(
        sizing_mode="stretch_both",
        min_height=120,
        toolbar_location=None,
        tools="",
        output_backend="canvas",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        **options,
    )
    plot.xgrid.grid_line_color = None
    plot.grid.grid_line_alpha = 0.25
    plot.axis.axis_line_color = None
    plot.axis.major_tick_line_color = None
    plot.axis.minor_tick_line_color = None
    plot.axis.major_label_text_font_size = "11px"
    plot.min_border_left, plot.min_border_right, plot.min_border_top, plot.min_border_bottom = 44, 8, 6, 20
    return plot


def _over_time(**options: Any) -> Any:
    plot = _figure(x_axis_type="datetime", x_range=Range1d(0, 1, name="time"), **options)
    plot.xaxis.ticker.desired_num_ticks = 5
    plot.xaxis.formatter = DatetimeTickFormatter(
        seconds="%H:%M:%S", minsec="%H:%M:%S", minutes="%H:%M", hourmin="%H:%M", hours="%H:%M", context=None
    )
    return plot


def _hover(plot: Any, tips: list[tuple[str, str]], **options: Any) -> None:
    plot.add_tools(HoverTool(tooltips=[("", "@time{%H:%M:%S}"), *tips], formatters={"@time": "datetime"}, **options))


def _counts(plot: Any) -> None:
    """Let the vertical axis begin at 0 and name whole numbers only."""
    plot.y_range.start = 0
    plot.yaxis.ticker = BasicTicker(min_interval=1)


def _attainment(source: ColumnDataSource) -> Any:
    plot = _over_time(y_range=Range1d(0, 1.05))
    plot.yaxis.formatter = NumeralTickFormatter(format="0%")
    plot.vbar(x="time", top="attainment", width=4200, source=source, color=GOOD, alpha=0.35, line_color=None)
    dots = plot.scatter(x="time", y="attainment", source=source, color=GOOD, size=4)
    _hover(plot, [("runs within SLO", "@attainment{0.0%}")], renderers=[dots], mode="vline")
    return plot


def _throughput(source: ColumnDataSource) -> Any:
    plot = _over_time()
    plot.y_range.start = 0
    colours = [colour for _, colour in VERDICTS.values()]
    bars = plot.vbar_stack(list(VERDICTS), x="time", width=4600, color=colours, source=source, line_color=None)
    plot.line("time", "submitted", source=source, color=GREY, line_dash="dotted")
    tips = [(label, f"@{name}{{0.00}}/s") for name, (label, _) in VERDICTS.items()]
    _hover(plot, [*tips, ("submitted", "@submitted{0.00}/s")], renderers=[bars[0]], mode="vline")
    return plot


def _latency(source: ColumnDataSource) -> Any:
    plot = _over_time()
    plot.y_range.start = 0
    plot.scatter([0], [0.1], size=0)  # out of sight: an axis is drawn before any run has ended
    plot.yaxis.formatter = NumeralTickFormatter(format="0.[00]")
    for name, (_, colour, dash) in LATENCIES.items():
        line = plot.line("time", name, source=source, color=colour, line_dash=dash, line_width=2)
        filled = colour if dash == "solid" else None  # dots, as a line of one interval would not be seen
        plot.scatter("time", name, source=source, line_color=colour, fill_color=filled, size=4)
    tips = [("first token", "@ttft50{0.00} s, p95 @ttft95{0.00} s"), ("done", "@e2e50{0.00} s, p95 @e2e95{0.00} s")]
    _hover(plot, tips, renderers=[line], mode="vline")
    return plot


def _waiting(source: ColumnDataSource) -> Any:
    plot = _over_time()
    _counts(plot)
    plot.vbar(x="time", top="held", width=4600, source=source, color=ORANGE, alpha=0.7, line_color=None)
    _hover(plot, [("calls that waited at once", "@held")], mode="vline")
    return plot


def _slack(_: ColumnDataSource) -> Any:
    labels = slack_labels()
    source = ColumnDataSource(
        {"bin": labels, "held": [0] * len(labels), "parked": [0] * len(labels)}, name="slack-data"
    )
    plot = _figure(x_range=FactorRange(*labels))
    _counts(plot)
    colours = [colour for _, colour in WAITING.values()]
    plot.vbar_stack(list(WAITING), x="bin", width=0.9, color=colours, source=source, line_color=None)
    plot.add_tools(HoverTool(tooltips=[("slack", "@bin s"), ("held", "@held"), ("parked", "@parked")]))
    return plot


def _predictions(_: ColumnDataSource) -> Any:
    columns: dict[str, list[Any]] = {"predicted": [], "measured": [], "colour": [], "mark": [], "kind": []}
    source = ColumnDataSource(columns, name="predictions-data")
    plot = _figure(
        x_axis_type="log",
        y_axis_type="log",
        x_range=Range1d(0.01, 10, name="predicted"),
        y_range=Range1d(0.01, 10, name="measured"),
        x_axis_label="predicted, s",
        y_axis_label="measured, s",
    )
    plot.axis.axis_label_text_font_size, plot.axis.axis_label_text_font_style = "11px", "normal"
    plot.axis.axis_label_standoff = 2
    plot.xaxis.formatter, plot.yaxis.formatter = LogTickFormatter(min_exponent=4), LogTickFormatter(min_exponent=4)
    plot.min_border_bottom, plot.min_border_left = 36, 56
    plot.line([1e-4, 1e4], [1e-4, 1e4], color=GREY, line_dash="dashed")
    dots = plot.scatter(
        "predicted", "measured", color="colour", marker="mark", source=source, size=7, alpha=0.55, line_color=None
    )
    tips = [("", "@kind"), ("predicted", "@predicted{0.000} s"), ("measured", "@measured{0.000} s")]
    plot.add_tools(HoverTool(tooltips=tips, renderers=[dots]))
    return plot


_MAKERS: dict[str, Callable[[ColumnDataSource], Any]] = {
    "attainment": _attainment,
    "throughput": _throughput,
    "latency": _latency,
    "waiting": _waiting,
    "slack": _slack,
    "predictions": _predictions,
}
