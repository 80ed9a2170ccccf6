"""Requests of OpenAI's batch format as rows: one JSON object a line with ``custom_id``, ``url`` and ``body``.

A workflow brings its own model and prompt, so of a request it takes the conversation: the last words of the user are
the column ``prompt``, a system message the column ``system``, all of it ``messages``. What else the body holds
(``model``, ``temperature``) are columns too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["is_request", "request_row"]


def is_request(line: Mapping[str, Any]) -> bool:
    """Whether a JSON line is a request of a batch file."""
    return "custom_id" in line and isinstance(line.get("body"), dict)


def request_row(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a request."""
    body = dict(line.get("body") or {})
    messages = body.pop("messages", None) or []
    prompt = body.pop("prompt", body.pop("input", None))
    if messages:
        prompt = _text(messages, "user")
    return {
        "custom_id": line.get("custom_id"),
        "prompt": prompt,
        "system": _text(messages, "system"),
        "messages": messages,
        **body,
    }


def _text(messages: list[Any], role: str) -> str | None:
    """Text of the last message of a role; parts that are no text are left out."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == role:
            content = message.get("content")
            if isinstance(content, list):
                parts = (part.get("text", "") for part in content if isinstance(part, dict))
                return "".join(part for part in parts if isinstance(part, str))
            return str(content) if content is not None else None
    return None
