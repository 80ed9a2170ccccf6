"""What callers send."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator, model_validator

from dask_fmware.errors import SpecError
from dask_fmware.model.embedding import MOST_TEXTS
from dask_fmware.spec.nesting import DEEPEST, is_deep
from dask_fmware.spec.record import Record, checked, misfit, shorten
from dask_fmware.spec.slo import SLO

__all__ = ["ChatBody", "EmbeddingBody", "Message", "RunBody", "read"]

Kind = TypeVar("Kind", bound=BaseModel)

MOST_MESSAGES = 10_000  # of a chat

# What would make an answer something else than a text, and the values that do not.
AS_TEXT: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "audio": (None,),
}


class RunBody(Record):
    """A run of a workflow."""

    inputs: dict[str, Any] = Field(default_factory=dict)
    stream: bool = False
    slo: SLO | None = None
    tenant: str | None = Field(default=None, min_length=1, max_length=200)
    priority: int | None = Field(default=None, ge=-1000, le=1000)


class Message(BaseModel):
    """A turn of a chat; text alone, as a string or in parts."""

    model_config = ConfigDict(extra="ignore")

    role: str
    content: Any = None

    @property
    def text(self) -> str:
        """Its text; raises `SpecError` for a picture or a sound."""
        parts = self.content if isinstance(self.content, list) else [self.content]
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
        found = [text for text in texts if isinstance(text, str)]
        if len(found) < len(texts):
            raise SpecError(
                f"the content of a message of '{shorten(self.role)}' is no text; send a string or parts of type text"
            )
        return "".join(found)


class ChatBody(BaseModel):
    """A request of OpenAI's chat completions; how models are sampled is the workflow's and not the caller's."""

    model_config = ConfigDict(extra="ignore")

    model: str
    # millions of messages may all be wrong; the first is enough to refuse them
    messages: Annotated[list[Message], FailFast()] = Field(min_length=1, max_length=MOST_MESSAGES)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: int | None = Field(default=None, ge=1, le=1)

    @model_validator(mode="before")
    @classmethod
    def _asks_for_a_text(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name, harmless in AS_TEXT.items():
            if given.get(name) not in harmless:
                raise misfit("is not supported, as a workflow answers with its own text; leave it out", name)
        return given

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the tokens that were used."""
        return bool((self.stream_options or {}).get("include_usage"))


class EmbeddingBody(BaseModel):
    """A request of OpenAI's embeddings."""

    model_config = ConfigDict(extra="ignore")

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None

    @field_validator("input", mode="before")
    @classmethod
    def _is_text(cls, given: Any) -> Any:
        texts = given if isinstance(given, list) else [given]
        if not all(isinstance(text, str) and text for text in texts) or not 1 <= len(texts) <= MOST_TEXTS:
            raise misfit(f"is a text or a list of 1 to {MOST_TEXTS} texts, none of them empty; tokens are not read")
        return given

    @field_validator("dimensions", mode="before")
    @classmethod
    def _is_left_out(cls, given: Any) -> Any:
        if given is not None:
            raise misfit("is not supported, as a workflow gives the vectors of its model; leave it out")
        return given

    @property
    def is_packed(self) -> bool:
        """Whether vectors are asked for in base64."""
        return self.encoding_format == "base64"


def read(kind: type[Kind], body: bytes | bytearray) -> Kind:
    """Read a body of JSON.

    Raises
    ------
    SpecError
        If it is no JSON, nested too deeply, or not of this kind; says where.
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"the body is no JSON ({type(error).__name__}); send an object") from None
    if not isinstance(given, dict):
        raise SpecError(f"the body is a JSON {type(given).__name__}; send an object")
    if is_deep(given):
        raise SpecError(f"the body has more than {DEEPEST} lists and objects within one another; send a flatter one")
    return checked(kind, given, SpecError, "the body")  # type: ignore[type-var]
