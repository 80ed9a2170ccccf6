"""Installs the runtime on a running Dask cluster, and says how it does.

Scheduler and workers must be able to import dask-fmware; nothing is copied there.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

from distributed import Client

from dask_fmware.client.asking import checked_client, not_installed
from dask_fmware.client.dask_internals import write_promptly
from dask_fmware.client.status import RuntimeStatus
from dask_fmware.errors import DeploymentError
from dask_fmware.model.messages import check_version
from dask_fmware.model.replica import MODEL_LABEL, read_label
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.documents import load_deployment

__all__ = ["install", "installed_status", "status", "uninstall", "wait_ready"]

SHOWN = 5  # workers, or keys in which two deployments differ


def install(
    client: Client,
    deployment: Deployment | str | PathLike[str] | Mapping[str, Any],
    *,
    stream_interval_s: float | None = None,
) -> Any:
    """Install replica router and model hosts on the cluster of a client.

    Workers whose resources carry the labels ``fm-model:NAME`` and ``fm-accelerator:TYPE`` load that
    model; all others run plain code. Workers that join later are taken in as well. Installing the same
    deployment again brings model hosts to workers that have none, and changes nothing else.

    Parameters
    ----------
    client
        Of a running cluster, synchronous or asynchronous (then await the result).
    deployment
        A `Deployment`, the path of its YAML or JSON document, or a dictionary.
    stream_interval_s
        Pause between two messages on the streams between scheduler, workers and clients, e.g. 50e-6.
        None keeps Dask's own (2 to 10 ms), which cost a workflow some 5 ms for each hop.

    Raises
    ------
    DeploymentError
        If the document is wrong, or a runtime with another deployment is installed.
    """
    return checked_client(client, "install").sync(_install, client, load_deployment(deployment), stream_interval_s)


async def _install(client: Client, deployment: Deployment, stream_interval_s: float | None) -> None:
    from dask_fmware_scheduler.router import ReplicaRouter
    from dask_fmware_workers.host_giver import HostGiver

    current = await _asked(client)
    if current is None:
        await client.register_plugin(ReplicaRouter(deployment, stream_interval_s=stream_interval_s))
        current = await installed_status(client)  # another client may have been quicker
    _check_same(current, deployment)
    await client.register_plugin(HostGiver(deployment, stream_interval_s=stream_interval_s))
    if stream_interval_s is not None:
        write_promptly(client, stream_interval_s)


def _check_same(state: RuntimeStatus, deployment: Deployment) -> None:
    """Refuse to install a deployment beside another."""
    if (there := Deployment.model_validate(state["deployment"])) != deployment:
        keys = list(_differences(there.model_dump(), deployment.model_dump()))
        more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        raise DeploymentError(
            "a runtime with another deployment is installed on this cluster (they differ in "
            f"{', '.join(keys[:SHOWN])}{more}); to change it call fm.uninstall(client) and install again: "
            "models are loaded anew, and runs under way fail with NotInstalledError"
        )


def _differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Keys of two documents whose values differ, by their path."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        if one != other:
            yield path
        return
    for key in sorted({*one, *other}):
        yield from _differences(one.get(key), other.get(key), f"{path}.{key}" if path else str(key))


def uninstall(client: Client) -> Any:
    """Remove router and model hosts; engines are closed. Nothing happens on a cluster without the runtime.

    Runs under way fail with `NotInstalledError`.

    Parameters
    ----------
    client
        Of the cluster; with an asynchronous one, await the result.
    """
    return checked_client(client, "uninstall").sync(_uninstall, client)


async def _uninstall(client: Client) -> None:
    from dask_fmware_scheduler.installed import take_out

    await client.run_on_scheduler(take_out)


def status(client: Client) -> Any:
    """Return the state of the runtime: replicas with their load, held calls, failed replicas.

    Parameters
    ----------
    client
        Of the cluster; with an asynchronous one, await the result.

    Returns
    -------
    RuntimeStatus
        A dictionary of plain values, which a notebook shows as a table: ``replicas`` (a dictionary each: name, model,
        accelerator, card, slots, ``running`` and ``waiting`` calls by the router's books, speed, drift),
        ``failed_replicas``, ``held`` calls, ``runs`` under way, ``light_workers``, ``policy``, ``deployment``,
        ``provisioning``, and ``failures`` of the router's hooks. ``engine_state`` of a replica is what its engine
        last said of itself (`EngineState`), at most a quarter of a second old; None until it has spoken.

    Raises
    ------
    NotInstalledError
        If the cluster has no runtime.
    """
    return checked_client(client, "status").sync(installed_status, client)


async def installed_status(client: Client) -> RuntimeStatus:
    """Return the state of the runtime; see `status`."""
    answer = await _asked(client)
    if answer is None:
        raise not_installed(client)
    return answer


async def _asked(client: Client) -> RuntimeStatus | None:
    """Return what the router says of itself, or None if there is none."""
    from dask_fmware_scheduler.installed import has_router

    if not await client.run_on_scheduler(has_router):  # an unknown RPC would leave a traceback in the scheduler's log
        return None
    answer = await client.scheduler.fmware_status()
    if answer is None:
        return None
    check_version(answer["version"], "the scheduler")
    states = await client.scheduler.fmware_engine_states() or {}  # None: it was uninstalled meanwhile
    replicas = [{**replica, "engine_state": states.get(replica["worker"])} for replica in answer["replicas"]]
    return RuntimeStatus({**answer, "deployment": json.loads(answer["deployment"]), "replicas": replicas})


def wait_ready(client: Client, *, timeout_s: float = 120.0) -> Any:
    """Wait until every replica of the deployment serves.

    There are to be as many of each model on each accelerator as the deployment says; where replicas are provisioned,
    as many as `scale` has asked for, or else as the latest plan wants. Those that get no calls, as they drain or are
    paused, do not count.

    Parameters
    ----------
    client
        Of the cluster; with an asynchronous one, await the result.
    timeout_s
        Seconds.

    Raises
    ------
    NotInstalledError
        If the cluster has no runtime.
    DeploymentError
        As soon as a replica has failed for good.
    TimeoutError
        After `timeout_s` seconds, naming what is missing.
    """
    return checked_client(client, "wait_ready").sync(_wait_ready, client, timeout_s)


async def _wait_ready(client: Client, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        state = await installed_status(client)
        wanted = _wanted(state)
        missing = wanted - _serving(state)
        if not missing and _is_planned(state):
            return  # kind by kind: one too many of another stands in for none
        failed = state["failed_replicas"]
        for replica in failed:
            if not replica["will_retry"]:
                raise DeploymentError(
                    f"replica '{replica['name']}' of model '{replica['model']}' cannot start: {replica['error']}"
                )
        if time.monotonic() > deadline:
            if not _is_planned(state):
                why = state["provisioning"]["error"] or "it is being made"
                raise TimeoutError(f"there is no plan of replicas after {timeout_s:g} s ({why})")
            why = "; ".join(f"'{r['name']}': {r['error']}" for r in failed) or await _absent(client, state, wanted)
            count = f"{missing.total()} of {wanted.total()}"
            raise TimeoutError(f"{count} replicas are not ready after {timeout_s:g} s ({why})")
        await asyncio.sleep(0.05)


def _wanted(state: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """How many replicas of each kind there should be: as planned, or as the deployment says where nobody plans."""
    if state["provisioning"] is not None:
        kinds = state["provisioning"]["replicas"]
        return Counter({(kind["model"], kind["accelerator"]): kind["desired"] for kind in kinds})
    return Counter((r.model, r.accelerator) for r in Deployment.model_validate(state["deployment"]).replicas())


def _is_planned(state: Mapping[str, Any]) -> bool:
    """Whether it is known how many there should be: where replicas are provisioned, by a plan or by hand."""
    return state["provisioning"] is None or bool(state["provisioning"]["is_planned"])


def _serving(state: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """How many replicas of each kind get calls."""
    return Counter((r["model"], r["accelerator"]) for r in state["replicas"] if not r["draining"])


async def _absent(client: Client, state: Mapping[str, Any], wanted: Counter[tuple[str, str]]) -> str:
    """Say which replicas are missing where none has failed, and where they could be."""
    serving = _serving(state)
    missing, surplus = wanted - serving, serving - wanted
    said = [f"missing: {_in_words(missing)}"]
    if surplus:
        said.append(f"more than asked for: {_in_words(surplus)}")
    away = [r["name"] for r in state["replicas"] if r["draining"] and (r["model"], r["accelerator"]) in missing]
    if away:
        said.append(f"drained or paused: {', '.join(away[:SHOWN])}")
    reasons = state["provisioning"]["reasons"] if state["provisioning"] is not None else {}
    said += [f"'{model}': {reasons[model]}" for model in sorted({model for model, _ in missing} & {*reasons})]
    return "; ".join([*said, await _silent(client, {replica["worker"] for replica in state["replicas"]})])


def _in_words(kinds: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{count} of '{model}' on '{card}'" for (model, card), count in kinds.items())


async def _silent(client: Client, known: set[str]) -> str:
    """Say which workers should have a replica, and are not known to have one."""
    workers = (await client.scheduler.identity(n_workers=-1))["workers"]
    labelled = [
        address
        for address, worker in workers.items()
        if address not in known and read_label(worker["resources"], MODEL_LABEL) is not None
    ]
    if not labelled:
        return "no other worker is labelled to host a model"
    return (
        f"labelled and silent: {', '.join(labelled[:SHOWN])}: they load, or have no model host, which "
        "fm.install(client, deployment) brings"
    )
