"""The smallest documents that fit what pydantic writes, which emulated and scripted engines answer."""

from __future__ import annotations

import datetime
import decimal
import ipaddress
import json
import pathlib
import uuid
from typing import Annotated, Any, Literal

import jsonschema
import pydantic
import pytest
from pydantic import BaseModel, Field, TypeAdapter

from dask_fmware.errors import EngineError
from dask_fmware_workers.engines.samples import sample


class Inner(BaseModel):
    kind: Literal["a", "b"]
    tags: list[str]


class Outer(BaseModel):
    inner: Inner
    maybe: int | None
    sure: bool
    share: float


class Node(BaseModel):
    value: int
    child: Node | None


class Leaf(BaseModel):
    kind: Literal["leaf"]


class Pair(BaseModel):
    kind: Literal["pair"]
    left: Tree
    right: Tree


class Tree(BaseModel):
    root: Annotated[Pair | Leaf, Field(discriminator="kind")]


KINDS: dict[str, Any] = {
    "nested": Outer,
    "holds itself": Node,
    "many of itself": Annotated[list[Node], Field(min_length=2)],
    "a union that holds itself": Tree,
    "between": Annotated[float, Field(gt=0, lt=1)],
    "above": Annotated[float, Field(gt=0)],
    "below": Annotated[int, Field(le=-1)],
    "below 0": Annotated[float, Field(lt=0)],
    "from to": Annotated[int, Field(ge=3, le=5)],
    "multiples": Annotated[int, Field(gt=7, multiple_of=5)],
    "multiples of a half": Annotated[float, Field(gt=1, multiple_of=0.5)],
    "pair": tuple[int, str],
    "many": Annotated[tuple[int, ...], Field(min_length=2)],
    "set of numbers": Annotated[set[int], Field(min_length=3)],
    "set of texts": Annotated[frozenset[str], Field(min_length=12)],
    "set of labels": Annotated[set[Literal["a", "b", "c"]], Field(min_length=3)],
    "set of either": Annotated[set[int | None], Field(min_length=3)],
    "mapping": Annotated[dict[str, int], Field(min_length=2)],
    "mapping by label": Annotated[dict[Literal["q", "r"], int], Field(min_length=2)],
    "mapping by pattern": Annotated[dict[Annotated[str, Field(pattern="^a")], int], Field(min_length=2)],
    "text": Annotated[str, Field(min_length=3, max_length=4)],
    "letters": Annotated[str, Field(pattern="^[A-Z]{3}$")],
    "digits": Annotated[str, Field(pattern=r"^\d{5}$")],
    "pattern with an example": Annotated[str, Field(pattern="^k-[qz]+$", examples=["k-qz"])],
    "date": datetime.date,
    "datetime": datetime.datetime,
    "aware datetime": pydantic.AwareDatetime,
    "time": datetime.time,
    "duration": datetime.timedelta,
    "uuid": uuid.UUID,
    "uuid4": pydantic.UUID4,
    "decimal": Annotated[decimal.Decimal, Field(gt=0)],
    "bytes": bytes,
    "base64": pydantic.Base64Bytes,
    "path": pathlib.Path,
    "address": ipaddress.IPv6Address,
    "network": ipaddress.IPv4Network,
    "url": pydantic.HttpUrl,
    "json": pydantic.Json[int],
    "size": pydantic.ByteSize,
    "anything": Any,
    "nothing": None,
}


@pytest.mark.parametrize("name", KINDS)
def test_samples_fit_what_pydantic_writes(name: str) -> None:
    kind = TypeAdapter(KINDS[name])
    schema = kind.json_schema()
    made = json.dumps(sample(schema))
    jsonschema.validate(json.loads(made), schema)
    kind.validate_json(made)


def test_samples_are_small() -> None:
    made = sample(Outer.model_json_schema())
    assert made == {"inner": {"kind": "a", "tags": []}, "maybe": None, "sure": True, "share": 0}
    assert sample(Node.model_json_schema()) == {"value": 0, "child": None}
    assert sample(Tree.model_json_schema()) == {"root": {"kind": "leaf"}}


@pytest.mark.parametrize(
    ("schema", "rule"),
    [
        ({"type": "string", "pattern": "^k-[qz]+$"}, r"pattern.*examples"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "exclusiveMinimum"),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 3, "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 0}}}, "required": ["a"]}, "not"),
        ({"$ref": "#/$defs/Gone"}, r"\$ref '#/\$defs/Gone'"),
        ({"type": "object", "properties": {"self": {"$ref": "#"}}, "required": ["self"]}, "hold themselves"),
    ],
)
def test_what_cannot_be_made_is_told_with_the_rule(schema: dict[str, Any], rule: str) -> None:
    with pytest.raises(EngineError, match=rule):
        sample(schema)
