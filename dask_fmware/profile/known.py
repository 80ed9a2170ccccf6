"""How fast a model is on an accelerator, as far as that is known before a replica of it runs, and from where.

The first of: a profile that was measured of exactly this pair, engine and its arguments; what the deployment states,
which is the law that an emulated engine plays or an entry of the bundled catalog (``catalog:``); its latency figure; an
entry of the catalog that has the names of model and accelerator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dask_fmware.errors import DeploymentError, SpecError
from dask_fmware.profile.arguments import arguments_digest, engine_arguments
from dask_fmware.profile.catalog import look_up
from dask_fmware.profile.emulated_law import find_law
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.record import LawRecord, LiveProfile, Profile
from dask_fmware.profile.versions import version_order
from dask_fmware.spec.deployment import Deployment, Latency

__all__ = ["UNUSED", "KnownSpeed", "known_speed", "measured_otherwise", "stated_speed"]

LAWS = frozenset({"law", "catalog", "profile"})  # arguments of the emulated engine
UNUSED = "a profile that was measured with other arguments of the engine is not used"


@dataclass(frozen=True, slots=True)
class KnownSpeed:
    """A step-time law, or a latency figure where there is none."""

    source: str  # for people
    law: StepLaw | None = None
    latency: Latency | None = None
    step_tokens: int | None = None  # most prompt tokens in a step
    load_s: float | None = None
    weight_bytes: float | None = None
    kv_bytes_per_token: float | None = None

    def live_profile(self) -> LiveProfile:
        """Return what a replica announces of it; there must be a law."""
        assert self.law is not None
        return LiveProfile(law=LawRecord.of(self.law), step_tokens=self.step_tokens, source=self.source)


def known_speed(
    deployment: Deployment, model: str, accelerator: str, profiles: Sequence[Profile] = ()
) -> KnownSpeed | None:
    """Return what is known of a model on an accelerator that it is deployed on; None if nothing is.

    Parameters
    ----------
    profiles
        What was measured; of several versions of an engine the latest counts. One that was measured with other
        arguments of the engine, or does not know with which, is not used, and `KnownSpeed.source` says so.

    Raises
    ------
    DeploymentError
        The deployment names a law that there is not, or a model that the catalog does not have.
    """
    wanted = arguments_digest(engine_arguments(deployment, model, accelerator))
    if mine := [p for p in _labelled(deployment, model, accelerator, profiles) if p.key.arguments == wanted]:
        best = max(mine, key=lambda p: version_order(p.key.engine_version))
        return _of(best, f"profile, {best.key}")
    found = _not_measured(deployment, model, accelerator)
    if found is not None and measured_otherwise(deployment, model, accelerator, profiles):
        return replace(found, source=f"{found.source} ({UNUSED})")
    return found


def measured_otherwise(deployment: Deployment, model: str, accelerator: str, profiles: Sequence[Profile]) -> bool:
    """Whether there are profiles by the labels of a placement, all of them with other arguments of the engine."""
    named = _labelled(deployment, model, accelerator, profiles)
    wanted = arguments_digest(engine_arguments(deployment, model, accelerator))
    return bool(named) and all(p.key.arguments != wanted for p in named)


def _labelled(deployment: Deployment, model: str, accelerator: str, profiles: Sequence[Profile]) -> list[Profile]:
    labels = (model, accelerator, deployment.models[model].engine)
    return [p for p in profiles if (p.key.model, p.key.accelerator, p.key.engine) == labels]


def _not_measured(deployment: Deployment, model: str, accelerator: str) -> KnownSpeed | None:
    """Of what the deployment and the catalog say."""
    if (stated := stated_speed(deployment, model, accelerator)) is not None:
        return stated
    if (latency := deployment.models[model].on[accelerator].latency) is not None:
        return KnownSpeed("latency figure of the deployment", latency=latency)
    try:
        return _of_catalog(model, accelerator)
    except SpecError:
        return None


def stated_speed(deployment: Deployment, model: str, accelerator: str) -> KnownSpeed | None:
    """Return what the deployment itself says by naming a law or an entry of the catalog; None if it does not.

    A model of the catalog says nothing of accelerators that the catalog does not have it on.

    Raises
    ------
    DeploymentError
        There is no such law, or no such model in the catalog.
    """
    spec = deployment.models[model]
    arguments = engine_arguments(deployment, model, accelerator)
    try:
        if spec.engine == "emulated":
            return _played(arguments) if LAWS & arguments.keys() else None
        return _of_catalog(spec.catalog, accelerator) if spec.catalog is not None else None
    except SpecError as error:
        raise DeploymentError(f"models.{model}.on.{accelerator}: {error}") from error


def _played(arguments: Mapping[str, Any]) -> KnownSpeed:
    """Of an emulated engine: the law that it plays, on its clock."""
    law, load_s = find_law(arguments.get("law"), arguments.get("catalog"), arguments.get("profile"))
    scale = float(arguments.get("time_scale", 1.0))
    stated_s = arguments.get("load_s")
    return KnownSpeed(
        "the law that its engine plays",
        law.scaled(scale, scale),
        step_tokens=int(arguments.get("step_tokens", 2048)),
        load_s=scale * (load_s if stated_s is None else float(stated_s)),
    )


def _of_catalog(model: str, accelerator: str) -> KnownSpeed | None:
    found = look_up(model, accelerator)
    return None if found is None else _of(found, f"catalog, {found.key}, {found.provenance.kind}")


def _of(profile: Profile, source: str) -> KnownSpeed:
    return KnownSpeed(
        source, profile.step_law, step_tokens=profile.step_tokens, load_s=profile.load_s,
        weight_bytes=profile.weight_bytes, kv_bytes_per_token=profile.kv_bytes_per_token,
    )  # fmt: skip
