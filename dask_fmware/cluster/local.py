"""A whole runtime on one machine: scheduler, light workers and one worker process for each replica."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Mapping
from html import escape
from multiprocessing import resource_tracker
from os import PathLike
from typing import Any

from distributed import Client, Nanny, Scheduler, Worker
from distributed.core import Status
from distributed.deploy.cluster import Cluster
from distributed.protocol.pickle import dumps
from distributed.security import Security

from dask_fmware.client.dask_internals import write_promptly
from dask_fmware.client.status import RuntimeStatus
from dask_fmware.cluster.orderly import OrderlyCluster
from dask_fmware.cluster.provision import provision
from dask_fmware.cluster.provisioner import Provisioner
from dask_fmware.cluster.templates import labels
from dask_fmware.errors import DeploymentError
from dask_fmware.model.messages import STREAM_INTERVAL_S
from dask_fmware.spec.deployment import Deployment, ReplicaSpec
from dask_fmware.spec.documents import load_deployment
from dask_fmware.spec.provisioning import Provisioning
from dask_fmware.spec.record import checked

__all__ = ["LocalModelCluster"]

LOST_S = 15.0  # after which a nanny that has closed is forgotten, as by Dask


class LocalModelCluster(OrderlyCluster):
    """Scheduler, light workers and replicas of a deployment, as processes on this machine.

    Everything is bound to the loopback address.

    Parameters
    ----------
    deployment
        A `Deployment`, the path of its YAML or JSON document, or a dictionary.
    dashboard_address
        ``"127.0.0.1:8787"`` by default, any free port if that is taken; ``None`` for no dashboard. A
        port that is given and taken is an error.
    scheduler_port
        0 for any free port.
    stream_interval_s
        Pause between two messages on the streams of the cluster; None for Dask's own.
    processes
        Whether workers are processes. Without, they share this one with the scheduler, as tests of
        workflows do; a worker that dies is not replaced then.
    silence_logs
        Level below which the workers' logs are not shown, or False.
    security
        TLS with mutual certificates between all processes: a `distributed.Security`, or True for certificates
        that are made for this cluster and kept in memory (needs the package ``cryptography``).
    asynchronous
        As in Dask: the caller has a loop, and awaits what is started and closed.
    **kwargs
        Of `distributed.SpecCluster`.

    Raises
    ------
    DeploymentError
        If the document is wrong or a port is taken.

    Examples
    --------
    >>> cluster = LocalModelCluster("deployment.yaml")  # doctest: +SKIP
    >>> client = Client(cluster)  # doctest: +SKIP
    """

    def __init__(
        self,
        deployment: Deployment | str | PathLike[str] | Mapping[str, Any],
        *,
        dashboard_address: str | None = "",
        scheduler_port: int = 0,
        stream_interval_s: float | None = STREAM_INTERVAL_S,
        processes: bool = True,
        silence_logs: Any = 40,
        security: Security | bool | None = None,
        asynchronous: bool = False,
        **kwargs: Any,
    ) -> None:
        self.deployment = load_deployment(deployment)
        self.stream_interval_s = stream_interval_s
        dashboard = dashboard_address
        if dashboard == "":
            dashboard = "127.0.0.1:8787" if _is_free("127.0.0.1", 8787) else "127.0.0.1:0"
        elif dashboard is not None:
            _check_free(*_host_and_port(dashboard), what="dashboard_address")
        _check_free("127.0.0.1", scheduler_port, what="scheduler_port")
        tls = _tls(security)
        self._processes, self._silence_logs, self._tls = processes, silence_logs, tls
        light = self.deployment.light_workers
        workers: dict[str, Any] = {
            f"light-{i}": _worker(processes, {}, light.threads, None, silence_logs, tls) for i in range(light.count)
        }
        for replica in self.deployment.replicas():
            workers[replica.name] = self.replica_worker(replica)
        super().__init__(
            workers=workers,
            scheduler={
                "cls": Scheduler,
                "options": {
                    "host": "127.0.0.1",
                    "port": scheduler_port,
                    "dashboard": dashboard is not None,
                    "dashboard_address": dashboard or "127.0.0.1:0",
                    **tls,
                },
            },
            security=tls.get("security"),
            asynchronous=asynchronous,
            silence_logs=silence_logs,
            name="fmware",
            **kwargs,
        )

    async def _begin(self) -> None:
        """Start the scheduler and install the runtime on it before any worker comes."""
        _keep_interrupts_from_children()
        await super()._begin()
        await self._install()

    async def _install(self) -> None:
        from dask_fmware_scheduler.router import ReplicaRouter
        from dask_fmware_workers.host_giver import HostGiver

        router = ReplicaRouter(self.deployment, stream_interval_s=self.stream_interval_s)
        hosting = HostGiver(self.deployment, stream_interval_s=self.stream_interval_s)
        await self.scheduler.register_scheduler_plugin(router, idempotent=True)
        await self.scheduler.register_worker_plugin(None, dumps(hosting), name=hosting.name, idempotent=True)

    def replica_worker(self, replica: ReplicaSpec) -> dict[str, Any]:
        """Spec of the worker that hosts a replica."""
        return _worker(self._processes, labels(replica), replica.slots + 2, 0, self._silence_logs, self._tls)

    def adapt(self, provisioning: Provisioning | None = None, **kwargs: Any) -> Provisioner:
        """Start and stop replicas by load.

        Parameters
        ----------
        provisioning
            Bounds, patience, mode; left out: those of the deployment. Keywords make one:
            ``cluster.adapt(idle_s=60)``.

        Raises
        ------
        DeploymentError
            Options, prices, bounds and cards do not fit together.
        """
        if kwargs:
            if provisioning is not None:
                raise DeploymentError("adapt: give fm.Provisioning(...) or its options as keywords, not both")
            provisioning = checked(Provisioning, kwargs, DeploymentError, "adapt")
        return provision(self, provisioning)

    def scale(self, n: int = 0, memory: Any = None, cores: Any = None) -> Any:
        """Refuse what Dask means by it: that many workers, whichever, and replicas go without having been drained.

        Raises
        ------
        DeploymentError
            While the cluster runs; it says what to call instead.
        """
        if self.status != Status.running:  # Dask closes by it
            return super().scale(n, memory, cores)
        raise DeploymentError(
            f"scale({n}): workers of this cluster are replicas of models; call cluster.adapt(fm.Provisioning()), and "
            "fm.scale(client, {'model': {'accelerator': replicas}}) to choose by hand"
        )

    def _update_worker_status(self, op: str, msg: Any) -> None:
        """Leave workers to their nannies.

        SpecCluster closes a worker that is not there 15 seconds after it was lost, and its nanny with
        it: a replica that is slow to start, or dies twice, would never come back.
        """
        if op == "remove":
            name = self.scheduler_info["workers"][msg]["name"]
            asyncio.get_running_loop().call_later(LOST_S, self._forget_closed, name)
        Cluster._update_worker_status(self, op, msg)

    def _forget_closed(self, name: str) -> None:
        worker = self.workers.get(name)
        if worker is not None and worker.status in (Status.closed, Status.failed):
            del self.workers[name]

    def get_client(self) -> Client:
        """Return a client whose stream is as quick as the cluster's."""
        client = super().get_client()
        if self.stream_interval_s is not None:
            write_promptly(client, self.stream_interval_s)
        return client

    @property
    def page(self) -> str | None:
        """Address of the page /fmware of the dashboard, if there is one."""
        link: str | None = self.dashboard_link
        return link.removesuffix("/status") + "/fmware" if link and self.scheduler.http_server is not None else None

    def _repr_html_(self, cluster_status: str | None = None) -> str:
        """Show replicas and the address of the page; what Dask shows of a cluster is folded below."""
        ask = self.scheduler.handlers.get("fmware_status") if self.scheduler is not None else None
        shown = RuntimeStatus(ask())._repr_html_() if ask is not None else ""
        page = escape(self.page or "")
        link = f'<div style="margin:6px 0">dashboard: <a href="{page}" target="_blank">{page}</a></div>' if page else ""
        return (
            f"<div><b>{type(self).__name__}</b> {escape(str(self.name))}{link}{shown}"
            f"<details><summary>Dask</summary>{super()._repr_html_(cluster_status)}</details></div>"
        )

    def __repr__(self) -> str:
        return (
            f"<LocalModelCluster {self.scheduler_address!r}: {len(self.deployment.models)} models, "
            f"{sum(1 for _ in self.deployment.replicas())} replicas, "
            f"{self.deployment.light_workers.count} light workers>"
        )


