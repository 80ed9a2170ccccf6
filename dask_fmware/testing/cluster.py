"""A whole runtime inside the event loop of a test: scheduler, light workers and replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from os import PathLike
from types import TracebackType
from typing import Any, Self

import dask.config
from distributed import Client, Scheduler, Worker

from dask_fmware.client.install import wait_ready
from dask_fmware.cluster.local import LocalModelCluster
from dask_fmware.compile.steps import HOST
from dask_fmware.runtime import ReplicaReady
from dask_fmware.runtime.contract import Contract
from dask_fmware.spec.deployment import Deployment
from dask_fmware.testing.leaks import host_leaks, scheduler_leaks
from dask_fmware.testing.script import prompt_of
from dask_fmware_scheduler.installed import ROUTER

__all__ = ["InProcessCluster", "deployment"]

PATIENCE_S = 30.0


def deployment(
    *models: str,
    on: Mapping[str, int] | None = None,
    slots: int = 4,
    context_tokens: int = 2048,
    light_workers: int = 1,
    router: Mapping[str, Any] | None = None,
    placements: Mapping[str, Mapping[str, Any]] | None = None,
    embedders: Collection[str] = (),
    **arguments: Any,
) -> dict[str, Any]:
    """Return a deployment of scripted engines, as a document.

    Parameters
    ----------
    *models
        Their names; every model has the same replicas.
    on
        Replicas of each model by accelerator; ``{"cpu": 1}`` by default.
    slots, context_tokens, light_workers, router
        As in the document.
    placements
        Arguments of the engines on one accelerator, over `arguments`.
    embedders
        Those of the models that embed texts and write none.
    **arguments
        Of every engine; see `ScriptedEngine`.
    """
    on = on or {"cpu": 1}
    latency = {"first_token_s": 0.001, "output_token_s": 0.001}  # nothing to measure when it starts
    return {
        "accelerators": {name: {"cards": replicas * len(models)} for name, replicas in on.items()},
        "models": {
            model: {
                "engine": "scripted",
                "slots": slots,
                "context_tokens": context_tokens,
                "arguments": arguments,
                "embeds": model in embedders,
                "on": {
                    name: {
                        "replicas": replicas,
                        "latency": latency,
                        "arguments": dict((placements or {}).get(name, {})),
                    }
                    for name, replicas in on.items()
                },
            }
            for model in models
        },
        "light_workers": {"count": light_workers},
        "router": dict(router or {}),
    }


class InProcessCluster:
    """Use it with ``async with``; it is ready inside.

    Parameters
    ----------
    deployment
        As for `LocalModelCluster`; the function `deployment` makes one with scripted engines.
    validate
        Let Dask check the states of all its tasks after each transition.

    Attributes
    ----------
    client
        An asynchronous Dask client.
    cluster, scheduler
        What it runs on.
    contract
        Watches the machine, if the runtime was installed from the start; its breaches are raised at the end.
    """

    client: Client
    cluster: LocalModelCluster
    scheduler: Scheduler
    contract: Contract | None

    def __init__(
        self,
        deployment: Deployment | str | PathLike[str] | Mapping[str, Any],
        *,
        validate: bool = False,
        wait: bool = True,
        **kwargs: Any,
    ) -> None:
        self._deployment, self._validate, self._wait, self._kwargs = deployment, validate, wait, kwargs

    async def __aenter__(self) -> Self:
        self._config = dask.config.set({"distributed.scheduler.validate": self._validate})
        self._config.__enter__()
        try:
            self.cluster = await self._made()
            self.scheduler = self.cluster.scheduler
            self.client = await Client(self.cluster, asynchronous=True, set_as_default=False)
            self.contract = self._watched()
            if self._wait:
                await wait_ready(self.client, timeout_s=PATIENCE_S)
        except BaseException:
            await self._close()
            raise
        return self

    def _watched(self) -> Contract | None:
        """Watch the machine, if there is one yet."""
        router = self.scheduler.plugins.get(ROUTER)
        if router is None:
            return None
        machine = router.machine
        contract = Contract(
            machine.max_attempts, is_complete=False, report=machine.report, wake_at=lambda: machine.wake_at
        )
        for state in machine.fleet:
            contract.observe(ReplicaReady(state.replica, state.standing.is_draining), (), 0.0)
        machine.observers.append(contract)
        return contract

    def _made(self) -> LocalModelCluster:
        return LocalModelCluster(
            self._deployment,
            processes=False,
            asynchronous=True,
            dashboard_address=None,
            **self._kwargs,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()
        if kind is None and self.contract is not None and self.contract.breaches:
            raise AssertionError("the contract was broken:\n" + "\n".join(map(str, self.contract.breaches)))

    async def _close(self) -> None:
        for opened in ("client", "cluster"):
            if hasattr(self, opened):
                await getattr(self, opened).close()
        self._config.__exit__(None, None, None)

    @property
    def workers(self) -> dict[str, Worker]:
        """Workers by name."""
        return dict(self.cluster.workers)

    @property
    def router(self) -> Any:
        """The scheduler plugin."""
        return self.scheduler.plugins[ROUTER]

    @property
    def hosts(self) -> dict[str, Any]:
        """Model hosts of the workers that have one, by name of the worker."""
        return {name: worker.plugins[HOST] for name, worker in self.workers.items() if HOST in worker.plugins}

    @property
    def engines(self) -> dict[str, Any]:
        """Engines that serve, by name of their worker (``small-cpu-0``)."""
        return {name: host.loaded.engine for name, host in self.hosts.items() if host.loaded is not None}

    def requests(self, holding: str = "") -> int:
        """How many requests whose prompt holds a text the engines have taken."""
        return sum(holding in prompt_of(request) for engine in self.engines.values() for request in engine.requests)

    async def until(self, condition: Callable[[], Any], what: str = "") -> None:
        """Wait until a condition holds; for what no event announces."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():  # noqa: ASYNC110 - it is polled because nothing tells
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise AssertionError(f"not so after {PATIENCE_S:g} s: {what or condition}") from None

    def leaks(self) -> Iterator[str]:
        """What is left of runs whose futures were released, in words."""
        yield from scheduler_leaks(self.scheduler)
        for name, host in self.hosts.items():
            yield from host_leaks(name, host)
        for name, worker in self.workers.items():  # who was removed keeps what it has until it ends
            if worker.data and worker.address in self.scheduler.workers:
                yield f"worker {name} holds {list(worker.data)}"

    async def settled(self) -> None:
        """Wait until nothing is left of runs whose futures were released; say what is if that does not come."""
        try:
            await self.until(lambda: not list(self.leaks()))
        except AssertionError:
            raise AssertionError("\n".join(self.leaks())) from None
