"""Workflows and deployments as JSON and YAML: reading, writing, and errors that name file and line.

Reading never imports or executes code: the functions of task nodes are handed over by the caller.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import ValidationError

from dask_fmware.errors import DeploymentError, SpecError, WorkflowError
from dask_fmware.spec.checks import check
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.record import Record, complaints, shorten
from dask_fmware.spec.source import MAX_BYTES, SourceError, locate, read, write_json, write_yaml
from dask_fmware.spec.supply import Schemas, Tasks, supply
from dask_fmware.spec.workflow import Workflow

__all__ = [
    "blaming",
    "deployment_from_text",
    "keys_of",
    "load_deployment",
    "load_document",
    "load_workflow",
    "to_json",
    "to_yaml",
    "workflow_from_text",
]

Form: TypeAlias = Literal["json", "yaml"]
Kind = TypeVar("Kind", bound=Record)
SHOWN_COMPLAINTS = 5


def load_workflow(
    path_or_text: str | os.PathLike[str],
    *,
    tasks: Tasks | None = None,
    schemas: Schemas | None = None,
) -> Workflow:
    """Read a workflow from a JSON or YAML file, or from such a text, and check it.

    Parameters
    ----------
    path_or_text
        A path, or a text: what has a line break or starts with ``{`` is a text.
    tasks
        The functions of its task nodes: one, a list, a mapping of names, or a module; see
        `dask_fmware.spec.supply.supply`. Without it the workflow can be looked at, not run.
    schemas
        The pydantic classes of its typed outputs, matched by their JSON schema.

    Raises
    ------
    WorkflowError
        If the file cannot be read, the document is not a sound workflow, or a function is missing.
    """
    return _workflow(_fetch(path_or_text, WorkflowError, "workflow"), tasks, schemas)


def load_deployment(source: Deployment | str | os.PathLike[str] | Mapping[str, Any]) -> Deployment:
    """Read a deployment from a JSON or YAML file, from such a text, or from a dictionary; one that is read is returned.

    Raises
    ------
    DeploymentError
        If the file cannot be read or the document is not a sound deployment.
    """
    if isinstance(source, Deployment):
        return source
    return load_document(Deployment, source, DeploymentError, "deployment")


def load_document(
    kind: type[Kind], source: str | os.PathLike[str] | Mapping[str, Any], error: type[SpecError], what: str
) -> Kind:
    """Read a document of any kind from a file, a text, or a dictionary of the same form.

    Parameters
    ----------
    kind
        Its class.
    source
        As in `load_workflow`, or a dictionary.
    error
        What is raised if it cannot be read or is not sound; the message names file, line, value and bound.
    what
        The kind, in a word.
    """
    if isinstance(source, Mapping):
        return _validate(kind, source, _Source(what, "", "yaml", error))
    return _parse(kind, _fetch(source, error, what))


def keys_of(source: str | os.PathLike[str] | Mapping[str, Any]) -> set[str]:
    """Return the keys of a document that need not be sound; what may be some where a text is no YAML or JSON.

    They tell what it is meant to be. Of what is no document there are none.
    """
    if isinstance(source, Mapping):
        return set(source)
    try:
        found = _fetch(source, SpecError, "document")
    except SpecError:
        return set()
    try:
        data = read(found.text, found.form)
    except SourceError:
        return {line.strip().strip("{").split(":")[0].strip().strip('"') for line in found.text.splitlines()}
    return set(data) if isinstance(data, dict) else set()


@contextmanager
def blaming(path: Path, *keys: str) -> Iterator[None]:
    """Have an error that comes of a document name its file.

    Parameters
    ----------
    path
        A document that could be read.
    keys
        Where the value stands in it that the error is about, if it does not say so itself: named, with its line.
    """
    try:
        yield
    except SpecError as error:
        source = _fetch(path, type(error), "document")
        if keys:
            raise source.blamed(f"{'.'.join(keys)}: {error}", keys) from None
        raise source.wrong(str(error)) from None


def workflow_from_text(
    text: str,
    form: Form,
    *,
    tasks: Tasks | None = None,
    schemas: Schemas | None = None,
) -> Workflow:
    """Read a workflow from a text of a known form; see `load_workflow`."""
    return _workflow(_Source("workflow", text, form, WorkflowError), tasks, schemas)


def deployment_from_text(text: str, form: Form) -> Deployment:
    """Read a deployment from a text of a known form; see `load_deployment`."""
    return _parse(Deployment, _Source("deployment", text, form, DeploymentError))


def to_json(document: Workflow | Deployment) -> str:
    """Write a document as JSON, without defaults; reading it gives an equal document."""
    return write_json(_data(document))


def to_yaml(document: Workflow | Deployment) -> str:
    """Write a document as YAML, without defaults; reading it gives an equal document."""
    return write_yaml(_data(document))


@dataclass(frozen=True, slots=True)
class _Source:
    """A text, where it comes from, and the error that blames its author."""

    name: str
    text: str
    form: Form
    error: type[SpecError]

    def wrong(self, what: str, position: tuple[int, int] | None = None) -> SpecError:
        where = "" if position is None else f", line {position[0]}, column {position[1]}"
        return self.error(f"{self.name}{where}: {what}")

    def blamed(self, what: str, keys: Sequence[str | int]) -> SpecError:
        """Return the error of a value, by where it stands."""
        return self.wrong(what, locate(self.text, keys))


def _data(document: Record) -> dict[str, Any]:
    return document.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _workflow(source: _Source, tasks: Tasks | None, schemas: Schemas | None) -> Workflow:
    workflow = _parse(Workflow, source)
    try:
        supplied = supply(workflow, tasks, schemas)
        check(supplied)
        return supplied
    except WorkflowError as error:
        raise source.wrong(str(error)) from None


def _parse(kind: type[Kind], source: _Source) -> Kind:
    if not isinstance(source.text, str | bytes):
        raise source.error(f"a {source.name} is read from a text, not from {type(source.text).__name__}")
    try:
        data = read(source.text, source.form)
    except SourceError as error:
        form = source.form.upper()
        raise source.wrong(f"{error} (read as {form})", error.position) from None
    return _validate(kind, data, source)


def _validate(kind: type[Kind], data: Any, source: _Source) -> Kind:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        found = complaints(error)
        lines = [str(source.blamed(str(item), item.path)) for item in found[:SHOWN_COMPLAINTS]]
        if len(found) > SHOWN_COMPLAINTS:
            lines.append(f"and {len(found) - SHOWN_COMPLAINTS} more")
        raise source.error("\n".join(lines)) from None


def _fetch(path_or_text: str | os.PathLike[str], error: type[SpecError], what: str) -> _Source:
    if not isinstance(path_or_text, (str, os.PathLike)):
        raise error(f"a {what} is read from a path or a text, not from {type(path_or_text).__name__}")
    if isinstance(path_or_text, str) and ("\n" in path_or_text or path_or_text.lstrip().startswith("{")):
        return _Source(what, path_or_text, _form(path_or_text), error)
    path = Path(path_or_text)
    name = shorten(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise error(f"{name}: no such file; give the path of a {what} document, or its text") from None
    except IsADirectoryError:
        raise error(f"{name}: is a directory; give the path of a {what} document in it") from None
    except (OSError, ValueError) as reason:  # ValueError: a null byte in the path
        raise error(f"{name}: cannot be read ({getattr(reason, 'strerror', None) or reason})") from None
    if len(content) > MAX_BYTES:
        raise error(f"{name}: more than {MAX_BYTES:,} bytes; a {what} document is smaller: split it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(f"{name}: byte {reason.start:,} is not UTF-8 text; is this a {what} document?") from None
    return _Source(name, text, "json" if path.suffix.lower() == ".json" else _form(text), error)


def _form(text: str) -> Form:
    """What a text without a name is: YAML may start with a brace too, but then JSON is what was meant."""
    return "json" if text.lstrip().startswith("{") else "yaml"
