"""Lets a cluster start and stop replicas by itself: `fm.provision`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distributed.deploy.spec import SpecCluster

from dask_fmware.cluster.backends import Backend, GroupBackend, SpecBackend, WorkerSpec
from dask_fmware.cluster.dask_internals import let_scale, refuse_to_adapt, stop_scaler
from dask_fmware.cluster.provisioner import Provisioner
from dask_fmware.cluster.ssh import listen_to
from dask_fmware.cluster.templates import spec_maker
from dask_fmware.errors import DeploymentError
from dask_fmware.provisioning import inventory_of
from dask_fmware.spec.deployment import Deployment, ReplicaSpec
from dask_fmware.spec.documents import load_deployment
from dask_fmware.spec.provisioning import Provisioning
from dask_fmware.spec.record import shorten

__all__ = ["provision"]


def provision(
    cluster: Any,
    options: Provisioning | None = None,
    *,
    deployment: Deployment | str | Mapping[str, Any] | None = None,
    worker_spec: WorkerSpec | None = None,
    hosts: Mapping[str, Sequence[str]] | None = None,
    group_options: Callable[[ReplicaSpec], Mapping[str, Any]] | None = None,
) -> Provisioner:
    """Start and stop the replicas of a cluster by load, or as `fm.scale` asks.

    The ``cluster.scale(n)`` of a `SpecCluster` is for its other workers from then on: replicas are neither counted nor
    stopped by it. Its ``cluster.adapt`` is refused while this is at work.

    Parameters
    ----------
    cluster
        Any `distributed.SpecCluster` (`LocalCluster`, `SSHCluster`, those of dask-jobqueue), or a cluster with worker
        groups (dask-kubernetes). The runtime is installed on it (`fm.install`).
    options
        Bounds, patience, mode; left out: those of the deployment.
    deployment
        The one that is installed; a `LocalModelCluster` knows it.
    worker_spec
        Makes the spec of the worker that hosts a replica, with the labels of it (`dask_fmware.cluster.templates`); left
        out, it is made like the cluster's own workers.
    hosts
        For machines reached by SSH: by accelerator, the host of each card.
    group_options
        For worker groups: makes image, resources, worker_command and env of a group from a replica that names no card,
        since each pod has its own.

    Returns
    -------
    Provisioner
        A `distributed.deploy.Adaptive`; ``stop()`` ends it, ``cluster.close()`` too.

    Raises
    ------
    DeploymentError
        Options, prices, bounds and cards do not fit together, or the cluster cannot start workers.
    """
    known = deployment if deployment is not None else getattr(cluster, "deployment", None)
    if known is None:
        raise DeploymentError("say which deployment is installed: fm.provision(cluster, deployment='deployment.yaml')")
    made = load_deployment(known)
    options = _chosen(options, made)
    backend: Backend
    if isinstance(cluster, SpecCluster):
        _check_hosts(hosts or {}, made)
        spec = worker_spec or spec_maker(cluster, hosts)
        backend = SpecBackend(cluster, made, spec, options.start_timeout_s)
        cluster.loop.add_callback(listen_to, cluster)
    elif hasattr(cluster, "add_worker_group"):
        if group_options is None:
            raise DeploymentError(
                f"{type(cluster).__name__} starts worker groups; give group_options=, a function from a replica to "
                "image, resources and worker_command of its group"
            )
        backend = GroupBackend(cluster, made, group_options, options.retry_s)
    else:
        raise DeploymentError(
            f"{type(cluster).__name__} can start no workers by model: it is neither a SpecCluster nor has it worker "
            "groups; start workers yourself and use fm.install alone"
        )
    provisioner = _begin(cluster, backend, made, options)
    if isinstance(cluster, SpecCluster) and not hasattr(cluster, "deployment"):  # a LocalModelCluster adapts by us
        refuse_to_adapt(cluster, provisioner)
    return provisioner


def _chosen(given: object, deployment: Deployment) -> Provisioning:
    """Return the options that were given, else those of the deployment; DeploymentError if they are none."""
    if given is None:
        return deployment.provisioning or Provisioning()
    if not isinstance(given, Provisioning):
        raise DeploymentError(f"{shorten(repr(given))} are no options; give them as fm.Provisioning(quantile=0.95)")
    return given


def _check_hosts(hosts: Mapping[str, Sequence[str]], deployment: Deployment) -> None:
    """Refuse hosts with which starts would fail one by one: each card has one."""
    for name, mine in hosts.items():
        if name not in deployment.accelerators:
            known = ", ".join(deployment.accelerators)
            raise DeploymentError(f"hosts['{name}']: no such accelerator in the deployment (known: {known})")
        if len(mine) < (cards := deployment.accelerators[name].cards):
            raise DeploymentError(
                f"hosts['{name}'] names {len(mine)} of {cards} cards; name one for each card of the deployment, one "
                "with several cards as often, or lower cards"
            )


def _begin(cluster: Any, backend: Backend, deployment: Deployment, options: Provisioning) -> Provisioner:
    """Check what can be checked before anything runs, replace whatever scales the cluster, and begin."""
    inventory_of(deployment, options)
    stop_scaler(cluster)
    provisioner = Provisioner(cluster, backend, options)
    let_scale(cluster, provisioner)
    cluster.loop.add_callback(provisioner.look)
    return provisioner
