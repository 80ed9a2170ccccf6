"""What a soak runs: a deployment of faulty engines, workflows over it, and a client that is there to be killed.

``python -m benchmarks.support.soak_flows ADDRESS SEED`` submits runs to a cluster, says so, and waits for its death.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

from distributed import Client

import dask_fmware as fm

__all__ = ["STALL_S", "bind", "deployment", "single"]

STALL_S = 5.0  # without a token, after which a call is tried elsewhere
MAX_ATTEMPTS = 5
KEEP_REPORTS = 500  # reached in minutes, so that memory tells of growth and not of filling up
STEP_S = 0.01  # of the emulated cards; a call of 32 tokens takes a third of a second

small, large, real = fm.Model("small"), fm.Model("large"), fm.Model("real")


@fm.task
def retrieve(query: str) -> list[str]:
    return ["first passage", f"second passage on {len(query)} characters"]


@fm.workflow(slo=fm.SLO(ttft_s=5.0))
def rag(question):  # type: ignore[no-untyped-def]
    query = small("Rewrite {question}", question=question, max_tokens=16, name="rewrite")
    return large(
        "Answer {question} from {passages}", question=question, passages=retrieve(query), max_tokens=48, name="answer"
    )


@fm.workflow(slo=fm.SLO(ttft_s=5.0))
def shopping(message):  # type: ignore[no-untyped-def]
    intent = small("Intent of {message}", message=message, choices=["order", "search", "chat"], name="intent")
    return fm.switch(
        intent,
        order=lambda: large("Order {message}", message=message, max_tokens=16, name="order"),
        search=lambda: large(
            "Sum up {found}",
            found=fm.map(lambda item: small("Look at {item}", item=item, max_tokens=8, name="each"), retrieve(message)),
            max_tokens=16,
            name="summary",
        ),
        chat=lambda: fm.loop(
            lambda state: small("Go on: {state}", state=state, max_tokens=8, name="turn"), message, max_iterations=3
        ),
    )


@fm.workflow(slo=fm.SLO(e2e_s=8.0))
def mixed(question):  # type: ignore[no-untyped-def]
    draft = real("Draft for {question}", question=question, max_tokens=24, name="draft")
    return large("Finish {draft}", draft=draft, max_tokens=32, name="finish")


@fm.workflow(slo=fm.SLO(ttft_s=5.0))
def single(prompt):  # type: ignore[no-untyped-def]
    return real("{prompt}", prompt=prompt, max_tokens=32, name="call")


def bind(draws: random.Random, number: int) -> Any:
    """Draw a workflow with its input."""
    text = f"{number} " + "word " * draws.randint(1, 40)
    return draws.choice((rag, rag, shopping, mixed, single))(text)


def deployment(log: Path | None, policy: str = "greedy") -> dict[str, Any]:
    """Two emulated models and a real one, two replicas each."""
    law = {"w0": STEP_S, "w1": 1e-5, "w2": 1e-4, "w3": 0.0}
    latency = {"first_token_s": STEP_S, "prompt_token_s": 1e-5, "output_token_s": STEP_S}
    emulated = {
        "engine": "faulty",
        "slots": 4,
        "arguments": {"inner": "emulated", "arguments": {"law": law, "stream_interval_s": 0.1}},
        "on": {"card": {"replicas": 2, "latency": latency}},
    }
    embedded = {
        "engine": "faulty",
        "slots": 2,
        "context_tokens": 512,
        "arguments": {"inner": "llama.cpp", "arguments": {"tiny": {"layers": 2, "width": 64, "heads": 2}}},
        "on": {"core": {"replicas": 2, "latency": {"first_token_s": 0.01, "output_token_s": 0.005}}},
    }
    return {
        "accelerators": {"card": {"cards": 4}, "core": {"cards": 2}},
        "models": {"small": emulated, "large": emulated, "real": embedded},
        "light_workers": {"count": 2, "threads": 8},
        "router": {
            "policy": policy,
            "max_attempts": MAX_ATTEMPTS,
            "stall_s": STALL_S,
            "keep_reports": KEEP_REPORTS,
            "record": str(log) if log is not None else None,
        },
    }


def main() -> None:
    address, seed = sys.argv[1], int(sys.argv[2])
    draws = random.Random(seed)
    client = Client(address, set_as_default=False)
    futures = [client.compute(bind(draws, number)) for number in range(draws.randint(2, 8))]
    time.sleep(0.2)
    print(len(futures), flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    main()