def _worker(
    processes: bool,
    resources: dict[str, float],
    threads: int,
    memory_limit: int | None,
    silence_logs: Any,
    tls: Mapping[str, Any],
) -> dict[str, Any]:
    options: dict[str, Any] = {
        **tls,
        "host": "127.0.0.1",
        "nthreads": threads,
        "resources": resources,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": silence_logs,
    }
    if memory_limit is not None:  # 0: Dask would pause or kill a replica for the memory of its engine
        options["memory_limit"] = memory_limit
    return {"cls": Nanny if processes else Worker, "options": options}


def _keep_interrupts_from_children() -> None:
    """Block SIGINT in the loop's thread, and so in the processes that it starts.

    A terminal's Ctrl-C, and a notebook's button that interrupts a cell, go to all processes of a group: replicas
    would die and load anew, each time a cell is interrupted. Where the loop runs in the main thread, they do.
    """
    if threading.current_thread() is not threading.main_thread() and hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # whichever thread starts it lets SIGINT through from then on
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _tls(security: Security | bool | None) -> dict[str, Any]:
    """Options of scheduler and workers."""
    if not security:
        return {}
    if security is True:
        try:
            security = Security.temporary()
        except ImportError as error:
            raise DeploymentError(
                "security=True makes certificates with the package 'cryptography', which is not installed: "
                "pip install cryptography, or give a distributed.Security with certificates of your own"
            ) from error
    elif not security.require_encryption:
        raise DeploymentError(
            "security: require_encryption is off, so unencrypted connections would be taken as well; "
            "write Security(require_encryption=True, ...)"
        )
    return {"security": security, "protocol": "tls://"}


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise DeploymentError(
            f"dashboard_address={address!r}: write host:port, e.g. '127.0.0.1:8787', or ':0' for any port"
        )
    return host or "127.0.0.1", int(port)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _check_free(host: str, port: int, *, what: str) -> None:
    if not 0 <= port < 65536:
        raise DeploymentError(f"{what}: {port} is no port; give one in 1..65535, or 0 for any free port")
    if port and not _is_free(host, port):
        raise DeploymentError(f"{what}: port {port} on {host} is in use; choose another, or 0 for any free port")
