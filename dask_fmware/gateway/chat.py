"""OpenAI's chat completions in front of a workflow, which is the model there.

A workflow with an input ``messages`` gets the whole conversation, as a list of role and content; one with a single
input that must be given gets the text of the last message.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from dask_fmware.client.session import Outcome
from dask_fmware.errors import WorkflowError
from dask_fmware.gateway.answers import RefusedError, text_of, usage_of
from dask_fmware.gateway.bodies import Message
from dask_fmware.model.completion import Completion
from dask_fmware.spec.record import shorten
from dask_fmware.spec.workflow import Workflow

__all__ = ["ChatAnswer", "inputs_of", "model", "models", "no_model", "single_input"]


def inputs_of(workflow: Workflow, messages: Sequence[Message]) -> dict[str, Any]:
    """Return the inputs of a run.

    Raises
    ------
    SpecError
        If the workflow takes no chat, or a message is no text.
    """
    names = [item.name for item in workflow.inputs]
    if "messages" in names:
        return {"messages": [{"role": turn.role, "content": turn.text} for turn in messages]}
    if (name := single_input(workflow)) is None:
        raise WorkflowError(
            f"workflow '{workflow.name}' has the inputs {', '.join(names) or '(none)'}, so it is no chat: give it an "
            f"input 'messages' or a single one that is required, or use POST /workflows/{workflow.name}"
        )
    return {name: messages[-1].text}


def single_input(workflow: Workflow) -> str | None:
    """Return the name of the only input that must be given, or of the first if none must; None if there is none."""
    required = [item.name for item in workflow.inputs if item.required] or [i.name for i in workflow.inputs][:1]
    return required[0] if len(required) == 1 else None


def model(workflow: Workflow) -> dict[str, Any]:
    """Return what is told of one model."""
    return {"id": workflow.name, "object": "model", "created": 0, "owned_by": "dask-fmware"}


def models(workflows: Sequence[Workflow]) -> dict[str, Any]:
    """Return the list of models."""
    return {"object": "list", "data": [model(one) for one in workflows]}


def no_model(name: str) -> RefusedError:
    """Return what is told to who asks for a model that is none."""
    return RefusedError(404, f"no workflow '{shorten(name)}' here, which the model is: see GET /v1/models")


class ChatAnswer:
    """The answer to one request."""

    def __init__(self, run_id: str, workflow: str) -> None:
        self._workflow = workflow
        self._said = {"id": f"chatcmpl-{run_id}", "created": int(time.time()), "model": workflow}

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return it in one piece."""
        message = {"role": "assistant", "content": text_of(self._workflow, outcome.value)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(outcome.value)}
        return {"object": "chat.completion", **self._said, "choices": [choice], "usage": usage_of(outcome.report)}

    def first(self) -> dict[str, Any]:
        """Return the piece that says who speaks."""
        return self._piece({"role": "assistant", "content": ""}, None)

    def text(self, text: str) -> dict[str, Any]:
        """Return a piece of text."""
        return self._piece({"content": text}, None)

    def last(self, outcome: Outcome) -> dict[str, Any]:
        """Return the piece that says why it ended."""
        return self._piece({}, _reason(outcome.value))

    def usage(self, outcome: Outcome) -> dict[str, Any]:
        """Return the piece behind the last, if it was asked for."""
        return {"object": "chat.completion.chunk", **self._said, "choices": [], "usage": usage_of(outcome.report)}

    def _piece(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {"object": "chat.completion.chunk", **self._said, "choices": [choice]}


def _reason(value: Any) -> str:
    return "length" if isinstance(value, Completion) and value.finish_reason == "length" else "stop"
