from __future__ import annotations

import sys
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from dask_fmware.errors import DeploymentError, SpecError, WorkflowError
from dask_fmware.spec import source
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.documents import load_deployment, load_workflow, to_json, to_yaml
from dask_fmware.spec.source import SourceError, locate, read, write_json, write_yaml
from dask_fmware.spec.tracing import Model, task, trace
from dask_fmware.spec.workflow import Workflow

DEPLOYMENT = """\
accelerators:
  fast: {cards: 1, cores: [[0, 1]]}
  slow: {cards: 2}
models:
  small:
    on:
      fast: {}
      slow: {replicas: 2}
"""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_written_workflow_is_short(rag):
    assert rag.to_yaml() == (
        "name: rag\n"
        "description: Answer from what retrieval finds.\n"
        "inputs:\n- name: question\n"
        "block:\n"
        "  nodes:\n"
        "  - kind: model\n    name: small\n    model: small\n    prompt: 'Rewrite as a search query: {question}'\n"
        "    fields:\n      question:\n        from: question\n    max_tokens: 24\n"
        f"  - kind: task\n    name: retrieve\n    function: {rag.nodes['retrieve'].function}\n"
        "    args:\n    - from: small\n"
        "  - kind: model\n    name: large\n    model: large\n"
        "    prompt: |-\n      Answer {question} from:\n      {passages}\n"
        "    fields:\n      question:\n        from: question\n      passages:\n        from: retrieve\n"
        "  output:\n    from: large\n"
        "slo:\n  ttft_s: 2.0\n"
    )


def test_workflows_survive_files(tmp_path, rag, shopping, tasks):
    for workflow in (rag, shopping):
        for name, text in (("w.yaml", workflow.to_yaml()), ("w.json", workflow.to_json())):
            path = tmp_path / name
            path.write_text(text, encoding="utf-8")
            again = load_workflow(path, tasks=tasks)
            assert again == workflow == load_workflow(str(path)) == load_workflow(text)
            assert again.functions == workflow.functions


def test_attached_code_does_not_make_workflows_differ(rag):
    assert Workflow.from_yaml(rag.to_yaml()) == rag
    assert not Workflow.from_yaml(rag.to_yaml()).functions


def test_deployments_survive_json_and_yaml():
    deployment = load_deployment(DEPLOYMENT)
    assert Deployment.from_yaml(deployment.to_yaml()) == deployment == Deployment.from_json(deployment.to_json())
    assert load_deployment(to_json(deployment)) == load_deployment(to_yaml(deployment)) == deployment
    assert load_deployment({"accelerators": {"a": {"cards": 1}}, "models": {"m": {"on": {"a": {}}}}}).version == 1


@settings(max_examples=60, database=None, suppress_health_check=list(HealthCheck))
@given(json_values)
def test_plain_data_survives_text_exactly(value):
    for again in (read(write_json(value), "json"), read(write_yaml(value), "yaml")):
        assert again == value
        assert repr(again) == repr(value)


def test_yaml_words_of_1_1_are_text():
    text = "[on, no, yes, 2030-01-01, 0o17, 0x1f, 1_000, 012, 1e3, .5, -.inf, ~, true, False, '1', <<]"
    assert read(text, "yaml") == [
        "on", "no", "yes", "2030-01-01", 15, 31, "1_000", 12, 1000.0, 0.5, float("-inf"), None, True, False, "1", "<<",
    ]  # fmt: skip


