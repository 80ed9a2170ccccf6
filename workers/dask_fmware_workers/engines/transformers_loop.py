"""Transformers' continuous batching, loaded, stepped and freed: the one place that touches its objects.

It owns the model, the manager of its batches and the streams of tokens between the manager's thread and the
event loop. Text and sampling are elsewhere.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dask_fmware.errors import DeploymentError, EngineCrashedError
from dask_fmware.model.engine import EngineState, FinishReason, Request
from dask_fmware_workers.accelerators import Need, check_memory, cpu_card, nvidia_cards
from dask_fmware_workers.engines.detokenizer import Detokenizer
from dask_fmware_workers.engines.token_engine import Piece, RequestFaultError, share_interpreter

if TYPE_CHECKING:
    from dask_fmware_workers.engines.transformers_sampling import Sampler

__all__ = ["Loop", "Plan"]

T = TypeVar("T")
STOP_S = 3.0  # a nanny kills after four
LEAST_TOKENS = 2  # what ends in its first step leaves nothing in the prefix cache
BEFORE = 8  # tokens of a prompt that the text of an answer is read after: a word may begin with a blank or not


@dataclass(frozen=True, slots=True)
class Plan:
    """What to load and how; see `TransformersEngine`."""

    model: str
    device: str | None
    dtype: str
    slots: int
    context_tokens: int
    step_tokens: int
    page_tokens: int
    random_weights: bool
    threads: int | None
    cores: tuple[int, ...] | None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def pages(self) -> int:
        """Pages of the KV cache: every slot may fill its context."""
        return self.slots * -(-(self.context_tokens + 1) // self.page_tokens)


class Loop:
    """A model with continuous batching, in threads of this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, plan: Plan) -> None:
        self.tokenizer: Any = None
        self._loop, self._plan = loop, plan
        self._manager: Any = None
        self._sampler: Sampler | None = None
        self._side_thread = ThreadPoolExecutor(1, "transformers-grammar")
        self._answers: dict[str, _Answer] = {}  # on the loop
        self._cached: dict[str, int] = {}  # prompt tokens found in the prefix cache, by request
        self._queried_tokens = self._hit_tokens = 0

    def open(self) -> None:
        """Load the model and start its thread; blocks."""
        share_interpreter()
        _in_daemon(self._open)

    def _open(self) -> None:
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        from dask_fmware_workers.engines.transformers_sampling import Sampler

        plan = self._plan
        if plan.cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, plan.cores)  # of this thread, and of those that it starts
        if plan.threads is not None:
            torch.set_num_threads(plan.threads)
        name = str(Path(plan.model).expanduser())
        config = _configured(name)
        trained = getattr(config.get_text_config(), "max_position_embeddings", None)
        if trained is not None and plan.context_tokens > trained:
            raise DeploymentError(
                f"transformers: context_tokens={plan.context_tokens} exceed the {trained} that '{plan.model}' was made "
                "for; lower context_tokens"
            )
        device = torch.device(plan.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = _dtype(torch, plan.dtype, config)
        options = dict(plan.options)
        attention = options.pop("attn_implementation", "sdpa")
        with torch.device("meta"):
            empty = transformers.AutoModelForCausalLM.from_config(config)
        self._check_memory(device, config, sum(p.numel() for p in empty.parameters()) * dtype.itemsize, dtype.itemsize)
        del empty
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        if getattr(self.tokenizer, "backend_tokenizer", None) is None:
            raise DeploymentError(
                f"transformers: the tokenizer of '{plan.model}' is not a fast one, so its text cannot be streamed"
            )
        if plan.random_weights:
            torch.manual_seed(plan.seed)
            with device:
                model = transformers.AutoModelForCausalLM.from_config(
                    config, dtype=dtype, attn_implementation=attention
                )
        else:
            model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype, attn_implementation=attention)
        model = model.to(device).eval()
        ends = _ends(model.generation_config.eos_token_id, self.tokenizer.eos_token_id)
        self._sampler = Sampler(self.tokenizer, vocabulary=config.get_text_config().vocab_size, ends=ends)
        self._sampler.take_defaults(model.generation_config)
        manager = model.init_continuous_batching(
            generation_config=transformers.GenerationConfig(do_sample=False, eos_token_id=ends or -1),
            continuous_batching_config=transformers.ContinuousBatchingConfig(
                **{"auto_switch_to_flash": False, "max_memory_percent": 1.0, **options},
                page_size=plan.page_tokens,
                num_blocks=plan.pages,
                max_batch_tokens=plan.step_tokens,
                max_requests_per_batch=plan.slots,
                use_async_batching=False,
                use_cuda_graph=False,
            ),
        )
        processors = manager.logit_processor
        processors.logits_processor.append(self._sampler.processor())
        processors.tensors_required += 1
        processors.do_processing = True
        manager.output_router = _Router(lambda outputs: self._loop.call_soon_threadsafe(self._hand_out, outputs))
        manager.warmup()  # makes the cache
        self._watch_prefixes(manager.batch_processor.cache)
        manager.start()
        self._manager = manager

    def _check_memory(self, device: Any, config: Any, weight_bytes: int, item_bytes: int) -> None:
        """Refuse what cannot fit, before memory of others is taken."""
        plan, text = self._plan, config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        cache = plan.pages * plan.page_tokens * 2 * text.num_hidden_layers * heads * width * item_bytes
        need = Need(weight_bytes, cache, f"{plan.slots} slots of {plan.context_tokens} tokens")
        cards = nvidia_cards() if device.type == "cuda" else [cpu_card(plan.cores)] if device.type == "cpu" else []
        if (index := device.index or 0) < len(cards):
            check_memory(need, cards[index], what=f"transformers: '{plan.model}'")

    def _watch_prefixes(self, cache: Any) -> None:
        """Note how much of each prompt the prefix cache answers; transformers tells nobody."""
        search = cache.search_prefix_match

        def noting(request_id: str, prompt_ids: list[int]) -> int:
            found: int = search(request_id, prompt_ids)
            self._queried_tokens += len(prompt_ids)
            self._hit_tokens += found
            self._cached[request_id] = found
            return found

        cache.search_prefix_match = noting

    async def generate(
        self, number: str, request: Request, tokens: Sequence[int], seed: int, take: Callable[[Piece], None]
    ) -> None:
        """Hand on what each step makes for one request."""
        from tokenizers.decoders import DecodeStream

        sampler = self._sampler
        if sampler is None or not self._manager.is_running():
            raise RuntimeError("the engine's thread has ended")
        if request.choices is None and request.json_schema is None:
            draw = sampler.draw(request, seed)
        else:  # a grammar takes time to compile; who is cancelled meanwhile leaves nothing behind
            draw = await self._loop.run_in_executor(self._side_thread, sampler.draw, request, seed)
        decoder = Decoder(DecodeStream, self.tokenizer.backend_tokenizer, tokens)
        text = Detokenizer(decoder.step, request.sampling.stop)
        answer = self._answers[number] = _Answer(
            text, request.max_tokens, sampler.ends, take, self._loop.create_future()
        )
        sampler.add(number, draw)
        try:
            self._manager.add_request(
                list(tokens), request_id=number, max_new_tokens=max(request.max_tokens, LEAST_TOKENS), streaming=True
            )
            await answer.over
        finally:
            del self._answers[number]
            if not answer.has_ended:
                self._manager.cancel_request(number)
            sampler.remove(number)
            self._cached.pop(number, None)

    def _hand_out(self, outputs: list[Any]) -> None:
        for output in outputs:
            if (answer := self._answers.get(output.request_id)) is not None and not answer.over.done():
                try:
                    answer.add(output, self._cached.get(output.request_id, 0))
                except Exception as error:  # of this request; the others go on
                    answer.over.set_exception(RequestFaultError(error))

    def state(self) -> EngineState:
        """What the scheduler of transformers holds; read while its thread runs, so a step old."""
        batches = self._manager.batch_processor if self._manager is not None else None
        if batches is None or not self._manager.is_running():
            raise EngineCrashedError("transformers: the thread of its batches has ended; start the engine again")
        return EngineState(
            running=len(batches.scheduler.active_requests),
            waiting=len(batches.scheduler.waiting_requests),
            kv_used=1.0 - batches.cache.compute_free_capacity(),
            prefix_queried_tokens=self._queried_tokens,
            prefix_hit_tokens=self._hit_tokens,
            preemptions=0,  # every slot may fill its context
        )

    def close(self) -> None:
        """End the thread and free the model; blocks."""
        import torch

        manager, self._manager = self._manager, None
        if manager is not None:
            manager.stop(block=True, timeout=STOP_S, hard_stop=True)
            manager.destroy()
            manager.model = None
        del manager
        self._side_thread.shutdown(wait=True)
        self._sampler = self.tokenizer = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Decoder:
    """Text of tokens as they come, after those of a prompt.

    Parameters
    ----------
    make
        Makes a stream of the tokenizers library, its `DecodeStream`.
    tokenizer
        Of that library.
    prompt
        Tokens that come before.
    """

    def __init__(self, make: Callable[..., Any], tokenizer: Any, prompt: Sequence[int]) -> None:
        self._make, self._tokenizer = partial(make, skip_special_tokens=True), tokenizer
        before = list(prompt[-BEFORE:])
        if tokenizer.decode(before, skip_special_tokens=True).endswith("\ufffd"):
            before = []  # half a character: what completes it would not continue this text
        self._stream = self._make(ids=before)

    def step(self, token: int) -> str | None:
        """Return the text that a token completes, or None."""
        try:
            made: str | None = self._stream.step(self._tokenizer, token)
        except Exception:  # the text of its tokens so far is not how that of all begins, which some tokenizers do
            self._stream = self._make(ids=[])
            made = self._stream.step(self._tokenizer, token)
        return made


