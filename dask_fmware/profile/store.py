"""Profiles kept as files: one JSON document for each (model, accelerator, engine, version, arguments).

It owns where an entry lies and that nobody ever reads half of one. An entry that is missing, corrupt, of another
format or of something else than its place says is absent; why is told as a `StoreProblem`, never raised, because
a scheduler must start with a damaged store and measure again. A plain path needs nothing; a URL needs fsspec.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from dask_fmware.errors import SpecError
from dask_fmware.profile.progress import PartialProfile
from dask_fmware.profile.record import Profile, ProfileKey

__all__ = ["ProfileStore", "StoreProblem", "default_location"]


def default_location() -> str:
    """Where profiles are kept unless said otherwise: ``$XDG_CACHE_HOME/dask-fmware/profiles``, or in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return str((Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "dask-fmware" / "profiles")


@dataclass(frozen=True, slots=True)
class StoreProblem:
    """An entry that cannot be used; it counts as absent."""

    path: str  # of the entry
    reason: str  # for people, with the next step

    def __str__(self) -> str:
        return f"profile store: {self.path}: {self.reason}"


class ProfileStore:
    """A directory of profiles, local or behind fsspec.

    Parameters
    ----------
    location
        A directory (made when needed, ``~`` is the user's) or an fsspec URL such as ``s3://bucket/profiles``.
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        named = os.fspath(location)
        is_remote = "://" in named
        self.location = named if is_remote else os.path.expanduser(named)
        self._files: _Files = _Remote(named) if is_remote else _Local(Path(self.location))

    def get(self, key: ProfileKey) -> tuple[Profile | None, StoreProblem | None]:
        """Return the profile of exactly `key`, or None and, where something lies there, what is wrong with it."""
        name = entry_name(key)
        found, problem = self._read(name)
        if found is not None and found.key != key:
            return None, StoreProblem(self._files.show(name), f"it holds {found.key}, not {key}; delete it")
        return found, problem

    def put(self, profile: Profile) -> str:
        """Write a profile in one step, replacing what its key had; returns where."""
        name = entry_name(profile.key)
        self._files.write(name, profile.model_dump_json(indent=1).encode() + b"\n")
        return self._files.show(name)

    def require_writable(self) -> None:
        """Refuse a place that nothing can be kept in, before minutes are spent on what would be lost.

        Raises
        ------
        SpecError
            If a file cannot be written there; names the place.
        """
        probe = f"probe-{secrets.token_hex(4)}"  # no entry, whatever becomes of it
        try:
            self._files.write(probe, b"")
            self._files.remove(probe)
        except OSError as error:
            raise SpecError(
                f"profile store {self.location}: cannot be written ({error.strerror or error}), so what is measured "
                "would be lost; name another folder (--store DIR, store=, or fmware.profiles in Dask's configuration)"
            ) from None

    def is_empty(self) -> bool:
        """Whether it has no entry, sound or not; also where it cannot be listed."""
        try:
            return next(iter(self._files.names()), None) is None
        except OSError:
            return True

    def get_part(self, key: ProfileKey) -> PartialProfile | None:
        """Return what an interrupted measurement of exactly `key` left, or None; damage counts as absent."""
        try:
            found = PartialProfile.model_validate_json(self._files.read(_part_name(key)))
        except (OSError, ValueError):
            return None
        return found if found.key == key else None

    def put_part(self, part: PartialProfile) -> None:
        """Keep what a measurement has so far."""
        self._files.write(_part_name(part.key), part.model_dump_json().encode())

    def drop_part(self, key: ProfileKey) -> None:
        """Forget what a measurement had, if anything."""
        self._files.remove(_part_name(key))

    def scan(self) -> tuple[list[Profile], list[StoreProblem]]:
        """Return all profiles, ordered by key, and what could not be read."""
        profiles: list[Profile] = []
        problems: list[StoreProblem] = []
        try:
            names = sorted(self._files.names())
        except OSError as error:
            return [], [StoreProblem(self.location, f"cannot be listed: {error}")]
        for name in names:
            found, problem = self._read(name)
            if found is not None and entry_name(found.key) != name:
                problem, found = StoreProblem(self._files.show(name), f"it holds {found.key}; delete it"), None
            if found is not None:
                profiles.append(found)
            if problem is not None:
                problems.append(problem)
        return profiles, problems

    def _read(self, name: str) -> tuple[Profile | None, StoreProblem | None]:
        try:
            return Profile.model_validate_json(self._files.read(name)), None
        except FileNotFoundError:
            return None, None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            reason = f"not a profile of this version ({where}: {first['msg']}); it will be measured again"
        except (OSError, ValueError) as error:
            reason = f"cannot be read: {error}; it will be measured again"
        return None, StoreProblem(self._files.show(name), reason)


def entry_name(key: ProfileKey) -> str:
    """File name of a key: readable, and distinct for distinct keys."""
    parts = (key.model, key.accelerator, key.engine, key.engine_version)
    readable = "--".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.")[:40] for part in parts)
    told = (*parts, key.arguments) if key.arguments else parts  # entries of earlier versions keep their place
    digest = hashlib.sha256("\0".join(told).encode()).hexdigest()[:10]
    return f"{readable}--{digest}.json"


def _part_name(key: ProfileKey) -> str:
    return entry_name(key).removesuffix(".json") + ".points"


def _unfinished(name: str) -> str:
    """Where an entry lies while it is written: nobody else's, as processes of two containers may have one number."""
    host = re.sub(r"[^A-Za-z0-9-]+", "-", platform.node())[:20]
    return f".{name}.{host}.{os.getpid()}.{secrets.token_hex(4)}.part"


class _Files(Protocol):
    def names(self) -> Iterator[str]: ...
    def read(self, name: str) -> bytes: ...
    def write(self, name: str, content: bytes) -> None: ...
    def remove(self, name: str) -> None: ...
    def show(self, name: str) -> str: ...


class _Local:
    """A plain directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> Iterator[str]:
        if self._root.is_dir():
            yield from (path.name for path in self._root.iterdir() if path.suffix == ".json")

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        part = self._root / _unfinished(name)  # its own directory: a rename within one is atomic
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._root / name)
        finally:
            part.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def show(self, name: str) -> str:
        return str(self._root / name)


class _Remote:
    """Anything that fsspec reaches; object stores make a written object appear in one step.

    Libraries of clouds have errors of their own, such as for credentials that are not there. They leave as `OSError`.
    """

    def __init__(self, url: str) -> None:
        try:
            fsspec = import_module("fsspec")
        except ImportError as missing:
            raise SpecError(
                f"profile store {url!r} needs fsspec, which is not installed: pip install fsspec"
            ) from missing
        self._url = url.rstrip("/")
        self._system: Any
        try:
            self._system, self._root = fsspec.core.url_to_fs(self._url)
        except Exception as error:  # of any library, or of that which this kind of address needs and which is missing
            raise SpecError(
                f"profile store {url!r} cannot be opened ({type(error).__name__}: {error}); install what fsspec needs "
                "for it, or name another place (--store DIR, store=, or fmware.profiles in Dask's configuration)"
            ) from error

    def names(self) -> Iterator[str]:
        with _told_as_os_error():
            there = self._system.isdir(self._root)
            found = self._system.ls(self._root, detail=False, refresh=True) if there else []
        return (path.rsplit("/", 1)[-1] for path in found if path.endswith(".json"))

    def read(self, name: str) -> bytes:
        with _told_as_os_error():
            content: bytes = self._system.cat_file(f"{self._root}/{name}")
        return content

    def write(self, name: str, content: bytes) -> None:
        with _told_as_os_error():
            self._system.makedirs(self._root, exist_ok=True)
            part = f"{self._root}/{_unfinished(name)}"
            self._system.pipe_file(part, content)
            self._system.mv(part, f"{self._root}/{name}")

    def remove(self, name: str) -> None:
        try:
            with _told_as_os_error():
                self._system.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            pass

    def show(self, name: str) -> str:
        return f"{self._url}/{name}"


@contextmanager
def _told_as_os_error() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