WRONG_TEXTS = {
    "syntax": ("accelerators: [1\nmodels: 2\n", "line 2, column 7: .*read as YAML"),
    "tab": ("a:\n\tb: 1\n", "line 2, column 1: .*cannot start any token"),
    "key twice": ("models: {}\na: {}\nmodels: {}\n", "line 3, column 1: the key 'models' is given twice"),
    "key twice in JSON": ('{"a": 1,\n "a": 2}', "line 2, column 2: the key 'a' is given twice.*read as JSON"),
    "JSON syntax": ('{"a": 1\n', "line 2, column 1: .*read as JSON"),
    "JSON NaN": ('{"a": NaN}', "NaN is not a JSON value"),
    "alias": ("a: &x 1\nb: *x\n", "line 1, column 4: anchors and aliases are not read; write the value out"),
    "merge": ("a:\n  <<: {b: 1}\n", "unknown key 'a'"),
    "tag": ("a: !!python/object/apply:os.system [ls]\n", "line 1, column 4: the tag .* is not read"),
    "key is a list": ("? [1]\n: 2\n", "line 1, column 3: a key is a list or a dictionary"),
    "empty": ("\n", "line 1, column 1: the document is empty"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2, column 1: .*another document"),
    "control characters": ("a: \x00\n", "not text that YAML allows"),
    "deep": ("[" * 5000 + "\n", "nested deeper than 300"),
    "deep JSON": ('{"a":' * 100_000 + "\n", "nested deeper|read as JSON"),
    "long number": ("a: " + "1" * 5000 + "\n", "line 1, column 4: the number is too long"),
    "long number in JSON": ('{"a": ' + "1" * 5000 + "}", "a number is too long"),
    "list": ("- 1\n- 2\n", "line 1, column 1: input should be a valid dictionary.*not \\[1, 2\\]"),
    "text": ("just\ntext\n", "line 1, column 1: input should be a valid dictionary"),
    "unknown key": (
        DEPLOYMENT.replace("{replicas: 2}", "{replica: 2}"),
        "line 8, column 14: .*key 'replica'; did you mean 'replicas'",
    ),
    "on, written by PyYAML": (DEPLOYMENT.replace("on:", "true:"), "unknown key 'true'; did you mean 'on'\\? YAML 1.1"),
    "value": (DEPLOYMENT.replace("cards: 2", "cards: 0"), "line 3, column 10: accelerators.slow.cards: .*, not 0"),
    "missing key": (
        DEPLOYMENT.replace("cards: 2", ""),
        "line 3, column 3: accelerators.slow.cards: is missing; add it",
    ),
    "more replicas than room": (
        DEPLOYMENT.replace("{replicas: 2}", "{replicas: 3}"),
        "line 3, column 3: accelerators.slow: 3 replicas asked for, room for 2",
    ),
    "unknown accelerator": (
        DEPLOYMENT.replace("      slow", "      slo"),
        "line 8, column 7: models.small.on.slo: no such .*; did you mean 'slow'",
    ),
    "names that clash": (
        "accelerators: {c: {cards: 1}, b-c: {cards: 1}}\nmodels:\n  a-b: {on: {c: {}}}\n  a: {on: {b-c: {}}}\n",
        "line 4, column 12: models.a.on.b-c: its replicas would have the names of those of models.a-b.on.c",
    ),
    "label": (DEPLOYMENT.replace("small", "'a b'"), "models.a b.*string should match pattern"),
    "core sets": (DEPLOYMENT.replace("[[0, 1]]", "[[0], [1]]"), "line 2, column 3: .*2 core sets for 1 cards"),
}


@pytest.mark.parametrize(("text", "message"), WRONG_TEXTS.values(), ids=WRONG_TEXTS)
def test_wrong_deployment_is_refused_with_its_line(text, message):
    with pytest.raises(DeploymentError, match=message):
        load_deployment(text)


def test_without_the_c_parser_positions_are_the_same(monkeypatch):
    import yaml

    slow = type("Slow", (yaml.SafeLoader,), {"yaml_implicit_resolvers": source._Loader.yaml_implicit_resolvers})
    monkeypatch.setattr(source, "_Loader", slow)
    assert load_deployment(DEPLOYMENT).models["small"].on["slow"].replicas == 2
    with pytest.raises(DeploymentError, match="line 3, column 10"):
        load_deployment(DEPLOYMENT.replace("cards: 2", "cards: 0"))


def test_many_errors_are_counted():
    models = "".join(f"  m{i}: {{slots: 0, on: {{a: {{}}}}}}\n" for i in range(8))
    with pytest.raises(DeploymentError) as caught:
        load_deployment("accelerators: {a: {cards: 9}}\nmodels:\n" + models)
    assert str(caught.value).count("\n") == 5
    assert str(caught.value).endswith("and 3 more")


def test_lines_of_nodes_are_found(rag):
    text = rag.to_yaml().replace("max_tokens: 24", "max_tokens: -24")
    with pytest.raises(
        WorkflowError, match=r"workflow, line 14, column 5: block\.nodes\.0\.model\.max_tokens: .*not -24"
    ):
        load_workflow(text)
    text = rag.to_yaml().replace("    model: large", "    model: ''")
    with pytest.raises(WorkflowError, match=r"line 22, column 5: .*model\.model"):
        load_workflow(text)
    text = rag.to_yaml().replace("question:\n        from: question", "question:\n        form: question", 1)
    with pytest.raises(WorkflowError, match=r"line 12, column 7: .*question: a binding is one of"):
        load_workflow(text)
    text = rag.to_json().replace('"kind": "task"', '"kind": "tusk"')
    with pytest.raises(
        WorkflowError, match=r"line 24, column 9: block\.nodes\.1\.kind: 'tusk' is none of 'model', 'task'"
    ):
        load_workflow(text)
    with pytest.raises(WorkflowError, match=r"line 23, column 7: block\.nodes\.1\.kind: is missing; give one of"):
        load_workflow(rag.to_json().replace('"kind": "task",', ""))


def test_loading_checks_the_graph(tmp_path, rag):
    path = tmp_path / "rag.yaml"
    path.write_text(rag.to_yaml().replace("from: small", "from: smal"))
    with pytest.raises(WorkflowError, match=r"rag\.yaml: workflow 'rag', node 'retrieve': .*did you mean 'small'"):
        load_workflow(path)


def test_errors_do_not_show_what_users_wrote(rag):
    secret = "confidential " * 20
    data = rag.model_dump(mode="json", by_alias=True)
    data["block"]["nodes"][0]["prompt"] = [secret]
    data["block"]["nodes"][0]["model"] = secret
    with pytest.raises(WorkflowError) as caught:
        load_workflow(write_json(data))
    assert all(len(line) < 250 for line in str(caught.value).splitlines())
    assert "prompt: input should be a valid string, not list" in str(caught.value)


def test_unreadable_files_are_refused(tmp_path, monkeypatch):
    (tmp_path / "junk.yaml").write_bytes(b"\x89PNG\r\n\xff\xfe")
    monkeypatch.setattr("dask_fmware.spec.documents.MAX_BYTES", 1000)
    (tmp_path / "large.yaml").write_text("a" * 1001)
    for path, message in (
        (tmp_path / "missing.yaml", "missing.yaml: no such file; give the path of a deployment document"),
        (tmp_path, "is a directory"),
        (tmp_path / "junk.yaml", "junk.yaml: byte 0 is not UTF-8 text"),
        (tmp_path / "large.yaml", "more than 1,000 bytes"),
        ("a\0b", "cannot be read"),
        ("x" * 5000, "cannot be read .*name too long"),
        ("accelerators: {}", "no such file"),
        (3, "not from int"),
    ):
        with pytest.raises(DeploymentError, match=message):
            load_deployment(path)
    with pytest.raises(WorkflowError, match="give the path of a workflow document"):
        load_workflow("missing.yaml")


def test_size_of_texts_is_bounded(monkeypatch):
    monkeypatch.setattr(source, "MAX_BYTES", 10)
    with pytest.raises(WorkflowError, match="has 14 characters, more than 10"):
        Workflow.from_yaml("name: a\nb: 123")


@settings(max_examples=60, database=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    for load in (load_deployment, load_workflow):
        with pytest.raises(SpecError):
            load(text + "\n")
    for form in ("json", "yaml"):
        try:
            read(text, form)
        except SourceError as error:
            assert str(error)  # noqa: PT017


def test_place_in_a_text_that_cannot_be_followed_is_unknown():
    assert locate("a: [", ("a",)) is None
    assert locate("a: [1]", ("a", 5)) == (1, 1)
    assert locate("a:\n- b: 1\n", ("a", 0, "b")) == (2, 3)


def test_byte_order_mark_is_no_part_of_the_document(tmp_path):
    (tmp_path / "d.yaml").write_bytes(b"\xef\xbb\xbf" + DEPLOYMENT.encode())
    assert load_deployment(tmp_path / "d.yaml") == load_deployment(DEPLOYMENT)


@pytest.fixture
def shouting():
    @task
    def shout(text): ...

    return trace(lambda text: shout(text), name="w"), shout


def test_functions_are_found_by_either_name(shouting):
    workflow, shout = shouting
    text = workflow.to_yaml()
    module = types.ModuleType("mine")
    module.shout, module.number = shout, 3
    full = workflow.nodes["shout"].function
    other = lambda text: 0  # noqa: E731
    for tasks in ([shout], [shout.function], (shout,), {"shout": shout}, module, {full: shout, "shout": other}):
        assert Workflow.from_yaml(text, tasks=tasks).functions == {"shout": shout.function}
    assert Workflow.from_json(workflow.to_json(), tasks={"shout": other}).functions == {"shout": other}


def test_missing_functions_are_named(shouting):
    workflow, _ = shouting

    def shoot(text): ...

    with pytest.raises(
        WorkflowError, match=r"node 'shout': its function '.*shout' was not supplied; did you mean 'shoot'"
    ):
        load_workflow(workflow.to_yaml(), tasks=[shoot])
    with pytest.raises(WorkflowError, match=r"\(supplied: none\)"):
        load_workflow(workflow.to_yaml(), tasks=[])
    with pytest.raises(WorkflowError, match="tasks holds a int; give functions"):
        load_workflow(workflow.to_yaml(), tasks=[3])


@pytest.mark.parametrize("wrong", [3, "shout"])
def test_one_function_or_class_may_be_given_by_itself_and_other_things_are_refused(shouting, wrong):
    workflow, shout = shouting
    text = workflow.to_yaml()
    for made in (Workflow.from_yaml(text, tasks=shout), Workflow.from_json(workflow.to_json(), tasks=shout)):
        assert made.functions["shout"] is load_workflow(text, tasks=[shout]).functions["shout"]
    with pytest.raises(WorkflowError, match=r"tasks is a (int|str); give functions, a mapping of names, or a module"):
        Workflow.from_yaml(text, tasks=wrong)
    with pytest.raises(WorkflowError, match=r"schemas holds a (int|str); give pydantic classes"):
        load_workflow(text, schemas=wrong)
    with pytest.raises(WorkflowError, match="a workflow is read from a text, not from NoneType"):
        Workflow.from_yaml(None)


def test_two_functions_of_one_name_are_refused_unless_one_is_named_in_full(shouting):
    workflow, shout = shouting

    def one():
        def shout(text): ...

        return shout

    text = workflow.to_yaml().replace(workflow.nodes["shout"].function, "gone:shout")
    with pytest.raises(WorkflowError, match="2 functions named 'shout' were supplied"):
        load_workflow(text, tasks=[shout, one()])
    assert load_workflow(workflow.to_yaml(), tasks=[shout, one()]).functions["shout"] is shout.function


def test_reading_imports_nothing(shouting):
    workflow, _ = shouting
    text = workflow.to_yaml().replace(workflow.nodes["shout"].function, "antigravity:fly")
    assert load_workflow(text).nodes["shout"].function == "antigravity:fly"
    assert "antigravity" not in sys.modules


def test_classes_of_typed_outputs_are_found_by_their_schema():
    class Verdict(BaseModel):
        good: bool

    class Other(BaseModel):
        bad: bool

    workflow = trace(lambda text: Model("m")("{t}", t=text, schema=Verdict), name="w")
    assert load_workflow(workflow.to_yaml(), schemas=[Other, Verdict]).schemas == {"m": Verdict}
    assert load_workflow(workflow.to_yaml(), schemas=Verdict).schemas == {"m": Verdict}
    assert load_workflow(workflow.to_json()).schemas == {}


def test_a_class_may_have_patterns_that_only_pydantic_reads():
    class Name(BaseModel):
        text: str = Field(pattern=r"^\p{L}+$")

    workflow = trace(lambda text: Model("m")("{t}", t=text, schema=Name), name="w")
    assert load_workflow(workflow.to_yaml(), schemas=Name).schemas == {"m": Name}
    with pytest.raises(WorkflowError, match=r"node 'm': json_schema .* at properties/text/pattern: .* not a 'regex'"):
        load_workflow(workflow.to_yaml())


def test_a_schema_that_is_none_is_refused_where_the_workflow_is_made():
    with pytest.raises(WorkflowError, match=r"workflow 'w', node 'm': json_schema is no sound JSON schema: at type"):
        trace(lambda text: Model("m")("{t}", t=text, schema={"type": "strin"}), name="w")
