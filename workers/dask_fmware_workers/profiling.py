"""Measures an engine for the Profiler: what it is asked to run, with the time of every token.

It runs one experiment at a time on an engine that has no other calls, and says how much memory the
engine took. It draws no conclusions: steps and laws are found by `dask_fmware.profile` from what it returns.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from dask_fmware.compile.profiles import open_store, usual_store
from dask_fmware.errors import FMwareError
from dask_fmware.model.engine import Capabilities, Engine, Request, Sampling
from dask_fmware.profile.arguments import arguments_digest
from dask_fmware.profile.known import UNUSED
from dask_fmware.profile.record import LiveProfile, ProfileKey
from dask_fmware_workers.accelerators import nvidia_bytes, nvidia_cards
from dask_fmware_workers.engines.gguf_header import model_parts, read_header
from dask_fmware_workers.engines.model_files import ModelFiles, find_model

__all__ = ["Footprint", "file_bytes", "measure", "profile_key", "stored_profile"]

logger = logging.getLogger("dask_fmware.profiling")

WORDS = ("the", "of", "and", "to", "in", "is", "was", "for", "on", "that", "by", "with", "as", "at", "from", "it")


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory that this process and those it started hold."""

    process_bytes: int = 0  # resident
    gpu_bytes: int | None = None  # theirs on all GPUs; None where NVML does not tell
    card_bytes: int | None = None  # in use on the GPUs that this process may see, whoever uses it; None without any

    @classmethod
    def now(cls) -> Footprint:
        """Ask the system, and NVML where `nvidia-ml-py` is installed."""
        resident: dict[int, int] = {}
        mine = psutil.Process()
        for process in (mine, *mine.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended
                resident[process.pid] = process.memory_info().rss
        cards = [card for card in nvidia_cards() if card.memory_bytes is not None and card.free_bytes is not None]
        used = sum((card.memory_bytes or 0) - (card.free_bytes or 0) for card in cards)
        return cls(sum(resident.values()), nvidia_bytes(resident), used if cards else None)

    def beyond(self, before: Footprint) -> Footprint:
        """What was added since; on GPUs what all processes added, where NVML does not know ours."""
        added = None if self.card_bytes is None else max(0, self.card_bytes - (before.card_bytes or 0))
        own = None if self.gpu_bytes is None else max(0, self.gpu_bytes - (before.gpu_bytes or 0))
        return Footprint(max(0, self.process_bytes - before.process_bytes), added if own is None else own, added)


def profile_key(model: str, accelerator: str, made: Capabilities, arguments: Mapping[str, Any]) -> ProfileKey | None:
    """Return what a profile of this engine is of; None if the engine does not name itself.

    Parameters
    ----------
    arguments
        Those of `dask_fmware.profile.arguments.engine_arguments`, without what the card adds.
    """
    if not made.engine or not made.engine_version:
        return None
    return ProfileKey(
        model=model, accelerator=accelerator, engine=made.engine, engine_version=made.engine_version,
        arguments=arguments_digest(arguments),
    )  # fmt: skip


def stored_profile(key: ProfileKey | None, weight_bytes: int | None = None) -> str | None:
    """Return what to announce of the profile of exactly this engine with its arguments, or None.

    One of weights of another size than `weight_bytes`, those of their files now, is of another model.

    The store is where Dask's configuration says under ``fmware.profiles``, else in the cache of this user.
    """
    if key is None:
        return None
    try:
        store = open_store()
        found, problem = store.get(key)
        others = [] if found is not None else [p.key for p in store.scan()[0] if p.key.has_labels_of(key)]
    except Exception as error:  # whatever it is: a replica without a profile is slower to learn, not broken
        logger.warning(
            "%s: it serves without a profile, as those in %s cannot be read (%s: %s)",
            *(key, usual_store(), type(error).__name__, error),
        )
        return None
    if problem is not None:
        logger.warning("%s", problem)
    if others:
        logger.warning(
            "%s: %s (there is: %s); measure it: dask fmware profile",
            key,
            UNUSED,
            ", ".join(other.arguments or "one of an earlier version, arguments not known" for other in others),
        )
    if found is not None and found.is_of_other_weights(weight_bytes):
        logger.warning("%s: its weights were replaced since it was measured; measure it: dask fmware profile", key)
        return None
    return None if found is None else LiveProfile.of(found).to_wire()


async def measure(
    engine: Engine,
    question: Mapping[str, Any],
    footprint: Footprint,
    arguments: Mapping[str, Any],
    of_files: int | None = None,
) -> dict[str, Any]:
    """Answer one question of the Profiler in plain values.

    Parameters
    ----------
    question
        ``{"kind": "facts"}``, or ``{"kind": "streams", ...}`` with `background` and `probes` as pairs of
        prompt tokens and output tokens, `lead_tokens` and a `seed`: probes are submitted together as soon as
        every background stream has that many tokens.
    footprint
        What loading the engine added.
    arguments
        Of the engine in the deployment.
    of_files
        Bytes of the files of its weights as they were loaded, see `file_bytes`.
    """
    try:
        if question["kind"] == "facts":
            made = engine.capabilities
            return {
                "slots": made.slots,
                "context_tokens": made.context_tokens,
                "weight_bytes": _weight_bytes(arguments, footprint, of_files),
                "kv_bytes_per_token": await asyncio.to_thread(_kv_bytes_per_token, arguments),
                "process_bytes": footprint.process_bytes,
                "gpu_bytes": footprint.gpu_bytes,
            }
        experiment = _Streams(engine, int(question["seed"]))
        traces = await experiment.run(question["background"], question["probes"], int(question["lead_tokens"]))
        return {"traces": traces}
    except FMwareError as error:
        return {"error": f"{type(error).__name__}: {error}"}


@dataclass(slots=True, eq=False)
class _Stream:
    """One request of an experiment."""

    request: Request
    prompt_tokens: int
    submitted_s: float = 0.0
    cached_tokens: int = 0
    finished: bool = False
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    def to_wire(self) -> dict[str, Any]:
        return {
            "submitted_s": self.submitted_s,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "finished": self.finished,
            "arrivals": self.arrivals,
        }


class _Streams:
    """Concurrent requests on one engine, each token with its time."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine = engine
        self._random = random.Random(seed)
        self._led = asyncio.Event()

    async def run(
        self, background: Sequence[Sequence[int]], probes: Sequence[Sequence[int]], lead_tokens: int
    ) -> list[dict[str, Any]]:
        """Return a trace for each stream, background first."""
        first = [await self._stream(*wanted) for wanted in background]
        second = [await self._stream(*wanted) for wanted in probes]
        began = perf_counter()
        running: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._follow(stream, began, first, lead_tokens)) for stream in first
        ]
        try:
            if second:
                if first:
                    led = asyncio.create_task(self._led.wait())
                    running.append(led)
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                probing = [asyncio.create_task(self._follow(stream, began, (), 0)) for stream in second]
                running += probing  # where one fails, none goes on
                await asyncio.gather(*probing)
                for task in running:
                    if task.done():
                        task.result()  # raises why a background stream failed: the probes ran beside fewer
            else:
                await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return [stream.to_wire() for stream in (*first, *second)]

    async def _follow(self, stream: _Stream, began: float, group: Sequence[_Stream], lead_tokens: int) -> None:
        stream.submitted_s = perf_counter() - began
        async with aclosing(self._engine.generate(stream.request)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                if delta.tokens:
                    stream.arrivals.append((perf_counter() - began, delta.tokens))
                    if group and all(len(other.arrivals) >= lead_tokens for other in group):
                        self._led.set()
                if delta.usage is not None:
                    stream.cached_tokens, stream.finished = delta.usage.cached_tokens, True

    async def _stream(self, prompt_tokens: int, max_tokens: int) -> _Stream:
        """Make a prompt of about so many tokens, different from all others from its first word on."""
        words = [f"{self._random.getrandbits(40):x}"]
        while True:
            request = Request(
                request_id=f"profile {self._random.getrandbits(64):x}",
                max_tokens=max_tokens,
                prompt=" ".join(words),
                sampling=Sampling(seed=self._random.getrandbits(31)),
            )
            counted = await self._engine.count_tokens(request)
            short = prompt_tokens - counted
            if short <= 1 or counted + max_tokens >= self._engine.capabilities.context_tokens:
                return _Stream(request, counted)
            words += self._random.choices(WORDS, k=max(1, short * 2 // 5))  # a word has at most 2.5 tokens or so


def _weights_file(arguments: Mapping[str, Any]) -> Path | None:
    """The GGUF file that an engine serves, if it serves one."""
    if arguments.get("gguf") is not None:
        return Path(arguments["gguf"]).expanduser()
    if isinstance(arguments.get("tiny"), Mapping):
        from dask_fmware_workers.engines.tiny_gguf import TinyModel

        return TinyModel(**arguments["tiny"]).cached_path()
    return None


def _model_files(arguments: Mapping[str, Any]) -> ModelFiles | None:
    """The directory of a model that an engine serves, if it serves one that is here."""
    if "model" not in arguments:
        return None
    options = arguments.get("options")
    return find_model(str(arguments["model"]), _option(options, "revision"), _option(options, "download_dir"))


def _weight_bytes(arguments: Mapping[str, Any], footprint: Footprint, of_files: int | None) -> int | None:
    """Size of the weights: of their files, else what loading took on the GPUs, else in the processes.

    Engines that load a model by its name take memory for a whole KV cache with it: there the files count alone.
    """
    if of_files or "model" in arguments:
        return of_files
    return footprint.gpu_bytes or footprint.process_bytes or None


def file_bytes(arguments: Mapping[str, Any]) -> int | None:
    """Size of the files of the weights that an engine with these arguments serves; None where they are not here."""
    path, directory = _weights_file(arguments), _model_files(arguments)
    if path is not None and path.exists():
        return sum(part.stat().st_size for part in model_parts(path))
    return None if directory is None else directory.weight_bytes


def _kv_bytes_per_token(arguments: Mapping[str, Any]) -> float | None:
    """Bytes of keys and values of one token: in 16 bits by a GGUF file, else in the type that is served."""
    path, directory = _weights_file(arguments), _model_files(arguments)
    if path is not None and path.exists():
        return read_header(path).kv_bytes_per_token
    if directory is None:
        return None
    dtype = _option(arguments.get("options"), "kv_cache_dtype") or "auto"  # "auto": as the activations
    return directory.kv_bytes_per_token(str(arguments.get("dtype", "auto")) if dtype == "auto" else dtype)


def _option(options: Any, name: str) -> str | None:
    """What an option of vLLM says: those of an engine in the worker are a mapping, those of a server its words."""
    if isinstance(options, Mapping):
        return str(options.get(name) or "") or None
    words = [part for word in options or () for part in str(word).split("=", 1)]
    flag = "--" + name.replace("_", "-")
    return next((value for word, value in pairwise(words) if word == flag), None)
