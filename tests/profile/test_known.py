from __future__ import annotations

from typing import Any

import pytest

from dask_fmware.errors import DeploymentError, SpecError
from dask_fmware.profile.arguments import arguments_digest, engine_arguments
from dask_fmware.profile.catalog import find
from dask_fmware.profile.known import UNUSED, known_speed, stated_speed
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.record import LawRecord, Profile, ProfileKey, Provenance
from dask_fmware.profile.reference import card_latencies
from dask_fmware.spec.deployment import Deployment

ENTRY = {"model": "Llama-3.1-8B", "accelerator": "H100"}
FIGURE = {"first_token_s": 0.1, "output_token_s": 0.01}


def deployment(engine: str = "vllm", name: str = "m", model: Any = None, **placement: Any) -> Deployment:
    models = {name: {"engine": engine, **(model or {}), "on": {"H100": placement}}}
    return Deployment.model_validate({"accelerators": {"H100": {"cards": 1}}, "models": models})


def measured(of: Deployment, version: str = "1", arguments: str | None = None, engine: str = "vllm") -> Profile:
    """A profile of the model 'm' as a deployment serves it."""
    digest = arguments_digest(engine_arguments(of, "m", "H100")) if arguments is None else arguments
    key = ProfileKey(model="m", accelerator="H100", engine=engine, engine_version=version, arguments=digest)
    law = LawRecord.of(StepLaw.plain(4e-4, 1e-6, 1e-5, 0.0))
    return Profile(key=key, law=law, provenance=Provenance(kind="measured", source="a test"))


def test_a_profile_of_the_same_arguments_is_used() -> None:
    made = deployment(model={"arguments": {"model": "a/b"}}, arguments={"dtype": "auto"}, latency=FIGURE)
    seeded = deployment(model={"arguments": {"model": "a/b", "seed": 3, "dtype": "auto"}}, latency=FIGURE)
    for one in (made, seeded):
        known = known_speed(one, "m", "H100", [measured(made)])
        assert known is not None
        assert known.source == f"profile, {measured(made).key}"


@pytest.mark.parametrize(
    "other",
    [
        {"model": {"arguments": {"model": "c/d"}}},
        {"model": {"arguments": {"model": "a/b"}, "slots": 8}},
        {"model": {"arguments": {"model": "a/b"}, "context_tokens": 4096}},
        {"model": {"arguments": {"model": "a/b", "tensor_parallel": 2}}},
        {"model": {"arguments": {"model": "a/b"}}, "arguments": {"dtype": "float16"}},
    ],
)
def test_a_profile_of_other_arguments_is_not_used_and_this_is_said(other: Any) -> None:
    made = deployment(model={"arguments": {"model": "a/b"}})
    known = known_speed(deployment(latency=FIGURE, **other), "m", "H100", [measured(made)])
    assert known is not None
    assert known.law is None
    assert known.source == f"latency figure of the deployment ({UNUSED})"
    with pytest.raises(SpecError, match=r"other arguments of the engine is not used\); run dask fmware profile"):
        card_latencies("m", deployment(**other), [measured(made)], 10, 10)


@pytest.mark.parametrize("versions", [("0.9", "0.10"), ("b999", "b4567"), ("1.0rc1", "1.0"), ("0.9.9", "0.10.0.dev3")])
def test_of_several_versions_of_an_engine_the_latest_counts(versions: tuple[str, str]) -> None:
    made = deployment()
    for order in (versions, versions[::-1]):
        known = known_speed(made, "m", "H100", [measured(made, version=version) for version in order])
        assert known is not None
        assert known.source == f"profile, {measured(made, version=versions[1]).key}"


def test_a_profile_that_does_not_know_its_arguments_is_not_used() -> None:
    made = deployment("emulated", arguments={"catalog": ENTRY})
    known = known_speed(made, "m", "H100", [measured(made, arguments="", engine="emulated")])
    assert known is not None
    assert known.law == find(**ENTRY).step_law
    assert known.source == f"the law that its engine plays ({UNUSED})"


def test_an_emulated_engine_is_as_fast_as_it_is_told_to_be() -> None:
    made = deployment("emulated", arguments={"catalog": ENTRY, "time_scale": 2, "load_s": 3})
    known = known_speed(made, "m", "H100")
    assert known is not None
    assert known.law is not None
    assert known.law.step_s(100, 4, 1000) == pytest.approx(2 * find(**ENTRY).step_law.step_s(100, 4, 1000))
    assert known.load_s == 6
    assert known.live_profile().source == known.source == "the law that its engine plays"


def test_the_catalog_stands_in_under_the_name_that_the_deployment_gives() -> None:
    made = deployment(model={"catalog": "llama-3.1-8b"}, latency=FIGURE)
    known = known_speed(made, "m", "H100")
    assert known == stated_speed(made, "m", "H100")
    assert known is not None
    assert known.law == find(**ENTRY).step_law
    assert known.source.startswith("catalog, Llama-3.1-8B on H100")


def test_a_card_that_the_catalog_does_not_have_the_model_on_goes_by_its_latency_figure() -> None:
    on = {"H100": {}, "L4": {"latency": FIGURE}}
    mixed = {"engine": "vllm", "catalog": "Llama-3.1-8B", "on": on}
    cards = {"H100": {"cards": 1}, "L4": {"cards": 1}}
    made = Deployment.model_validate({"accelerators": cards, "models": {"m": mixed}})
    assert stated_speed(made, "m", "L4") is None
    sources = {card.accelerator: card.source for card in card_latencies("m", made, [], 10, 10)}
    assert sources["L4"] == "latency figure of the deployment"
    assert sources["H100"].startswith("catalog, Llama-3.1-8B on H100")
    on["L4"] = {}
    bare = Deployment.model_validate({"accelerators": cards, "models": {"m": mixed}})
    assert known_speed(bare, "m", "L4") is None
    message = r"has 'Llama-3.1-8B' on other accelerators only: L40S.*\); run .* or give its latency in the deployment"
    with pytest.raises(SpecError, match=message):
        card_latencies("m", bare, [], 10, 10)


def test_several_cards_are_found_under_a_name_that_a_deployment_may_give_them() -> None:
    named = {"engine": "vllm", "catalog": "Llama-3.1-70B", "on": {"H100-x4": {}}}
    made = Deployment.model_validate({"accelerators": {"H100-x4": {"cards": 1}}, "models": {"m": named}})
    known = stated_speed(made, "m", "H100-x4")
    assert known is not None
    assert known.law == find("Llama-3.1-70B", "H100 x4").step_law


def test_a_name_that_is_not_in_the_catalog_is_refused_with_what_is_near() -> None:
    with pytest.raises(DeploymentError, match=r"models\.m\.on\.H100: the catalog has no"):
        known_speed(deployment(model={"catalog": "llama-8"}), "m", "H100")


def test_a_latency_figure_wins_over_an_entry_that_merely_has_the_same_names() -> None:
    known = known_speed(deployment(name="Llama-3.1-8B", latency=FIGURE), "Llama-3.1-8B", "H100")
    assert known is not None
    assert known.law is None
    assert known.source == "latency figure of the deployment"
    alone = known_speed(deployment(name="Llama-3.1-8B"), "Llama-3.1-8B", "H100")
    assert alone is not None
    assert alone.law == find(**ENTRY).step_law


@pytest.mark.parametrize("engine", ["vllm", "emulated"])
def test_nothing_is_known_of_what_says_nothing(engine: str) -> None:
    assert known_speed(deployment(engine), "m", "H100") is None
    assert stated_speed(deployment(engine), "m", "H100") is None
