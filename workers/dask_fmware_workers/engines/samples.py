"""The smallest document that fits a JSON schema. Covers what pydantic writes; it does not validate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["sample"]


def sample(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """Return a document of a schema.

    Parameters
    ----------
    schema
        What the document has to fit.
    root
        Where ``$ref`` is looked up; by default `schema` itself.

    Examples
    --------
    >>> sample({"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]})
    {'sure': True}
    """
    root = schema if root is None else root
    if "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return sample(found, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return sample(schema[several][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "null")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            properties = schema.get("properties", {})
            return {name: sample(properties.get(name, {}), root) for name in schema.get("required", ())}
        case "array":
            return [sample(schema.get("items", {}), root)] * schema.get("minItems", 0)
        case "string":
            return "x" * schema.get("minLength", 0)
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        case "boolean":
            return True
    return None
