from __future__ import annotations

from dask_fmware.spec.graph import answer_nodes, critical_path, graph, order, output_nodes
from dask_fmware.spec.tracing import Model, loop, map_, switch, task, trace
from dask_fmware.spec.workflow import Workflow

small = Model("small")


@task
def split(text): ...


def test_rag_is_a_chain(rag):
    assert order(rag) == ("small", "retrieve", "large")
    assert critical_path(rag) == rag.critical_path() == ("small", "retrieve", "large")
    assert answer_nodes(rag) == {"large"}
    assert rag.graph().edges["retrieve", "large"] == {"kind": "data", "label": "field 'passages'"}
    assert rag.graph().nodes["small"] == {"kind": "model", "model": "small", "parent": None, "label": None}


def test_order_does_not_depend_on_how_the_nodes_are_listed(rag):
    data = rag.model_dump()
    data["block"]["nodes"].reverse()
    assert order(Workflow.model_validate(data)) == ("small", "retrieve", "large")


def test_branches_are_edges_with_labels(shopping):
    made = graph(shopping)
    assert made.nodes["judge"]["parent"] == "map"
    assert made.nodes["number"]["label"] == "order"
    assert made.edges["route", "number"] == {"kind": "branch", "label": "order"}
    assert made.edges["judge", "recommend"] == {"kind": "value", "label": "map"}
    assert answer_nodes(shopping) == {"status", "recommend", "reply"}


def test_critical_path_takes_the_weight_that_is_given(shopping):
    assert critical_path(shopping) == ("intent", "route", "status") or critical_path(shopping)[-1] == "status"
    cheap = critical_path(shopping, weight=lambda node: 1)
    assert cheap == ("intent", "route", "query", "retrieve", "map", "judge", "recommend")


def test_iterations_count_and_items_do_not():
    def f(text):
        long = small("{t}", t=text, max_tokens=100, name="long")
        looped = loop(lambda s: small("{s}", s=s, max_tokens=30, name="again"), text, max_iterations=4)
        mapped = map_(lambda i: small("{i}", i=i, max_tokens=90, name="each"), split(text))
        return small("{a}{b}{c}", a=long, b=looped, c=mapped, name="last")

    assert critical_path(trace(f)) == ("loop", "again", "last")
    assert critical_path(trace(lambda text: text, name="w")) == ()


def test_maps_and_loops_do_not_answer():
    assert not answer_nodes(trace(lambda text: loop(lambda s: small("{s}", s=s), text, max_iterations=2), name="w"))
    assert not answer_nodes(trace(lambda text: map_(lambda i: small("{i}", i=i), text), name="w"))
    assert not answer_nodes(trace(lambda text: split(text), name="w"))
    assert not answer_nodes(trace(lambda text: text, name="w"))


def test_what_a_branch_passes_on_from_outside_does_not_answer():
    def guarded(text):
        draft = small("{t}", t=text, name="draft")
        verdict = small("Safe? {d}", d=draft, choices=["yes", "no"], name="judge")
        return switch(verdict, yes=lambda: draft, no=lambda: small("{t}", t=text, name="decline"))

    assert answer_nodes(trace(guarded)) == {"decline"}

    def passed_twice(text):
        either = switch(text, a=lambda: small("{t}", t=text, name="one"), b=lambda: small("{t}", t=text, name="two"))

        def within():
            made = small("{t}", t=text, name="three")
            return switch(made, c=lambda: made, default=lambda: small("{t}", t=text, name="four"))

        return switch(text, yes=lambda: either, no=within)

    workflow = trace(passed_twice)
    assert answer_nodes(workflow) == {"four"}
    assert output_nodes(workflow) == {"one", "two", "three", "four"}


def test_value_used_in_two_fields_is_one_edge_with_both_labels():
    made = graph(trace(lambda text: small("{a}{b}", a=(first := split(text)), b=first), name="w"))
    assert made.edges["split", "small"]["label"] == "field 'a', field 'b'"


def test_data_edge_outranks_the_value_of_a_switch(shopping):
    def f(text):
        first = split(text)
        either = switch(text, a=lambda: first, b=lambda: first)
        return small("{e}{f}", e=either, f=first)

    assert graph(trace(f)).edges["split", "small"] == {"kind": "data", "label": "field 'f'"}


def test_loop_inside_a_switch_inside_a_map_is_sorted_and_drawn_as_it_runs():
    def f(text):
        def each(item):
            again = lambda: loop(lambda s: small("{s}", s=s), item, max_iterations=2, until=lambda s: split(s))  # noqa: E731
            return switch(item, a=again, default=lambda: map_(lambda i: split(i), item))

        return map_(each, split(text))

    workflow = trace(f)
    assert order(workflow) == ("split", "map", "switch", "loop", "small", "split_2", "map_2", "split_3")
    assert workflow.to_mermaid().count("subgraph") == workflow.to_mermaid().count("  end") == 5
