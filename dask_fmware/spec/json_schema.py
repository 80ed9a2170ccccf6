"""JSON schemas of outputs: whether one is sound, and which of its rules a document breaks.

Nothing is fetched: a reference leads to a place in the schema. No word of a document is told, as it is an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from dask_fmware.spec.record import shorten

__all__ = ["broken_rule", "schema_fault"]

DATA = ("const", "default", "enum", "examples")  # what stands there is no schema


def schema_fault(schema: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a JSON schema; None if it is sound.

    >>> schema_fault({"properties": {"sure": {"type": "bool"}}})[:50]
    "at properties/sure/type: 'bool' is not one of ['ar"
    """
    try:
        return _fault(json.dumps(schema))
    except RecursionError:
        return "it nests deeper than can be read"


def broken_rule(schema: Mapping[str, Any], document: Any) -> str | None:
    """Return which rule of a sound schema a document breaks, as its path in the schema; None if it fits.

    >>> broken_rule({"properties": {"sure": {"type": "boolean"}}}, {"sure": "very"})
    'properties/sure/type'
    """
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        error = next(_validator(schema)(schema, registry=Registry()).iter_errors(document), None)
    except Unresolvable as nowhere:
        return f"a reference to '{shorten(str(nowhere.ref))}', which is not in it"
    return None if error is None else "/".join(map(str, error.absolute_schema_path))


@lru_cache(maxsize=64)
def _fault(text: str) -> str | None:
    from jsonschema.exceptions import best_match
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    schema = json.loads(text)
    kind = _validator(schema)
    error = best_match(kind(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER).iter_errors(schema))
    if error is not None:
        while error.context:  # of several ways to be right, why it is not the first
            error = error.context[0]
        where = "/".join(map(str, error.absolute_path))
        return (f"at {where}: " if where else "") + shorten(error.message, 200)
    resolver = Registry().resolver_with_root(Resource.from_contents(schema, default_specification=DRAFT202012))
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except (Unresolvable, ValueError, TypeError):
            return f"it refers to '{shorten(reference)}', which is not in it"
    return None


def _validator(schema: Mapping[str, Any]) -> Any:
    """Return the class of validators of a schema's dialect; the latest one if it names none that is known."""
    from jsonschema.validators import Draft202012Validator, validator_for

    try:
        return validator_for(schema, default=Draft202012Validator)
    except (AttributeError, TypeError, ValueError):  # its dialect is no address
        return Draft202012Validator


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for item in part:
            yield from _references(item)
    elif isinstance(part, dict):
        for name, item in part.items():
            if name == "$ref" and isinstance(item, str):
                yield item
            elif name not in DATA:
                yield from _references(item)
