"""How servers that speak OpenAI's protocol differ: fields, formats, token counts.

Pure functions from requests to bodies and from stream events to pieces. One entry of `DIALECTS` for each
kind of server; nothing else asks which server it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dask_fmware.errors import EngineCrashedError, EngineError, SpecError
from dask_fmware.model.engine import FinishReason, Request, Usage
from dask_fmware_workers.engines.grammar import bounded_schema, choices_grammar
from dask_fmware_workers.engines.vllm_priority import urgency

__all__ = ["DIALECTS", "Answer", "Dialect", "usage_in"]

CHOICE = "choice"  # the only property of the document that stands for a choice, where only schemas are taken
MOST_TOKENS = 2**40  # no answer has more; what a server says beyond it is no count
GOES_ON = (None, "", "null")  # an answer that has not ended, as OpenAI says it, SGLang and Ollama did, KoboldCpp did
REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    **dict.fromkeys(("eos", "eos_token", "stop_sequence", "end_turn"), "stop"),  # Together's, TGI's, Anthropic's
    "max_tokens": "length",
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of server takes and says."""

    name: str
    serves_prompts: bool  # it has /completions; else a prompt is sent as the only message of a chat
    limit_field: str  # what it calls max_tokens
    seeds: int  # it takes seeds below this number
    takes_top_k: bool
    formats: Literal["response_format", "structured_outputs", "grammar"]
    counts: Literal["chunks", "usage", "timings"]  # how the tokens of a piece are known
    tokenizer: Literal["vllm", "llama.cpp"] | None = None  # how prompts are counted; None: they are estimated
    takes_priority: bool = False  # it runs with priorities; a server that does not refuses them

    @property
    def wraps_choices(self) -> bool:
        """Whether a choice comes as a JSON document around the label."""
        return self.formats == "response_format"

    def body(self, request: Request, default_seed: int) -> dict[str, Any]:
        """Return what is asked, without the model's name.

        Raises
        ------
        SpecError
            If the server cannot be asked that.
        """
        sampling = request.sampling
        body: dict[str, Any] = {
            self.limit_field: request.max_tokens,
            "seed": (default_seed if sampling.seed is None else sampling.seed) % self.seeds,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.messages is not None:
            body["messages"] = [{"role": turn.role, "content": turn.content} for turn in request.messages]
        elif self.serves_prompts:
            body["prompt"] = request.prompt
        else:
            body["messages"] = [{"role": "user", "content": request.prompt}]
        for name in ("temperature", "top_p"):
            if (value := getattr(sampling, name)) is not None:
                body[name] = value
        if sampling.top_k is not None:
            if self.takes_top_k:
                body["top_k"] = sampling.top_k
            elif sampling.top_k == 1:
                body["temperature"] = 0.0
            else:
                raise SpecError(
                    f"openai: request '{request.request_id}': top_k={sampling.top_k} has no place in dialect "
                    f"'{self.name}'; leave it out, or use top_p"
                )
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self.counts == "usage":
            body["stream_options"]["continuous_usage_stats"] = True
        elif self.counts == "timings":
            body |= {"timings_per_token": True, "cache_prompt": True}
        if self.takes_priority:
            body["priority"] = urgency(request.priority)
        return body | self._format(request)

    def _format(self, request: Request) -> dict[str, Any]:
        choices, schema = request.choices, request.json_schema
        if choices is None and schema is None:
            return {}
        match self.formats:
            case "structured_outputs":
                wanted = {"choice": list(choices)} if choices is not None else {"json": dict(schema or {})}
                return {"structured_outputs": wanted}
            case "grammar":
                return (
                    {"grammar": choices_grammar(choices)}
                    if choices is not None
                    else {"json_schema": bounded_schema(schema or {}, request.max_tokens)}
                )
            case "response_format":
                wanted = dict(schema or {}) if choices is None else _choice_schema(choices)
                described = {"name": "answer", "schema": wanted, "strict": _is_strict(wanted)}
                return {"response_format": {"type": "json_schema", "json_schema": described}}


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai", False, "max_completion_tokens", 2**63 - 1, False, "response_format", "chunks"),
        Dialect("vllm", True, "max_tokens", 2**63 - 1, True, "structured_outputs", "usage", "vllm"),
        # llama.cpp takes 32 bits and reads the largest as "draw a seed"
        Dialect("llama.cpp", True, "max_tokens", 2**32 - 1, True, "grammar", "timings", "llama.cpp"),
        # reads no max_completion_tokens, and would answer without a limit; takes 32 bits
        Dialect("ollama", False, "max_tokens", 2**31 - 1, False, "response_format", "chunks"),
        Dialect(
            "vllm-priority", True, "max_tokens", 2**63 - 1, True, "structured_outputs", "usage", "vllm", True
        ),  # with --scheduling-policy priority
    )
}


