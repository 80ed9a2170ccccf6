from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree

from dask_fmware.spec import drawing
from dask_fmware.spec.documents import load_deployment
from dask_fmware.spec.drawing import to_html, to_mermaid, to_svg
from dask_fmware.spec.picture import picture
from dask_fmware.spec.tracing import Model, loop, switch, task, trace

small = Model("small")


@task
def good(text): ...


def boxes(workflow) -> dict[str, tuple[float, float, float, float]]:
    """Corners of the cards in a picture, by what is written in them."""
    found = {}
    for group in ElementTree.fromstring(picture(workflow)).iter("{http://www.w3.org/2000/svg}g"):
        title, rectangle = group.find("{*}title"), group.find("{*}rect")
        if title is not None:
            x, y, width, height = (float(rectangle.get(key)) for key in ("x", "y", "width", "height"))
            found[title.text] = (x, y, x + width, y + height)
    return found


def test_picture_shows_models_bounds_and_branches(shopping):
    text = "".join(ElementTree.fromstring(picture(shopping)).itertext())
    for shown in ("intent", "large · 256 tokens", "lookup()", "order", "search", "chat", "for each of retrieve"):
        assert shown in text


def test_a_call_whose_answer_has_a_form_shows_that_form_and_not_a_bound_on_tokens():
    titled, bare = {"title": "Order", "type": "object"}, {"type": "object", "properties": {}}

    def f(text):
        kind = small("Kind of {t}", t=text, choices=["order", "search", "chat"], name="kind")
        order = small("Order in {t}", t=kind, schema=titled, name="order")
        part = small("Part of {t}", t=order, schema=bare, name="part")
        return small("Thanks for {t}", t=part, choices=["ok"], name="thanks")

    workflow = trace(f)
    forms = ["small · one of 3 labels", "small · Order", "small · JSON", "small · one label"]
    for drawn in (picture(workflow), to_mermaid(workflow)):
        assert all(form in drawn for form in forms)
        assert "tokens" not in drawn


def test_cards_of_a_picture_do_not_overlap(shopping):
    cards = list(boxes(shopping).values())
    assert len(cards) == 9
    for i, (left, top, right, bottom) in enumerate(cards):
        for x, y, to_x, to_y in cards[i + 1 :]:
            assert right < x or to_x < left or bottom < y or to_y < top


def test_picture_flows_to_the_right(rag):
    found = {title.split(" ")[0]: box for title, box in boxes(rag).items()}
    assert found["small"][2] < found["retrieve"][0] < found["retrieve"][2] < found["large"][0]


def test_no_drawing_shows_a_prompt(rag, shopping):
    for workflow in (rag, shopping):
        for text in (to_html(workflow), to_mermaid(workflow), to_svg(workflow)):
            for word in ("Rewrite", "Answer", "Intent", "Recommend"):
                assert word not in text


def test_html_is_one_well_formed_fragment_without_scripts_or_network(shopping):
    html = shopping._repr_html_()
    ElementTree.fromstring(html)
    assert "<script" not in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "SLO ttft_s=2.5" in html


def test_labels_are_escaped():
    def f(text):
        model = Model('<img src=x onerror="a">')
        return switch(text, {'"]<b>&': lambda: model("{t}", t=text), "\\": lambda: text, "": lambda: text})

    workflow = trace(f)
    html = to_html(workflow)
    ElementTree.fromstring(html)
    tags = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.add(tag)
    parser.feed(html)
    assert not tags & {"img", "script"}
    assert "<img" not in to_mermaid(workflow)
    assert '"]<b>' not in to_mermaid(workflow)


def test_mermaid_draws_branches_as_labelled_edges_into_frames(shopping):
    lines = to_mermaid(shopping).splitlines()
    assert lines[0] == "flowchart LR"
    assert sum("subgraph" in line for line in lines) == 4
    for label in ("order", "search", "chat"):
        assert any(f'-->|"{label}"|' in line for line in lines)
    assert any("recommend<br/>large · 200 tokens" in line for line in lines)


def test_loops_and_passed_values_are_drawn():
    def f(text):
        better = loop(lambda s: small("{s}", s=s), text, max_iterations=3, until=lambda s: good(s))
        inner = lambda: switch(better, a=lambda: better)  # noqa: E731
        return small("{a}{b}", a=switch(better, a=inner, default=lambda: text), b=better)

    workflow = trace(f)
    assert "repeat until good, at most 3 times" in to_mermaid(workflow)
    assert "repeat until good, at most 3 times" in to_html(workflow)


def test_large_workflows_are_counted_not_drawn(monkeypatch, rag):
    monkeypatch.setattr(drawing, "DRAWN_NODES", 2)
    assert "3 nodes are more than the 2 that are drawn" in to_html(rag)
    assert "<svg" not in to_html(rag)


def test_workflow_without_nodes_is_drawn():
    workflow = trace(lambda text: text, name="echo")
    assert "echo" in workflow.to_html()
    assert "answer" in workflow.to_mermaid()


def test_svg_is_a_file_of_its_own_with_a_background(shopping):
    file = ElementTree.fromstring(shopping.to_svg())
    assert (file.tag, file[0].get("fill")) == ("{http://www.w3.org/2000/svg}svg", "#fff")
    assert "recommend" in "".join(file.itertext())
    assert "#fff" not in to_html(shopping)  # a notebook may be dark


def test_svg_of_labels_that_cannot_be_printed_is_well_formed():
    workflow = trace(lambda text: switch(text, {"a\0b\x1b": lambda: small("{t}", t=text)}), name="odd")
    assert "ab" in "".join(ElementTree.fromstring(workflow.to_svg()).itertext())


def test_deployment_is_a_table():
    html = load_deployment(
        {
            "accelerators": {"H100": {"cards": 2, "price_per_hour": 3.5}, "L4": {"cards": 1}},
            "models": {
                "small": {"on": {"L4": {"latency": {"first_token_s": 0.1, "output_token_s": 0.01}}}},
                "large": {"on": {"H100": {"replicas": 2, "slots": 64}}},
            },
            "light_workers": {"count": 2},
        }
    )._repr_html_()
    ElementTree.fromstring(html)
    for shown in (
        "2 cards, 3.5 per hour · 2 of 2 replicas",
        "1 replica",
        "64 slots each",
        "latency given",
        "2 light workers",
    ):
        assert shown in html
