"""Embeddings as calls of a run: routed, told of, refused where they cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.client.profiling import profile_models
from dask_fmware.errors import DeploymentError, WorkflowError
from dask_fmware.simulation.recorded import read_recorded
from dask_fmware.simulation.replay import replay
from dask_fmware.simulation.whatif import what_if
from dask_fmware.testing import InProcessCluster, deployment

bge, small = fm.Model("bge"), fm.Model("small")
PASSAGES = ["Bread is baked in an oven.", "A cluster scales with more workers.", "Rivers run into the sea."]


@fm.task
def nearest(vector: list[float], passages: list[list[float]]) -> str:
    scores = [sum(a * b for a, b in zip(vector, passage, strict=True)) for passage in passages]
    return PASSAGES[scores.index(max(scores))]


@fm.workflow(slo=fm.SLO(e2e_s=60.0))
def rag(question):
    found = nearest(bge.embed(question, name="asked"), bge.embed(PASSAGES, name="passages"))
    return small("Answer {question} from {found}", question=question, found=found, name="answer", max_tokens=60)


@fm.workflow
def vectors_of(texts):
    return bge.embed(texts, name="vectors")


@pytest.fixture
def embedding(serving: Any) -> Any:
    """A cluster with a model that embeds, `bge`, and one that writes, `small`."""
    return lambda **arguments: serving("bge", "small", embedders=["bge"], **{"echo": True, **arguments})


async def test_a_question_is_embedded_searched_with_and_answered(embedding: Any) -> None:
    async with embedding() as cluster:
        future = cluster.client.compute(rag(question="How does a cluster scale?"))
        assert "from A cluster scales with more workers." in (await future).text
        report = await fm.report(future)
        rows = {row["node"]: row for row in report.rows}
        assert {name: row["state"] for name, row in rows.items()} == dict.fromkeys(
            ["asked", "passages", "answer"], "finished"
        )
        assert rows["asked"]["model"] == "bge"
        assert rows["asked"]["tokens"].endswith("+1")
        assert rows["asked"]["ttft_s"] is not None
        assert report.met
        future.release()


async def test_a_text_gives_a_vector_and_a_list_a_list_of_them(embedding: Any) -> None:
    async with embedding() as cluster:
        future, listed, again = (cluster.client.compute(vectors_of(x)) for x in ("a b", ["a b", "c"], ("a b",)))
        vector, vectors, (same,) = await future, await listed, await again
        assert vector == vectors[0] == same != vectors[1]
        assert all(type(x) is float for x in vector)
        assert (await fm.report(future)).data.first_token_at == (await fm.report(future)).data.finished_at
        for one in (future, listed, again):
            one.release()


async def test_many_long_vectors_travel_too(embedding: Any) -> None:
    @fm.task
    def count(vectors: list[list[float]]) -> int:
        return sum(map(len, vectors))

    @fm.workflow
    def counted(texts):
        return count(bge.embed(texts))

    async with embedding() as cluster:
        texts = [f"text {i}" for i in range(200)]
        future = cluster.client.compute(counted(texts))
        assert await future == 200 * 384
        future.release()


async def test_a_map_embeds_in_parts(embedding: Any) -> None:
    @fm.workflow
    def parts(lists):
        return fm.map(lambda texts: bge.embed(texts, name="part"), lists)

    async with embedding() as cluster:
        future = cluster.client.compute(parts([["a", "b"], ["c"]]))
        assert [len(part) for part in await future] == [2, 1]
        future.release()


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda text: small.embed(text, name="call"), "model 'small' writes text and is asked for vectors"),
        (lambda text: bge("{text}", text=text, name="call"), "model 'bge' embeds texts .* and writes none"),
    ],
)
async def test_a_model_that_gives_something_else_refuses_the_run_at_submission(
    embedding: Any, function: Any, what: str
) -> None:
    async with embedding() as cluster:
        future = cluster.client.compute(fm.workflow(name="wrong")(lambda text: function(text))("x"))
        with pytest.raises(WorkflowError, match=f"workflow 'wrong', node 'call': {what}"):
            await future
        assert (await fm.report(future)).data.state == "refused"
        assert cluster.requests() == 0
        future.release()


@pytest.mark.parametrize("given", [7, [], ["a", None], {"a": "b"}])
async def test_what_is_no_text_fails_the_run_and_asks_no_engine(embedding: Any, given: Any) -> None:
    async with embedding() as cluster:
        future = cluster.client.compute(vectors_of(given))
        with pytest.raises(WorkflowError, match="node 'vectors'"):
            await future
        assert cluster.requests() == 0
        future.release()


async def test_a_call_whose_engine_crashes_is_embedded_elsewhere(embedding: Any) -> None:
    rules = [{"when": "boom", "fault": "crash", "times": 1}]
    async with embedding(placements={"frail": {"rules": rules}}, on={"frail": 1, "sound": 1}) as cluster:
        futures = [cluster.client.compute(vectors_of(f"boom {i}")) for i in range(4)]
        for future in futures:
            assert len(await future) == 384
            future.release()


async def test_a_recorded_log_holds_no_text_and_is_replayed_and_simulated(embedding: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    async with embedding(router={"record": str(path)}) as cluster:
        for question in ("How does bread bake?", "Where do rivers run?"):
            future = cluster.client.compute(rag(question=question))
            await future
            future.release()
        future = cluster.client.compute(fm.workflow(name="wrong")(lambda text: small.embed(text))("x"))
        with pytest.raises(WorkflowError):
            await future
        future.release()
        await cluster.settled()
    assert "bread" not in path.read_text().lower()
    found = replay(path)
    assert found.difference is None
    as_it_was, simulated = what_if(read_recorded(path), ["slack"])
    assert as_it_was.measured.runs == simulated.measured.runs


async def test_a_log_of_before_there_were_embeddings_is_read(serving: Any, tmp_path: Path) -> None:
    path, old = tmp_path / "run.jsonl", tmp_path / "old.jsonl"
    async with serving("small", router={"record": str(path)}) as cluster:
        future = cluster.client.compute(fm.workflow(name="one")(lambda text: small("{text}", text=text))("x"))
        await future
        future.release()
        await cluster.settled()
    head, *lines = path.read_text().splitlines(keepends=True)
    told = json.loads(head)
    del told["embedders"]
    old.write_text("".join([json.dumps(told) + "\n", *lines]))
    found = replay(old)
    assert found.difference is None
    assert found.decisions >= 1


async def test_an_engine_that_gives_something_else_than_the_deployment_says_does_not_serve() -> None:
    document = deployment("bge", embeds=True)  # an argument of the engine, of which the model says nothing
    async with InProcessCluster(document, wait=False) as cluster:
        with pytest.raises(
            DeploymentError, match="its engine 'scripted' gives vectors and no text; say 'embeds: true'"
        ):
            await fm.wait_ready(cluster.client, timeout_s=30)


async def test_a_model_that_embeds_is_not_profiled_and_says_so(embedding: Any) -> None:
    async with embedding() as cluster:
        with pytest.raises(DeploymentError, match="model 'bge' embeds texts, and what is measured is how text"):
            await profile_models(cluster.client, "bge")


async def test_a_replica_that_embeds_measures_how_fast_it_is(serving: Any) -> None:
    document = deployment("bge", embedders=["bge"])
    del document["models"]["bge"]["on"]["cpu"]["latency"]
    async with serving(document=document) as cluster:
        (replica,) = (await fm.status(cluster.client))["replicas"]
        assert replica["latency"]["first_token_s"] > 0


async def test_the_words_of_a_real_engine_find_their_passage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where the model is written
    document = deployment("bge", "small", embedders=["bge"], echo=True)
    document["models"]["bge"] |= {
        "engine": "llama.cpp",
        "arguments": {"tiny": {"layers": 1, "width": 64, "heads": 2}},
        "on": {"cpu": {}},
    }
    async with InProcessCluster(document) as cluster:
        future = cluster.client.compute(rag(question=PASSAGES[2]))  # equal texts have equal vectors
        assert f"from {PASSAGES[2]}" in (await future).text
        (row,) = [row for row in (await fm.report(future)).rows if row["node"] == "passages"]
        assert row["tokens"].endswith("+1")
        future.release()
