"""Places on cards, and names for the replicas on them. Pure: what is taken is passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

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
    deployment: Deployment,
    model: str,
    accelerator: str,
    taken: Iterable[str],
    names: Collection[str],
    *,
    others: Iterable[str] = (),
    failures: Mapping[str, int] | None = None,
) -> ReplicaSpec | None:
    """The best free place for a replica, or None while all are taken.

    A card on which fewer starts failed comes first, then one that is paid for already, then the lowest number.

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
    others
        Cards of the replicas that have no such name, as somebody else has started them; one for each.
    failures
        Starts that have failed, by card.
    """
    card, failures = deployment.accelerators[accelerator], failures or {}
    places = [place_of(deployment, name) for name in set(taken)]
    mine = [place for place in places if place is not None and place.accelerator == accelerator]
    used = {int(place.name.rpartition("-")[2]) for place in mine}
    there = Counter(deployment.replica(model, accelerator, number).card for number in used) + Counter(others)
    free = [
        (failures.get(replica.card, 0), card.price_per_hour is not None and not there[replica.card], number, replica)
        for number in range(card.cards * card.replicas_per_card)
        if number not in used
        and (replica := deployment.replica(model, accelerator, number)).name not in names
        and there[replica.card] < card.replicas_per_card
    ]
    return min(free, key=lambda place: place[:3])[3] if free else None
