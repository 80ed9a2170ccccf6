"""Models that nobody will serve: all workers that host them have given up, for a reason that stays.

Their calls fail with that reason instead of waiting for ever. A worker that comes, or one that goes, since it may come
back mended, takes it back. While replicas are provisioned another may be started, and so it is while the deployment
has more replicas of the model than have given up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dask_fmware.model.replica import MODEL_LABEL, read_label
from dask_fmware.runtime import ModelAbandoned
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_scheduler.services.provisioning import ProvisioningService

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["Unserved"]

NAMED = 3  # replicas for each reason


class Unserved:
    """Tells the machine of them; a `Service`."""

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """None."""
        return {}

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """None."""
        return {}

    def start(self) -> None:
        """All may come yet."""
        self._router.service(Arrivals).changed = self.look
        self._router.service(ProvisioningService).changed = self._look_again

    def close(self) -> None:
        """Nothing to end."""

    def look(self, model: str) -> None:
        """Workers that host a model have changed, or what they say of it."""
        reason = self._reason(model)
        if bool(reason) is not (model in self._router.machine.hopeless.models):
            self._router.take(ModelAbandoned(model, reason))

    def _look_again(self) -> None:
        for model in list(self._router.deployment.models):
            self.look(model)

    def _reason(self, model: str) -> str:
        """Why no replica of a model will come; empty if one is there or may come."""
        router = self._router
        failed = [known for known in router.service(Arrivals).failed.values() if known["model"] == model]
        given_up = [known for known in failed if not known["will_retry"]]
        if not given_up or router.machine.fleet.of(model) or router.service(ProvisioningService).is_asked:
            return ""
        spec = router.deployment.models.get(model)
        wanted = sum(placement.replicas for placement in spec.on.values()) if spec is not None else 0
        hosts = sum(read_label(router.dask.resources(w), MODEL_LABEL) == model for w in router.dask.workers())
        if len(given_up) < max(wanted, hosts):
            return ""
        return _in_words(given_up)


def _in_words(given_up: Sequence[Mapping[str, Any]]) -> str:
    """Who has given up and why; equal reasons are said once."""
    names: dict[str, list[str]] = defaultdict(list)
    for known in given_up:
        names[known["error"]].append(known["name"])
    said = []
    for error, of in names.items():
        more = f" and {len(of) - NAMED} more" if len(of) > NAMED else ""
        said.append(f"{', '.join(of[:NAMED])}{more} gave up: {error}")
    return "; ".join(said)