class _Answer:
    """What the manager's thread makes for one request, turned into text.

    Parameters
    ----------
    text
        Of the answer.
    most
        Output tokens.
    ends
        Tokens that end an answer.
    take
        Takes the pieces.
    over
        Done when the answer is.
    """

    def __init__(
        self,
        text: Detokenizer,
        most: int,
        ends: Container[int],
        take: Callable[[Piece], None],
        over: asyncio.Future[None],
    ) -> None:
        self._text, self._most, self._ends, self._take = text, most, ends, take
        self._read = 0
        self.over = over
        self.has_ended = False  # for the manager, too

    def add(self, output: Any, cached_tokens: int) -> None:
        """Take in the tokens of a step; raises if they cannot be made into text."""
        if output.error is not None:
            self.has_ended = True
            self.over.set_exception(RuntimeError("a step of the model failed"))  # which was of all requests
            return
        made, shown = output.generated_tokens[self._read : self._most], ""
        finish_reason: FinishReason | None = None
        self.has_ended = output.is_finished()
        for count, token in enumerate(made, start=1):
            shown += self._text.add(token)
            if self._text.is_stopped:
                made, finish_reason = made[:count], "stop"
                break
        else:
            self._read += len(made)
            if self.has_ended or self._read == self._most:
                shown += self._text.rest()
                finish_reason = "stop" if made and made[-1] in self._ends else "length"
        self._take(Piece(shown, len(made), finish_reason, cached_tokens))
        if finish_reason is not None:
            self.over.set_result(None)


