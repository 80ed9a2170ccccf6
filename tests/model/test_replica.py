from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.model.replica import ACCELERATOR_LABEL, CARD_LABEL, MODEL_LABEL, label, read_label


@given(st.sampled_from([MODEL_LABEL, ACCELERATOR_LABEL, CARD_LABEL]), st.text(max_size=20))
def test_a_label_is_read_as_it_was_written(kind: str, name: str) -> None:
    assert read_label({"GPU": 1, 3: 1, label(kind, name): 1}, kind) == name


def test_labels_of_another_kind_are_not_read() -> None:
    assert read_label({label(CARD_LABEL, "host/0"): 1, "fm-model": 1}, MODEL_LABEL) is None


def test_a_worker_without_resources_has_no_label() -> None:
    assert read_label(None, MODEL_LABEL) is None
    assert read_label({}, MODEL_LABEL) is None


def test_a_name_with_a_colon_keeps_it() -> None:
    assert read_label({label(MODEL_LABEL, "llama:8b"): 1}, MODEL_LABEL) == "llama:8b"
