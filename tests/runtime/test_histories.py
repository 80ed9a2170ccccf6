from __future__ import annotations

import pytest

from dask_fmware.runtime.learning.histories import Mean, NodeHistories


def test_a_node_without_history_is_expected_to_use_all_its_tokens() -> None:
    assert NodeHistories().of("rag", "answer").lengths(256) == (0.0, 256.0)


def test_the_mean_of_a_nodes_own_calls_is_expected() -> None:
    histories = NodeHistories()
    for tokens in (10, 20):
        histories.grown("rag", "answer").output.add(tokens)
    assert histories.of("rag", "answer").output.within(256) == pytest.approx(15.0)
    assert histories.of("other", "answer").output.within(256) == 256.0


def test_no_more_than_max_tokens_is_expected() -> None:
    mean = Mean()
    mean.add(200)
    assert mean.within(50) == 50


def test_items_of_a_map_share_their_nodes_history() -> None:
    histories = NodeHistories()
    histories.grown("rag", "summaries[3].small").output.add(7)
    assert histories.of("rag", "summaries[12].small").output.value == pytest.approx(7.0)


def test_old_calls_are_forgotten() -> None:
    mean = Mean()
    for _ in range(1000):
        mean.add(100)
    for _ in range(500):
        mean.add(10)
    assert mean.value < 12


def test_nodes_that_were_not_seen_for_long_go_first() -> None:
    histories = NodeHistories(max_nodes=2)
    for node in ("a", "b", "a", "c"):
        histories.grown("rag", node).output.add(1)
    assert [histories.of("rag", node).output.within(9) for node in "abc"] == [1.0, 9.0, 1.0]


def test_what_is_read_of_an_unknown_node_is_not_kept() -> None:
    histories = NodeHistories(max_nodes=1)
    histories.grown("rag", "a").output.add(1)
    assert histories.of("rag", "b").output.value == 0.0
    assert histories.of("rag", "a").output.value == 1.0
