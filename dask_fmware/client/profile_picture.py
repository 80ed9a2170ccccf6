"""Profiles as pictures: measured points against the law, as an image (matplotlib) or a page (bokeh).

For each profile a row of three charts: prefill against prompt length, decode steps against context for each batch
size, and every point as measured against what the law says. Log scales, because times span orders of magnitude.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dask_fmware.errors import SpecError
from dask_fmware.profile.points import StepPoint
from dask_fmware.profile.record import Profile

__all__ = ["draw_profiles"]

COLOURS = ("#3b82f6", "#0d9f75", "#d98a06", "#9a5cf0", "#e0559a", "#64748b", "#06a3b7", "#b4530a")
IMAGES = (".png", ".svg", ".pdf", ".jpg")


@dataclass(frozen=True, slots=True)
class _Series:
    """Points and, where it makes sense, the law through them; milliseconds."""

    label: str
    colour: str
    x: list[float]
    y: list[float]
    line: tuple[list[float], list[float]] | None = None


@dataclass(frozen=True, slots=True)
class _Chart:
    title: str
    x_label: str
    y_label: str
    series: list[_Series]
    diagonal: bool = False


def draw_profiles(profiles: Sequence[Profile], path: str | os.PathLike[str]) -> None:
    """Draw profiles that have raw points into a file; its ending says how.

    Parameters
    ----------
    profiles
        Those without points (as in the catalog) are left out.
    path
        ``.png``, ``.svg``, ``.pdf`` or ``.jpg`` (needs matplotlib), or ``.html`` (needs bokeh).

    Raises
    ------
    SpecError
        No profile has points, the ending is another, or what it needs is not installed.
    """
    path = Path(path)
    drawn = [profile for profile in profiles if profile.points]
    if not drawn:
        raise SpecError("there is nothing to draw: no profile with measured points; run `dask fmware profile` first")
    if path.suffix.lower() in IMAGES:
        _image(drawn, path)
    elif path.suffix.lower() in (".html", ".htm"):
        _page(drawn, path)
    else:
        raise SpecError(f"cannot draw into '{path}': write a name that ends in {', '.join(IMAGES)} or .html")


def _charts(profile: Profile) -> Iterator[_Chart]:
    points = profile.step_points
    yield _Chart("prefill", "prompt tokens in the step", "ms", list(_prefill(profile, points)))
    yield _Chart("decode step", "context tokens, all sequences", "ms", list(_decode(profile, points)))
    yield _Chart("every point", "measured ms", "ms by the law", list(_agreement(profile, points)), diagonal=True)


def _prefill(profile: Profile, points: Sequence[StepPoint]) -> Iterator[_Series]:
    law = profile.step_law
    alone = [p for p in points if p.prefill_tokens and not p.batch and p.prefilled <= 1]
    beside = [p for p in points if p.prefill_tokens and p.batch and p.prefilled <= 1]
    if alone:
        grid = np.geomspace(min(p.prefill_tokens for p in alone), max(p.prefill_tokens for p in alone), 80)
        line = ([float(x) for x in grid], [1e3 * law.step_s(float(x), 0, 0) for x in grid])
        yield _Series("alone", COLOURS[0], [p.prefill_tokens for p in alone], [1e3 * p.step_s for p in alone], line)
    if beside:
        over_s = [1e3 * max(p.step_s - law.step_s(0, p.batch, p.context_tokens), 1e-6) for p in beside]
        yield _Series(
            "beside a decoding batch, without its time", COLOURS[2], [p.prefill_tokens for p in beside], over_s
        )


def _decode(profile: Profile, points: Sequence[StepPoint]) -> Iterator[_Series]:
    law = profile.step_law
    decode = [p for p in points if not p.prefill_tokens]
    sizes = sorted({p.batch for p in decode})
    shown = sizes if len(sizes) <= len(COLOURS) else [sizes[round(i * (len(sizes) - 1) / 7)] for i in range(8)]
    for batch, colour in zip(shown, COLOURS, strict=False):
        mine = [p for p in decode if p.batch == batch]
        contexts = [p.context_tokens for p in mine]
        grid = np.geomspace(max(min(contexts), 1.0), max(*contexts, 2.0), 60)
        line = ([float(x) for x in grid], [1e3 * law.step_s(0, batch, float(x)) for x in grid])
        yield _Series(f"batch {batch:.0f}", colour, contexts, [1e3 * p.step_s for p in mine], line)


def _agreement(profile: Profile, points: Sequence[StepPoint]) -> Iterator[_Series]:
    law = profile.step_law
    for label, colour, mine in (
        ("prefill", COLOURS[0], [p for p in points if p.prefill_tokens]),
        ("decode", COLOURS[1], [p for p in points if not p.prefill_tokens]),
    ):
        if mine:
            said = [law.step_s(p.prefill_tokens, p.batch, p.context_tokens, max(p.prefilled, 1), p.pairs) for p in mine]
            yield _Series(label, colour, [1e3 * p.step_s for p in mine], [1e3 * s for s in said])


def _title(profile: Profile) -> str:
    errors = [
        f"{name} {phase.cv_median_error:.1%} (p90 {phase.cv_p90_error:.0%})"
        for name, phase in (("decode", profile.decode), ("prefill", profile.prefill))
        if phase is not None
    ]
    return f"{profile.key}: held-out error {', '.join(errors)}"


def _image(profiles: Sequence[Profile], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    except ImportError as missing:
        raise SpecError(
            f"drawing '{path}' needs matplotlib, which is not installed: pip install 'dask-fmware[plot]'; "
            "a name that ends in .html needs bokeh instead"
        ) from missing
    figure = Figure(figsize=(15, 4.6 * len(profiles)), layout="constrained")
    rows = figure.subfigures(len(profiles), 1, squeeze=False)[:, 0]
    for profile, row in zip(profiles, rows, strict=True):
        row.suptitle(_title(profile), fontsize=12, fontweight="bold", x=0.01, ha="left")
        for axes, chart in zip(row.subplots(1, 3), _charts(profile), strict=True):
            if chart.diagonal:
                ends = _ends([*(v for s in chart.series for v in (*s.x, *s.y))])
                axes.plot(ends, ends, color="#888888", linewidth=1, zorder=1)
            for series in chart.series:
                axes.scatter(
                    series.x, series.y, s=14, color=series.colour, alpha=0.55, linewidths=0, label=series.label
                )
                if series.line is not None:
                    axes.plot(*series.line, color=series.colour, linewidth=1.6)
            axes.set(xscale="log", yscale="log", xlabel=chart.x_label, ylabel=chart.y_label)
            axes.set_title(chart.title, fontsize=11)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
                axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:,g}"))
                axis.set_minor_formatter(NullFormatter())
            axes.tick_params(labelsize=8)
            axes.grid(True, alpha=0.25, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(fontsize=8, frameon=False)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise SpecError(f"'{path}' cannot be written ({error.strerror or error})") from None


def _page(profiles: Sequence[Profile], path: Path) -> None:
    try:
        from bokeh.embed import file_html
        from bokeh.layouts import column, row
        from bokeh.models import Div, LogTicker, NumeralTickFormatter
        from bokeh.plotting import figure
        from bokeh.resources import INLINE
    except ImportError as missing:
        raise SpecError(
            f"drawing '{path}' needs bokeh, which is not installed: pip install 'dask-fmware[dashboard]'; "
            "a name that ends in .png needs matplotlib instead"
        ) from missing
    parts: list[Any] = []
    for profile in profiles:
        figures = []
        for chart in _charts(profile):
            made = figure(
                title=chart.title, x_axis_type="log", y_axis_type="log", width=410, height=360,
                toolbar_location="above", x_axis_label=chart.x_label, y_axis_label=chart.y_label,
                tooltips=[("", "$name"), (chart.x_label, "$x{0.[000]}"), (chart.y_label, "$y{0.[000]}")],
            )  # fmt: skip
            for axis in (made.xaxis[0], made.yaxis[0]):
                axis.ticker = LogTicker(mantissas=[1, 2, 5])
                axis.formatter = NumeralTickFormatter(format="0,0.[000]")
            if chart.diagonal:
                ends = _ends([*(v for s in chart.series for v in (*s.x, *s.y))])
                made.line(ends, ends, color="#888888")
            for series in chart.series:
                made.scatter(
                    series.x, series.y, size=5, color=series.colour, alpha=0.55, legend_label=series.label,
                    name=series.label,
                )  # fmt: skip
                if series.line is not None:
                    made.line(*series.line, color=series.colour, line_width=2)
            made.legend.background_fill_alpha = 0.6
            made.legend.label_text_font_size = "11px"
            made.legend.location = "top_left"
            made.legend.click_policy = "hide"
            figures.append(made)
        parts += [Div(text=f"<b>{_title(profile)}</b>"), row(*figures, styles={"flex-wrap": "wrap"})]
    try:
        path.write_text(file_html(column(*parts), INLINE, "profiles"), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"'{path}' cannot be written ({error.strerror or error})") from None


def _ends(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)]
