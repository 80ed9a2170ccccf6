"""What is particular to transformers' continuous batching. The rest is conformance.

What needs it runs in an environment of its own, which this command makes, also without a GPU::

    python -m benchmarks.conformance transformers
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dask_fmware.errors import DeploymentError, EngineCrashedError, EngineLoadError
from dask_fmware.model.engine import Sampling
from dask_fmware.testing.asking import WAIT_S, ask, collect, text_of, until
from dask_fmware_workers.engines.transformers import TransformersEngine
from dask_fmware_workers.engines.transformers_loop import Loop

installed = [
    pytest.mark.transformers,
    pytest.mark.engine,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),
]


def with_transformers(test: Any) -> Any:
    for mark in installed:
        test = mark(test)
    return test


@asynccontextmanager
async def serving(**arguments: Any) -> AsyncIterator[TransformersEngine]:
    from tests.engines.tiny_llama import tiny_llama

    given = {"model": str(tiny_llama()), "device": "cpu", "threads": 1, "slots": 2, **arguments}
    engine = TransformersEngine(**given)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slots": 0}, "slots=0 is below 1"),
        ({"context_tokens": 1}, "context_tokens=1 is below 2"),
        ({"slots": 8, "step_tokens": 4}, "step_tokens=4 is below 8"),
        ({"threads": 0}, "threads=0"),
        ({"options": {"use_cuda_graph": True}}, "use_cuda_graph in 'options' cannot be set"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeploymentError, match=message):
        TransformersEngine(model="m", **arguments)


@pytest.mark.parametrize("model", ["/nowhere/model", "./nowhere", "~/nowhere-at-all"])
async def test_a_path_that_is_not_there_is_refused_for_good(model: str) -> None:
    engine = TransformersEngine(model=model)
    with pytest.raises(DeploymentError, match="does not exist on this worker"):
        await engine.start()
    await engine.close()


async def test_a_directory_that_holds_no_model_is_refused_for_good(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"holds no config\.json"):
        await TransformersEngine(model=str(tmp_path)).start()


class Compiling:
    """A grammar that takes as long as a test wants."""

    def __init__(self) -> None:
        self._begun, self._go_on = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any) -> None:
        self._begun.set()
        assert self._go_on.wait(WAIT_S)

    async def cancelled_meanwhile(self, work: asyncio.Task[Any], side_thread: Any) -> None:
        """Cancel whoever waits for it, and let it come to its end."""
        assert await asyncio.to_thread(self._begun.wait, WAIT_S)
        work.cancel()
        await asyncio.wait([work])
        self._go_on.set()
        await asyncio.wrap_future(side_thread.submit(lambda: None))


async def test_who_is_cancelled_while_a_grammar_compiles_leaves_no_draw_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tokenizers", "tokenizers.decoders"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(DecodeStream=None))
    compiling, draws = Compiling(), dict[str, Any]()

    class Sampler:
        """As much of one as a loop uses."""

        draw = staticmethod(compiling)
        add, remove = draws.__setitem__, draws.pop

    loop: Any = Loop(asyncio.get_running_loop(), None)  # type: ignore[arg-type]
    loop._sampler, loop._manager = Sampler(), SimpleNamespace(is_running=lambda: True)
    work = asyncio.create_task(loop.generate("r~0", ask(choices=("a", "b")), [1], 7, lambda piece: None))
    await compiling.cancelled_meanwhile(work, loop._side_thread)
    assert (draws, loop._answers) == ({}, {})
    loop._side_thread.shutdown()


@with_transformers
async def test_a_sampler_forgets_who_is_cancelled_while_a_grammar_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as engine:
        sampler, compiling = engine._backend._sampler, Compiling()
        monkeypatch.setattr(sampler, "_matcher", compiling)
        work = asyncio.create_task(collect(engine, ask(choices=("a", "b"))))
        await compiling.cancelled_meanwhile(work, engine._backend._side_thread)
        await until(lambda: engine.state().running == 0)
        assert sampler._draws == {}
        monkeypatch.undo()
        assert text_of(await collect(engine, ask(choices=("a", "b")))) in ("a", "b")
        assert sampler._draws == {}


@with_transformers
@pytest.mark.parametrize(
    ("config", "message"),
    [({"model_type": "unheard-of"}, "unheard-of"), ({"model_type": "clip"}, "generates no text"), ({}, "cannot be")],
)
async def test_an_architecture_that_cannot_be_served_is_refused_for_good(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DeploymentError, match=message):
        await TransformersEngine(model=str(tmp_path)).start()


@with_transformers
async def test_what_does_not_fit_into_memory_is_refused_with_both_figures() -> None:
    with pytest.raises(EngineLoadError, match=r"needs [\d.]+ GiB .*512 slots of 16384 tokens.* has [\d.]+ GiB free"):
        async with serving(slots=512, step_tokens=512, context_tokens=16384, dtype="float64"):
            pass


@with_transformers
async def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(DeploymentError, match="context_tokens=20000 exceed the 16384"):
        async with serving(context_tokens=20000):
            pass


@with_transformers
async def test_equal_seeds_give_equal_text_whatever_runs_beside() -> None:
    async with serving(slots=4, dtype="float32") as engine:
        alone = text_of(await collect(engine, ask("alone", 24)))
        seeds = [Sampling(seed=seed, temperature=1.5, top_p=0.9) for seed in (1, 2, 3)]
        crowd = [asyncio.create_task(collect(engine, ask(f"c{i}", 40, sampling=s))) for i, s in enumerate(seeds)]
        await until(lambda: engine.state().running == 3)
        beside = text_of(await collect(engine, ask("beside", 24)))
        await asyncio.gather(*crowd)
    assert alone == beside


@with_transformers
async def test_draws_follow_the_distribution_of_the_model() -> None:
    import torch

    from dask_fmware_workers.engines.transformers_sampling import Draw, _Processor

    scores = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    processor, drawn = _Processor({}), torch.zeros(4)
    for seed in range(4000):
        processor._rows = [(Draw(seed, 1.0, 1.0, 0), 7)]
        drawn[int(processor(scores.clone()[None], None).argmax())] += 1
    assert torch.allclose(drawn / 4000, scores.exp(), atol=0.03)
    processor._rows = [(Draw(seed, 1.0, 0.75, 0), 7)]
    assert {int(processor(scores.clone()[None], None).argmax()) for _ in range(1)} <= {0, 1}


@with_transformers
async def test_weights_may_be_drawn_instead_of_read(tmp_path: Path) -> None:
    from tests.engines.tiny_llama import tiny_llama

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_llama() / name).read_bytes())
    async with serving(model=str(tmp_path), random_weights=True) as engine:
        assert (await collect(engine, ask(max_tokens=4)))[-1].usage.output_tokens >= 1


@with_transformers
async def test_a_loop_that_dies_ends_its_requests_and_says_so_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as engine:
        running = asyncio.create_task(collect(engine, ask("r", 2000)))
        await until(lambda: engine.state().running == 1)

        def broken(*arguments: Any) -> None:
            raise RuntimeError("device lost")

        monkeypatch.setattr(engine._backend._manager.batch_processor, "_generation_step", broken)
        with pytest.raises(EngineCrashedError, match="'r'"):
            await running
        await until(lambda: not engine._backend._manager.is_running())
        with pytest.raises(EngineCrashedError, match="has ended"):
            engine.state()
        with pytest.raises(EngineCrashedError):
            await collect(engine, ask("after"))
        await engine.close()
        await engine.start()
        assert (await collect(engine, ask("again", 4)))[-1].usage.output_tokens == 4


@with_transformers
async def test_state_tells_of_the_cache_and_its_hits() -> None:
    prompt = "the people of the world and the sea " * 20
    async with serving() as engine:
        await collect(engine, ask("a", 2, prompt=prompt))
        assert engine.state().prefix_hit_tokens == 0
        await collect(engine, ask("b", 2, prompt=prompt))
        state = engine.state()
        assert 0 < state.prefix_hit_tokens < state.prefix_queried_tokens
        running = asyncio.create_task(collect(engine, ask("c", 1500)))
        await until(lambda: engine.state().kv_used > state.kv_used)
        await engine.abort("c")
        await running
