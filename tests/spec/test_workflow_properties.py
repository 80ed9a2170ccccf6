"""Random workflows, sound and broken on purpose."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import networkx as nx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.documents import load_workflow
from dask_fmware.spec.drawing import to_html, to_mermaid, to_svg
from dask_fmware.spec.graph import answer_nodes, check, critical_path, graph, order
from dask_fmware.spec.scopes import needs, places
from dask_fmware.spec.workflow import ModelNode, Workflow

relaxed = settings(max_examples=25, database=None, suppress_health_check=list(HealthCheck))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
texts = st.text(max_size=30).map(lambda text: text.replace("{", "{{").replace("}", "}}"))


@st.composite
def workflow_data(draw) -> dict:
    """A sound document: every node is used, references are in scope, nodes are in any order."""
    count = 0

    def fresh(base: str) -> str:
        nonlocal count
        count += 1
        return f"{base}_{count}"

    def computing(name: str, sources: list[str]) -> dict:
        bindings = [{"from": source} for source in sources]
        if draw(st.booleans()):
            nested = {"list": [{"value": draw(json_values)}, {"dict": {"k": b}}]} if (b := bindings[0]) else {}
            return {"kind": "task", "name": name, "function": "m:f", "args": [*bindings[1:], nested]}
        fields = {f"x{i}": binding for i, binding in enumerate(bindings)}
        template = draw(texts) + "".join(f" {{{field}}}" for field in fields)
        source = {"prompt": template} if draw(st.booleans()) else {"messages": [{"role": "user", "content": template}]}
        options = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "max_tokens": st.integers(1, 4000),
                    "temperature": st.floats(0, 2),
                    "stop": st.lists(st.text(min_size=1, max_size=5), max_size=2),
                    "json_schema": st.dictionaries(st.text(max_size=5).map("x-".__add__), json_values, max_size=2),
                },
            )
        )
        return {"kind": "model", "name": name, "model": "m", "fields": fields, **source, **options}

    def block(visible: list[str], depth: int, must: list[str]) -> dict:
        nodes: list[dict] = []
        local: list[str] = []
        unused = list(must)
        kinds = ["call", "call", *(["switch", "map", "loop"] if depth else [])]
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.sampled_from(kinds))
            name = fresh(kind)
            source = draw(st.sampled_from([*visible, *local, *must]))
            inside = [*visible, *local, *must]
            if kind == "call":
                nodes.append(computing(name, [source]))
            elif kind == "switch":
                labels = draw(
                    st.lists(st.text(max_size=6) | st.sampled_from(["on", "no"]), min_size=1, max_size=3, unique=True)
                )
                branches = [{"label": label, "block": block(inside, depth - 1, [])} for label in labels]
                default = {"default": block(inside, depth - 1, [])} if draw(st.booleans()) else {}
                nodes.append({"kind": kind, "name": name, "on": {"from": source}, "branches": branches, **default})
            elif kind == "map":
                item = fresh("item")
                held = block(inside, depth - 1, [item])
                nodes.append({"kind": kind, "name": name, "over": {"from": source}, "item": item, "block": held})
            else:
                state = fresh("state")
                held = block(inside, depth - 1, [state])
                (ends,) = (node for node in held["nodes"] if node["name"] == held["output"]["from"])
                if ends["kind"] == "model" and "json_schema" in ends:
                    ends["json_schema"]["type"] = draw(st.sampled_from(["boolean", "integer", ["number", "null"]]))
                is_text = ends["kind"] == "model" and "json_schema" not in ends
                until = {"until": held["output"]} if draw(st.booleans()) and not is_text else {}
                nodes.append(
                    {"kind": kind, "name": name, "state": state, "initial": {"from": source}, "block": held,
                     "max_iterations": draw(st.integers(1, 9)), **until}
                )  # fmt: skip
            unused = [one for one in unused if one != source]
            local.append(name)
            unused.append(name)
        if not unused:
            unused = [draw(st.sampled_from(visible))]
        last = fresh("last")
        nodes.append(computing(last, unused))
        return {"nodes": draw(st.permutations(nodes)), "output": {"from": last}}

    inputs = [{"name": "q"}, {"name": "r", "required": False, "default": draw(json_values)}]
    slo = draw(st.none() | st.just({"ttft_s": 1.5, "finish_by": "2030-01-01T00:00:00+01:00"}))
    return {
        "name": "random", "description": draw(st.text(max_size=40)), "inputs": inputs,
        "block": block(["q", "r"], draw(st.integers(0, 2)), []), "slo": slo,
    }  # fmt: skip


def blocks(block: dict):
    yield block
    for node in block["nodes"]:
        held = [branch["block"] for branch in node.get("branches", ())]
        held += [node[key] for key in ("block", "default") if key in node]
        for inner in held:
            yield from blocks(inner)


@relaxed
@given(workflow_data())
def test_documents_survive_json_and_yaml_exactly(data):
    workflow = Workflow.model_validate(data)
    check(workflow)
    for text, read in ((workflow.to_json(), Workflow.from_json), (workflow.to_yaml(), Workflow.from_yaml)):
        again = read(text)
        assert again == workflow
        assert again.model_dump_json(by_alias=True) == workflow.model_dump_json(by_alias=True)
        assert load_workflow(text) == workflow


@relaxed
@given(workflow_data())
def test_order_is_topological_and_deterministic(data):
    workflow = Workflow.model_validate(data)
    sorted_ = order(workflow)
    assert sorted(sorted_) == sorted(workflow.nodes)
    assert sorted_ == order(Workflow.from_yaml(workflow.to_yaml()))
    position = {name: i for i, name in enumerate(sorted_)}
    for name, wanted in needs(workflow.block).items():
        assert all(position[source] < position[name] for source in wanted if source in position)
    assert all(position[source] < position[target] for source, target in graph(workflow).edges)


@relaxed
@given(workflow_data())
def test_critical_path_is_a_heaviest_path_of_the_graph(data):
    workflow = Workflow.model_validate(data)
    made, found = graph(workflow), places(workflow)
    path = critical_path(workflow)
    assert nx.is_path(made, list(path))

    def weight(name: str) -> int:
        node = found[name].node
        repeats = 1
        for loop in found[name].loops:
            repeats *= found[loop].node.max_iterations
        return node.max_tokens * repeats if isinstance(node, ModelNode) else 0

    for _, target, edge in made.edges(data=True):
        edge["weight"] = weight(target)
    made.add_edges_from(("", name, {"weight": weight(name)}) for name in list(made))
    assert sum(map(weight, path)) == nx.dag_longest_path_length(made)


@relaxed
@given(workflow_data())
def test_answer_nodes_are_model_nodes_outside_maps_and_loops_on_the_way_to_the_output(data):
    workflow = Workflow.model_validate(data)
    found = places(workflow)
    for name in answer_nodes(workflow):
        assert isinstance(found[name].node, ModelNode)
        parent = found[name].parent
        while parent is not None:
            assert found[parent].node.kind == "switch"
            parent = found[parent].parent


@relaxed
@given(workflow_data())
def test_every_sound_workflow_can_be_drawn(data):
    workflow = Workflow.model_validate(data)
    assert "<svg" in to_html(workflow)
    assert to_mermaid(workflow).startswith("flowchart LR")
    ElementTree.fromstring(to_svg(workflow))


@relaxed
@given(workflow_data(), st.data())
def test_dropped_node_is_missed_by_name(data, draw):
    block = draw.draw(st.sampled_from(list(blocks(data["block"]))))
    dropped = draw.draw(st.sampled_from(block["nodes"]))
    block["nodes"] = [node for node in block["nodes"] if node is not dropped]
    with pytest.raises(WorkflowError, match=rf"'{dropped['name']}'"):
        check(Workflow.model_validate(data))


@relaxed
@given(workflow_data(), st.data())
def test_renamed_reference_is_refused_with_what_was_meant(data, draw):
    block = draw.draw(st.sampled_from(list(blocks(data["block"]))))
    target = block["output"]["from"]
    block["output"] = {"from": target + "x"}
    with pytest.raises(WorkflowError, match=rf"'{target}x', which does not exist; did you mean"):
        check(Workflow.model_validate(data))


@relaxed
@given(workflow_data(), st.data())
def test_back_edge_is_a_cycle_with_names(data, draw):
    block = draw.draw(st.sampled_from(list(blocks(data["block"]))))
    node = draw.draw(st.sampled_from(block["nodes"]))
    assume(node["kind"] == "task")  # a task takes any number of arguments
    node["args"] = [*node["args"], {"from": block["output"]["from"]}]
    with pytest.raises(WorkflowError, match=rf"cycle: .*'{node['name']}'"):
        check(Workflow.model_validate(data))


@relaxed
@given(workflow_data(), st.data())
def test_repeated_name_is_refused(data, draw):
    block = draw.draw(st.sampled_from(list(blocks(data["block"]))))
    node = draw.draw(st.sampled_from(block["nodes"]))
    block["nodes"] = [*block["nodes"], json.loads(json.dumps(node))]
    with pytest.raises(WorkflowError, match=r"is given \d+ times"):
        check(Workflow.model_validate(data))
