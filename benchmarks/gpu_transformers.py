"""A model of a few billion parameters on transformers' continuous batching: its profile, and predictions under load.

    python -m benchmarks.gpu_transformers                 # one NVIDIA card, 3.2 billion random weights
    python -m benchmarks.gpu_transformers --tiny          # the same on a CPU with 0.7 million: a rehearsal, not kept

Weights are drawn at random in the shape of Llama 3.2 3B, so nothing is downloaded; the speed of a step does not depend
on what the weights say. The engine is profiled as `dask fmware profile` does, then serves calls under changing load,
each predicted when it is submitted (see `benchmarks.prediction`). It needs PyTorch and the extra `transformers`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.prediction import WARM, Run, profiled, summary
from benchmarks.support.environment import environment, write
from dask_fmware.profile.record import Profile
from dask_fmware_workers.accelerators import nvidia_cards
from dask_fmware_workers.engines import create_engine
from dask_fmware_workers.engines.tiny_llama import TinyLlama

LARGE = TinyLlama(layers=28, width=3072, heads=24, kv_heads=8, inner_width=8192, context_tokens=8192, vocabulary=128256)
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Size:
    """What is run."""

    shape: TinyLlama
    slots: int
    context_tokens: int
    arguments: dict[str, Any]
    calls: int
    repeats: int


def size(options: argparse.Namespace) -> Size:
    if options.tiny:
        return Size(TinyLlama(), 4, 1024, {"device": "cpu", "threads": 1}, options.calls or 220, 1)
    return Size(LARGE, 16, 2048, {"device": "cuda", "dtype": "bfloat16", "step_tokens": 1024}, options.calls or 1200, 3)


async def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    run_size = size(options)
    with tempfile.TemporaryDirectory() as directory:
        run_size.shape.write(Path(directory), weights=options.tiny)
        given = {"slots": run_size.slots, "context_tokens": run_size.context_tokens, **run_size.arguments}
        engine: Any = create_engine("transformers", {"model": directory, "random_weights": not options.tiny, **given})
        start = perf_counter()
        await engine.start()
        load_s = perf_counter() - start
        try:
            parameters = sum(p.numel() for p in engine._backend._manager.model.parameters())
            profile = await profiled(engine, "transformers", run_size.repeats)
            run = Run(engine, profile, options.seed)
            await run.serve(run_size.calls, "usual")
            state = engine.state()
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        finally:
            await engine.close()
    return {
        "environment": environment(seed=options.seed, packages=("dask", "torch", "transformers")),
        "card": [str(card) for card in nvidia_cards()],
        "shape": {name: getattr(run_size.shape, name) for name in TinyLlama.__slots__},
        "parameters": parameters,
        "arguments": given,
        "load_s": load_s,
        "memory_bytes": peak,
        "prefix_hit_tokens": state.prefix_hit_tokens,
        "profile": json.loads(profile.model_dump_json()),
        "points": points(profile),
        "usual": summary(run.outcomes[WARM:]),
    }


def points(profile: Profile) -> dict[str, Any]:
    """What the profile says at a few loads, in ms and tokens a second."""
    law = profile.step_law
    decode = {batch: 1e3 * law.step_s(0, batch, batch * 512) for batch in (1, 4, 8, 16) if batch <= profile.batch[1]}
    prefill = {prompt: 1e3 * (law.fixed_s + law.prefill_s(prompt)) for prompt in (128, 512, 1024)}
    return {"decode_step_ms_by_batch": decode, "prefill_ms_by_prompt": prefill}


def markdown(result: dict[str, Any]) -> str:
    about, profile, usual = result["environment"], result["profile"], result["usual"]
    memory = f"{result['memory_bytes'] / GIB:.1f} GiB at most" if result["memory_bytes"] else "not measured on a CPU"
    rows = [
        ("card", ", ".join(result["card"]) or f"{about['processor']}, {about['cores']} cores"),
        ("parameters", f"{result['parameters'] / 1e9:.3g} billion, random"),
        ("load", f"{result['load_s']:.1f} s"),
        ("memory of PyTorch", memory),
        *((f"decode step, batch {b}", f"{ms:.2f} ms") for b, ms in result["points"]["decode_step_ms_by_batch"].items()),
        *((f"prefill of {n} tokens", f"{ms:.1f} ms") for n, ms in result["points"]["prefill_ms_by_prompt"].items()),
        *(
            (f"fit error of {phase}, median on held-out steps", f"{profile[phase]['cv_median_error']:.1%}")
            for phase in ("decode", "prefill")
            if profile[phase]
        ),
        ("calls under load", f"{usual['calls']}, waiting over half of TTFT for {usual['waiting_over_half']:.0%}"),
        *(
            (
                f"TTFT error, {name}",
                f"median {usual['ttft_s'][key]['median']:.1%}, p90 {usual['ttft_s'][key]['p90']:.0%}",
            )
            for key, name in (
                ("static", "profile as measured"),
                ("corrected", "with step times"),
                ("average", "mean of the last 20"),
            )
        ),
    ]
    lines = ["# Transformers' continuous batching, profiled", "", f"`{about['command']}`; {about['versions']}", ""]
    return "\n".join([*lines, "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on a CPU; nothing is kept")
    parser.add_argument("--calls", type=int, default=None, help="calls under load")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.calls is not None and options.calls <= WARM:
        parser.error(f"--calls {options.calls}: the first {WARM} are not judged; ask for more")
    result = asyncio.run(benchmark(options))
    print(markdown(result))
    if not options.tiny:
        write("gpu_transformers", result, markdown(result))


if __name__ == "__main__":
    main()
