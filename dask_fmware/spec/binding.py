"""What an argument of a node is bound to: a value of the workflow, a constant, or a container of both.

Bindings name values and know nothing of where in a workflow those are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, TypeAlias

from pydantic import Discriminator, Field, JsonValue, Tag

from dask_fmware.spec.record import Record

__all__ = ["Binding", "Constant", "Dictionary", "Name", "Reference", "Sequence", "references"]

NAME = r"^[A-Za-z_][A-Za-z0-9_\-]*$"
Name: TypeAlias = Annotated[str, Field(pattern=NAME, max_length=100)]


class Reference(Record):
    """The value of a node or an input, by name."""

    source: Name = Field(alias="from")


class Constant(Record):
    """A value written into the workflow."""

    value: JsonValue


class Sequence(Record):
    """A list some of whose items are computed."""

    items: list[Binding] = Field(alias="list")


class Dictionary(Record):
    """A dictionary some of whose values are computed."""

    entries: dict[str, Binding] = Field(alias="dict")


def _form(binding: object) -> str | None:
    """Which form of binding a value has, by its one key."""
    if isinstance(binding, Mapping):
        return next((tag for key, tag in _KEYS.items() if key in binding), None)
    return _FORMS.get(type(binding))


_KEYS = {
    "from": "<from>", "source": "<from>", "value": "<value>",
    "list": "<list>", "items": "<list>", "dict": "<dict>", "entries": "<dict>",
}  # fmt: skip
_FORMS: dict[type, str] = {Reference: "<from>", Constant: "<value>", Sequence: "<list>", Dictionary: "<dict>"}

# Tags are in angle brackets so that no key of a document can be mistaken for one in the path of an error.
Binding: TypeAlias = Annotated[
    Annotated[Reference, Tag("<from>")]
    | Annotated[Constant, Tag("<value>")]
    | Annotated[Sequence, Tag("<list>")]
    | Annotated[Dictionary, Tag("<dict>")],
    Discriminator(
        _form,
        custom_error_type="binding",
        custom_error_message="a binding is one of {from: name}, {value: JSON}, {list: [...]} and {dict: {...}}",
    ),
]


def references(binding: Binding) -> Iterator[str]:
    """Names that a binding refers to."""
    match binding:
        case Reference():
            yield binding.source
        case Sequence():
            for item in binding.items:
                yield from references(item)
        case Dictionary():
            for entry in binding.entries.values():
                yield from references(entry)
        case Constant():
            pass
