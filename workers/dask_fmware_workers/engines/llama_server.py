"""One llama.cpp server inside this process, as blocking calls.

It owns the `xllamacpp.Server` object: its parameters, its cores, its private socket and its end. Calls
block and may come from any thread; it knows nothing of asyncio, of requests or of errors that users see.

llama.cpp's server cannot be had without a listener, and its tokenizer cannot be reached but through
it. The listener is a Unix socket in a directory that only this user can enter; no port is opened.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from dask_fmware_workers.engines.gguf_header import model_parts

__all__ = ["LlamaServer"]

_CONTEXT_STEP_TOKENS = 256  # llama.cpp rounds the context of a slot up to a multiple
_BATCH_TOKENS = 512  # prefill per step: between steps other slots decode and aborts are seen
_HTTP_TIMEOUT_S = 60.0
_SOCKET_PATH_BYTES = 100  # sun_path holds 104 on macOS, 108 on Linux


class LlamaServer:
    """A loaded model. Loading happens in the constructor and holds the GIL for most of its time.

    Parameters
    ----------
    path
        A GGUF file, the first one of a model that is split.
    slots
        Sequences that are decoded at once.
    context_tokens
        Prompt plus output of one sequence.
    threads
        Compute threads.
    cores
        Cores to run on (Linux); None for any.
    gpu_layers
        Layers to put on a GPU, -1 for all; needs a GPU build of xllamacpp.
    embeds
        Give vectors and no text, as the file says how; with "mean", as the mean of those of all tokens.
    verbose
        Let llama.cpp log to standard error. Its log level is one for the whole process.

    Raises
    ------
    ImportError
        If xllamacpp is not installed.
    RuntimeError
        If llama.cpp refuses the model.
    """

    def __init__(
        self,
        path: Path,
        *,
        slots: int,
        context_tokens: int,
        threads: int,
        cores: Sequence[int] | None,
        gpu_layers: int,
        embeds: bool | Literal["mean"] = False,
        verbose: bool,
    ) -> None:
        import xllamacpp

        self._directory = _socket_directory()
        self._remove_directory = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        self._socket_path = os.path.join(self._directory, "llama.sock")
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_parallel = slots
        # One token more than promised: llama.cpp stops a sequence one short of its context.
        parameters.n_ctx = slots * -(-(context_tokens + 1) // _CONTEXT_STEP_TOKENS) * _CONTEXT_STEP_TOKENS
        parameters.n_batch = parameters.n_ubatch = _BATCH_TOKENS
        if embeds:
            parameters.embedding = True
            # A text is read in one batch. The slots have one cache: with one for each, the mean of a long text that is
            # read beside a short one is another than that of the text alone.
            parameters.n_batch = parameters.n_ubatch = max(_BATCH_TOKENS, context_tokens)
            parameters.kv_unified = True
        if embeds == "mean":
            parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        parameters.n_gpu_layers = gpu_layers
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        if gpu_layers == 0:
            # On a CPU, flash attention doubles the time of a token at 400 tokens of context.
            parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.fit_params = False  # sizes are ours to choose, and probing takes time
        parameters.cache_ram_mib = 0  # prefixes live in the slots only: no copying between calls, no 8 GiB default
        parameters.cache_idle_slots = False
        parameters.hostnames = [self._socket_path]
        parameters.port = 1  # not used for a Unix socket, but 0 makes llama.cpp look for a free port and fail
        parameters.n_threads_http = 2
        parameters.ui = False
        parameters.endpoint_slots = False
        parameters.verbosity = 3 if verbose else -1
        previous_cores = _move_to(cores)
        try:
            for part in model_parts(path):
                _read_through(part)
            self._server: Any = xllamacpp.Server(parameters)
            self._is_awake, self._embeds = False, bool(embeds)
        except BaseException:
            self._remove_directory()
            raise
        finally:
            _move_to(previous_cores)

    def tokenize(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt, with the special tokens that the model wants at its start."""
        body = {"content": prompt, "add_special": True, "parse_special": True}
        return list(self._post("/tokenize", body)["tokens"])

    def apply_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt that the model's chat template makes of messages."""
        return str(self._post("/apply-template", {"messages": list(messages)})["prompt"])

    def complete(self, body: Mapping[str, Any], on_chunk: Callable[[dict[str, Any]], bool]) -> None:
        """Generate; call `on_chunk` with every chunk until it returns True or the text ends."""
        self._is_awake = True
        self._server.handle_completions(dict(body), on_chunk)

    def embed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the vectors of texts, or an error."""
        self._is_awake = True
        return dict(self._server.handle_embeddings(dict(body)))

    def close(self) -> None:
        """Free the model. No call may be in progress: the destructor would wait for it and hold the GIL.

        It also would wait for good where the thread that serves has not begun to when it is told to end; so a server
        that nobody has used answers once first.
        """
        if self._server is not None and not self._is_awake:
            with suppress(RuntimeError):
                if self._embeds:  # of an encoder's text llama.cpp may make an end of the process
                    self.embed({"input": [[0]]})
                else:
                    self.complete({"prompt": [0], "n_predict": 1}, lambda _chunk: True)
        self._server = None
        self._remove_directory()

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        connection = _UnixConnection(self._socket_path)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise RuntimeError(f"{path} answered {response.status}: {answer.get('error', {}).get('type', 'no reason')}")
        return answer


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: str) -> None:
        super().__init__("localhost", timeout=_HTTP_TIMEOUT_S)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


def _socket_directory() -> str:
    directory = tempfile.mkdtemp(prefix="fmware-")
    if len(os.fsencode(directory)) < _SOCKET_PATH_BYTES - len("/llama.sock"):
        return directory
    os.rmdir(directory)
    return tempfile.mkdtemp(prefix="fmware-", dir="/tmp")


def _move_to(cores: Sequence[int] | None) -> list[int] | None:
    """Move the calling thread to `cores` and return where it was.

    Threads inherit the cores of the thread that starts them. llama.cpp's own core mask is no use: it
    leaves out the first compute thread, so with one thread it pins nothing.
    """
    if cores is None:
        return None
    previous = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores)
    return previous


def _read_through(path: Path) -> None:
    """Bring a file into the page cache. Reading releases the GIL, loading does not: this keeps heartbeats alive."""
    buffer = bytearray(1 << 23)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
