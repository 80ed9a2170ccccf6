"""The key of a paid or protected server: where it lies, and nothing that could show it.

A deployment names an environment variable or a file; the key itself is read when an engine starts, so that
a renewed key counts from the next start, and is never part of a document, a message or a `repr`.
"""

from __future__ import annotations

import os
from pathlib import Path

from dask_fmware.errors import DeploymentError, EngineLoadError

__all__ = ["ApiKey"]


class ApiKey:
    """Where a key is found.

    Parameters
    ----------
    env
        Name of an environment variable of the worker.
    file
        Path of a file on the worker that holds the key and nothing else.

    Raises
    ------
    DeploymentError
        If both are given.
    """

    def __init__(self, env: str | None, file: str | os.PathLike[str] | None) -> None:
        if env is not None and file is not None:
            raise DeploymentError("give api_key_env or api_key_file, not both")
        self._env, self._file = env, None if file is None else Path(file).expanduser()

    def __repr__(self) -> str:
        return f"ApiKey({self.source})"

    @property
    def source(self) -> str:
        """Where the key comes from, for messages."""
        if self._env is not None:
            return f"environment variable '{self._env}'"
        return f"file '{self._file}'" if self._file is not None else "no key"

    def read(self) -> str | None:
        """Return the key, or None where none is configured.

        Raises
        ------
        DeploymentError
            If the variable is missing, empty or holds no key; that of a process that runs does not change.
        EngineLoadError
            If the file does not hold one, which may come. Either message names where the key should be.
        """
        if self._env is not None:
            key = os.environ.get(self._env, "").strip()
        elif self._file is not None:
            try:
                key = self._file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise EngineLoadError(f"openai: {self.source} holds no key ({type(error).__name__})") from None
        else:
            return None
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            wrong = (
                f"openai: {self.source} must hold one key of printable characters, got "
                f"{'nothing' if not key else 'something else'}; "
            )
            if self._env is not None:
                raise DeploymentError(f"{wrong}set it for the worker and start that anew")
            raise EngineLoadError(f"{wrong}set it on the worker")
        return key
