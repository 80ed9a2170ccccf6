"""Profiling on a cluster in this event loop; the engine is emulated, so its law is known."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask
import pytest

import dask_fmware as fm
from dask_fmware.client import profiling
from dask_fmware.client.profiling import ProfileProgress, profile_models
from dask_fmware.errors import DeploymentError, SpecError
from dask_fmware.profile.arguments import arguments_digest, engine_arguments
from dask_fmware.profile.known import known_speed
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.progress import PartialProfile
from dask_fmware.profile.record import LawRecord, LiveProfile, Profile, ProfileKey, Provenance
from dask_fmware.profile.store import ProfileStore
from dask_fmware.spec.deployment import Deployment, Latency
from dask_fmware.testing import InProcessCluster, deployment
from tests.cluster.flows import one
from tests.cluster.shared_card import document

pytest.importorskip("scipy")


@pytest.fixture
async def cluster():
    async with InProcessCluster(document()) as made:
        yield made


async def test_each_model_is_measured_once_and_kept(cluster, tmp_path) -> None:
    seen: list[ProfileProgress] = []
    first = await profile_models(cluster.client, store=tmp_path, repeats=1, progress=seen.append)
    assert [(item.key.model, item.state) for item in first] == [("large", "measured"), ("small", "measured")]
    assert seen[-1].done == seen[-1].total
    assert first[0].profile.largest_batch == 2
    again = await profile_models(cluster.client, models="small", store=tmp_path)
    assert [(item.key.model, item.state) for item in again] == [("small", "kept")]
    assert not list(tmp_path.glob("*.points"))


async def test_replicas_announce_what_was_measured_and_are_back_in_routing(cluster, tmp_path) -> None:
    (made,) = await profile_models(cluster.client, ["small"], store=tmp_path, repeats=1)
    states = {state.replica.model: state for state in cluster.router.machine.fleet}
    assert not any(state.standing.is_draining for state in states.values())
    assert LiveProfile.from_wire(states["small"].replica.profile) == LiveProfile.of(made.profile)
    assert LiveProfile.from_wire(states["large"].replica.profile).source == "the law that its engine plays"


async def test_a_latency_figure_is_that_of_the_profile_unless_it_was_given(tmp_path) -> None:
    made = document()
    del made["models"]["small"]["on"]["cpu"]["latency"]
    async with InProcessCluster(made) as cluster:
        found = await profile_models(cluster.client, store=tmp_path, repeats=1)
        profiles = {item.key.model: LiveProfile.of(item.profile) for item in found}
        figures = {state.replica.model: state.replica.latency for state in cluster.router.machine.fleet}
    assert figures["small"] == profiles["small"].latency()
    assert figures["large"] == Latency(first_token_s=0.002, output_token_s=0.002)


async def test_a_call_under_way_outlasts_what_is_learnt_of_its_replica() -> None:
    made = deployment("small")
    del made["models"]["small"]["on"]["cpu"]["latency"]
    live = LiveProfile(law=LawRecord.of(StepLaw.plain(2e-3, 1e-5, 2e-4, 0.0)))
    async with InProcessCluster(made) as cluster:
        (name,) = cluster.engines
        cluster.engines[name].pause()
        future = cluster.client.compute(one("x"))
        (state,) = cluster.router.machine.fleet
        await cluster.until(lambda: cluster.engines[name].state().running == 1)
        await cluster.hosts[name].profiled(live.to_wire())
        assert (state.replica.profile, state.replica.latency) == (live.to_wire(), live.latency())
        cluster.engines[name].resume()
        await future
        assert len((await fm.report(future)).data.calls[0].attempts) == 1


async def test_all_replicas_of_the_card_are_on_leave_meanwhile(cluster, tmp_path) -> None:
    seen: list[bool] = []

    def look(_progress: ProfileProgress) -> None:
        seen.append(all(state.standing.is_draining for state in cluster.router.machine.fleet))

    await profile_models(cluster.client, ["small"], store=tmp_path, repeats=1, progress=look)
    assert seen
    assert all(seen)


async def test_an_interrupted_run_is_taken_up_where_it_was(cluster, tmp_path) -> None:
    class Enough(Exception):
        pass

    def interrupt(progress: ProfileProgress) -> None:
        if progress.done == 3:
            raise Enough

    with pytest.raises(Enough):
        await profile_models(cluster.client, ["small"], store=tmp_path, repeats=1, progress=interrupt)
    assert not any(state.standing.is_draining for state in cluster.router.machine.fleet)
    assert len(list(tmp_path.glob("*.points"))) == 1
    seen: list[int] = []
    (made,) = await profile_models(
        cluster.client, ["small"], store=tmp_path, repeats=1, progress=lambda p: seen.append(p.done)
    )
    assert made.state == "measured"
    assert seen[0] == 3


async def test_what_a_busy_machine_spoiled_is_measured_again(cluster, tmp_path, monkeypatch) -> None:
    fits, fit = [], PartialProfile.profile

    def few(part: PartialProfile, *args: Any) -> Profile:
        fits.append(len(part.traces))
        if len(fits) < few_fits:
            raise SpecError("too few points to fit the decode law")
        return fit(part, *args)

    monkeypatch.setattr(PartialProfile, "profile", few)
    few_fits = 2
    (made,) = await profile_models(cluster.client, ["small"], store=tmp_path, repeats=1)
    assert made.state == "measured"
    assert fits == [fits[0], 2 * fits[0]]
    once = fits[0]
    few_fits, fits[:] = 9, []
    (made,) = await profile_models(cluster.client, ["large"], store=tmp_path, repeats=1)
    assert (made.state, made.reason) == ("failed", "too few points to fit the decode law")
    assert len(fits) == 1 + profiling.MORE_ROUNDS
    few_fits, fits[:] = 0, []
    (made,) = await profile_models(cluster.client, ["large"], store=tmp_path, repeats=1)  # idle again
    assert (made.state, len(fits), len(list(tmp_path.glob("*.points")))) == ("measured", 1, 0)
    assert fits[0] == once


async def test_prompts_of_an_earlier_measurement_are_in_no_prefix_cache(tmp_path, monkeypatch) -> None:
    parts, fit = [], PartialProfile.profile

    def keep(part: PartialProfile, *args: Any) -> Profile:
        parts.append(part)
        return fit(part, *args)

    monkeypatch.setattr(PartialProfile, "profile", keep)
    async with InProcessCluster(document(prefix_cache_tokens=10**6)) as cluster:
        made = [
            (await profile_models(cluster.client, "small", store=tmp_path, repeats=1, force=True))[0] for _ in range(2)
        ]
    traces = [trace for part in parts for found in part.traces.values() for trace in found]
    assert {trace.cached_tokens for trace in traces} == {0}
    assert all(item.profile.prefill_tokens[1] > 70 for item in made), "of a context of 96"


async def test_an_unknown_model_is_refused_with_what_there_is(cluster, tmp_path) -> None:
    with pytest.raises(DeploymentError, match=r"model 'tiny' \(there are: large, small\)"):
        await profile_models(cluster.client, ["tiny"], store=tmp_path)


async def test_nothing_is_measured_for_a_store_that_cannot_be_written(cluster, tmp_path) -> None:
    (tmp_path / "file").touch()
    seen: list[ProfileProgress] = []
    with pytest.raises(SpecError, match=r"file/profiles: cannot be written \(Not a directory\).*name another folder"):
        await profile_models(cluster.client, store=tmp_path / "file" / "profiles", progress=seen.append)
    assert not seen


async def test_a_replica_that_cannot_be_measured_is_told_and_the_others_are_measured(cluster, tmp_path) -> None:
    async def broken(question: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"error": "EngineCrashedError: it died"}

    cluster.workers["large-cpu-1"].handlers["fmware_profile"] = broken
    made = await profile_models(cluster.client, store=tmp_path, repeats=1)
    assert [(item.key.model, item.state) for item in made] == [("large", "failed"), ("small", "measured")]
    assert "it died" in made[0].reason


async def test_a_loading_replica_announces_the_profile_of_its_store(tmp_path) -> None:
    with dask.config.set({"fmware.profiles": str(tmp_path)}):
        async with InProcessCluster(document()) as cluster:
            await profile_models(cluster.client, ["small"], repeats=1)
        (kept,) = ProfileStore(tmp_path).scan()[0]
        async with InProcessCluster(document()) as cluster:
            replicas = {state.replica.model: state.replica for state in cluster.router.machine.fleet}
    assert replicas["small"].profile == LiveProfile.of(kept).to_wire()
    stated = LiveProfile.from_wire(replicas["large"].profile or "")
    assert stated.source == "the law that its engine plays"


async def test_a_damaged_entry_is_told_and_measured_again(cluster, tmp_path) -> None:
    await profile_models(cluster.client, ["small"], store=tmp_path, repeats=1)
    (entry,) = tmp_path.glob("*.json")
    entry.write_text("{")
    (made,) = await profile_models(cluster.client, ["small"], store=tmp_path, repeats=1)
    assert made.state == "measured"
    assert "measured again" in made.reason
    assert ProfileStore(tmp_path).scan() == ([made.profile], [])


async def test_worker_and_planner_agree_on_what_was_measured(tmp_path) -> None:
    made = document(seed=3)
    made["models"]["small"]["on"]["cpu"] |= {"slots": 3, "arguments": {"step_tokens": 64}}
    made["accelerators"]["cpu"]["cores"] = [[0]]
    async with InProcessCluster(made) as cluster:
        (found,) = await profile_models(cluster.client, ["small"], store=tmp_path, repeats=1)
    known = known_speed(Deployment.model_validate(made), "small", "cpu", [found.profile])
    assert known.source == f"profile, {found.key}"


async def test_another_model_of_the_same_name_is_measured_anew(tmp_path) -> None:
    with dask.config.set({"fmware.profiles": str(tmp_path)}):
        async with InProcessCluster(document()) as cluster:
            (first,) = await profile_models(cluster.client, ["small"], repeats=1)
        async with InProcessCluster(document(law={"w0": 4e-3, "w1": 1e-5, "w2": 4e-4, "w3": 0.0})) as cluster:
            replicas = {state.replica.model: state.replica for state in cluster.router.machine.fleet}
            (second,) = await profile_models(cluster.client, ["small"], repeats=1)
    assert LiveProfile.from_wire(replicas["small"].profile).source == "the law that its engine plays"
    assert second.state == "measured"
    assert first.key.has_labels_of(second.key)
    assert first.key != second.key
    assert len(ProfileStore(tmp_path).scan()[0]) == 2


async def test_weights_that_were_replaced_under_the_same_path_are_measured_anew(tmp_path, monkeypatch) -> None:
    weights = tmp_path / "model.gguf"
    weights.write_bytes(b"first")
    for module in ("host", "loading"):
        monkeypatch.setattr(f"dask_fmware_workers.{module}.file_bytes", lambda _arguments: weights.stat().st_size)
    with dask.config.set({"fmware.profiles": str(tmp_path / "store")}):
        async with InProcessCluster(document()) as cluster:
            made = [(await profile_models(cluster.client, "small", repeats=1))[0] for _ in range(2)]
            weights.write_bytes(b"another")  # the engine has the first
            made += await profile_models(cluster.client, "small", repeats=1, force=True)
        assert [item.state for item in made] == ["measured", "kept", "failed"]
        assert "the files of its weights were replaced since it loaded them; start it again" in made[2].reason
        async with InProcessCluster(document()) as cluster:
            made = [(await profile_models(cluster.client, "small", repeats=1))[0] for _ in range(2)]
            weights.write_bytes(b"a third")  # of the size of the second
        assert [item.state for item in made] == ["measured", "kept"]
        assert made[0].profile.weight_bytes == len(b"another")
        assert "its weights were replaced" in made[0].reason
        weights.write_bytes(b"one that is longer")
        async with InProcessCluster(document()) as cluster:
            replicas = {state.replica.model: state.replica for state in cluster.router.machine.fleet}
    assert LiveProfile.from_wire(replicas["small"].profile).source == "the law that its engine plays"


async def test_an_interrupted_run_of_another_model_is_not_taken_up(tmp_path) -> None:
    class Enough(Exception):
        pass

    def interrupt(progress: ProfileProgress) -> None:
        if progress.done == 3:
            raise Enough

    async with InProcessCluster(document()) as cluster:
        with pytest.raises(Enough):
            await profile_models(cluster.client, ["small"], store=tmp_path, repeats=1, progress=interrupt)
    seen: list[int] = []
    async with InProcessCluster(document(step_tokens=64)) as cluster:
        await profile_models(
            cluster.client, ["small"], store=tmp_path, repeats=1, progress=lambda p: seen.append(p.done)
        )
    assert seen[0] == 0


async def test_an_interrupted_run_of_weights_that_were_replaced_is_not_taken_up(tmp_path, monkeypatch) -> None:
    size = 5
    for module in ("host", "loading"):
        monkeypatch.setattr(f"dask_fmware_workers.{module}.file_bytes", lambda _arguments: size)
    seen: list[int] = []

    def interrupt(progress: ProfileProgress) -> None:
        seen.append(progress.done)
        if progress.done == 3 and size == 5:
            raise InterruptedError

    async with InProcessCluster(document()) as cluster:
        await profile_models(cluster.client, ["small"], store=tmp_path, repeats=1, progress=interrupt)
    size, seen[:] = 6, []
    async with InProcessCluster(document()) as cluster:
        (made,) = await profile_models(cluster.client, ["small"], store=tmp_path, repeats=1, progress=interrupt)
    assert (made.state, made.profile.weight_bytes, seen[0]) == ("measured", 6, 0)


async def test_an_entry_without_arguments_is_not_announced(tmp_path) -> None:
    stored(ProfileStore(tmp_path), version("dask-fmware"), "")
    assert not await profiled(tmp_path)


def stored(store: ProfileStore, engine_version: str, arguments: str | None = None) -> None:
    """Keep a profile of the model 'small'."""
    if arguments is None:
        arguments = arguments_digest(engine_arguments(Deployment.model_validate(document()), "small", "cpu"))
    key = ProfileKey(
        model="small", accelerator="cpu", engine="emulated", engine_version=engine_version, arguments=arguments
    )
    law = LawRecord.of(StepLaw.plain(2e-3, 1e-5, 2e-4, 0.0))
    provenance = Provenance(kind="measured", source="a test")
    store.put(Profile(key=key, law=law, provenance=provenance, step_tokens=2048))


async def profiled(location: Path) -> bool:
    """Whether a replica announces a profile of the store."""
    with dask.config.set({"fmware.profiles": str(location)}):
        async with InProcessCluster(document()) as cluster:
            assert not cluster.router.failures
            profiles = [LiveProfile.from_wire(s.replica.profile) for s in cluster.router.machine.fleet]
            return any(not profile.source for profile in profiles)  # else it is what the deployment states


async def test_a_damaged_store_keeps_no_replica_from_serving(tmp_path) -> None:
    stored(ProfileStore(tmp_path), version("dask-fmware"))
    assert await profiled(tmp_path)
    (entry,) = tmp_path.glob("*.json")
    for content in (b"", b"{", entry.read_bytes()[:-20], b'{"law": {"fixed_s": -1}}', b"\xff\x00"):
        entry.write_bytes(content)
        assert not await profiled(tmp_path)


@pytest.mark.parametrize("error", [ImportError("Install s3fs to access S3"), RuntimeError("no credentials")])
async def test_a_store_that_cannot_be_read_keeps_no_replica_from_serving(tmp_path, monkeypatch, error) -> None:
    def fail(_store: ProfileStore, _key: ProfileKey) -> None:
        raise error

    stored(ProfileStore(tmp_path), version("dask-fmware"))
    monkeypatch.setattr(ProfileStore, "get", fail)
    assert not await profiled(tmp_path)


async def test_a_profile_of_another_version_of_the_engine_is_not_announced(tmp_path) -> None:
    stored(ProfileStore(tmp_path), "0.0.1")
    assert not await profiled(tmp_path)
