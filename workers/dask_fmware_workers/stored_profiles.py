"""What the store of profiles says of an engine that has just loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dask_fmware.compile.profiles import open_store, usual_store
from dask_fmware.model.engine import Capabilities
from dask_fmware.profile.arguments import arguments_digest
from dask_fmware.profile.known import UNUSED
from dask_fmware.profile.record import LiveProfile, ProfileKey

__all__ = ["profile_key", "stored_profile"]

logger = logging.getLogger("dask_fmware.profiling")


def profile_key(model: str, accelerator: str, made: Capabilities, arguments: Mapping[str, Any]) -> ProfileKey | None:
    """Return what a profile of this engine is of; None if the engine does not name itself.

    Parameters
    ----------
    arguments
        Those of `dask_fmware.profile.arguments.engine_arguments`, without what the card adds.
    """
    if not made.engine or not made.engine_version:
        return None
    return ProfileKey(
        model=model, accelerator=accelerator, engine=made.engine, engine_version=made.engine_version,
        arguments=arguments_digest(arguments),
    )  # fmt: skip


def stored_profile(key: ProfileKey | None, weight_bytes: int | None = None) -> str | None:
    """Return what to announce of the profile of exactly this engine with its arguments, or None.

    One of weights of another size than `weight_bytes`, those of their files now, is of another model.

    The store is where Dask's configuration says under ``fmware.profiles``, else in the cache of this user.
    """
    if key is None:
        return None
    try:
        store = open_store()
        found, problem = store.get(key)
        others = [] if found is not None else [p.key for p in store.scan()[0] if p.key.has_labels_of(key)]
    except Exception as error:  # whatever it is: a replica without a profile is slower to learn, not broken
        logger.warning(
            "%s: it serves without a profile, as those in %s cannot be read (%s: %s)",
            *(key, usual_store(), type(error).__name__, error),
        )
        return None
    if problem is not None:
        logger.warning("%s", problem)
    if others:
        logger.warning(
            "%s: %s (there is: %s); measure it: dask fmware profile",
            key,
            UNUSED,
            ", ".join(other.arguments or "one of an earlier version, arguments not known" for other in others),
        )
    if found is not None and found.is_of_other_weights(weight_bytes):
        logger.warning("%s: its weights were replaced since it was measured; measure it: dask fmware profile", key)
        return None
    return None if found is None else LiveProfile.of(found).to_wire()
