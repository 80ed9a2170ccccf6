"""What is fed with inputs: each target takes one and says what came of it. Whatever else it raises is a find."""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hypothesis import strategies as st

from dask_fmware.errors import DeploymentError, SpecError, VersionMismatchError, WorkflowError
from dask_fmware.evaluation.sources import DataError, open_source
from dask_fmware.model import messages
from dask_fmware.model.messages import PROTOCOL_VERSION, ReplicaReady
from dask_fmware.policy import create_policy
from dask_fmware.runtime import AttemptEnded, CallRunnable, Machine, RunSubmitted
from dask_fmware.runtime import ReplicaReady as ReplicaIsReady
from dask_fmware.runtime.contract import check_log
from dask_fmware.simulation.replay import open_log, replay
from dask_fmware.simulation.scenario import Scenario, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from dask_fmware.spec.documents import deployment_from_text, load_workflow, workflow_from_text
from tests.fuzz.inputs import anything, damaged, damaged_bytes, documents
from tests.runtime.builders import node, plan

__all__ = ["TARGETS", "Feed", "Target"]

Feed: TypeAlias = Callable[[Any], str]
"""Takes an input; returns what came of it in a word."""


@dataclass(frozen=True)
class Target:
    """Something that takes inputs of strangers."""

    inputs: st.SearchStrategy[Any]
    opened: Callable[[], Any]  # a context manager that gives a `Feed`
    share: float = 1.0  # of the inputs, relative to others


def _refused(error: Exception, *names: str) -> str:
    """An error of ours must say something, and name the thing."""
    said = str(error)
    assert said, "an error without words"
    assert not names or any(name in said for name in names), f"it names none of {names}: {said}"
    return "refused"


def _plain(feed: Feed) -> Callable[[], Any]:
    @contextmanager
    def opened() -> Iterator[Feed]:
        yield feed

    return opened


# -- documents ---------------------------------------------------------------------------------------


def _workflows() -> list[Any]:
    from tests.fuzz.flows import rag, shopping

    return [json.loads(made.workflow.to_json()) for made in (rag, shopping)]


def _feed_workflow(given: tuple[str, Any]) -> str:
    try:
        made = workflow_from_text(*given)
    except WorkflowError as error:
        return _refused(error)
    assert made.graph().number_of_nodes() >= len(made.nodes)
    made.critical_path()
    assert load_workflow(made.to_yaml() + "\n") == made == load_workflow(made.to_json() + "\n")
    return "taken"


DEPLOYMENT: dict[str, Any] = {
    "accelerators": {
        "A100": {"cards": 2, "replicas_per_card": 2, "price_per_hour": 2.5},
        "cpu": {"cards": 1, "cores": [[0, 1]]},
    },
    "models": {
        "small": {
            "context_tokens": 4096,
            "arguments": {"gguf": "small.gguf"},
            "on": {"A100": {"slots": 8}, "cpu": {"replicas": 1}},
        },
        "large": {
            "engine": "emulated",
            "catalog": "Llama-3.1-8B",
            "on": {"A100": {"replicas": 2, "latency": {"first_token_s": 0.1, "output_token_s": 0.01}}},
        },
    },
    "light_workers": {"count": 2, "threads": 8},
    "router": {"policy": "slack", "max_attempts": 3, "stall_s": 30.0},
    "tenants": {"search": {"weight": 2.0}},
    "provisioning": {"quantile": 0.95, "idle_s": 300},
}


def _feed_deployment(given: tuple[str, Any]) -> str:
    try:
        made = deployment_from_text(*given)
    except DeploymentError as error:
        return _refused(error)
    for number, _ in enumerate(made.replicas()):
        assert number < 1_000_000
    assert deployment_from_text(made.to_yaml(), "yaml") == made
    return "taken"


