from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.prompt import literal_bytes, render, template_fields

texts = st.text(max_size=20)
fields = st.from_regex(r"\A[a-z_][a-z0-9_]{0,5}\Z")
parts = st.lists(st.tuples(texts, fields), max_size=5)


def template(pieces: list[tuple[str, str]]) -> str:
    return "".join(text.replace("{", "{{").replace("}", "}}") + f"{{{field}}}" for text, field in pieces)


@given(parts, st.data())
def test_rendering_puts_values_between_the_literal_text(pieces, data):
    values = {field: data.draw(texts) for _, field in pieces}
    made = render(template(pieces), values)
    assert made == "".join(text + values[field] for text, field in pieces)
    assert template_fields(template(pieces)) == tuple(dict.fromkeys(field for _, field in pieces))
    assert literal_bytes(template(pieces)) <= len(made.encode())


@given(texts)
def test_values_are_not_read_as_templates(value):
    assert render("{a}", {"a": value}) == value


@given(st.text(max_size=30))
def test_any_text_is_a_template_or_is_refused(text):
    try:
        assert all(name.isidentifier() for name in template_fields(text))
    except WorkflowError as error:
        assert "brace" in str(error)  # noqa: PT017


@pytest.mark.parametrize("bad", ["{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>3}", "{a", "a}", "{a:{b}}", "{ a}"])
def test_only_plain_fields_are_allowed(bad):
    with pytest.raises(WorkflowError, match=r"workflow 'w': .*brace"):
        template_fields(bad, "workflow 'w'")


def test_missing_value_is_named():
    with pytest.raises(WorkflowError, match="prompt: no value for the field 'b'; pass b="):
        render("{a}{b}", {"a": 1})
