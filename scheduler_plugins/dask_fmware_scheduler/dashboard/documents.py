"""The Bokeh documents of the page: figures without data, which the page's script fills in the browser."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bokeh.document import Document
from bokeh.models import ColumnDataSource, DatetimeTickFormatter, FactorRange, HoverTool, NumeralTickFormatter, Range1d
from bokeh.plotting import figure
from jinja2 import Environment, FileSystemLoader

from dask_fmware.observe.figures import COLUMNS, slack_labels
from dask_fmware_scheduler.dashboard.dask_internals import dashboard_templates

__all__ = ["PANELS", "documents"]

GOOD, BAD, FAILED, REJECTED, BLUE, GREY = "#2ea043", "#e5534b", "#8957e5", "#d4a72c", "#3b82f6", "#8b949e"
PALETTE = ("#3b82f6", "#f0883e", "#2ea043", "#bc8cff", "#e5534b", "#39c5cf", "#d4a72c", "#f778ba")

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
    doc.template_variables.update({**extra, "panels": {panel: PANELS[panel] for panel in panels}, "plots_drawn": PLOTS})


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


def _legend(plot: Any) -> None:
    legend = plot.legend[0]
    plot.center.remove(legend)
    plot.add_layout(legend, "above")
    legend.orientation = "horizontal"
    legend.background_fill_color = legend.border_line_color = None
    legend.label_text_font_size, legend.glyph_width, legend.glyph_height = "11px", 14, 12
    legend.padding, legend.margin, legend.spacing = 0, 0, 8


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
    names = ["met", "missed", "failed", "rejected", "unjudged"]
    labels = ["within SLO", "too late", "failed", "rejected", "no verdict"]
    colours = [GOOD, BAD, FAILED, REJECTED, BLUE]
    bars = plot.vbar_stack(
        names, x="time", width=4600, color=colours, source=source, legend_label=labels, line_color=None
    )
    plot.line("time", "submitted", source=source, color=GREY, line_dash="dotted", legend_label="submitted")
    _hover(
        plot,
        [
            (label, f"@{name}{{0.00}}/s")
            for name, label in zip([*names, "submitted"], [*labels, "submitted"], strict=True)
        ],
        renderers=[bars[0]],
        mode="vline",
    )
    _legend(plot)
    return plot


def _latency(source: ColumnDataSource) -> Any:
    plot = _over_time()
    plot.y_range.start = 0
    plot.scatter([0], [0.1], size=0)  # out of sight: an axis is drawn before any run has ended
    plot.yaxis.formatter = NumeralTickFormatter(format="0.[00]")
    for name, colour, dash, label in (
        ("ttft50", BLUE, "solid", "first token p50"),
        ("ttft95", BLUE, "dashed", "p95"),
        ("e2e50", PALETTE[1], "solid", "done p50"),
        ("e2e95", PALETTE[1], "dashed", "p95 "),
    ):
        line = plot.line("time", name, source=source, color=colour, line_dash=dash, line_width=2, legend_label=label)
        filled = colour if dash == "solid" else None  # dots, as a line of one interval would not be seen
        plot.scatter("time", name, source=source, line_color=colour, fill_color=filled, size=4)
    tips = [("first token", "@ttft50{0.00} s, p95 @ttft95{0.00} s"), ("done", "@e2e50{0.00} s, p95 @e2e95{0.00} s")]
    _hover(plot, tips, renderers=[line], mode="vline")
    _legend(plot)
    return plot


def _waiting(source: ColumnDataSource) -> Any:
    plot = _over_time()
    plot.y_range.start = 0
    plot.vbar(x="time", top="held", width=4600, source=source, color=PALETTE[1], alpha=0.7, line_color=None)
    _hover(plot, [("calls that waited at once", "@held")], mode="vline")
    return plot


def _slack(_: ColumnDataSource) -> Any:
    labels = slack_labels()
    source = ColumnDataSource(
        {"bin": labels, "held": [0] * len(labels), "parked": [0] * len(labels)}, name="slack-data"
    )
    plot = _figure(x_range=FactorRange(*labels))
    plot.y_range.start = 0
    plot.vbar_stack(
        ["held", "parked"],
        x="bin",
        width=0.9,
        color=[BLUE, GREY],
        source=source,
        legend_label=["held", "parked"],
        line_color=None,
    )
    plot.add_tools(HoverTool(tooltips=[("slack", "@bin s"), ("held", "@held"), ("parked", "@parked")]))
    _legend(plot)
    return plot


def _predictions(_: ColumnDataSource) -> Any:
    columns: dict[str, list[Any]] = {"predicted": [], "measured": [], "colour": [], "kind": []}
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
    plot.min_border_bottom, plot.min_border_left = 36, 56
    plot.line([1e-4, 1e4], [1e-4, 1e4], color=GREY, line_dash="dashed")
    dots = plot.scatter("predicted", "measured", color="colour", source=source, size=6, alpha=0.55, line_color=None)
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
