"""What makes a model node that embeds sound: texts, and nothing that only an answer has."""

from __future__ import annotations

from dask_fmware.spec.binding import Binding, Constant, Reference, Sequence
from dask_fmware.spec.nodes import ModelNode

__all__ = ["embedding_fault", "wrong_use"]

OF_AN_ANSWER = (
    "fields", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "choices", "json_schema"
)  # fmt: skip


def embedding_fault(node: ModelNode) -> str | None:
    """Return what is wrong with a node that has `texts`, in words that show none of them; None if nothing is."""
    given = [name for name in OF_AN_ANSWER if name in node.model_fields_set]
    if given:
        return f"{given[0]} is given and the node embeds texts, whose vectors take none; remove it"
    if node.texts is None or isinstance(node.texts, Reference):
        return None
    texts = _listed(node.texts)
    if texts is None:
        return "texts is neither a text nor a list of texts; give one of them"
    if not texts:
        return "texts is an empty list; give at least one text"
    for number, text in enumerate(texts):
        if not isinstance(text, str | Reference):
            return f"texts holds a {type(text).__name__} as item {number}; give texts"
        if not text:
            return f"texts holds an empty text as item {number}, of which there is no vector; leave it out"
    return None


def wrong_use(model: str, embeds: bool) -> str:
    """Say that a model is asked for vectors (`embeds`) and writes text, or the other way round."""
    if embeds:
        return (
            f"model '{model}' writes text and is asked for vectors; call one that embeds, or give it 'embeds: true' in "
            "the deployment if it does"
        )
    return f"model '{model}' embeds texts (embeds: true in the deployment) and writes none; call it with .embed(texts)"


def _listed(texts: Binding) -> list[object] | None:
    """Return the texts of a binding that is no reference; None where it is neither a text nor a list."""
    match texts:
        case Constant(value=str() as text):
            return [text]
        case Constant(value=list() as listed):
            return list(listed)
        case Sequence(items=items):
            return [item.value if isinstance(item, Constant) else item for item in items]
    return None