class _Router:
    """Hands outputs of the manager's thread over, a step at a time."""

    def __init__(self, hand_over: Callable[[list[Any]], object]) -> None:
        self._hand_over = hand_over

    def deliver(self, output: Any) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[Any]) -> None:
        try:
            self._hand_over(outputs)
        except RuntimeError:  # the event loop is closed, so nobody reads
            pass

    def fail_and_deliver(self, state: Any, error: Exception) -> None:
        from transformers.generation.continuous_batching.requests import RequestStatus

        state.status, state.error = RequestStatus.FAILED, type(error).__name__
        self.deliver(state.to_generation_output())


def _in_daemon(work: Callable[[], T]) -> T:
    """Run in a daemonic thread, which the threads started there inherit: none keeps a process alive."""
    results: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="transformers-load", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return results[0]


def _configured(name: str) -> Any:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except (ValueError, KeyError) as error:
        raise DeploymentError(
            f"transformers: '{name}' cannot be served: {' '.join(str(error).split())[:200]}; correct its config.json, "
            "or install a version that knows the architecture"
        ) from error
    if type(config) not in transformers.AutoModelForCausalLM._model_mapping:
        raise DeploymentError(
            f"transformers: '{name}' is a '{config.model_type}', which generates no text; name a causal language model"
        )
    return config


def _dtype(torch: Any, name: str, config: Any) -> Any:
    made = config.dtype or torch.float32 if name == "auto" else getattr(torch, name, None)
    if not isinstance(made, torch.dtype):
        raise DeploymentError(f"transformers: dtype={name!r} does not exist; try 'auto', 'bfloat16' or 'float32'")
    return made


def _ends(*told: int | list[int] | None) -> list[int]:
    """Tokens that end an answer, from wherever a model names them."""
    ends: set[int] = set()
    for ids in told:
        ends.update([ids] if isinstance(ids, int) else ids or [])
    return sorted(ends)
