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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from dask_fmware.errors import EngineLoadError
from dask_fmware.model.engine import Request
from dask_fmware_workers.engines.vllm_watch import OWNER

__all__ = ["BACKENDS", "Backend"]

SEEDS = 2**63 - 1
SHUTDOWN_S = 1.0  # vLLM's own default is longer than the patience of a nanny


class Backend(Protocol):
    """A loaded model."""

    tokenizer: Any

    def open(self, arguments: Mapping[str, Any]) -> None:
        """Load; blocks."""

    def parameters(self, request: Request, default_seed: int) -> Any:
        """Translate what a request says of its sampling and format."""

    def stream(self, number: str, tokens: Sequence[int], parameters: Any) -> AsyncIterator[Any]:
        """Yield vLLM's outputs, each with what is new; closing the iterator aborts."""

    def close(self) -> None:
        """Free everything; blocks. No stream may be open."""


def parameters(request: Request, default_seed: int) -> Any:
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
        seed=(default_seed if sampling.seed is None else sampling.seed) % SEEDS,
        stop=list(sampling.stop) or None,
        structured_outputs=structured,
        output_kind=RequestOutputKind.DELTA,
        **drawn,
    )


class OneProcess:
    """vLLM's engine, built, stepped and freed by one thread of this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.tokenizer: Any = None
        self._loop = loop
        self._thread: threading.Thread | None = None
        self._news = threading.Condition()
        self._commands: deque[Callable[[Any], object]] = deque()
        self._is_closing = False
        self._streams: dict[str, asyncio.Queue[Any]] = {}  # on the loop

    parameters = staticmethod(parameters)

    def open(self, arguments: Mapping[str, Any]) -> None:
        """Start the thread and wait until the model is loaded."""
        import vllm.engine.arg_utils  # in this thread, so that its ImportError is ours

        loaded = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                engine = _engine(vllm.engine.arg_utils.EngineArgs(**arguments))
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
            if (stream := self._streams.get(output.request_id)) is not None:
                stream.put_nowait(output)

    def _fail(self, error: BaseException) -> None:
        for stream in self._streams.values():
            stream.put_nowait(error)

    async def stream(self, number: str, tokens: Sequence[int], parameters: Any) -> AsyncIterator[Any]:
        """Yield vLLM's outputs of one request."""
        if self._thread is None or not self._thread.is_alive():
            raise RuntimeError("the engine's thread has ended")
        arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._streams[number] = arrived

        def add(engine: Any) -> None:
            try:
                engine.add_request(number, {"prompt_token_ids": list(tokens)}, parameters)
            except Exception as error:  # of this request; the others go on
                self._loop.call_soon_threadsafe(arrived.put_nowait, error)

        self._tell(add)
        is_over = False
        try:
            while not is_over:
                output = await arrived.get()
                if isinstance(output, BaseException):
                    is_over = True
                    raise output
                is_over = output.finished
                yield output
        finally:
            del self._streams[number]
            if not is_over:
                self._tell(lambda engine: engine.abort_request([number]))

    def close(self) -> None:
        """End the thread, which frees the model."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join()


def _engine(arguments: Any) -> Any:
    """Return vLLM's engine without its child processes, whatever the environment says."""
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
    return LLMEngine(
        vllm_config=config,
        executor_class=UniProcExecutor,  # CPU builds would take a child even for one card
        log_stats=False,
        usage_context=UsageContext.ENGINE_CONTEXT,
        multiprocess_mode=False,
    )


class Processes:
    """vLLM's own asynchronous engine, with child processes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.tokenizer: Any = None
        self._engine: Any = None

    parameters = staticmethod(parameters)

    def open(self, arguments: Mapping[str, Any]) -> None:
        """Start the processes and wait until the model is loaded."""
        if multiprocessing.current_process().daemon:
            raise EngineLoadError(
                "vllm: mode 'processes' needs children, which a daemonic worker cannot have; set Dask's configuration "
                "distributed.worker.daemon to False, or use mode 'one_process'"
            )
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        os.environ[OWNER] = str(os.getpid())  # children look after it: see vllm_watch
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self.tokenizer = self._engine.get_tokenizer()

    async def stream(self, number: str, tokens: Sequence[int], parameters: Any) -> AsyncIterator[Any]:
        """Yield vLLM's outputs of one request; it aborts by itself when this is closed."""
        prompt = {"prompt_token_ids": list(tokens)}
        async for output in self._engine.generate(prompt, parameters, number):
            yield output

    def close(self) -> None:
        """End the processes."""
        self._engine.shutdown(SHUTDOWN_S)


BACKENDS: dict[str, Callable[[asyncio.AbstractEventLoop], Backend]] = {
    "one_process": OneProcess,
    "processes": Processes,
}