def _scenario() -> dict[str, Any]:
    return {
        "cards": {"fast": {"count": 1}, "slow": {"count": 1, "slots": 1}},
        "models": {
            "m": {
                "on": {
                    "fast": {"plain": {"w0": 0.01, "w1": 1e-4, "w2": 1e-3}, "slots": 2},
                    "slow": {"plain": {"w0": 0.02}},
                }
            }
        },
        "workflows": {
            "w": {
                "slo": {"ttft_s": 1.0},
                "nodes": {
                    "a": {"model": "m", "prompt": 20, "output": {"uniform": [1, 9]}, "decides": {"x": 0.5, "y": 0.5}},
                    "m": {"model": "m", "after": ["a"], "when": {"a": "x"}, "items": 2, "prompt": 5, "output": 2},
                    "b": {"model": "m", "after": ["m"], "when": {"a": "x"}, "prompt": 5, "output": 2, "answers": True},
                    "c": {"model": "m", "when": {"a": "y"}, "prompt": 5, "output": 2, "answers": True},
                },
            }
        },
        "arrivals": {"kind": "window", "count": 4, "window_s": 2.0},
        "failures": [{"card": "fast-0", "at_s": 0.5, "down_s": 0.5}],
    }


@contextmanager
def _scenario_file() -> Iterator[Feed]:
    with tempfile.TemporaryDirectory() as folder:

        def feed(given: tuple[str, str]) -> str:
            path = Path(folder) / f"scenario.{given[1]}"
            path.write_text(given[0], encoding="utf-8", errors="surrogatepass")
            try:
                load_scenario(path)
            except SpecError as error:
                return _refused(error)
            return "taken"

        yield feed


# -- data --------------------------------------------------------------------------------------------

CSV = b'question,expected\nHow?,"so, ""and"" so"\n"two\nlines",x\n\n\xc3\xa9,\n' * 3
JSON_LINES = b'{"question": "How?", "n": 1, "deep": {"a": [1, 2, {"b": null}]}}\n{"question": "Who?", "n": 2.5}\n\n' * 3
BATCH = (
    b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": '
    b'[{"role": "system", "content": "be kind"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]}}\n'
    b'{"custom_id": "2", "url": "/v1/completions", "body": {"prompt": "hi", "max_tokens": 3}}\n'
)


def _file(name: str) -> Callable[[], Any]:
    @contextmanager
    def opened() -> Iterator[Feed]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name

            def feed(content: bytes) -> str:
                path.write_bytes(content)
                try:
                    source = open_source(path, compute=lambda part: part)
                    columns, rows = source.columns, list(source.rows(0))
                    assert source.count() == len(rows)
                    assert len(list(source.rows(2))) == max(len(rows) - 2, 0)
                except DataError as error:
                    return _refused(error, path.name)
                assert all(isinstance(row, dict) for row in rows)
                assert name != "rows.csv" or all(tuple(row) == columns for row in rows)
                return "taken"

            yield feed

    return opened


# -- event logs --------------------------------------------------------------------------------------


def _log() -> bytes:
    scenario = Scenario.model_validate(_scenario())
    lines: list[str] = []
    World(scenario, "slack", Workload(scenario, 0).runs(), 0, log=lines.append).play()
    return "".join(lines).encode()


@contextmanager
def _log_file() -> Iterator[Feed]:
    with tempfile.TemporaryDirectory() as folder:

        def feed(given: tuple[bytes, bool]) -> str:
            content, is_packed = given
            path = Path(folder) / ("log.jsonl.gz" if is_packed else "log.jsonl")
            path.write_bytes(gzip.compress(content, 1) if is_packed else content)
            try:
                with open_log(path) as (head, lines):
                    contract = check_log(head, lines)
                replay(path)
            except (SpecError, VersionMismatchError) as error:
                return _refused(error)
            return "breaches found" if contract.breaches else "taken"

        yield feed


# -- messages ----------------------------------------------------------------------------------------

