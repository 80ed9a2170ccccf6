"""OpenAI's embeddings in front of a workflow, which is the model there.

Its single input gets the text, or the list of texts, and its result is the vector, or the list of vectors.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from typing import Any

from dask_fmware.client.session import Outcome
from dask_fmware.errors import WorkflowError
from dask_fmware.gateway.answers import UnsaidError, plain, usage_of
from dask_fmware.gateway.bodies import EmbeddingBody
from dask_fmware.gateway.chat import single_input
from dask_fmware.spec.graph import output_nodes
from dask_fmware.spec.workflow import ModelNode, Workflow

__all__ = ["embedding_answer", "embedding_inputs"]


def embedding_inputs(workflow: Workflow, body: EmbeddingBody) -> dict[str, Any]:
    """Return the inputs of a run; `WorkflowError` if the workflow has no input for texts, or answers with text."""
    ends = [workflow.nodes[name] for name in output_nodes(workflow)]
    if ends and all(isinstance(node, ModelNode) and not node.embeds for node in ends):
        raise WorkflowError(
            f"workflow '{workflow.name}' answers with text and gives no vectors: use POST /v1/chat/completions, or a "
            "workflow that ends with what .embed(texts) gives"
        )
    name = single_input(workflow)
    if name is None:
        raise WorkflowError(
            f"workflow '{workflow.name}' has not one input that is required, so it embeds no texts: use POST "
            f"/workflows/{workflow.name}"
        )
    return {name: body.input}


def embedding_answer(workflow: str, body: EmbeddingBody, outcome: Outcome) -> dict[str, Any]:
    """Return what is told of a run that has finished.

    Raises
    ------
    UnsaidError
        If its result is not one vector for each text.
    """
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(vector) if body.is_packed else vector}
        for i, vector in enumerate(_vectors(workflow, body, plain(workflow, outcome.value)))
    ]
    prompt = usage_of(outcome.report)["prompt_tokens"]
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    return {"object": "list", "data": data, "model": workflow, "usage": usage}


def _vectors(workflow: str, body: EmbeddingBody, result: Any) -> list[list[float]]:
    vectors = [result] if isinstance(body.input, str) and not _is_nested(result) else result
    wanted = 1 if isinstance(body.input, str) else len(body.input)
    if not isinstance(vectors, list) or len(vectors) != wanted or not all(map(_is_vector, vectors)):
        raise UnsaidError(
            f"workflow '{workflow}': its result is not one vector for each text; end it with what .embed(texts) gives, "
            f"or use POST /workflows/{workflow}"
        )
    return vectors


def _is_nested(result: Any) -> bool:
    return isinstance(result, list) and bool(result) and isinstance(result[0], list)


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(number) in (int, float) for number in value)


def _packed(vector: list[float]) -> str:
    """Return a vector as OpenAI's clients ask for it by themselves: 32 bits a number, in base64."""
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
