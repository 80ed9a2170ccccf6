"""What an HTTP answer that is no success means to us, and how long a rate limit asks us to wait.

Pure. A server's own message is never passed on: it may hold the prompt or a part of the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from ssl import SSLCertVerificationError
from typing import Any

from dask_fmware.errors import (
    CapacityError,
    ContextOverflowError,
    EngineCrashedError,
    EngineError,
    FMwareError,
    OutputFormatError,
)
from dask_fmware.model.engine import Request

__all__ = ["cause_of", "fault_of", "retry_after_s"]

LONGEST_S = 86_400.0  # that a server may ask to wait; one that says more is asked again after a day
GONE = (404, 405, 410, 421)  # of a server that had the model when its replica started: it has another now, or has moved
OVERFLOW = ("context_length_exceeded", "exceed_context_size_error", "context length", "context size")


def retry_after_s(status: int, headers: Mapping[str, str], body: object, now_s: float) -> float | None:
    """Seconds after which a refused request may be sent again; None if waiting does not help.

    Parameters
    ----------
    status
        HTTP status.
    headers
        Of the answer, with names in lower case or case-insensitive.
    body
        The answer, parsed if it was JSON.
    now_s
        Seconds since the epoch, for headers that hold a date.
    """
    if status not in (429, 503) or "insufficient_quota" in _kind(body):
        return None
    value = headers.get("retry-after-ms")
    try:
        if value is not None:
            return min(max(0.0, float(value) / 1000), LONGEST_S)
        value = headers.get("retry-after")
        if value is None:
            return 1.0 if status == 429 else None
        return min(max(0.0, float(value)), LONGEST_S)
    except ValueError:
        pass
    try:
        return min(max(0.0, parsedate_to_datetime(str(value)).timestamp() - now_s), LONGEST_S)
    except (ValueError, OverflowError):  # no date, or one beyond all calendars
        return 1.0


def fault_of(status: int, body: object, request: Request, where: str, key: str) -> FMwareError:
    """Return the error that stands for an HTTP status.

    Parameters
    ----------
    status, body
        Of the answer.
    request
        What was asked.
    where
        The server, for messages.
    key
        Where its key comes from, for messages.
    """
    what = f"openai: {where}: request '{request.request_id}'"
    kind = _kind(body)
    if status in (401, 403):
        return EngineCrashedError(
            f"openai: {where} refuses the key from {key} (HTTP {status}): it is wrong, expired or lacks a right; "
            "renew it"
        )
    if status == 402:
        return CapacityError(f"{what} is refused as the balance of its key is used up (HTTP 402 {kind}); fill it up")
    if status == 429:
        return CapacityError(
            f"{what} is over the rate limit or quota of its key (HTTP 429 {kind}); lower slots or wait"
        )
    if status in GONE:
        return EngineCrashedError(
            f"{what}: the model is not served there (HTTP {status} {kind}); correct 'model', 'base_url' or 'dialect', "
            "or see what the server has loaded"
        )
    if status == 501:
        return EngineError(
            f"{what}: the server does not do that (HTTP 501 {kind}); start it so that it does (llama.cpp's embeds with "
            "--embeddings), or correct 'embeds' of the model in the deployment"
        )
    if status >= 500 or status == 408:
        return EngineCrashedError(f"{what}: the server failed (HTTP {status}); try again")
    if status in (400, 413, 422) and any(word in f"{kind} {_message(body)}" for word in OVERFLOW):
        return ContextOverflowError(
            f"{what}: prompt and max_tokens={request.max_tokens} exceed the server's context; shorten the prompt or "
            "lower max_tokens"
        )
    if status in (400, 422) and (request.choices is not None or request.json_schema is not None):
        return OutputFormatError(
            f"{what} is refused (HTTP {status} {kind}), perhaps for its choices or schema; simplify them, or correct "
            "'dialect'"
        )
    return EngineError(f"{what} is refused (HTTP {status} {kind}); correct the model's name, 'dialect' or 'extra'")


def cause_of(error: BaseException) -> str:
    """Name what ended a connection: in the system's words, which libraries wrap in errors of their own."""
    chain = [error]
    while (below := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(below)
    told = next((one for one in reversed(chain) if isinstance(one, OSError)), chain[-1])
    if isinstance(told, SSLCertVerificationError):
        return f"{type(told).__name__}: {told.verify_message}; SSL_CERT_FILE on the worker names who is trusted"
    return type(told).__name__


def _error(body: object) -> Mapping[str, Any]:
    error = body.get("error", body) if isinstance(body, Mapping) else None
    return error if isinstance(error, Mapping) else {}


def _kind(body: object) -> str:
    """Return the type and code of an error, where they are short words."""
    words = [str(_error(body).get(name) or "") for name in ("type", "code")]
    return " ".join(word for word in words if 0 < len(word) < 60 and word.replace("_", "").isalnum())


def _message(body: object) -> str:
    return str(_error(body).get("message", ""))
