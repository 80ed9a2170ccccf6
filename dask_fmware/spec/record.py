"""The base of every document class, and how a value that breaks one is reported.

A record is frozen, refuses keys it does not know and numbers that JSON cannot write. It knows nothing
of files: where in a text a value stands is the business of `dask_fmware.spec.documents`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic._internal._model_construction import ModelMetaclass
from pydantic_core import PydanticCustomError

from dask_fmware.errors import SpecError

__all__ = [
    "Complaint",
    "Option",
    "Printable",
    "Record",
    "checked",
    "complaint",
    "complaints",
    "did_you_mean",
    "misfit",
    "shorten",
]

SHOWN_CHARACTERS = 80
# Values under these keys are prompts or data of users: their errors never show them.
PRIVATE = frozenset({"prompt", "content", "texts", "value", "default", "description"})
# Errors that say themselves what was given: those of validators that raise ValueError, and how many items there are.
TOLD = frozenset({"value_error", "too_long", "too_short"})


def _printable(name: str) -> str:
    if not name.isprintable():
        raise PydanticCustomError("printable", "a name has no control or invisible characters")
    return name


Printable: TypeAlias = Annotated[str, AfterValidator(_printable)]  # what screens show as it is


class Record(BaseModel):
    """A part of a document: frozen, complete and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Let ``help`` and notebooks show names and defaults, not the insides of validators."""
        super().__pydantic_init_subclass__(**kwargs)
        shown = [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty if field.is_required() else field.get_default(call_default_factory=True),
            )
            for name, field in cls.model_fields.items()
        ]
        type.__setattr__(cls, "__signature__", Signature(shown))

    @model_validator(mode="before")
    @classmethod
    def _knows_every_key(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = [info.alias or name for name, info in cls.model_fields.items()]
            for key in data:
                if key not in known and key not in cls.model_fields:
                    # A custom error carries the key, so that a reader of a file can point at its line.
                    name = str(key).encode(errors="replace").decode()
                    shown = shorten(name)
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{shown}'{hint} (known: {known})",
                        {"key": name, "shown": shown, "hint": did_you_mean(shown, known), "known": ", ".join(known)},
                    )
        return data


class _ByName(ModelMetaclass):
    """Makes records from arguments of users: what is wrong is said as it is said of documents."""

    error: type[SpecError]

    def __call__(cls, *args: Any, **values: Any) -> Any:
        name = cls.__name__
        if args:
            first = next(iter(signature(cls).parameters))
            raise TypeError(f"{name} takes its values by name, such as {name}({first}={shorten(repr(args[0]), 40)})")
        try:
            return super().__call__(**values)
        except ValidationError as wrong:
            raise cls.error(f"{name}: {complaint(wrong)}") from None


class Option(Record, metaclass=_ByName):
    """A record that users make themselves, in Python; made of wrong values it raises its `error`."""

    error: ClassVar[type[SpecError]] = SpecError


Kind = TypeVar("Kind", bound=Record)


def checked(kind: type[Kind], values: Mapping[str, Any], error: type[SpecError], what: str) -> Kind:
    """Make a record from arguments of a user, or raise `error` with what is wrong first; `what` says who asks."""
    try:
        return kind.model_validate(values)
    except ValidationError as wrong:
        raise error(f"{what}: {complaint(wrong)}") from None


def misfit(message: str, *path: str | int) -> PydanticCustomError:
    """Make the error of a validator that sees several values, about the one that `path` leads to."""
    return PydanticCustomError("misfit", "{message}", {"message": message, "path": path})


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that is wrong with a document."""

    path: tuple[str | int, ...]
    """Keys and indices that lead to the value, as pydantic reports them."""
    message: str
    """What is wrong, with the value where it may be shown."""

    def __str__(self) -> str:
        where = ".".join(shorten(str(part)) for part in self.path if not str(part).startswith("<"))
        return f"{where}: {self.message}" if where else self.message


def complaints(error: ValidationError) -> list[Complaint]:
    """What pydantic found wrong, in words that neither repeat its jargon nor show prompts."""
    return [_complaint(item) for item in error.errors(include_url=False)]


def complaint(error: ValidationError) -> Complaint:
    """What pydantic found wrong first, in such words."""
    return _complaint(error.errors(include_url=False)[0])


def _complaint(item: Mapping[str, Any]) -> Complaint:
    path, context = item["loc"], item.get("ctx", {})
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "unknown_key":
        path = (*path, context["key"])
    elif item["type"] == "misfit":
        path = (*path, *context["path"])
    elif item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        # The first added part stands where pydantic puts the kind once it knows it.
        path = (*path, "<kind>", "kind")
        given = f"'{shorten(str(context['tag']))}' is none of" if "tag" in context else "is missing; give one of"
        message = f"{given} {context.get('expected_tags', 'the known kinds')}"
    elif item["type"] == "missing":
        message = "is missing; add it"
    elif item["type"] not in TOLD and not isinstance(item["input"], (Mapping, BaseModel)):
        hidden = any(part in PRIVATE for part in path)
        shown = type(item["input"]).__name__ if hidden else shorten(repr(item["input"]))
        message = f"{message[0].lower()}{message[1:]}, not {shown}"
    return Complaint(path, message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that is closest, or nothing.

    >>> did_you_mean("max_token", ["max_tokens", "seed"])
    "; did you mean 'max_tokens'?"
    """
    names = list(known)
    if name.lower() == "true" and "on" in names:
        return "; did you mean 'on'? YAML 1.1, which PyYAML reads and writes, takes it for true unless it is quoted"
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def shorten(text: str, characters: int = SHOWN_CHARACTERS) -> str:
    """Cut a text to at most `characters`, so that errors stay readable and keep user text out of logs.

    >>> shorten("a" * 10, 6)
    'aaa...'
    """
    return text if len(text) <= characters else text[: characters - 3] + "..."
