"""OpenAI's own client in front of workflows that give vectors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import isclose
from typing import Any

import openai
import pytest

import dask_fmware as fm
from dask_fmware.gateway import Gateway, listening
from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware_workers.engines.word_vectors import word_vector
from tests.gateway.conftest import Served, same
from tests.gateway.test_chat import client_of

bge = fm.Model("bge")
SECRET = "my bank account"


@fm.workflow(slo=fm.SLO(e2e_s=60.0))
def vectors(texts):
    return bge.embed(texts)


@fm.workflow
def apart(texts):
    return fm.map(lambda text: bge.embed(text), texts)


@fm.workflow
def two(texts, others):
    return bge.embed([texts, others])


@fm.workflow
def written(texts):
    return fm.Model("small")("{texts}", texts=texts)


@asynccontextmanager
async def embedding() -> AsyncIterator[Served]:
    async with InProcessCluster(deployment("bge", embedders=["bge"]), validate=True) as cluster:
        made = Gateway(cluster.client, [vectors, apart, two, written, same])
        async with listening(made, port=0, grace_s=5) as port:
            yield Served(f"http://127.0.0.1:{port}", cluster, made)
        await cluster.settled()


@pytest.mark.parametrize("form", [None, "float", "base64"])
async def test_a_client_of_openais_gets_the_vectors_of_its_texts(form: Any) -> None:
    asked = {} if form is None else {"encoding_format": form}
    async with embedding() as served, client_of(served) as client:
        for model in ("vectors", "apart"):
            said = await client.embeddings.create(model=model, input=["the sea", "a river"], **asked)
            assert [one.index for one in said.data] == [0, 1]
            assert said.model == model
            assert said.usage.prompt_tokens == said.usage.total_tokens > 0
            if form != "base64":  # the client gives what it asked for as it came
                found = [one.embedding for one in said.data]
                for vector, text in zip(found, ("the sea", "a river"), strict=True):
                    assert all(isclose(a, b, abs_tol=1e-6) for a, b in zip(vector, word_vector(text), strict=True))
        alone = await client.embeddings.create(model="vectors", input="the sea", **asked)
        assert len(alone.data) == 1


async def test_a_run_of_it_is_like_any_other() -> None:
    async with embedding() as served:
        answer, _ = await served.ask("/v1/embeddings", {"model": "vectors", "input": "the sea"})
        report = served.cluster.router.machine.report(answer.headers["X-Run-Id"])
        assert (report.workflow, report.met) == ("vectors", True)
        answer, said = await served.ask("/workflows/vectors", {"inputs": {"texts": ["the sea"]}})
        assert (answer.code, len(said["result"][0])) == (200, 384)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "vectors", "input": [[1, 2, 3]]}, 400, "input: is a text or a list of 1 to 2048 texts"),
        ({"model": "vectors", "input": [[SECRET]]}, 400, "input: is a text or a list of 1 to 2048 texts"),
        ({"model": "vectors", "input": [1, 2, 3]}, 400, "tokens are not read"),
        ({"model": "vectors", "input": []}, 400, "input: is a text or a list"),
        ({"model": "vectors", "input": [SECRET, ""]}, 400, "none of them empty"),
        ({"model": "vectors", "input": ["a"] * 2049}, 400, "input: is a text or a list of 1 to 2048 texts"),
        ({"model": "vectors", "input": "a", "dimensions": 3}, 400, "dimensions: is not supported"),
        ({"model": "vectors", "input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"model": "vectors"}, 400, "input: is missing"),
        ({"model": "two", "input": "a"}, 400, "has not one input that is required, so it embeds no texts"),
        ({"model": "nothing", "input": "a"}, 404, "no workflow 'nothing' here"),
        (
            {"model": "written", "input": "a"},
            400,
            "answers with text and gives no vectors: use POST /v1/chat/completions",
        ),
        ({"model": "same", "input": "a"}, 500, "its result is not one vector for each text"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_in_words_that_show_no_text(
    body: Any, status: int, words: str
) -> None:
    async with embedding() as served:
        answer, said = await served.ask("/v1/embeddings", body)
        assert answer.code == status
        assert words in said["error"]["message"]
        assert SECRET not in said["error"]["message"]


async def test_openais_client_is_told_in_its_own_words() -> None:
    async with embedding() as served, client_of(served) as client:
        with pytest.raises(openai.BadRequestError, match="dimensions: is not supported"):
            await client.embeddings.create(model="vectors", input="a", dimensions=5)
