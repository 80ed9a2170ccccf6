"""What every engine refuses before it spends anything on a request.

Pure checks with one wording for all engines; what depends on a model (the context, the tokenizer) is
left to them. Whether an answer has its format is not asked here: see `dask_fmware_workers.output`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dask_fmware.errors import ContextOverflowError, SpecError
from dask_fmware.model.engine import Request

__all__ = ["check_context", "check_request", "check_size", "check_texts", "prompt_bytes", "template_refuses"]


def check_request(request: Request, *, engine: str, embeds: bool = False) -> None:
    """Refuse a malformed request, and one for what the engine does not give.

    Parameters
    ----------
    request
        The request to look at.
    engine
        Name for the message.
    embeds
        Whether it gives vectors and no text.

    Raises
    ------
    SpecError
        If a field is missing, out of its bounds or contradicts another; the message holds no prompt.
    """
    reason = _fault(request) or _wrong_use(request, embeds)
    if reason is not None:
        raise SpecError(f"{engine}: request '{request.request_id}': {reason}")


def check_context(request: Request, prompt_tokens: int, context_tokens: int, *, engine: str) -> None:
    """Refuse a request that does not fit into the context, or has no prompt at all.

    Parameters
    ----------
    request
        The request to look at.
    prompt_tokens
        Tokens of its prompt, as the engine counts them.
    context_tokens
        Prompt plus output of one request on this engine.
    engine
        Name for the message.

    Raises
    ------
    SpecError
        If the prompt is empty.
    ContextOverflowError
        If prompt plus ``max_tokens`` exceed the context.
    """
    if not prompt_tokens:
        raise SpecError(f"{engine}: the prompt of request '{request.request_id}' is empty; give it some text")
    if prompt_tokens + request.max_tokens > context_tokens:
        raise _overflow(request, f"{prompt_tokens}", context_tokens, engine)


def check_texts(request: Request, tokens: Sequence[int], context_tokens: int, *, engine: str) -> None:
    """Refuse texts of which one does not fit into the context; each is read by itself.

    Parameters
    ----------
    request
        The request to look at.
    tokens
        Of each text, as the engine counts them.
    context_tokens
        Of one text on this engine.
    engine
        Name for the message.

    Raises
    ------
    ContextOverflowError
        If a text exceeds the context.
    """
    if max(tokens) > context_tokens:
        raise ContextOverflowError(
            f"{engine}: request '{request.request_id}': text {tokens.index(max(tokens))} of {len(tokens)} has "
            f"{max(tokens)} tokens, more than the context of {context_tokens} tokens; cut it into parts, or raise "
            "context_tokens in the deployment as far as the model permits"
        )


def check_size(request: Request, longest_token_bytes: int, context_tokens: int, *, engine: str) -> None:
    """Refuse a request whose text fits into the context with no tokens that there are, before it is cut into tokens.

    A tokenizer takes minutes for a prompt of a thousand books, and who waits takes the engine for one that hangs.

    Parameters
    ----------
    request
        The request to look at.
    longest_token_bytes
        Bytes of UTF-8 that one token stands for, at most.
    context_tokens
        Prompt plus output of one request on this engine.
    engine
        Name for the message.

    Raises
    ------
    ContextOverflowError
        If it exceeds the context.
    """
    least = -(-prompt_bytes(request) // longest_token_bytes)
    if least and least + request.max_tokens > context_tokens:
        raise _overflow(request, f"at least {least}", context_tokens, engine)


def prompt_bytes(request: Request) -> int:
    """Bytes of the text that a request brings."""
    return sum(len(text.encode()) for text in _texts(request))


def template_refuses(request: Request, error: Exception, *, engine: str) -> SpecError:
    """Return the error for a chat of which the model's template makes no prompt; it holds nothing that was said."""
    turns = request.messages or ()
    return SpecError(
        f"{engine}: request '{request.request_id}': the model's chat template refuses its {len(turns)} turns (roles "
        f"{', '.join(turn.role for turn in turns[:8])}; {type(error).__name__}); leave out system=, let roles "
        "alternate, or use a plain prompt"
    )


def _overflow(request: Request, tokens: str, context_tokens: int, engine: str) -> ContextOverflowError:
    return ContextOverflowError(
        f"{engine}: request '{request.request_id}' needs {tokens} prompt tokens + max_tokens={request.max_tokens}, "
        f"more than the context of {context_tokens} tokens; shorten the prompt, lower max_tokens or raise "
        "context_tokens in the deployment"
    )


def _fault(request: Request) -> str | None:
    sampling, choices = request.sampling, request.choices
    if sum(given is not None for given in (request.prompt, request.messages, request.texts)) != 1:
        return "give exactly one of prompt, messages and texts"
    if request.messages is not None and not request.messages:
        return "messages is empty; give at least one"
    if request.texts is not None and not (request.texts and all(request.texts)):
        return "texts must be one or more, none of them empty"
    if request.max_tokens < 1:
        return f"max_tokens={request.max_tokens} is below 1"
    if sampling.temperature is not None and not sampling.temperature >= 0:
        return f"temperature={sampling.temperature} is below 0"
    if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
        return f"top_p={sampling.top_p} is not above 0 and at most 1"
    if sampling.top_k is not None and sampling.top_k < 1:
        return f"top_k={sampling.top_k} is below 1"
    if not all(sampling.stop):
        return "a stop string is empty; leave it out"
    if choices is not None and request.json_schema is not None:
        return "give choices or json_schema, not both"
    if choices is not None and not (choices and all(choices)):
        return "choices must be one or more labels, none of them empty"
    if choices is not None and any("\0" in choice for choice in choices):
        return "a choice holds a null character, which grammars cannot express; leave it out"
    if not all(map(_is_unicode, [*_texts(request), *(choices or ()), *sampling.stop])):
        return "a text holds half of a surrogate pair, which is no character; decode it with errors='replace'"
    return None


def _texts(request: Request) -> list[str]:
    """All text that a request brings to be read."""
    return [request.prompt or "", *(turn.content for turn in request.messages or ()), *(request.texts or ())]


def _wrong_use(request: Request, embeds: bool) -> str | None:
    if embeds and request.texts is None:
        return "it embeds texts and writes none; ask a model that does not say 'embeds: true' in the deployment"
    if request.texts is not None and not embeds:
        return "it writes text and gives no vectors; ask a model that says 'embeds: true' in the deployment"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
