from __future__ import annotations

from dask_fmware.profile.catalog import find
from dask_fmware.profile.table import COLUMNS, ProfileTable


def test_a_bundled_profile_says_that_it_is_bundled() -> None:
    (row,) = ProfileTable([find("Llama-3.1-8B", "H100")]).rows
    cells = dict(zip(COLUMNS, row, strict=True))
    assert cells["model"] == "Llama-3.1-8B"
    assert cells["from"] == "catalog, composed"
    assert cells["weights"] == "16.1 GB"
    assert cells["arguments"] == "-"
    assert cells["load s"] == "-"


def test_the_table_prints_a_line_for_each_profile() -> None:
    table = ProfileTable([find("Llama-3.1-8B", card) for card in ("H100", "A100")])
    assert len(str(table).splitlines()) == 3
    assert table._repr_html_().count("<tr>") == 3


def test_names_are_escaped_in_html() -> None:
    profile = find("Llama-3.1-8B", "H100")
    odd = profile.model_copy(update={"key": profile.key.model_copy(update={"model": "<b>"})})
    assert "&lt;b&gt;" in ProfileTable([odd])._repr_html_()
