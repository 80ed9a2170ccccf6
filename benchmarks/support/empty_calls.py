"""A deployment whose engine answers at once, and the workflows that call it: what is left is what the layer costs."""

from __future__ import annotations

import dask_fmware as fm

__all__ = ["DEPLOYMENT", "ROUNDS", "SLOTS", "chain", "rounds", "single"]

SLOTS = 256
ROUNDS = 10  # of a loop
DEPLOYMENT = {
    "accelerators": {"a": {"cards": 2}},
    "models": {
        "empty": {
            "engine": "null",
            "slots": SLOTS,
            "on": {"a": {"replicas": 2, "latency": {"first_token_s": 0.001, "output_token_s": 0.0}}},
        }
    },
    "router": {"policy": "least_outstanding"},
}
model = fm.Model("empty", max_tokens=1)


@fm.workflow
def single(x):
    return model("{x}", x=x)


@fm.workflow
def chain(x):
    return model("{x}", x=model("{x}", x=model("{x}", x=x)))


@fm.workflow
def rounds(x):
    return fm.loop(lambda text: model("{text}", text=text), x, max_iterations=ROUNDS)
