"""Real text to retrieve from: the docstrings of the installed dask and distributed, in SQLite FTS5.

The database is built once for each pair of versions, from the source files (nothing is imported), and
kept in the cache directory. Searching opens it read-only.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from dask_fmware.errors import RuntimeFaultError

__all__ = ["build", "chunks", "database", "search"]

PACKAGES = ("dask", "distributed")
FORMAT = 1  # of the database; part of its name
PASSAGE_WORDS = 40
SHORTEST_WORDS = 12
COMMON = frozenset(
    re.findall(
        r"\w+", "a an and are as at be by can do does for from how i in is it my of on or the to what when which with"
    )
)


_of_thread = threading.local()  # what it has opened, which costs as much as three searches


def database() -> Path:
    """Return the path of the database for the installed versions, whether or not it is there."""
    from dask_fmware_workers.engines.tiny_gguf import cache_directory

    return cache_directory() / _name()


@cache
def _name() -> str:
    return "-".join(["passages", str(FORMAT), *(f"{name}-{version(name)}" for name in PACKAGES)]) + ".sqlite"


def build(path: Path) -> int:
    """Build the database unless it is there, whole or not at all, and return how many passages it holds.

    Raises
    ------
    RuntimeFaultError
        If it cannot be written, or this Python's SQLite has no full-text search.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            os.close(handle)
            try:
                with closing(sqlite3.connect(name)) as connection, connection:
                    connection.execute("CREATE VIRTUAL TABLE passages USING fts5(source, text, tokenize='porter')")
                    connection.executemany("INSERT INTO passages VALUES (?, ?)", _passages())
                os.replace(name, path)
            finally:
                Path(name).unlink(missing_ok=True)
        with closing(_open(path)) as connection:
            return int(connection.execute("SELECT count(*) FROM passages").fetchone()[0])
    except (OSError, sqlite3.Error) as error:
        raise RuntimeFaultError(
            f"the passages cannot be kept in '{path}' ({error}); remove that file, free the disk or set XDG_CACHE_HOME"
        ) from error


def search(query: str, *, limit: int = 2) -> list[str]:
    """Return the passages that fit a query best, by BM25; words count, operators do not.

    Parameters
    ----------
    query
        Any text.
    limit
        How many passages.
    """
    words = [word for word in re.findall(r"\w+", query.lower()) if word not in COMMON]
    terms = " OR ".join(f'"{word}"' for word in dict.fromkeys(words)) or '"dask"'
    rows = _connection().execute(
        "SELECT source, text FROM passages WHERE passages MATCH ? ORDER BY rank LIMIT ?", (terms, limit)
    )
    return [f"{source}: {text}" for source, text in rows]


def chunks(text: str) -> Iterator[str]:
    """Cut a docstring into passages of up to `PASSAGE_WORDS` words, at paragraphs where they are short enough.

    >>> [len(chunk.split()) for chunk in chunks("one " * 30 + "\\n\\n" + "two " * 35)]
    [30, 35]
    """
    held: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        words = paragraph.split()
        if len(held) + len(words) > PASSAGE_WORDS:
            yield from _long_enough(held)
            held = []
        while len(words) > PASSAGE_WORDS:
            yield " ".join(words[:PASSAGE_WORDS])
            words = words[PASSAGE_WORDS:]
        held += words
    yield from _long_enough(held)


def _long_enough(words: list[str]) -> Iterator[str]:
    if len(words) >= SHORTEST_WORDS:
        yield " ".join(words)


class _Opened:
    """A database, closed when its thread ends or opens another: Python 3.13 warns of those that are left open."""

    def __init__(self, path: Path) -> None:
        self.path, self.connection = path, _open(path)
        weakref.finalize(self, self.connection.close)


def _connection() -> sqlite3.Connection:
    """The connection of this thread, opened anew where the database is another."""
    path, opened = database(), getattr(_of_thread, "opened", None)
    if opened is None or opened.path != path:
        if not path.exists():
            raise RuntimeFaultError(
                f"the passages are not in '{path}' of this machine; build them there once: "
                "from dask_fmware.demo import passages; passages.build(passages.database())"
            )
        opened = _of_thread.opened = _Opened(path)
    return opened.connection


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False)  # any thread may close it


def _passages() -> Iterator[tuple[str, str]]:
    """Sources and passages of every public docstring outside of tests; equal passages once."""
    seen: set[str] = set()
    for package in PACKAGES:
        spec = find_spec(package)
        for root in spec.submodule_search_locations or () if spec is not None else ():
            for file in sorted(Path(root).rglob("*.py")):
                if "tests" in file.parts:
                    continue
                module = ".".join(file.relative_to(Path(root).parent).with_suffix("").parts).removesuffix(".__init__")
                for name, docstring in _docstrings(ast.parse(file.read_text(encoding="utf-8")), module):
                    for chunk in chunks(docstring):
                        if chunk not in seen:
                            seen.add(chunk)
                            yield name, chunk


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
            yield name, inspect.cleandoc(docstring)
        for child in node.body:
            inner = getattr(child, "name", "_")
            if not inner.startswith("_"):
                yield from _docstrings(child, f"{name}.{inner}")
