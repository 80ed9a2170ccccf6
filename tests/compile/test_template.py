"""From nodes to steps: what is fused, guarded, decided and captured."""

from __future__ import annotations

from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.compile.steps import CallStep, PlainStep, run_plain
from dask_fmware.compile.template import BlockTemplate, LoopStep, MapStep, Step
from dask_fmware.errors import RuntimeFaultError
from dask_fmware.model.call import SKIPPED

small, large = fm.Model("small"), fm.Model("large")


@fm.task
def first(text: Any) -> str:
    return f"first {text}"


@fm.task
def second(text: Any) -> str:
    return f"second {text}"


@fm.task
def join(*texts: Any) -> str:
    return " + ".join(map(str, texts))


@fm.task
async def later(text: Any) -> str:
    return f"later {text}"


def steps(function: Any) -> dict[str, Step]:
    """The steps of a workflow by name."""
    return {step.name: step for step in template(function).steps}


def template(function: Any) -> BlockTemplate:
    return fm.workflow(name="flow")(function)._templates[()]


def operations(step: Step) -> list[str]:
    assert isinstance(step.payload, PlainStep)
    return [operation.name for operation in step.payload.operations]


def test_consecutive_plain_nodes_are_one_step() -> None:
    made = steps(lambda x: small("{x}", x=second(first(small("{x}", x=x, name="call"))), name="end"))
    assert list(made) == ["call", "second", "end"]
    assert operations(made["second"]) == ["first", "second"]


def test_plain_nodes_before_and_after_a_call_stay_apart() -> None:
    made = steps(lambda x: second(small("{x}", x=first(x))))
    assert list(made) == ["first", "small", "second"]


def test_a_value_that_two_nodes_use_is_not_fused_away() -> None:
    def shared(x: Any) -> Any:
        made = first(x)
        return join(small("{x}", x=made), second(made))

    assert "first" in steps(shared)


def test_fusing_is_left_out_where_it_would_delay_the_earlier_node() -> None:
    made = steps(lambda x: join(first(small("{x}", x=x, name="quick")), large("{x}", x=x, name="slow")))
    assert operations(made["first"]) == ["first"]  # it can run while the slow call goes on
    assert operations(made["join"]) == ["join"]


def test_fusing_goes_on_where_the_later_node_waits_for_nothing_more() -> None:
    def chain(x: Any) -> Any:
        answer = small("{x}", x=x)
        return join(first(answer), answer)

    made = steps(chain)
    assert operations(made["join"]) == ["first", "join"]


def test_coroutines_and_threads_are_not_fused() -> None:
    made = steps(lambda x: first(later(second(x))))
    assert [operations(step) for step in made.values()] == [["second"], ["later"], ["first"]]
    assert made["later"].payload.is_async
    assert not made["first"].payload.is_async


def test_nodes_on_different_branches_are_not_fused() -> None:
    made = steps(lambda x: fm.switch(small("{x}", x=x, name="kind"), a=lambda: first(x), b=lambda: second(x)))
    assert operations(made["first"]) == ["first"]
    assert [guard.branch for guard in made["first"].payload.guards] == [0]
    assert [guard.branch for guard in made["second"].payload.guards] == [1]
    assert operations(made["switch"]) == ["switch"]


def test_a_default_branch_is_the_one_after_the_labels() -> None:
    made = steps(
        lambda x: fm.switch(small("{x}", x=x, name="kind"), {"a b": lambda: first(x)}, default=lambda: second(x))
    )
    (guard,) = made["second"].payload.guards
    assert (guard.branch, guard.rule.labels, guard.rule.has_default) == (1, ("a b",), True)
    assert [guard.rule.branch(text) for text in ("a b", "c")] == [0, 1]


def test_nested_switches_guard_from_the_outside_in() -> None:
    def nested(x: Any) -> Any:
        outer, inner = small("{x}", x=x, name="outer"), small("{x}", x=x, name="inner")
        return fm.switch(
            outer,
            yes=lambda: fm.switch(inner, deep=lambda: large("{x}", x=x, name="leaf"), name="low"),
            no=lambda: first(x),
            name="high",
        )

    made = steps(nested)
    assert [(g.rule.switch, g.branch) for g in made["leaf"].payload.guards] == [("high", 0), ("low", 0)]
    assert [g.rule.switch for g in made["low"].payload.guards] == ["high"]
    assert [rule.switch for rule in made["outer"].payload.call.decides] == ["high"]
    assert [rule.switch for rule in made["inner"].payload.call.decides] == ["low"]


def test_a_switch_on_another_switchs_value_is_decided_by_its_merge() -> None:
    def chained(x: Any) -> Any:
        kind = fm.switch(small("{x}", x=x, name="a"), p=lambda: first(x), q=lambda: second(x), name="one")
        return fm.switch(kind, r=lambda: large("{x}", x=x, name="leaf"), s=lambda: first(x), name="two")

    made = steps(chained)
    assert [rule.switch for rule in made["one"].payload.decides] == ["two"]
    assert made["leaf"].payload.guards[0].source == "one"