KINDS = {kind.op: kind for kind in (getattr(messages, name) for name in messages.__all__) if hasattr(kind, "op")}
LATENCY = {"first_token_s": 0.1, "prompt_token_s": 0.001, "output_token_s": 0.01}
SOUND: dict[str, dict[str, Any]] = {
    "fmware-grant": {"call_id": "k", "attempt": 1, "priority": -1.0, "stall_s": 60.0, "incarnation": 1},
    "fmware-give-up": {"call_id": "k", "attempt": 1},
    "fmware-give-back": {},
    "fmware-overdue": {"call_id": "k", "attempt": 1},
    "fmware-first-token": {"call_id": "k", "attempt": 1, "ttft_s": 0.1},
    "fmware-ended": {
        "call_id": "k",
        "attempt": 1,
        "outcome": "finished",
        "prompt_tokens": 4,
        "output_tokens": 9,
        "ttft_s": 0.1,
        "latency_s": 0.5,
        "shut_s": 1.5,
    },
    "fmware-steps": {"replica_id": "tcp://r", "profile": "p", "steps": [[0.1, 0.0, 0.1, 4.0]], "tokens": [["k", 1, 4]]},
    "fmware-branched": {"run_id": "r", "switch": "s", "branch": 1},
    "fmware-carried": {"key": "k", "value": b"\x80\x05N."},
    "fmware-runs": {"tasks": b"\x80\x05N.", "outputs": ("k",)},
    "fmware-ready": {
        "name": "a",
        "model": "small",
        "accelerator": "cpu",
        "card": "cpu-0",
        "slots": 4,
        "context_tokens": 2048,
        "longest_token_bytes": 16,
        "engine": "words",
        "engine_version": "1",
        "latency": LATENCY,
        "load_s": 2.0,
        "card_slots": 2,
        "incarnation": 1,
        "version": PROTOCOL_VERSION,
    },
    "fmware-replica-failed": {"name": "a", "model": "small", "accelerator": "cpu", "error": "x", "will_retry": True},
    "fmware-engine-state": {"running": 1, "waiting": 0, "kv_used": 0.5, "prefix_queried_tokens": 4, "preemptions": 1},
}
assert SOUND.keys() == KINDS.keys()


def _wired(value: Any) -> Any:
    """A value as Dask's streams bring it: lists are tuples."""
    if isinstance(value, dict):
        return {key: _wired(one) for key, one in value.items()}
    return tuple(map(_wired, value)) if isinstance(value, list) else value


def message(*ops: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """Messages with damage, and what was never one."""
    chosen = ops or tuple(SOUND)
    return st.sampled_from(chosen).flatmap(
        lambda op: st.tuples(
            st.just(op),
            st.one_of(
                damaged([SOUND[op]]).filter(lambda value: isinstance(value, dict)),
                st.dictionaries(st.sampled_from([*SOUND[op], "more"]), anything, max_size=4),
            ).map(_wired),
        )
    )


def _feed_message(given: tuple[str, dict[str, Any]]) -> str:
    op, fields = given
    try:
        made = KINDS[op].from_wire(dict(fields))
    except VersionMismatchError as error:
        return _refused(error, op)
    assert KINDS[op].from_wire({k: v for k, v in made.to_wire().items() if k != "op"}) == made
    return "taken"


def _feed_announcement(given: tuple[str, dict[str, Any]]) -> str:
    """A replica that a worker announces serves a call, or is refused; under a policy that looks at all of it."""
    try:
        replica = ReplicaReady.from_wire(dict(given[1])).replica("tcp://worker")
    except VersionMismatchError as error:
        return _refused(error, "fmware-ready", "version")
    machine = Machine(create_policy("slack", random.Random(0).random))
    machine.handle(ReplicaIsReady(replica), 1.0)
    machine.handle(RunSubmitted(plan("run", [node("run/a", replica.model, answers=True)])), 2.0)
    actions = machine.handle(CallRunnable("run/a"), 2.0)
    machine.handle(AttemptEnded("run/a", 1, "finished", 5, 6, 0, 0.1, 0.2), 3.0)
    return "taken" if any(type(action).__name__ == "Assign" for action in actions) else "taken, without a call"


TARGETS: dict[str, Target] = {
    "workflow documents": Target(documents(_workflows()), _plain(_feed_workflow)),
    "deployment documents": Target(documents([DEPLOYMENT]), _plain(_feed_deployment)),
    "scenarios": Target(documents([_scenario()]), _scenario_file),
    "CSV files": Target(damaged_bytes([CSV]) | st.binary(max_size=60), _file("rows.csv")),
    "JSON lines": Target(damaged_bytes([JSON_LINES]) | st.binary(max_size=60), _file("rows.jsonl")),
    "OpenAI batch files": Target(
        damaged_bytes([BATCH])
        | damaged([json.loads(line) for line in BATCH.splitlines()]).map(lambda value: json.dumps(value).encode()),
        _file("batch.jsonl"),
    ),
    "event logs": Target(st.tuples(damaged_bytes([_log()]), st.booleans()), _log_file, share=0.3),
    "messages": Target(message(), _plain(_feed_message)),
    "announcements": Target(message("fmware-ready"), _plain(_feed_announcement)),
}
