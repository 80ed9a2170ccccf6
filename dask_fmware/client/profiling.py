"""Profiles the models of a running cluster: each once on each accelerator, on a replica that is on leave.

It decides what is measured and in which order, and keeps what comes in the store. What the engine does, the worker
times; what the times say, `dask_fmware.profile` finds.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from time import monotonic
from typing import Any, Literal

import numpy as np
from distributed import Client

from dask_fmware.client.asking import checked_client
from dask_fmware.client.card_lease import CardLease
from dask_fmware.client.install import installed_status
from dask_fmware.compile.profiles import open_store
from dask_fmware.errors import CapacityError, DeploymentError, EngineError, FMwareError, SpecError
from dask_fmware.profile.experiments import Experiment
from dask_fmware.profile.progress import EngineFacts, PartialProfile, TraceRecord
from dask_fmware.profile.record import LiveProfile, Profile, ProfileKey
from dask_fmware.profile.solve import require_solver
from dask_fmware.profile.store import ProfileStore
from dask_fmware.spec.deployment import Deployment

__all__ = ["ProfileProgress", "ProfiledModel", "profile_models"]

DEAR_S = 20.0  # an experiment that takes longer is the longest of its phase
MORE_ROUNDS = 2  # of experiments, where those that were asked for leave too few points
SAVE_S = 1.0  # between two writes of what was measured so far
LABELS = ("model", "accelerator", "engine", "engine_version")  # of a replica
DOUBTED = 0.3  # median error of a law on held-out steps, above which it is told of


@dataclass(frozen=True, slots=True)
class ProfileProgress:
    """How far the measurement of one model on one accelerator is."""

    key: ProfileKey
    done: int  # experiments run, those of an interrupted run included
    total: int
    experiment: str  # that comes next, or "" at the end


@dataclass(frozen=True, slots=True)
class ProfiledModel:
    """What became of one (model, accelerator, engine, engine version, arguments)."""

    key: ProfileKey
    state: Literal["measured", "kept", "failed"]  # "kept": the store had it
    profile: Profile | None
    reason: str = ""  # why it failed, was measured although the store had an entry, or is doubtful


def profile_models(
    client: Client,
    models: Iterable[str] | None = None,
    accelerators: Iterable[str] | None = None,
    *,
    store: ProfileStore | str | None = None,
    force: bool = False,
    repeats: int = 3,
    progress: Callable[[ProfileProgress], None] | None = None,
) -> Any:
    """Measure the models of a cluster on its accelerators and keep their profiles.

    Each (model, accelerator, engine, engine version, arguments of the engine) is measured once, on a replica that gets
    no calls meanwhile; replicas that share its card get none either, because they would slow it. What an interrupted
    measurement had is taken up again.

    Parameters
    ----------
    client
        Of a cluster with the runtime installed; with an asynchronous one, await the result.
    models, accelerators
        Only these; by default all but models that embed.
    store
        Directory or fsspec URL; left out, that of Dask's configuration (``fmware.profiles``), else the user's cache.
    force
        Measure again what the store has.
    repeats
        Rounds of experiments. More rounds take longer and lessen the error on noisy machines; up to two are added
        where these leave too few points for a law.
    progress
        Called after each experiment, in the thread of the client's event loop.

    Returns
    -------
    list of ProfiledModel

    Raises
    ------
    NotInstalledError
        The cluster has no runtime.
    DeploymentError
        No replica that serves is of these models and accelerators, or a model embeds.
    SpecError
        SciPy is not installed, or the store cannot be written and has not all of it.
    """
    checked_client(client, "profile_models")
    require_solver()
    stop = threading.Event()
    work = _Profiling(client, open_store(store), force, repeats, progress or (lambda _progress: None), stop)
    try:
        return client.sync(work.run, _names(models), _names(accelerators))
    except KeyboardInterrupt:
        stop.set()  # the coroutine runs on in the client's thread
        raise


def _names(names: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if names is None else (names,) if isinstance(names, str) else tuple(names)


class _Profiling:
    """One run over a cluster."""

    def __init__(
        self,
        client: Client,
        store: ProfileStore,
        force: bool,
        repeats: int,
        progress: Callable[[ProfileProgress], None],
        stop: threading.Event,
    ) -> None:
        self.client, self.store, self.force, self.repeats = client, store, force, repeats
        self.progress, self.stop = progress, stop
        self.nonce = secrets.randbits(64)  # prompts of another run may be in the prefix caches of engines
        self.weights: dict[str, int | None] = {}  # worker -> bytes of the files of its weights

    async def run(self, models: Sequence[str] | None, accelerators: Sequence[str] | None) -> list[ProfiledModel]:
        state = await installed_status(self.client)
        embedders = Deployment.model_validate(state["deployment"]).embedders
        replicas = [r for r in state["replicas"] if r["model"] not in embedders]
        for model in sorted(embedders.intersection(models or ())):
            raise DeploymentError(
                f"model '{model}' embeds texts, and what is measured is how text is written; its speed is the figure "
                "that a replica measures when it starts, or the 'latency' of its placement in the deployment"
            )
        chosen = _chosen(replicas, models, accelerators, state["failed_replicas"])
        wanted, failed = await self.by_key(chosen)
        made = [ProfiledModel(key, "failed", None, why) for key, why in failed.items()]
        made += [await self.one(key) for key in wanted]
        return sorted(made, key=lambda item: (item.key.model, item.key.accelerator))

    async def by_key(
        self, replicas: list[dict[str, Any]]
    ) -> tuple[dict[ProfileKey, list[dict[str, Any]]], dict[ProfileKey, str]]:
        """Replicas by what a profile is of; and why none of some labels tells it."""
        found: dict[ProfileKey, list[dict[str, Any]]] = {}
        failed: dict[ProfileKey, str] = {}
        for replica in replicas:
            labels = _labels(replica)
            try:
                said = await self.ask(replica["worker"], {"kind": "key"})
                key, self.weights[replica["worker"]] = ProfileKey.model_validate(said["key"]), said["weight_bytes"]
            except (FMwareError, OSError) as error:
                failed.setdefault(labels, str(error) or type(error).__name__)
            else:
                found.setdefault(key, []).append(replica)
        return found, {labels: why for labels, why in failed.items() if not any(map(labels.has_labels_of, found))}

    async def replicas_of(self, key: ProfileKey) -> tuple[list[dict[str, Any]], str]:
        """Replicas that a profile is of, as they are by now, as others were measured for minutes; else why none."""
        replicas = (await installed_status(self.client))["replicas"]
        alike = [r for r in replicas if key.has_labels_of(_labels(r))]
        found, failed = await self.by_key(alike)
        return found.get(key, []), next(iter(failed.values()), "none serves any more; profile again when one does")

    async def one(self, key: ProfileKey) -> ProfiledModel:
        same, why = await self.replicas_of(key)
        if not same:
            return ProfiledModel(key, "failed", None, why)
        found, problem = self.store.get(key)
        reason = str(problem or "")
        if found is not None and all(found.is_of_other_weights(self.weights[r["worker"]]) for r in same):
            found, reason = None, "its weights were replaced since the store's profile was measured"
        if found is not None and not self.force:
            await self.announce(found, same)
            return ProfiledModel(key, "kept", found)
        self.store.require_writable()
        replica = min(same, key=lambda r: (r["running"] + r["waiting"], r["name"]))
        try:
            async with CardLease(self.client, replica["card"], replica["name"], self.stop) as lease:
                try:
                    profile = await self.measure(key, replica, lease)
                except (FMwareError, OSError) as error:
                    return ProfiledModel(key, "failed", None, str(error) or type(error).__name__)
        except CapacityError as error:
            return ProfiledModel(key, "failed", None, str(error))
        await self.announce(profile, (await self.replicas_of(key))[0])
        return ProfiledModel(key, "measured", profile, reason or _doubt(profile))

    async def measure(self, key: ProfileKey, replica: dict[str, Any], lease: CardLease) -> Profile:
        worker = replica["worker"]
        facts = await self.ask(worker, {"kind": "facts"})
        said = {name: facts[name] for name in EngineFacts.model_fields if name in facts}
        part = PartialProfile(key=key, facts=EngineFacts(load_s=replica["load_s"] or None, **said))
        earlier = None if self.force else self.store.get_part(key)
        if (
            earlier is not None
            and _asks_the_same(earlier.facts, part.facts)
            and not self.were_replaced(earlier, worker)
        ):
            part = earlier
        for rounds in range(self.repeats, self.repeats + MORE_ROUNDS + 1):
            part = await self.measured(part, worker, rounds, lease)
            try:
                made = part.profile(
                    f"profiled here with dask-fmware {version('dask-fmware')}", np.random.default_rng(0)
                )
            except SpecError:  # of a machine that was busy, too few steps are left
                if rounds == self.repeats + MORE_ROUNDS:
                    self.store.drop_part(key)  # or the next run would find all of it measured, and fail at once
                    raise
            else:
                break
        self.tell(part, [])
        self.store.put(made)
        self.store.drop_part(key)
        return made

    def were_replaced(self, part: PartialProfile, worker: str) -> bool:
        """Whether the files of the weights have another size than when a measurement was broken off."""
        return None not in (self.weights[worker], part.facts.weight_bytes) and (
            self.weights[worker] != part.facts.weight_bytes
        )

    async def measured(self, part: PartialProfile, worker: str, rounds: int, lease: CardLease) -> PartialProfile:
        """Run what is missing of so many rounds; what was measured is kept, whatever ends this."""
        saved = monotonic()
        try:
            while to_do := part.to_do(rounds):
                self.tell(part, to_do)
                lease.check()
                began = monotonic()
                part = part.with_traces(to_do[0], await self.experiment(worker, to_do[0]))
                if monotonic() - began > DEAR_S:
                    part = part.without([e for e in to_do[1:] if _is_dearer(e, to_do[0])])
                if monotonic() - saved > SAVE_S:
                    self.store.put_part(part)
                    saved = monotonic()
        finally:
            self.store.put_part(part)
        return part

    def tell(self, part: PartialProfile, to_do: list[Experiment]) -> None:
        done = len(part.traces)
        self.progress(ProfileProgress(part.key, done, done + len(to_do), to_do[0].id if to_do else ""))

    async def experiment(self, worker: str, experiment: Experiment) -> tuple[TraceRecord, ...]:
        answer = await self.ask(
            worker,
            {
                "kind": "streams",
                "background": experiment.background,
                "probes": experiment.probes,
                "lead_tokens": experiment.lead_tokens,
                "seed": int(np.random.SeedSequence([self.nonce, *experiment.id.encode()]).generate_state(1)[0]),
            },
        )
        return tuple(TraceRecord.model_validate(trace) for trace in answer["traces"])

    async def ask(self, worker: str, question: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = await self.client.rpc(worker).fmware_profile(question=question)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

    async def announce(self, profile: Profile, replicas: list[dict[str, Any]]) -> None:
        """Let replicas that loaded without this profile announce it."""
        text = LiveProfile.of(profile).to_wire()
        for replica in replicas:
            try:
                await self.client.rpc(replica["worker"]).fmware_profiled(profile=text)
            except OSError:  # it is gone; its successor reads the store
                continue


def _labels(replica: dict[str, Any]) -> ProfileKey:
    """What a profile of a replica is of, but for the arguments of its engine."""
    return ProfileKey(**{name: replica[name] for name in LABELS})


def _doubt(profile: Profile) -> str:
    """Why not to trust a profile, if its law is far from what was measured."""
    phases = {"decode": profile.decode, "prefill": profile.prefill}
    far = [f"{n} {p.cv_median_error:.0%}" for n, p in phases.items() if p is not None and p.cv_median_error > DOUBTED]
    if not far:
        return ""
    return (
        f"its law is off by a median of {', '.join(far)}: was the machine busy? Measure again when it is idle, with "
        "force (--force), or draw what was measured: dask fmware profile show --plot FILE"
    )


def _asks_the_same(one: EngineFacts, other: EngineFacts) -> bool:
    """Whether the same experiments are run on both."""
    return (one.slots, one.context_tokens) == (other.slots, other.context_tokens)


def _is_dearer(experiment: Experiment, than: Experiment) -> bool:
    return experiment.phase == than.phase and experiment.prompt_tokens > than.prompt_tokens


def _chosen(
    replicas: list[dict[str, Any]],
    models: Sequence[str] | None,
    accelerators: Sequence[str] | None,
    failed: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Replicas to measure, in order of the names."""
    for what, names in (("model", models), ("accelerator", accelerators)):
        known = sorted({str(replica[what]) for replica in replicas})
        for name in names or ():
            if name not in known:
                why = "; ".join(f"{r['name']}: {r['error']}" for r in failed if r[what] == name)
                raise DeploymentError(
                    f"no replica that serves is of {what} '{name}' (there are: {', '.join(known) or 'none'})"
                    f"{'; ' + why if why else ''}; add one to the deployment, or wait until it is ready"
                )
    found = [
        replica
        for replica in sorted(replicas, key=lambda r: (r["model"], r["accelerator"], r["name"]))
        if (models is None or replica["model"] in models)
        and (accelerators is None or replica["accelerator"] in accelerators)
    ]
    if not found:
        raise DeploymentError(
            "no replica that serves is of these models and accelerators; see fm.status(client)['replicas']"
        )
    return found
