"""With which arguments an engine serves a model, and a short digest of those that its speed may depend on.

Both sides of a profile use it: the worker that measures or announces one, and whoever plans with it before any replica
runs. So the two see the same arguments, defaults of the deployment included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dask_fmware.spec.deployment import Deployment

__all__ = ["arguments_digest", "engine_arguments"]

# Of no bearing on the time of a step. Whatever is not listed counts, also of engines that are not known here.
NO_MATTER = frozenset(
    {
        "seed",
        "port",
        "verbose",
        "api_key_env",
        "api_key_file",
        "price_per_million_tokens",
        "load_timeout_s",
        "first_token_timeout_s",
        "stall_timeout_s",
        "rate_limit_wait_s",
    }
)


def engine_arguments(deployment: Deployment, model: str, accelerator: str) -> dict[str, Any]:
    """Return what the deployment has an engine started with; cores and devices of its card come in addition."""
    spec = deployment.models[model]
    placement = spec.on[accelerator]
    return {
        "slots": placement.slots or spec.slots,
        "context_tokens": spec.context_tokens,
        **({"embeds": True} if spec.embeds else {}),  # engines that know nothing of it need not take it
        **spec.arguments,
        **placement.arguments,
    }


def arguments_digest(arguments: Mapping[str, Any]) -> str:
    """Return what tells engines from each other that may differ in speed.

    Of `cores` only their number counts: which ones they are differs from card to card.

    >>> arguments_digest({"gguf": "a.gguf", "seed": 1}) == arguments_digest({"gguf": "a.gguf"})
    True
    >>> arguments_digest({"gguf": "a.gguf"}) == arguments_digest({"gguf": "b.gguf"})
    False
    """
    told = {name: value for name, value in arguments.items() if name not in NO_MATTER}
    if isinstance(told.get("cores"), (list, tuple)):
        told["cores"] = len(told["cores"])
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
