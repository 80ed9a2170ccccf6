"""A workflow as a picture: inline SVG in layers from left to right, laid out here.

It needs no program, font or network. Text takes the colour of the page and fills are translucent, so the
same picture reads on light and on dark notebooks without asking which it is on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from dask_fmware.spec.graph import answer_nodes
from dask_fmware.spec.record import shorten
from dask_fmware.spec.scopes import Inner, inner, needs
from dask_fmware.spec.sketch import heading, lines
from dask_fmware.spec.workflow import AnyNode, Block, ModelNode, SwitchNode, TaskNode, Workflow

__all__ = ["COLOURS", "picture"]

# Middle tones: enough contrast as lines on white and on near-black.
COLOURS = {"model": "#3b82f6", "task": "#0d9f75", "switch": "#d98a06", "map": "#9a5cf0", "loop": "#e0559a"}
INK = 'fill="currentColor"'
CHARACTER = 6.7  # width of a character at 12 px, of the fonts that browsers take for system-ui
GAP_X, GAP_Y, PAD = 36.0, 14.0, 12.0
SHOWN = 26


@dataclass(frozen=True, slots=True)
class _Box:
    """Something of a size that can be drawn with its upper left corner at (x, y)."""

    width: float
    height: float
    draw: Callable[[float, float], str]


def picture(workflow: Workflow, notes: Mapping[str, str] | None = None, paper: str | None = None) -> str:
    """Draw a workflow that passes `check` as an ``<svg>`` element.

    Parameters
    ----------
    workflow
        What is drawn.
    notes
        Written below the text of nodes, by their names.
    paper
        Colour behind the picture; left out: that of the page.
    """
    artist = _Artist(workflow, notes or {})
    box = artist.top()
    width, height = box.width + 2, box.height + 2
    # In a page, a picture that is too wide shrinks by a quarter, then scrolls: text must stay readable.
    look, behind = f'style="max-width:100%;min-width:{width * 0.75:.0f}px;height:auto"', ""
    if paper is not None:
        look, behind = 'color="#000"', f'<rect width="100%" height="100%" fill="{paper}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="workflow {_shown(workflow.name)}" '
        f'font-family="system-ui, sans-serif" font-size="12" {look}>{behind}{box.draw(1, 1)}</svg>'
    )


class _Artist:
    def __init__(self, workflow: Workflow, notes: Mapping[str, str]) -> None:
        self.workflow, self.notes = workflow, notes
        self.needs = needs(workflow.block)
        self.answers = answer_nodes(workflow)

    def top(self) -> _Box:
        items = {item.name: _pill(item.name) for item in self.workflow.inputs}
        links = self.members(self.workflow.block, items)
        items["→ answer"] = _pill("answer", strong=True)  # no name holds an arrow
        links.append((self.workflow.block.output.source, "→ answer"))
        return _layers(items, links)

    def members(self, block: Block, items: dict[str, _Box]) -> list[tuple[str, str]]:
        """Add the nodes of a block to `items` and return the links among them."""
        items |= {node.name: self.node(node) for node in block.nodes}
        links = [(source, node.name) for node in block.nodes for source in sorted(self.needs[node.name])]
        return [(source, target) for source, target in links if source in items]

    def node(self, node: AnyNode) -> _Box:
        if isinstance(node, ModelNode | TaskNode):
            note = (self.notes[node.name],) if node.name in self.notes else ()
            return _card((*lines(node), *note), COLOURS[node.kind], node.name in self.answers)
        blocks = inner(node)
        pill = max(_pill(held.label).width for held in blocks) if isinstance(node, SwitchNode) else 0.0
        lanes = [self.lane(held, pill) for held in blocks]
        return _cluster(heading(node), COLOURS[node.kind], lanes)

    def lane(self, held: Inner, label_width: float) -> _Box:
        items: dict[str, _Box] = {} if held.bound is None else {held.bound: _pill(held.bound)}
        links = self.members(held.block, items)
        for end in held.ends:  # a branch may pass on a value from outside
            if end not in items:
                items[end] = _pill(end)
        body = _layers(items, links)
        return _labelled(held.label, label_width, body) if label_width else body


def _shown(text: str) -> str:
    """Escape a text; XML has no way to write most of what is not printable."""
    return escape("".join(c for c in text if c.isprintable()))


def _text(x: float, y: float, text: str, extra: str = "", characters: int = SHOWN) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {INK} {extra}>{_shown(shorten(text, characters))}</text>'


def _width(text: str, characters: int = SHOWN) -> float:
    return len(shorten(text, characters)) * CHARACTER


def _rectangle(x: float, y: float, width: float, height: float, radius: float, extra: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:.1f}" {extra}/>'


def _card(text: Sequence[str], colour: str, answers: bool) -> _Box:
    """A node: its name, below it what it runs, and a note; a strong border if it streams the answer."""
    width, height = max(map(_width, text)) + 2 * PAD + 4, 44.0 + 16 * (len(text) - 2)

    def draw(x: float, y: float) -> str:
        border = f'fill="{colour}" fill-opacity="0.12" stroke="{colour}" stroke-width="{2.2 if answers else 1.1}"'
        stripe = f'fill="{colour}"'
        return (
            f"<g><title>{_shown(' · '.join(text))}</title>"
            + _rectangle(x, y, width, height, 7, border)
            + _rectangle(x + 5, y + 8, 3, height - 16, 1.5, stripe)
            + _text(x + PAD + 4, y + 19, text[0], 'font-weight="600"')
            + _text(x + PAD + 4, y + 35, text[1], 'font-size="11" opacity="0.75"', SHOWN + 4)
            + "".join(_text(x + PAD + 4, y + 51, note, 'font-size="11"', SHOWN + 4) for note in text[2:])
            + "</g>"
        )

    return _Box(width, height, draw)


def _pill(text: str, strong: bool = False, wide: float = 0.0) -> _Box:
    width, height = max(_width(text) + 2 * PAD, wide), 26.0

    def draw(x: float, y: float) -> str:
        look = f'{INK} fill-opacity="{0.16 if strong else 0.07}" stroke="currentColor" stroke-opacity="0.35"'
        middle = 'text-anchor="middle"' + (' font-weight="600"' if strong else "")
        return _rectangle(x, y, width, height, 13, look) + _text(x + width / 2, y + 17, text, middle)

    return _Box(width, height, draw)


def _labelled(label: str, label_width: float, body: _Box) -> _Box:
    """A branch: its label, an arrow, and what it runs."""
    pill = _pill(label, wide=label_width)
    shift = pill.width + GAP_X
    height = max(pill.height, body.height)

    def draw(x: float, y: float) -> str:
        middle = y + height / 2
        arrow = _arrow([(x + pill.width, middle), (x + shift, middle)], dashed=True)
        return pill.draw(x, middle - pill.height / 2) + arrow + body.draw(x + shift, y + (height - body.height) / 2)

    return _Box(shift + body.width, height, draw)


def _cluster(title: str, colour: str, lanes: Sequence[_Box]) -> _Box:
    """A switch, map or loop: a frame with a title and its blocks one below the other."""
    longest = 60
    width = max(_width(title, longest) * 0.97, *(lane.width for lane in lanes)) + 2 * PAD
    height = 28 + sum(lane.height + PAD for lane in lanes) + (len(lanes) - 1) * PAD

    def draw(x: float, y: float) -> str:
        border = f'fill="{colour}" fill-opacity="0.06" stroke="{colour}" stroke-opacity="0.8"'
        out = ["<g>", _rectangle(x, y, width, height, 9, border)]
        out.append(_text(x + PAD, y + 18, title, 'font-size="11.5" font-weight="600" opacity="0.85"', longest))
        below = y + 28
        for i, lane in enumerate(lanes):
            if i:
                out.append(
                    f'<line x1="{x + PAD:.1f}" x2="{x + width - PAD:.1f}" y1="{below:.1f}" y2="{below:.1f}" '
                    f'stroke="{colour}" stroke-opacity="0.35" stroke-dasharray="3 4"/>'
                )
                below += PAD
            out.append(lane.draw(x + PAD, below))
            below += lane.height + PAD
        return "".join([*out, "</g>"])

    return _Box(width, height, draw)


def _arrow(points: Sequence[tuple[float, float]], dashed: bool = False) -> str:
    """A smooth line through points, alternately curved between columns and straight through them, with a head."""
    path = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    last = len(points) - 2
    for i, ((x, y), (to_x, to_y)) in enumerate(pairwise(points)):
        reach = to_x - 5 if i == last else to_x
        bend = (reach - x) / 2
        path.append(f"C{x + bend:.1f} {y:.1f} {reach - bend:.1f} {to_y:.1f} {reach:.1f} {to_y:.1f}")
    x, y = points[-1]
    dash = ' stroke-dasharray="3 3"' if dashed else ""
    return (
        f'<path d="{"".join(path)}" fill="none" stroke="currentColor" stroke-opacity="0.5" stroke-width="1.2"{dash}/>'
        f'<path d="M{x:.1f} {y:.1f}l-7 -3.5v7z" {INK} fill-opacity="0.6"/>'
    )


def _layers(items: Mapping[str, _Box], links: Sequence[tuple[str, str]]) -> _Box:
    """Place items in columns so that every link leads to the right, past what lies between through lanes of its own."""
    column = _columns(items, links)
    boxes: dict[object, _Box] = {name: box for name, box in items.items()}  # noqa: C416 - names are objects too
    grid: list[list[object]] = [[] for _ in range(max(column.values(), default=0) + 1)]
    for name in items:
        grid[column[name]].append(name)
    routes: list[list[object]] = []
    near: dict[object, list[object]] = {}
    for source, target in links:
        route: list[object] = [source]
        for between in range(column[source] + 1, column[target]):
            lane = (source, target, between)
            boxes[lane] = _Box(0, 2, lambda x, y: "")
            grid[between].append(lane)
            route.append(lane)
        routes.append([*route, target])
        for before, after in pairwise(routes[-1]):
            near.setdefault(after, []).append(before)
    for left, right in pairwise(grid):  # one barycentre sweep: what comes from above stays above
        above = {item: i for i, item in enumerate(left)}
        rank = {item: (_mean([above[n] for n in near.get(item, ()) if n in above], i)) for i, item in enumerate(right)}
        right.sort(key=rank.__getitem__)
    widths = [max((boxes[item].width for item in items), default=0) for items in grid]
    heights = [sum(boxes[item].height for item in items) + GAP_Y * (len(items) - 1) for items in grid]
    total = max(heights, default=0)
    corner: dict[object, tuple[float, float]] = {}
    x = 0.0
    for items_, width, height in zip(grid, widths, heights, strict=True):
        y = (total - height) / 2
        for item in items_:
            corner[item] = (x + (width - boxes[item].width) / 2, y)
            y += boxes[item].height + GAP_Y
        x += width + GAP_X
    left_of = {item: sum(widths[:i]) + GAP_X * i for i, row in enumerate(grid) for item in row}
    width_of = {item: widths[i] for i, row in enumerate(grid) for item in row}

    def draw(x: float, y: float) -> str:
        def port(item: object, right: bool) -> tuple[float, float]:
            box, (left, top) = boxes[item], corner[item]
            if not isinstance(item, str):  # a lane runs straight through its whole column
                return x + left_of[item] + (width_of[item] if right else 0), y + top + box.height / 2
            return x + left + (box.width if right else 0), y + top + box.height / 2

        out = []
        for route in routes:
            points = [port(route[0], True)]
            for lane in route[1:-1]:
                points += [port(lane, False), port(lane, True)]
            out.append(_arrow([*points, port(route[-1], False)]))
        out += [boxes[item].draw(x + left, y + top) for item, (left, top) in corner.items() if isinstance(item, str)]
        return "".join(out)

    return _Box(max(x - GAP_X, 0), total, draw)


def _columns(items: Mapping[str, _Box], links: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The column of each item: one after the last of what it waits for."""
    waits: dict[str, list[str]] = {name: [] for name in items}
    followers: dict[str, list[str]] = {name: [] for name in items}
    for source, target in links:
        waits[target].append(source)
        followers[source].append(target)
    open_ = {name: len(sources) for name, sources in waits.items()}
    ready = [name for name, count in open_.items() if count == 0]
    column: dict[str, int] = {}
    for name in ready:
        column[name] = 1 + max((column[source] for source in waits[name]), default=-1)
        for follower in followers[name]:
            open_[follower] -= 1
            if open_[follower] == 0:
                ready.append(follower)
    return column


def _mean(values: Sequence[int], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
