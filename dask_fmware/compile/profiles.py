"""Where profiles are kept on this machine: where Dask's configuration says, else in the cache of the user."""

from __future__ import annotations

import os
from collections.abc import Sequence

import dask.config

from dask_fmware.profile.record import Profile
from dask_fmware.profile.store import ProfileStore, default_location

__all__ = ["open_store", "profiles_of", "usual_store"]


def usual_store() -> str:
    """Where profiles are kept: where Dask's configuration says (``fmware.profiles``), else in the user's cache."""
    return str(dask.config.get("fmware.profiles", None) or default_location())


def open_store(store: ProfileStore | str | os.PathLike[str] | None = None) -> ProfileStore:
    """Return a store; without a location, that of `usual_store`."""
    if isinstance(store, ProfileStore):
        return store
    return ProfileStore(store or usual_store())


def profiles_of(
    profiles: Sequence[Profile] | ProfileStore | str | os.PathLike[str] | None = None,
) -> Sequence[Profile]:
    """Return profiles from themselves, or those that a store holds; see `open_store`."""
    if profiles is None or isinstance(profiles, (ProfileStore, str, os.PathLike)):
        found, _problems = open_store(profiles).scan()
        return found
    return profiles
