"""Workflows and deployments for the eye: mermaid, HTML with a picture, SVG.

Drawings show names, models and bounds, never a prompt: notebooks are shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html import escape

from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.picture import COLOURS, picture
from dask_fmware.spec.sketch import Frame, sketch
from dask_fmware.spec.workflow import Workflow

__all__ = ["deployment_to_html", "to_html", "to_mermaid", "to_svg"]

DRAWN_NODES = 300
CELL = "padding:4px 12px;border-bottom:1px solid rgba(128,128,128,.3);text-align:left;color:inherit;background:none"


def to_mermaid(workflow: Workflow) -> str:
    """Write a workflow that passes `check` as a mermaid flowchart."""
    drawn = sketch(workflow)
    shapes = {"model": ('["', '"]'), "task": ('[["', '"]]'), "switch": ('{"', '"}'), "value": ('(["', '"])')}

    def frame(held: Frame, indent: str) -> Iterator[str]:
        for shape in held.shapes:
            left, right = shapes[shape.look]
            text = "<br/>".join(_mermaid_text(line) for line in shape.lines)
            yield f"{indent}{shape.id}{left}{text}{right}:::{shape.look}"
        for nested in held.frames:
            yield f'{indent}subgraph {nested.id}["{_mermaid_text(nested.title)}"]'
            yield from frame(nested, indent + "  ")
            yield f"{indent}end"

    links = (
        f'  {link.source} -->|"{_mermaid_text(link.label)}"| {link.target}'
        if link.label
        else f"  {link.source} --> {link.target}"
        for link in drawn.links
    )
    styles = (f"  classDef {look} stroke:{colour},fill:{colour}22" for look, colour in COLOURS.items())
    return (
        "\n".join(["flowchart LR", *frame(drawn.frame, "  "), *links, *styles, "  classDef value stroke:#888"]) + "\n"
    )


def to_html(workflow: Workflow) -> str:
    """Draw a workflow that passes `check` as an HTML fragment for notebooks, without scripts or network."""
    nodes = workflow.nodes
    kinds = Counter(node.kind for node in nodes.values())
    counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    facts = [f"{len(nodes):,} {'node' if len(nodes) == 1 else 'nodes'}: {counted}"] if nodes else []
    if workflow.slo is not None:
        bounds = workflow.slo.model_dump(mode="json", exclude_none=True, exclude={"on_miss"})
        facts.append("SLO " + ", ".join(f"{key}={value}" for key, value in bounds.items()))
    body = (
        picture(workflow)
        if len(nodes) <= DRAWN_NODES
        else f"{len(nodes):,} nodes are more than the {DRAWN_NODES} that are drawn; see .graph()"
    )
    return (
        '<div style="font-family:system-ui,sans-serif;font-size:13px;color:inherit">'
        f'<div style="margin:0 0 8px"><b>{escape(workflow.name)}</b> '
        f'<span style="opacity:.7">{escape(" · ".join(facts))}</span></div>'
        f'<div style="overflow-x:auto;max-width:100%">{body}</div></div>'
    )


def to_svg(workflow: Workflow) -> str:
    """Draw a workflow that passes `check` as a file of its own, black on white."""
    return picture(workflow, paper="#fff") + "\n"


def deployment_to_html(deployment: Deployment) -> str:
    """Write a deployment as an HTML table: models down, accelerators across, replicas and slots in the cells."""
    cards = deployment.accelerators
    used = Counter(replica.accelerator for replica in deployment.replicas())

    def head(name: str) -> str:
        card = cards[name]
        price = f", {card.price_per_hour:g} per hour" if card.price_per_hour is not None else ""
        room = card.cards * card.replicas_per_card
        below = f"{card.cards:,} {'card' if card.cards == 1 else 'cards'}{price} · {used[name]} of {room} replicas"
        return _cell("th", name, below)

    rows = []
    for name, model in deployment.models.items():
        cells = [_cell("td", name, f"{model.engine} · {model.context_tokens:,} tokens")]
        for accelerator in cards:
            placement = model.on.get(accelerator)
            if placement is None:
                cells.append(_cell("td", "", ""))
                continue
            slots = placement.slots or model.slots
            word = "replica" if placement.replicas == 1 else "replicas"
            below = f"{slots:,} slots each" + (" · latency given" if placement.latency is not None else "")
            cells.append(_cell("td", f"{placement.replicas:,} {word}", below))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    light = deployment.light_workers
    workers = f"{light.count:,} light {'worker' if light.count == 1 else 'workers'} of {light.threads:,} threads"
    facts = f"router {deployment.router.policy} · {workers}"
    return (
        '<div style="font-family:system-ui,sans-serif;font-size:13px;color:inherit">'
        f'<div style="margin:0 0 8px"><b>deployment</b> <span style="opacity:.7">{escape(facts)}</span></div>'
        '<div style="overflow-x:auto;max-width:100%">'
        '<table style="border-collapse:collapse;color:inherit;font-size:13px">'
        f"<thead><tr>{_cell('th', 'model', '')}{''.join(map(head, cards))}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def _cell(tag: str, text: str, below: str) -> str:
    small = f'<div style="opacity:.7;font-size:11px;font-weight:normal">{escape(below)}</div>' if below else ""
    return f'<{tag} style="{CELL}">{escape(text)}{small}</{tag}>'


def _mermaid_text(text: str) -> str:
    """Escape a text for a quoted mermaid label, where entities are written with # and ;."""
    return "".join(c if c.isalnum() or c in " _-.,:()·/" else f"#{ord(c)};" for c in text)
