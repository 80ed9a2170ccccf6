"""Places on cards, and names for the replicas on them. Pure: what is taken is passed in."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dask_fmware.spec.deployment import Deployment, ReplicaSpec

__all__ = ["free_place", "place_of"]


def place_of(deployment: Deployment, name: str) -> ReplicaSpec | None:
    """The replica that a worker of this name is, or None if it is none of the deployment.

    Names are ``model-accelerator-place``, and no two pairs of model and accelerator give the same.
    """
    head, _, number = name.rpartition("-")
    if not number.isdecimal():
        return None
    for model, spec in deployment.models.items():
        for accelerator in spec.on:
            if head == f"{model}-{accelerator}":
                return deployment.replica(model, accelerator, int(number))
    return None


def free_place(
    deployment: Deployment, model: str, accelerator: str, taken: Iterable[str], names: Collection[str]
) -> ReplicaSpec | None:
    """The first free place for a replica, or None while all are taken.

    Parameters
    ----------
    deployment
        How many cards there are, and how many replicas a card holds.
    model, accelerator
        Of the replica.
    taken
        Names of the replicas that have a place.
    names
        Names that may not be used, since a worker of that name is still known somewhere.
    """
    used = {
        int(name.rpartition("-")[2])
        for name in taken
        if (place := place_of(deployment, name)) is not None and place.accelerator == accelerator
    }
    card = deployment.accelerators[accelerator]
    for number in range(card.cards * card.replicas_per_card):
        replica = deployment.replica(model, accelerator, number)
        if number not in used and replica.name not in names:
            return replica
    return None
