"""A model node of one run, as it travels to the worker that executes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from dask_fmware.model.embedding import texts_of
from dask_fmware.model.engine import Message, Request, Sampling
from dask_fmware.model.plan import SwitchRule
from dask_fmware.spec.prompt import render

__all__ = ["SKIPPED", "ModelCall", "Skipped", "Template"]


class Skipped:
    """The value of a node on a branch that was not taken; `SKIPPED` is the only one."""

    _one: Skipped | None = None

    def __new__(cls) -> Skipped:
        """Return the only instance, in every process."""
        if cls._one is None:
            cls._one = super().__new__(cls)
        return cls._one

    def __reduce__(self) -> tuple[type[Skipped], tuple[()]]:
        return (Skipped, ())

    def __repr__(self) -> str:
        return "SKIPPED"


SKIPPED = Skipped()


@dataclass(frozen=True, slots=True)
class Template:
    """One prompt, or one turn of a chat, with named fields."""

    text: str = field(repr=False)
    role: Literal["system", "user", "assistant"] | None = None  # None: a plain completion


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A model node as a replica needs it. Equal for all runs of a workflow; each run brings ids and values."""

    workflow: str
    node: str
    model: str
    templates: tuple[Template, ...] = field(repr=False)
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    choices: tuple[str, ...] | None = None
    json_schema: Mapping[str, Any] | None = field(default=None, repr=False)
    schema: type[BaseModel] | None = field(default=None, repr=False)  # validates what json_schema describes
    embeds: bool = False  # its value is the vectors of ``texts`` among its fields; it has no template
    decides: tuple[SwitchRule, ...] = ()  # switches that read this call's value
    answers: bool = False  # its output is streamed as the answer; its first token is reported when it comes

    @property
    def where(self) -> str:
        """How messages name this call."""
        return f"workflow '{self.workflow}', node '{self.node}'"

    def request(self, values: Mapping[str, object], *, request_id: str, priority: float = 0.0) -> Request:
        """Fill in the prompt and return what the engine is asked; `WorkflowError` where that cannot be."""
        if self.embeds:
            return Request(request_id, 1, texts=texts_of(values["texts"], self.where), priority=priority)
        texts = [render(template.text, values, self.where) for template in self.templates]
        turns = tuple(
            Message(template.role, text)
            for template, text in zip(self.templates, texts, strict=True)
            if template.role is not None
        )
        return Request(
            request_id=request_id,
            max_tokens=self.max_tokens,
            prompt=None if turns else texts[0],
            messages=turns or None,
            sampling=self.sampling,
            choices=self.choices,
            json_schema=self.json_schema,
            priority=priority,
        )