def test_a_switch_on_an_input_is_decided_when_the_run_is_submitted() -> None:
    made = template(lambda kind: fm.switch(kind, a=lambda: small("{k}", k=kind), b=lambda: large("{k}", k=kind)))
    assert [(name, rule.switch) for name, rule in made.switches_on_inputs] == [("kind", "switch")]


def test_an_output_that_is_an_input_gets_a_step() -> None:
    made = template(lambda x: x)
    assert made.outputs == ("value of x",)
    assert [step.name for step in made.steps] == ["value of x"]


def test_such_a_step_takes_the_place_of_no_node() -> None:
    @fm.task
    def draft_value(text: Any) -> bool:
        return bool(text)

    def outer(x: Any) -> Any:
        draft = small("{x}", x=x, name="draft")
        return fm.loop(lambda state: draft, x, until=lambda _: draft_value(draft), max_iterations=3)

    loop = steps(outer)["loop"].payload
    assert isinstance(loop, LoopStep)
    assert loop.body.outputs == ("value of draft", "draft_value")
    assert {step.name for step in loop.body.steps} == {"value of draft", "draft_value"}


def test_maps_capture_outer_values_and_hold_the_template_of_their_body() -> None:
    def outer(items: Any, hint: Any) -> Any:
        context = first(hint)
        return fm.map(lambda item: small("{c} {h} {i}", c=context, h=hint, i=item, name="leaf"), items)

    step = steps(outer)["map"].payload
    assert isinstance(step, MapStep)
    assert set(step.sources) == {"items", "first", "hint"}
    assert {step.item, "first", "hint"} <= set(step.body.inputs)
    assert [inner.name for inner in step.body.steps] == ["leaf"]


def test_maps_in_maps_capture_through_both() -> None:
    def outer(items: Any, hint: Any) -> Any:
        return fm.map(lambda row: fm.map(lambda x: small("{h} {r} {x}", h=hint, r=row, x=x), first(row)), items)

    step = steps(outer)["map"].payload
    assert isinstance(step, MapStep)
    inner = next(s.payload for s in step.body.steps if isinstance(s.payload, MapStep))
    assert "hint" in step.sources
    assert "hint" in inner.sources
    assert step.item in inner.sources


def test_loops_capture_outer_values_and_know_their_condition() -> None:
    def outer(x: Any, hint: Any) -> Any:
        return fm.loop(
            lambda state: small("{h} {s}", h=hint, s=state, name="turn"),
            x,
            until=lambda out: first(out),
            max_iterations=4,
        )

    step = steps(outer)["loop"].payload
    assert isinstance(step, LoopStep)
    assert set(step.sources) == {"x", "hint"}
    assert step.body.outputs == ("turn", "first")


def test_only_calls_whose_output_may_be_the_answer_answer() -> None:
    def flow(x: Any) -> Any:
        intent = small("{x}", x=x, name="intent")
        return fm.switch(intent, a=lambda: small("{x}", x=x, name="left"), b=lambda: large("{x}", x=x, name="right"))

    made = steps(flow)
    assert {name: step.answers for name, step in made.items() if isinstance(step.payload, CallStep)} == {
        "intent": False,
        "left": True,
        "right": True,
    }


def test_a_call_that_a_switch_passes_on_from_outside_does_not_answer() -> None:
    def flow(x: Any) -> Any:
        draft = large("{x}", x=x, name="draft")
        return fm.switch(small("{d}", d=draft, name="judge"), yes=lambda: draft, no=lambda: first(x))

    assert not any(step.answers for step in steps(flow).values())


def test_the_fixed_text_of_a_prompt_is_counted() -> None:
    made = steps(lambda x: small("Grüße, {x}!", x=x))
    assert made["small"].prompt_bytes == len("Grüße, !".encode())
    assert made["small"].inputs_in_prompt == ("x",)


def test_a_step_goes_by_the_branch_that_its_run_keeps_to_and_never_hands_on_what_was_skipped() -> None:
    made = steps(lambda x: fm.switch(small("{x}", x=x, name="pick"), a=lambda: first(x), b=lambda: second(x)))
    merge, guarded = made["switch"], made["first"]
    values = {"pick": "b", "first": "done", "second": SKIPPED, "x": "x"}
    given = [values[source] for source in merge.payload.sources]
    assert run_plain(merge.shared, "run", "key", *given, taken={"switch": 0}) == "done"
    assert run_plain(merge.shared, "run", "key", *given, taken={"another": 0, "switch": 0}) == "done"
    with pytest.raises(RuntimeFaultError, match=r"'switch': the value that decides was lost, .* submit the run again"):
        run_plain(merge.shared, "run", "key", *given)
    given = [values[source] for source in guarded.payload.sources]
    assert run_plain(guarded.shared, "run", "key", *given, taken={"switch": 0}) == "first x"
    assert run_plain(guarded.shared, "run", "key", *given) is SKIPPED
