"""The demo from start to end: prepare, start the cluster, stream one answer, drive the load, sum up.

It owns the order of things and what is cleaned up; figures, screens and load are decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from distributed import Client

from dask_fmware.client.install import install, status, wait_ready
from dask_fmware.client.stream import stream
from dask_fmware.cluster.foreground import run_in_foreground
from dask_fmware.cluster.local import LocalModelCluster
from dask_fmware.demo import machine, passages, record
from dask_fmware.demo.drive import DrivenRun, Tally, drive
from dask_fmware.demo.inputs import MESSAGES, QUESTIONS
from dask_fmware.demo.rag import rag
from dask_fmware.demo.results import show_summary
from dask_fmware.demo.schedule import PlannedRun, schedule
from dask_fmware.demo.screen import Screen
from dask_fmware.demo.shopping import shopping
from dask_fmware.demo.summary import summarise
from dask_fmware.demo.trace import fit_lengths, read_trace
from dask_fmware.demo.workload import WORKFLOWS, bind
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.slo import SLO

__all__ = ["Settings", "run"]

WARMING_RUNS = 2
CRITICAL = 50  # level of logs that workers may write over the screen; failures are in the summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a user asks of the demo."""

    runs: int = 60
    rate: float = 1.5  # runs per second
    seed: int = 0
    policy: str | None = None  # None: the deployment's
    slo_s: float | None = None  # to the first token; None: each workflow's own
    trace: Path | None = None
    deployment: Path | None = None  # None: the demo's own
    json_file: Path | None = None
    keep: bool = False
    dashboard_port: int | None = None
    command: str = ""


@dataclass(frozen=True, slots=True)
class _Load:
    deployment: Deployment
    own: bool  # whether it is the demo's deployment
    planned: list[PlannedRun]
    note: str  # on the trace


def run(settings: Settings, screen: Screen | None = None) -> bool:
    """Run the demo and return whether every run finished.

    Raises
    ------
    SpecError
        If an option, the trace or the deployment is wrong; nothing has been started then.
    KeyboardInterrupt
        On Ctrl-C, when the cluster is closed.
    """
    load = _prepare(settings)
    shown = screen or Screen()
    return run_in_foreground(lambda: _session(settings, load, shown))


def _prepare(settings: Settings) -> _Load:
    """Read and check everything that can be wrong."""
    own = settings.deployment is None
    made = (
        machine.demo_deployment(machine.available_cores())
        if settings.deployment is None
        else machine.own_deployment(settings.deployment)
    )
    made = machine.with_policy(made, settings.policy, settings.seed)
    if settings.trace is None:
        return _Load(made, own, schedule(settings.runs, settings.rate, settings.seed), "")
    rows = read_trace(settings.trace, settings.runs)
    lengths = fit_lengths(rows, min(made.models[name].context_tokens for name in machine.MODELS))
    planned = schedule(settings.runs, settings.rate, settings.seed, trace=rows, lengths=lengths)
    span = rows[-1].arrival_s - rows[0].arrival_s
    note = (
        f"{len(rows)} requests that came within {span:,.0f} s come within {planned[-1].arrival_s:,.0f} s. To fit "
        f"the context, prompts are scaled by {lengths.prompt_factor:.3g} and answers by {lengths.output_factor:.3g} "
        f"(rounded up to powers of two), {lengths.clipped} are clipped."
    )
    return _Load(made, own, planned, note)


