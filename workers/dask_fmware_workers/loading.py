"""Starts the engine that a worker's labels ask for and measures what it takes: time, memory, a first latency."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypeVar

from dask_fmware.errors import DeploymentError
from dask_fmware.model.engine import Capabilities, Engine
from dask_fmware.model.messages import ReplicaReady
from dask_fmware.model.replica import ACCELERATOR_LABEL, CARD_LABEL, label
from dask_fmware.profile.arguments import engine_arguments
from dask_fmware.profile.known import stated_speed
from dask_fmware.profile.record import LiveProfile, ProfileKey
from dask_fmware.spec.deployment import Deployment, ModelDeployment, Placement
from dask_fmware_workers.accelerators import see_only
from dask_fmware_workers.engines import create_engine
from dask_fmware_workers.memory import Footprint, file_bytes
from dask_fmware_workers.stored_profiles import profile_key, stored_profile
from dask_fmware_workers.warmup import measure_latency

T = TypeVar("T")

__all__ = ["Labels", "Loaded", "load"]


@dataclass(frozen=True, slots=True)
class Labels:
    """What a worker's resources say of it; `model` is None on light workers."""

    worker: str  # its name
    address: str
    model: str | None
    accelerator: str | None
    card: str | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine that serves."""

    engine: Engine
    replica: ReplicaReady  # how it is announced
    footprint: Footprint  # memory that it took
    weight_bytes: int | None  # of the files of its weights; None where there are none here
    arguments: dict[str, Any]  # it was started with
    profile_key: ProfileKey | None  # what a profile of it is of
    placement: Placement  # as it is deployed

    def profiled(self, profile: str) -> Loaded:
        """Return it with a profile that was made since it was loaded, and the latency figure that follows."""
        latency = self.placement.latency or LiveProfile.from_wire(profile).latency()
        return replace(self, replica=replace(self.replica, profile=profile, latency=latency.model_dump()))


async def load(deployment: Deployment, labels: Labels) -> Loaded:
    """Start the engine of the labelled model; it is closed again if that fails.

    Raises
    ------
    DeploymentError
        If the deployment has no such model on that accelerator, or the engine cannot start as it is told to.
    """
    model, accelerator, spec, placement = _wanted(deployment, labels)
    card = labels.card or f"{accelerator}@{labels.address}"
    hardware = deployment.accelerators[accelerator]
    slots = placement.slots or spec.slots
    wanted = engine_arguments(deployment, model, accelerator)
    arguments = dict(wanted)
    if (cores := _of_card(hardware.cores, "cores", accelerator, labels)) is not None:
        arguments.setdefault("cores", cores)
    if (devices := _of_card(hardware.devices, "devices", accelerator, labels)) is not None:
        see_only(devices)
    stated = stated_speed(deployment, model, accelerator)  # one that is not there is told before minutes of loading
    start, before = perf_counter(), Footprint.now()
    engine = create_engine(spec.engine, arguments)
    try:
        await engine.start()
        load_s = perf_counter() - start
        footprint = Footprint.now().beyond(before)
        made = replace(engine.capabilities, engine=spec.engine)  # one around another may name that; plans know this
        _check_use(spec, made, model)
        key = profile_key(model, accelerator, made, wanted)
        weight_bytes, profile = await asyncio.to_thread(_on_disk, key, arguments)
        if profile is None and stated is not None:
            profile = stated.live_profile().to_wire()
        if (latency := placement.latency) is None:
            latency = await measure_latency(engine) if profile is None else LiveProfile.from_wire(profile).latency()
    except BaseException:
        await engine.close()
        raise
    ready = ReplicaReady(
        name=labels.worker,
        model=model,
        accelerator=accelerator,
        card=card,
        slots=min(slots, made.slots),
        context_tokens=made.context_tokens,
        longest_token_bytes=made.longest_token_bytes,
        engine=made.engine,
        engine_version=made.engine_version,
        latency=latency.model_dump(),
        load_s=load_s,
        profile=profile,
        card_slots=hardware.slots_per_card,
    )
    return Loaded(engine, ready, footprint, weight_bytes, arguments, key, placement)


def _wanted(deployment: Deployment, labels: Labels) -> tuple[str, str, ModelDeployment, Placement]:
    """Return model and accelerator of a worker, and what the deployment says of both."""
    model = labels.model
    if model is None or (spec := deployment.models.get(model)) is None:
        raise DeploymentError(
            f"worker '{labels.worker}' is labelled for model '{model}', deployed are: {', '.join(deployment.models)}"
        )
    if labels.accelerator is None and len(spec.on) > 1:
        raise DeploymentError(
            f"worker '{labels.worker}' is labelled for model '{model}', which is deployed on {', '.join(spec.on)}; "
            f"say which of them it has by a resource such as {label(ACCELERATOR_LABEL, next(iter(spec.on)))}=1"
        )
    accelerator = labels.accelerator or next(iter(spec.on))
    if (placement := spec.on.get(accelerator)) is None:
        raise DeploymentError(
            f"worker '{labels.worker}' is labelled for model '{model}' on accelerator '{accelerator}', "
            f"which is deployed on: {', '.join(spec.on)}"
        )
    return model, accelerator, spec, placement


def _check_use(spec: ModelDeployment, made: Capabilities, model: str) -> None:
    """Refuse an engine that gives vectors where the deployment says text, or the other way round."""
    if made.embeds != spec.embeds:
        gives = "vectors and no text" if made.embeds else "text and no vectors"
        raise DeploymentError(
            f"model '{model}': its engine '{spec.engine}' gives {gives}; say 'embeds: {str(made.embeds).lower()}' of "
            "the model in the deployment"
        )


def _on_disk(key: ProfileKey | None, arguments: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """Size of the files of the weights, and what the store has to announce of an engine with them."""
    size = file_bytes(arguments)
    return size, stored_profile(key, size)


def _of_card(sets: Sequence[Sequence[T]] | None, kind: str, accelerator: str, labels: Labels) -> list[T] | None:
    """What the deployment gives the card of a worker, which its label names ``accelerator-index``; None if nothing.

    Without it an engine would run on whatever device comes first, like its neighbours.
    """
    if sets is None:
        return None
    cards = [f"{accelerator}-{index}" for index in range(len(sets))]
    if labels.card is None or labels.card not in cards:
        fault = "its card is not named" if labels.card is None else f"has no card '{labels.card}'"
        raise DeploymentError(
            f"worker '{labels.worker}': accelerators.{accelerator}.{kind} is set, and {fault}; add the resource "
            f"{label(CARD_LABEL, cards[0])}=1 (--fm-card {cards[0]})"
        )
    return list(sets[cards.index(labels.card)])