@dataclass(slots=True)
class Answer:
    """One answer as its events come in."""

    dialect: Dialect
    request: Request
    where: str  # for messages
    tokens: int = 0  # generated so far, as far as is known
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    _held: list[str] = field(default_factory=list, repr=False)  # text of a wrapped choice
    _half: str = field(default="", repr=False)  # of a character that an event ends within

    @property
    def _is_wrapped(self) -> bool:
        return self.dialect.wraps_choices and self.request.choices is not None

    def take(self, event: Mapping[str, Any]) -> tuple[str, int]:
        """Take one event in and return the text and the tokens that it adds.

        Raises
        ------
        EngineError
            If the server ended the answer for a reason of its own.
        EngineCrashedError
            If it reports that it failed.
        """
        if event.get("error") is not None:
            raise EngineCrashedError(f"{self.where}: the server reports an error in the middle of a stream; try again")
        before, text, has_content = self.tokens, "", False
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or choice
            text += delta.get("content") or delta.get("text") or ""
            has_content = bool(text or delta.get("reasoning_content") or delta.get("reasoning"))
            if (reason := choice.get("finish_reason")) not in GOES_ON:
                self.finish_reason = self._reason(reason)
        usage = usage_in(event.get("usage"))
        if usage is not None:
            self.usage = usage
            self.tokens = max(self.tokens, usage.output_tokens)
        elif (made := _count(_of(event.get("timings"), "predicted_n"))) is not None:
            self.tokens = max(self.tokens, made)
        elif has_content and self.dialect.counts == "chunks":
            self.tokens += 1
        text = self._whole(text)
        if self._is_wrapped:
            self._held.append(text)
            text = ""
        return text, self.tokens - before

    def _whole(self, text: str) -> str:
        """Return the characters that are complete: some servers cut one in two, as halves of UTF-16."""
        text = self._half + text
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return _joined(text[: len(text) - len(self._half)])

    def _reason(self, reason: str) -> FinishReason:
        if (known := REASONS.get(reason)) is not None:
            return known
        if reason == "abort":
            raise EngineCrashedError(f"{self.where}: the server gave it up; try again")
        raise EngineError(
            f"{self.where}: the server ended the answer with finish_reason {reason!r}; change the prompt or its filter"
        )

    def rest(self) -> str:
        """Text that was held back: half a character, and the label out of its document, or what came instead of one."""
        half, self._half = _joined(self._half), ""
        if not self._is_wrapped:
            return half
        text = "".join([*self._held, half])
        try:
            label = json.loads(text)[CHOICE]
        except (ValueError, TypeError, KeyError):
            return text
        return label if isinstance(label, str) else text


def usage_in(told: object) -> Usage | None:
    """Return what a server says that it counted; None where that cannot be: some send -1, or nothing."""
    prompt, output = _count(_of(told, "prompt_tokens")), _count(_of(told, "completion_tokens") or 0)
    if prompt is None or output is None:
        return None
    cached = _count(_of(_of(told, "prompt_tokens_details"), "cached_tokens")) or 0
    return Usage(prompt, output, min(cached, prompt))


def _of(told: object, name: str) -> object:
    return told.get(name) if isinstance(told, Mapping) else None


def _count(told: object) -> int | None:
    """Return a number of tokens, which some write with a decimal point; None if it is none."""
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 <= told < MOST_TOKENS:
        return None
    return int(told) if told == int(told) else None


def _joined(text: str) -> str:
    """Make one character of two halves; a half that is alone is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _choice_schema(choices: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {CHOICE: {"type": "string", "enum": list(choices)}},
        "required": [CHOICE],
        "additionalProperties": False,
    }


def _is_strict(schema: Any) -> bool:
    """Whether every object in a schema is closed with all properties required, which `strict` needs."""
    if isinstance(schema, Mapping):
        if schema.get("type") == "object" or "properties" in schema:
            names = set(schema.get("properties", {}))
            if schema.get("additionalProperties") is not False or names != set(schema.get("required", ())):
                return False
        return all(_is_strict(value) for value in schema.values())
    return all(map(_is_strict, schema)) if isinstance(schema, list) else True