async def _session(settings: Settings, load: _Load, screen: Screen) -> bool:
    screen.title("dask-fmware demo")
    if load.own:
        screen.note(
            "Two models, each on a fast and a slow card of this machine. Engine, tokens and queues are real; the "
            "weights are random, so answers are word salad. The slow card serves a deeper model: a token takes 2.2 "
            "to 3 times as long there."
        )
    screen.console.print()
    with screen.working("Reading the docstrings of dask and distributed, once"):
        count = await asyncio.to_thread(passages.build, passages.database())
    screen.fact("passages", f"{count:,} from the docstrings of the installed dask and distributed")
    async with AsyncExitStack() as stack:
        with screen.working("Starting the cluster"):
            cluster, client = await stack.enter_async_context(_cluster(load.deployment, settings.dashboard_port))
            state = await status(client)
        bokeh = find_spec("bokeh") is not None
        dashboard = cluster.page if bokeh else 'off; pip install "dask-fmware[dashboard]"'
        light = state["light_workers"]
        screen.fact("cluster", f"{len(state['replicas'])} replicas, {light} light worker{'s' if light > 1 else ''}")
        screen.fact("dashboard", dashboard or "off")
        screen.replicas(state["replicas"])
        slo = SLO(ttft_s=settings.slo_s) if settings.slo_s is not None else None
        await _show_one(client, screen, settings.seed)
        runs = await _drive(client, screen, settings, load, slo)
        summary = summarise([run.report for run in runs], load.deployment.accelerators)
        show_summary(screen.console, summary)
        screen.note(_objectives(slo))
        if settings.json_file is not None:
            facts = {
                "command": settings.command,
                "seed": settings.seed,
                "rate": settings.rate,
                "trace": load.note or None,
                "policy": load.deployment.router.policy,
                "versions": machine.versions(),
                "hardware": machine.hardware(),
                "deployment": load.deployment.model_dump(mode="json"),
                "replicas": state["replicas"],
            }
            record.write(settings.json_file, record.record(facts, summary, runs))
            screen.note(f"Every run and call: {settings.json_file}")
        if settings.keep:
            screen.console.print()
            screen.fact("kept", "until Ctrl-C")
            screen.fact("client", f'distributed.Client("{cluster.scheduler_address}")')
            screen.fact("status", f"dask fmware status {cluster.scheduler_address}")
            await asyncio.Event().wait()
        return not summary.failures


async def _show_one(client: Client, screen: Screen, seed: int) -> None:
    """Stream one answer; with it and two more runs, the first use of everything is over before the load begins."""
    question = QUESTIONS[seed % len(QUESTIONS)]
    screen.title(f"One answer, live: {question}")
    future = client.compute(rag(question))
    warming = client.compute([shopping(message) for message in MESSAGES[:WARMING_RUNS]])
    first_s, last_s = await screen.answer(aiter(stream(future)))
    screen.note(f"first token after {first_s:.2f} s, all after {last_s:.2f} s")
    await asyncio.gather(*(warm.result() for warm in warming), return_exceptions=True)  # the load would show it


async def _drive(client: Client, screen: Screen, settings: Settings, load: _Load, slo: SLO | None) -> list[DrivenRun]:
    """Drive the load under a progress bar."""
    source = f"those of {settings.trace.name}" if settings.trace is not None else "Poisson"
    screen.title(f"{len(load.planned)} runs, {settings.rate:g} a second")
    screen.note(f"arrivals: {source} · policy: {load.deployment.router.policy} · seed: {settings.seed}")
    if load.note:
        screen.note(load.note)
    tally = Tally(len(load.planned))
    async with screen.load(tally, load.planned[-1].arrival_s):
        return await drive(client, load.planned, lambda run: bind(run, slo), tally)


def _objectives(slo: SLO | None) -> str:
    bounds = {name: slo or function.workflow.slo for name, function in WORKFLOWS.items()}
    said = ", ".join(f"{name} {bound.ttft_s:g} s" for name, bound in bounds.items() if bound is not None)
    return f"Goodput: share of runs whose first token came in time: {said}."


@asynccontextmanager
async def _cluster(
    deployment: Deployment, dashboard_port: int | None
) -> AsyncIterator[tuple[LocalModelCluster, Client]]:
    """Start a cluster whose replicas all serve, and close it."""
    address = "" if dashboard_port is None else f"127.0.0.1:{dashboard_port}"
    async with (
        LocalModelCluster(deployment, dashboard_address=address, silence_logs=CRITICAL, asynchronous=True) as cluster,
        Client(cluster, asynchronous=True, set_as_default=False) as client,
    ):
        await install(client, deployment, stream_interval_s=cluster.stream_interval_s)
        await wait_ready(client)
        yield cluster, client
