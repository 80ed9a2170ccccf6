"""The two ways to run vLLM: its engine stepped by a thread of this process, or its own asynchronous engine.

It owns vLLM's objects and nothing else touches them; requests of ours are translated, queues and errors that
users see are elsewhere. vLLM promises little of what is used here: pin its version.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from dask_fmware.errors import DeploymentError, EngineCrashedError
from dask_fmware.model.engine import EngineState, Request
from dask_fmware_workers.engines.token_engine import Backend, Piece, RequestFaultError, share_interpreter
from dask_fmware_workers.engines.vllm_priority import urgency
from dask_fmware_workers.engines.vllm_stats import EngineStats
from dask_fmware_workers.engines.vllm_watch import OWNER

__all__ = ["BACKENDS"]

SEEDS = 2**63 - 1
SHUTDOWN_S = 1.0  # vLLM's own default is longer than the patience of a nanny


def parameters(request: Request, seed: int) -> Any:
    """Return vLLM's `SamplingParams` of a request."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    sampling, structured = request.sampling, None
    if request.choices is not None:
        structured = StructuredOutputsParams(choice=list(request.choices))
    elif request.json_schema is not None:
        structured = StructuredOutputsParams(json=dict(request.json_schema))
    drawn = {
        name: value for name in ("temperature", "top_p", "top_k") if (value := getattr(sampling, name)) is not None
    }
    return SamplingParams(
        max_tokens=request.max_tokens,
        seed=seed % SEEDS,
        stop=list(sampling.stop) or None,
        structured_outputs=structured,
        output_kind=RequestOutputKind.DELTA,
        **drawn,
    )


def configured(arguments: Mapping[str, Any], kind: str, context: Any) -> Any:
    """Return vLLM's configuration; what it refuses here it will refuse for ever.

    Raises
    ------
    DeploymentError
        If the model's architecture or an argument is unknown, or they do not fit each other.
    """
    import vllm.engine.arg_utils

    try:
        return getattr(vllm.engine.arg_utils, kind)(**arguments).create_engine_config(context)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise DeploymentError(
            f"vllm: '{arguments['model']}' cannot be served as it is deployed ({_first_reason(error)}); correct the "
            "model or its arguments"
        ) from error


def _first_reason(error: Exception) -> str:
    """Return the message of an error, shortened; pydantic's repeats all arguments."""
    errors = getattr(error, "errors", None)
    text = errors(include_url=False, include_input=False)[0]["msg"] if callable(errors) else str(error)
    return " ".join(str(text).split())[:300]


def piece(output: Any) -> Piece:
    """Read vLLM's output."""
    part = output.outputs[0]
    return Piece(part.text, len(part.token_ids), part.finish_reason, output.num_cached_tokens or 0)


