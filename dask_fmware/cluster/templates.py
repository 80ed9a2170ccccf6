"""Specs of the workers that host replicas, on the kinds of clusters that Dask knows.

Each function returns a maker of specs for `provision`; write one of your own for anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dask_fmware.cluster.backends import WorkerSpec
from dask_fmware.errors import DeploymentError
from dask_fmware.model.replica import ACCELERATOR_LABEL, CARD_LABEL, MODEL_LABEL, label
from dask_fmware.spec.deployment import ReplicaSpec

__all__ = ["job_specs", "labels", "like", "resources_argument", "spec_maker", "ssh_specs"]


def labels(replica: ReplicaSpec) -> dict[str, float]:
    """Worker resources that say what a worker hosts, and on which card, if that has a name."""
    named = {MODEL_LABEL: replica.model, ACCELERATOR_LABEL: replica.accelerator, CARD_LABEL: replica.card}
    return {label(kind, name): 1 for kind, name in named.items() if name}


def resources_argument(replica: ReplicaSpec) -> str:
    """The labels as ``dask worker --resources`` takes them."""
    return " ".join(f"{name}={int(amount)}" for name, amount in labels(replica).items())


def spec_maker(cluster: Any, hosts: Mapping[str, Sequence[str]] | None = None) -> WorkerSpec:
    """Return the maker for a cluster: jobs, hosts or local processes, as the cluster itself starts workers.

    Raises
    ------
    DeploymentError
        The cluster has no template of a worker, and no hosts were given.
    """
    if hasattr(cluster, "job_cls"):
        return job_specs(cluster)
    if hosts is not None:
        return ssh_specs(hosts, cluster)
    if hasattr(cluster, "replica_worker"):  # a LocalModelCluster
        own: WorkerSpec = cluster.replica_worker
        return own
    if getattr(cluster, "new_spec", None):
        return like(cluster.new_spec)
    raise DeploymentError(
        f"{type(cluster).__name__} has no template of a worker; give hosts={{accelerator: [names]}} for machines "
        "reached by SSH, or worker_spec=, a function from a replica to the spec of its worker"
    )


def like(template: Mapping[str, Any]) -> WorkerSpec:
    """Specs like a cluster's own (`LocalCluster`), with the labels of a replica and no memory limit.

    Dask would count the engine's memory against the limit and pause or end the worker.
    """

    def make(replica: ReplicaSpec) -> dict[str, Any]:
        options = {**template.get("options", {}), "nthreads": replica.slots + 2, "memory_limit": 0}
        options["resources"] = {**(options.get("resources") or {}), **labels(replica)}
        return {"cls": template["cls"], "options": options}

    return make


def job_specs(cluster: Any) -> WorkerSpec:
    """Specs of `dask_jobqueue` clusters: a job for each replica, with the labels in its command line.

    The memory of a job bounds the job and not the worker in it, against which Dask would count the engine.
    """

    def make(replica: ReplicaSpec) -> dict[str, Any]:
        options = dict(getattr(cluster, "_job_kwargs", None) or cluster.new_spec["options"])
        given = [*(options.get("worker_extra_args") or ())]
        labels_ = f'"{resources_argument(replica)}"'
        options["worker_extra_args"] = [*given, "--memory-limit", "0", "--resources", labels_]
        options["processes"] = 1  # a job of several workers has several names
        options["cores"] = max(int(options.get("cores") or 1), replica.slots + 2)
        return {"cls": cluster.job_cls, "options": options}

    return make


def ssh_specs(hosts: Mapping[str, Sequence[str]], cluster: Any = None) -> WorkerSpec:
    """Specs of workers on machines reached by SSH: the n-th card of an accelerator is on its n-th host.

    User, keys, known hosts, Python and options of workers are those that an `SSHCluster` has for the same host, else
    those of its first one. The name stands among the options of the worker, as only these are sent to the host.
    """
    known = _known_hosts(cluster)

    def make(replica: ReplicaSpec) -> dict[str, Any]:
        mine = hosts.get(replica.accelerator, ())
        index = int(replica.card.rpartition("-")[2])
        if index >= len(mine):
            raise DeploymentError(
                f"no host for card '{replica.card}': hosts['{replica.accelerator}'] names {len(mine)}; name one for "
                "each card of the deployment"
            )
        like_it = known.get(mine[index]) or next(iter(known.values()), {})
        given = {key: value for key, value in like_it.get("kwargs", {}).items() if key != "n_workers"}
        resources = {**(given.get("resources") or {}), **labels(replica)}
        options = {
            "address": mine[index],
            # what is printed and no text would end the connection
            "connect_options": {"errors": "replace", **like_it.get("connect_options", {})},
            "remote_python": like_it.get("remote_python"),
            "worker_class": "distributed.Nanny",
            "kwargs": {
                **given, "name": replica.name, "nthreads": replica.slots + 2, "memory_limit": 0, "resources": resources,
            },
        }  # fmt: skip
        return {"cls": "dask_fmware.cluster.ssh.HostWorker", "options": options}

    return make


def _known_hosts(cluster: Any) -> dict[str, Mapping[str, Any]]:
    """Options by host of what a cluster starts by SSH, workers first; of its scheduler only how to get there."""
    options = [spec.get("options", {}) for spec in (getattr(cluster, "worker_spec", None) or {}).values()]
    there = (getattr(cluster, "scheduler_spec", None) or {}).get("options", {})
    options.append({key: value for key, value in there.items() if key != "kwargs"})
    known: dict[str, Mapping[str, Any]] = {}
    for each in options:
        if "connect_options" in each:
            known.setdefault(each["address"], each)
    return known
