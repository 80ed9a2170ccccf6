"""Two emulated models that share a card, for tests of profiling."""

from __future__ import annotations

from typing import Any


def document(**arguments: Any) -> dict[str, Any]:
    law = {"w0": 2e-3, "w1": 1e-5, "w2": 2e-4, "w3": 0.0}
    return {
        "accelerators": {"cpu": {"cards": 1, "replicas_per_card": 2}},
        "models": {
            name: {
                "engine": "emulated",
                "slots": 2,
                "context_tokens": 96,
                "arguments": {"law": law, "stream_interval_s": 0.001, **arguments},
                "on": {"cpu": {"latency": {"first_token_s": 0.002, "output_token_s": 0.002}}},
            }
            for name in ("small", "large")
        },
    }