@dataclass(frozen=True, slots=True)
class _Open:
    """A request that the engine's thread works on."""

    take: Callable[[Piece], None]
    over: asyncio.Future[None]

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes."""
        if self.over.done():  # given up meanwhile
            return
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)


class OneProcess:
    """vLLM's engine, built, stepped and freed by one thread of this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, arguments: Mapping[str, Any]) -> None:
        self.tokenizer: Any = None
        self.stats = EngineStats()
        self._loop, self._arguments = loop, arguments
        self._thread: threading.Thread | None = None
        self._news = threading.Condition()
        self._commands: deque[Callable[[Any], object]] = deque()
        self._is_closing = False
        self._open: dict[str, _Open] = {}  # on the loop

    def open(self) -> None:
        """Start the thread and wait until the model is loaded."""
        share_interpreter()
        loaded = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                engine = _engine(self._arguments, self.stats)
                self.tokenizer = engine.get_tokenizer()
            except BaseException as error:
                failed.append(error)
                return
            finally:
                loaded.set()
            try:
                self._step(engine)
            except BaseException as error:
                self._loop.call_soon_threadsafe(self._fail, error)
            finally:
                engine.engine_core.shutdown()

        self._thread = threading.Thread(target=run, name="vllm-engine", daemon=True)
        self._thread.start()
        loaded.wait()
        if failed:
            self._thread.join()
            raise failed[0]

    def _step(self, engine: Any) -> None:
        while True:
            with self._news:
                while not (self._commands or self._is_closing or engine.has_unfinished_requests()):
                    self._news.wait()
                if self._is_closing:
                    return
                commands, self._commands = self._commands, deque()
            for command in commands:
                command(engine)
            if engine.has_unfinished_requests() and (outputs := engine.step()):
                self._loop.call_soon_threadsafe(self._hand_out, outputs)

    def _tell(self, command: Callable[[Any], object]) -> None:
        with self._news:
            self._commands.append(command)
            self._news.notify()

    def _hand_out(self, outputs: list[Any]) -> None:
        for output in outputs:
            if (request := self._open.get(output.request_id)) is not None:
                try:
                    request.take(piece(output))
                except Exception as error:  # of this request; the others go on
                    request.end(RequestFaultError(error))
                if output.finished:
                    request.end()

    def _fail(self, error: BaseException) -> None:
        for request in self._open.values():
            request.end(error)

    async def generate(
        self, number: str, request: Request, tokens: Sequence[int], seed: int, take: Callable[[Piece], None]
    ) -> None:
        """Hand on what each step makes for one request."""
        if self._thread is None or not self._thread.is_alive():
            raise RuntimeError("the engine's thread has ended")
        sampling, priority = parameters(request, seed), urgency(request.priority)
        opened = self._open[number] = _Open(take, self._loop.create_future())

        def add(engine: Any) -> None:
            try:
                engine.add_request(number, {"prompt_token_ids": list(tokens)}, sampling, priority=priority)
            except Exception as error:  # of this request; the others go on
                self._loop.call_soon_threadsafe(opened.end, RequestFaultError(error))

        self._tell(add)
        try:
            await opened.over
        except BaseException:
            self._tell(lambda engine: engine.abort_request([number]))
            raise
        finally:
            del self._open[number]

    def state(self) -> EngineState:
        """What vLLM's scheduler counted at its last step."""
        if self._thread is None or not self._thread.is_alive():
            raise EngineCrashedError("vllm: the thread of its engine has ended; start the engine again")
        return self.stats.state

    def close(self) -> None:
        """End the thread, which frees the model."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join()


def _engine(arguments: Mapping[str, Any], stats: EngineStats) -> Any:
    """Return vLLM's engine without its child processes, whatever the environment says."""
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    engine: Any = LLMEngine(
        vllm_config=configured(arguments, "EngineArgs", UsageContext.ENGINE_CONTEXT),
        executor_class=UniProcExecutor,  # CPU builds would take a child even for one card
        log_stats=True,
        usage_context=UsageContext.ENGINE_CONTEXT,
        multiprocess_mode=False,
    )
    engine.logger_manager = stats  # in place of vLLM's own, which feed Prometheus in every step
    return engine


class Processes:
    """vLLM's own asynchronous engine, with child processes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, arguments: Mapping[str, Any]) -> None:
        self.tokenizer: Any = None
        self.stats = EngineStats()
        self._arguments = arguments
        self._engine: Any = None

    def open(self) -> None:
        """Start the processes and wait until the model is loaded."""
        if multiprocessing.current_process().daemon:
            raise DeploymentError(  # for good: a process that is a daemon stays one
                "vllm: mode 'processes' needs children, which a daemonic worker cannot have; set Dask's configuration "
                "distributed.worker.daemon to False, or use mode 'one_process'"
            )
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        os.environ[OWNER] = str(os.getpid())  # children look after it: see vllm_watch
        context = UsageContext.ENGINE_CONTEXT
        self._engine = AsyncLLM.from_vllm_config(
            configured(self._arguments, "AsyncEngineArgs", context),
            usage_context=context,
            stat_loggers=[self.stats.logger],
            disable_log_stats=True,  # of vLLM's own loggers: ours turns statistics on again
        )
        self.tokenizer = self._engine.get_tokenizer()

    async def generate(
        self, number: str, request: Request, tokens: Sequence[int], seed: int, take: Callable[[Piece], None]
    ) -> None:
        """Hand on what each step makes for one request; vLLM aborts by itself when its stream is closed."""
        prompt, sampling = {"prompt_token_ids": list(tokens)}, parameters(request, seed)
        outputs = self._engine.generate(prompt, sampling, number, priority=urgency(request.priority))
        async with aclosing(outputs):
            async for output in outputs:
                take(piece(output))

    def state(self) -> EngineState:
        """What vLLM's scheduler counted at its last step."""
        if self._engine.errored:
            raise EngineCrashedError("vllm: its processes have ended; start the engine again")
        return self.stats.state

    def close(self) -> None:
        """End the processes."""
        self._engine.shutdown(SHUTDOWN_S)


BACKENDS: dict[str, Callable[[asyncio.AbstractEventLoop, Mapping[str, Any]], Backend]] = {
    "one_process": OneProcess,
    "processes": Processes,
}
