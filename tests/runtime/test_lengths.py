from __future__ import annotations

import pytest

from dask_fmware.runtime.lengths import OutputLengths


def test_a_node_without_history_is_expected_to_use_all_its_tokens() -> None:
    assert OutputLengths().expected("rag", "answer", 256) == 256.0


def test_the_mean_of_a_nodes_own_calls_is_expected() -> None:
    lengths = OutputLengths()
    for tokens in (10, 20):
        lengths.observe("rag", "answer", tokens)
    assert lengths.expected("rag", "answer", 256) == pytest.approx(15.0)
    assert lengths.expected("other", "answer", 256) == 256.0


def test_no_more_than_max_tokens_is_expected() -> None:
    lengths = OutputLengths()
    lengths.observe("rag", "answer", 200)
    assert lengths.expected("rag", "answer", 50) == 50


def test_items_of_a_map_share_their_nodes_history() -> None:
    lengths = OutputLengths()
    lengths.observe("rag", "summaries[3].small", 7)
    assert lengths.expected("rag", "summaries[12].small", 100) == pytest.approx(7.0)


def test_old_calls_are_forgotten() -> None:
    lengths = OutputLengths()
    for _ in range(1000):
        lengths.observe("rag", "answer", 100)
    for _ in range(500):
        lengths.observe("rag", "answer", 10)
    assert lengths.expected("rag", "answer", 256) < 12


def test_nodes_that_were_not_seen_for_long_go_first() -> None:
    lengths = OutputLengths(max_nodes=2)
    for node in ("a", "b", "a", "c"):
        lengths.observe("rag", node, 1)
    assert [lengths.expected("rag", node, 9) for node in "abc"] == [1.0, 9.0, 1.0]
