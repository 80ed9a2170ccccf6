from __future__ import annotations

from typing import Any

import pytest

from dask_fmware.errors import DeploymentError
from dask_fmware.provisioning import inventory_of
from dask_fmware.spec.documents import load_deployment
from dask_fmware.spec.provisioning import Provisioning


def deployment(**changes: Any) -> Any:
    import json

    latency = {"first_token_s": 0.1, "output_token_s": 0.02}
    document: dict[str, Any] = {
        "accelerators": {
            "L4": {"cards": 2, "price_per_hour": 0.7, "memory_gb": 24},
            "H100": {"cards": 1, "price_per_hour": 3.0, "memory_gb": 80},
        },
        "models": {
            "m": {"engine": "emulated", "on": {"L4": {"latency": latency}, "H100": {"latency": latency, "replicas": 0}}}
        },
    }
    for path, value in changes.items():
        at, *rest = path.split("__")
        part = document.setdefault(at, {})
        for key in rest[:-1]:
            part = part[key]
        if value is None:
            del part[rest[-1]]
        elif rest:
            part[rest[-1]] = value
        else:
            document[at] = value
    return load_deployment(json.dumps(document))


def test_a_missing_price_is_named_where_cards_are_compared() -> None:
    with pytest.raises(DeploymentError, match=r"accelerators\.L4: price_per_hour is missing.*L4, H100"):
        inventory_of(deployment(accelerators__L4__price_per_hour=None))


def test_a_model_that_fits_no_card_names_what_it_needs_and_the_largest_card() -> None:
    with pytest.raises(
        DeploymentError, match=r"'m' fits no card: it needs 140 GB.*largest it may use is H100 with 80 GB"
    ):
        inventory_of(deployment(models__m__memory_gb=140))


def test_a_model_goes_only_where_it_fits() -> None:
    assert [kind.accelerator for kind in inventory_of(deployment(models__m__memory_gb=40)).of("m")] == ["H100"]


def test_weights_and_room_for_kv_come_from_the_catalog_where_they_are_not_given() -> None:
    named = {"catalog": "Qwen3-32B", "on": {"H100": {"replicas": 0}}}
    (kind,) = inventory_of(deployment(models={"m": named})).kinds.values()
    assert kind.limits.kv_tokens is not None
    assert 10_000 < kind.limits.kv_tokens < 60_000  # of 72 GB, 66 are weights
    with pytest.raises(DeploymentError, match=r"'m' fits no card: it needs 65.* GB.*H100 with 40 GB"):
        inventory_of(deployment(models={"m": named}, accelerators__H100__memory_gb=40))


def test_bounds_in_the_wrong_order_are_refused_with_both_values() -> None:
    with pytest.raises(DeploymentError, match=r"min_replicas=5 is above max_replicas=2"):
        deployment(provisioning={"default": {"min_replicas": 5, "max_replicas": 2}})


def test_bounds_that_the_cards_cannot_hold_are_refused() -> None:
    options = Provisioning.model_validate({"models": {"m": {"min_replicas": 4}}})
    with pytest.raises(DeploymentError, match=r"'m' wants at least 4 replicas, its cards hold 3 \(L4, H100\)"):
        inventory_of(deployment(), options)


def test_bounds_of_a_model_that_is_not_deployed_are_refused() -> None:
    with pytest.raises(DeploymentError, match=r"provisioning\.models\.n: no such model \(deployed: m\)"):
        inventory_of(deployment(), Provisioning.model_validate({"models": {"n": {}}}))


def test_speeds_come_from_the_catalog_where_nothing_else_is_known() -> None:
    made = inventory_of(deployment(models={"Llama-3.1-8B": {"on": {"L4": {"replicas": 0}, "H100": {"replicas": 0}}}}))
    known = made.kinds["Llama-3.1-8B", "H100"]
    assert known.law is not None
    assert known.source.startswith("catalog")
