"""The smallest document that fits a JSON schema. Covers what pydantic writes; it does not validate.

Where a schema leaves a choice, the branch of least depth is taken, so that models which hold themselves come to an end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import chain, count, islice
from math import floor, inf
from typing import Any

from dask_fmware.errors import EngineError

__all__ = ["sample"]

FORMATS = {
    "base64": "eA==", "base64url": "eA==", "color": "#000000", "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z", "directory-path": ".", "duration": "PT0S", "email": "a@example.com",
    "hostname": "example.com", "ipv4": "127.0.0.1", "ipv4interface": "127.0.0.1/32", "ipv4network": "127.0.0.0/8",
    "ipv6": "::1", "ipv6interface": "::1/128", "ipv6network": "::1/128", "ipvanyaddress": "127.0.0.1",
    "ipvanyinterface": "127.0.0.1/32", "ipvanynetwork": "127.0.0.0/8", "multi-host-uri": "postgres://a@example.com/a",
    "name-email": "a <a@example.com>", "time": "00:00:00Z", "uri": "http://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
} | {f"uuid{version}": f"00000000-0000-{version}000-8000-000000000000" for version in range(1, 9)}  # fmt: skip
UNMADE = frozenset({"contains", "dependentRequired", "dependentSchemas", "if", "not"})
RULES = UNMADE | {
    "$ref", "additionalProperties", "allOf", "exclusiveMaximum", "exclusiveMinimum", "maxLength", "maximum",
    "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern", "patternProperties",
    "propertyNames", "uniqueItems",
}  # fmt: skip
LETTERS = "aA0"  # of which texts are made that have to match a pattern
LONGEST = 64  # such a text
MOST_STEPS = 1000  # between numbers that are tried


def sample(schema: Mapping[str, Any]) -> Any:
    """Return a document of a schema.

    Parameters
    ----------
    schema
        What the document has to fit.

    Raises
    ------
    EngineError
        If none is found; it names the rule. A field with ``examples`` gets the first of them then.

    Examples
    --------
    >>> sample({"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]})
    {'sure': True}
    """
    try:
        return _Samples(schema).one(schema)
    except RecursionError:
        raise EngineError("no sample document is made for a schema whose documents must hold themselves") from None


class _Samples:
    """Documents of the parts of one schema."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._depths: dict[str, float] = {}  # of what references name

    def one(self, schema: Any) -> Any:
        """Return the smallest document of a schema."""
        for document in chain(self._all(schema), schema.get("examples", ()) if isinstance(schema, Mapping) else ()):
            return document
        rules = {name: value for name, value in schema.items() if name in RULES} if schema else schema
        raise EngineError(f"no sample document is made for {json.dumps(rules)[:200]}; give the field examples=[...]")

    def _all(self, schema: Any) -> Iterator[Any]:
        """Documents of a schema that differ, the smallest first; not all there are."""
        if not isinstance(schema, Mapping):  # true or false: all fit, or none
            yield from (None,) if schema else ()
        elif "$ref" in schema:
            yield from self._all(self._found(schema["$ref"]))
        elif "const" in schema:
            yield schema["const"]
        elif "enum" in schema:
            yield from schema["enum"]
        elif branches := schema.get("anyOf") or schema.get("oneOf"):
            yield from self._branches(branches)
        elif len(schema.get("allOf", ())) == 1:
            yield from self._all(schema["allOf"][0])
        elif not UNMADE & schema.keys() and "allOf" not in schema:
            yield from self._typed(schema)

    def _branches(self, branches: list[Any]) -> Iterator[Any]:
        others = [branch for branch in branches if not isinstance(branch, Mapping) or branch.get("type") != "null"]
        if len(others) < len(branches):
            yield None
        if len(others) > 1:
            self._measure()
            others = sorted((branch for branch in others if self._depth(branch) < inf), key=self._depth)
        for branch in others:
            yield from self._all(branch)

    def _typed(self, schema: Mapping[str, Any]) -> Iterator[Any]:
        match _kind(schema):
            case "object":
                yield from self._objects(schema)
            case "array":
                yield from self._arrays(schema)
            case "string" if "contentSchema" in schema:
                yield from map(json.dumps, self._all(schema["contentSchema"]))
            case "string":
                yield from _texts(schema)
            case "integer" | "number" as kind:
                yield from _numbers(schema, kind == "integer")
            case "boolean":
                yield from (True, False)
            case _:
                yield None

    def _objects(self, schema: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What is required, and more where there must be more; nothing if that cannot be."""
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        made = {name: self.one(properties.get(name, others)) for name in schema.get("required", ())}
        if (least := schema.get("minProperties", 0)) > len(made):
            named: dict[str, Any] = {"type": "string", "minLength": 1, **schema.get("propertyNames", {})}
            if patterns := schema.get("patternProperties"):
                named["pattern"], others = next(iter(patterns.items()))
            free = (name for name in self._all(named) if name not in made)
            made |= {name: self.one(others) for name in islice(free, least - len(made))}
        if len(made) >= least:
            yield made

    def _arrays(self, schema: Mapping[str, Any]) -> Iterator[list[Any]]:
        """As many items as there must be, which differ if they must; nothing if there are too few."""
        least, items = schema.get("minItems", 0), schema.get("items", {})
        made = [self.one(item) for item in schema.get("prefixItems", ())]
        if not schema.get("uniqueItems", False):
            made += [self.one(items) for _ in range(least - len(made))]
        elif len(made) < least:
            for item in self._all(items):
                if item not in made:
                    made.append(item)
                if len(made) == least:
                    break
        if len(made) >= least:
            yield made

    def _found(self, reference: str) -> Any:
        found: Any = self._root
        try:
            for part in filter(None, reference.removeprefix("#").split("/")):
                found = found[part.replace("~1", "/").replace("~0", "~")]
        except (KeyError, TypeError):
            raise EngineError(f"no sample document is made for $ref {reference!r}, which names no part of it") from None
        return found

    # -- depths ----------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Find the depths of all that references name: those that need no others first."""
        references, is_news = () if self._depths else tuple(dict.fromkeys(_references(self._root))), True
        while is_news:
            before = dict(self._depths)
            for reference in references:
                self._depths[reference] = self._depth(self._found(reference))
            is_news = self._depths != before

    def _depth(self, schema: Any) -> float:
        """Levels of the smallest document of a schema; infinity if it would have to hold itself."""
        if not isinstance(schema, Mapping):
            return 0 if schema else inf
        if "$ref" in schema:
            return self._depths.get(schema["$ref"], inf)
        if branches := schema.get("anyOf") or schema.get("oneOf"):
            return min(map(self._depth, branches))
        parts: list[Any] = list(schema.get("allOf", ()))
        match _kind(schema):
            case "object":
                parts += [schema.get("properties", {}).get(name, {}) for name in schema.get("required", ())]
            case "array":
                parts += [
                    *schema.get("prefixItems", ()),
                    *([schema.get("items", {})] if schema.get("minItems") else []),
                ]
            case "null":
                return 0
        return 1 + max(map(self._depth, parts), default="pattern" in schema)


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type of a schema, the first if it has several, or what its rules are of."""
    kind = schema.get("type")
    if isinstance(kind, list):
        return "null" if "null" in kind else str(kind[0])
    implied = {"properties": "object", "items": "array", "prefixItems": "array", "const": "any", "enum": "any"}
    return str(kind or next((implied[rule] for rule in implied if rule in schema), "null"))


def _texts(schema: Mapping[str, Any]) -> Iterator[str]:
    """Texts of a schema."""
    least, most, pattern = schema.get("minLength", 0), schema.get("maxLength", inf), schema.get("pattern")
    if pattern is not None:
        tried = (letter * length for length in range(least, LONGEST + 1) for letter in LETTERS)
        yield from (text for text in tried if len(text) <= most and _matches(pattern, text))
    elif (known := FORMATS.get(schema.get("format", ""))) is not None:
        yield known
    else:
        numbered = (str(number).rjust(least, "x") for number in count(1))
        for text in chain(["x" * least], numbered):
            if len(text) > most:
                return
            yield text


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:  # of another language of patterns
        return False


def _numbers(schema: Mapping[str, Any], is_whole: bool) -> Iterator[int | float]:
    """Numbers within the bounds of a schema, those near 0 first."""
    lows = [_exact(schema[rule]) for rule in ("minimum", "exclusiveMinimum") if rule in schema]
    highs = [_exact(schema[rule]) for rule in ("maximum", "exclusiveMaximum") if rule in schema]
    nearest, step = min([max([Fraction(0), *lows]), *highs]), _exact(schema.get("multipleOf", 1))
    base = floor(nearest / step)
    steps = (step * (base + sign * number) for number in range(MOST_STEPS) for sign in (1, -1))
    tried: Iterator[Fraction] = steps
    if not is_whole and "multipleOf" not in schema:
        between = [(max(lows) + min(highs)) / 2] if lows and highs else []
        tried = chain([nearest, *between], steps)
    seen: set[Fraction] = set()
    for number in tried:
        if number not in seen and _is_within(number, schema) and not (is_whole and number.denominator > 1):
            seen.add(number)
            yield int(number) if number.denominator == 1 else float(number)


def _is_within(number: Fraction, schema: Mapping[str, Any]) -> bool:
    return (
        ("minimum" not in schema or number >= _exact(schema["minimum"]))
        and ("maximum" not in schema or number <= _exact(schema["maximum"]))
        and ("exclusiveMinimum" not in schema or number > _exact(schema["exclusiveMinimum"]))
        and ("exclusiveMaximum" not in schema or number < _exact(schema["exclusiveMaximum"]))
    )


def _exact(number: float) -> Fraction:
    return Fraction(str(number))
