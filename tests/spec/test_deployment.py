from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dask_fmware.errors import DeploymentError
from dask_fmware.spec.deployment import Accelerator, Deployment, ModelDeployment
from dask_fmware.spec.documents import load_deployment

labels = st.from_regex(r"\A[a-c0-1][a-c0-1.\-]{0,3}\Z")


@st.composite
def deployment_data(draw) -> dict:
    cards = st.builds(lambda n, r: {"cards": n, "replicas_per_card": r}, st.integers(1, 4), st.integers(1, 3))
    accelerators = draw(st.dictionaries(labels, cards, min_size=1, max_size=3))
    placement = st.fixed_dictionaries({}, optional={"replicas": st.integers(0, 3), "slots": st.integers(1, 9)})
    on = st.dictionaries(st.sampled_from(sorted(accelerators)), placement, min_size=1)
    models = draw(st.dictionaries(labels, st.builds(lambda on: {"on": on}, on), min_size=1, max_size=4))
    return {"accelerators": accelerators, "models": models}


@settings(max_examples=50, database=None)
@given(deployment_data())
def test_replicas_fit_their_cards_and_have_names_of_their_own(data):
    try:
        deployment = load_deployment(data)
    except DeploymentError as error:
        assert "room for" in str(error) or "names of those" in str(error)  # noqa: PT017
        return
    replicas = list(deployment.replicas())
    assert len({replica.name for replica in replicas}) == len(replicas)
    for card, count in Counter(replica.card for replica in replicas).items():
        accelerator = deployment.accelerators[card.rpartition("-")[0]]
        assert count <= accelerator.replicas_per_card
        assert int(card.rpartition("-")[2]) < accelerator.cards
    for model, spec in deployment.models.items():
        for accelerator, placement in spec.on.items():
            mine = [one for one in replicas if (one.model, one.accelerator) == (model, accelerator)]
            assert len(mine) == placement.replicas
            assert {one.slots for one in mine} <= {placement.slots or spec.slots}
    assert Deployment.from_yaml(deployment.to_yaml()) == deployment == Deployment.from_json(deployment.to_json())


def test_replica_has_the_cores_of_its_card_and_arguments_of_both_levels():
    deployment = Deployment(
        accelerators={"cpu": Accelerator(cards=2, cores=[[0], [1]])},
        models={
            "m": ModelDeployment(
                arguments={"a": 1, "b": 1}, on={"cpu": {"replicas": 2, "slots": 7, "arguments": {"b": 2}}}
            )
        },
    )
    first, second = deployment.replicas()
    assert (first.name, first.card, first.cores) == ("m-cpu-0", "cpu-0", (0,))
    assert (second.name, second.card, second.cores) == ("m-cpu-1", "cpu-1", (1,))
    assert second.arguments == {"a": 1, "b": 2}
    assert second.slots == 7


def test_deployments_are_frozen():
    accelerator = Accelerator(cards=1)
    with pytest.raises(ValidationError):
        accelerator.cards = 2


@pytest.mark.parametrize("price", [float("inf"), float("nan"), -1])
def test_prices_are_finite(price):
    with pytest.raises(ValidationError):
        Accelerator(cards=1, price_per_hour=price)


def test_devices_are_given_for_each_card_or_not_at_all():
    assert Accelerator(cards=2, devices=[[0, 1], ["GPU-2a", 3]]).devices == [[0, 1], ["GPU-2a", 3]]
    for devices in ([[0]], [[0], []]):
        with pytest.raises(ValueError, match=r"devices lists \d sets for 2 cards; give one for each"):
            Accelerator(cards=2, devices=devices)
