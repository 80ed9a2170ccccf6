"""What a profile says of memory: of files where there are any, else of what loading took."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dask
import pytest

from dask_fmware.errors import EngineError
from dask_fmware.model.engine import Delta, Request
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.record import LawRecord, LiveProfile, Profile, ProfileKey, Provenance
from dask_fmware.profile.store import ProfileStore, entry_name
from dask_fmware_workers.engines.model_files import ModelFiles, kv_bytes_per_token
from dask_fmware_workers.memory import Footprint, file_bytes
from dask_fmware_workers.profiling import measure
from dask_fmware_workers.stored_profiles import stored_profile

GIB = 1 << 30
SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}


class Made:
    """As much of an engine as is asked for facts."""

    class capabilities:
        slots, context_tokens = 4, 512


async def facts(arguments: dict[str, Any], footprint: Footprint) -> dict[str, Any]:
    of_files = file_bytes(arguments)
    return await measure(Made(), {"kind": "facts"}, footprint, arguments, of_files)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kept", "told"), [("0a", "there is: 0a"), ("", "there is: one of an earlier version")])
def test_a_profile_of_other_arguments_is_told_and_not_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: str, told: str
) -> None:
    key = ProfileKey(model="m", accelerator="cpu", engine="e", engine_version="1", arguments=kept)
    law = LawRecord.of(StepLaw.plain(4e-4, 1e-6, 1e-5, 0.0))
    found = Profile(key=key, law=law, provenance=Provenance(kind="measured", source="a test"))
    ProfileStore(tmp_path).put(found)
    wanted = key.model_copy(update={"arguments": "0b"})
    with dask.config.set({"fmware.profiles": str(tmp_path)}):
        assert stored_profile(key) == LiveProfile.of(found).to_wire()
        assert not caplog.messages
        assert stored_profile(wanted) is None
        assert stored_profile(wanted.model_copy(update={"model": "n"})) is None
    (message,) = caplog.messages
    assert message.startswith("m on cpu (e 1, arguments 0b): a profile that was measured with other arguments")
    assert told in message


@pytest.mark.parametrize("error", [ImportError("Install s3fs to access S3"), RuntimeError("no credentials")])
def test_a_store_that_cannot_be_read_is_told_once_and_costs_the_profile_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_store: ProfileStore, _key: ProfileKey) -> None:
        raise error

    monkeypatch.setattr(ProfileStore, "get", fail)
    with dask.config.set({"fmware.profiles": str(tmp_path)}):
        assert stored_profile(ProfileKey(model="m", accelerator="cpu", engine="e", engine_version="1")) is None
    (message,) = caplog.messages
    assert message == (
        f"m on cpu (e 1): it serves without a profile, as those in {tmp_path} cannot be read "
        f"({type(error).__name__}: {error})"
    )


def test_an_entry_that_cannot_be_used_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = ProfileKey(model="m", accelerator="cpu", engine="e", engine_version="1")
    (tmp_path / entry_name(key)).write_text("{")
    with dask.config.set({"fmware.profiles": str(tmp_path)}):
        assert stored_profile(key) is None
    (message,) = caplog.messages
    assert message.startswith(f"profile store: {tmp_path / entry_name(key)}: not a profile")


async def test_the_weights_of_a_directory_are_its_files_not_the_memory_that_its_engine_takes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "torch_dtype": "float32"}))
    for number, size in enumerate((1000, 500)):
        (tmp_path / f"model-0000{number}.safetensors").write_bytes(bytes(size))
    taken = Footprint(process_bytes=GIB, gpu_bytes=70 * GIB)  # most of it a cache
    found = await facts({"model": str(tmp_path)}, taken)
    assert (found["weight_bytes"], found["gpu_bytes"]) == (1500, 70 * GIB)
    assert found["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 4
    assert (await facts({"model": str(tmp_path), "dtype": "bfloat16"}, taken))["kv_bytes_per_token"] == 256.0


INDEX = "model.safetensors.index.json"
SHARDS = {"model-00001-of-00002.safetensors": 1000, "model-00002-of-00002.safetensors": 500}


@pytest.mark.parametrize(
    ("sizes", "index", "expected"),
    [
        ({**SHARDS, "consolidated.safetensors": 1500}, None, 1500),
        ({**SHARDS, "pytorch_model.bin": 1500}, None, 1500),
        ({**SHARDS, "model.safetensors": 1500}, {"weight_map": dict.fromkeys("ab", "model.safetensors")}, 1500),
        ({**SHARDS, "fp32.safetensors": 9}, {"weight_map": dict(zip("abc", [*SHARDS, *SHARDS], strict=False))}, 1500),
        ({**SHARDS, "consolidated.safetensors": 1500}, {"weight_map": ["no", "map"]}, 1500),
        ({**SHARDS, "consolidated.safetensors": 1500}, {"weight_map": {"a": "elsewhere.safetensors"}}, 1500),
        ({"consolidated.safetensors": 700}, None, 700),
        ({}, {"weight_map": {"a": "model.safetensors"}}, None),
    ],
)
def test_a_second_copy_of_the_weights_does_not_count(
    tmp_path: Path, sizes: dict[str, int], index: Any, expected: int | None
) -> None:
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    if index is not None:
        (tmp_path / INDEX).write_text(json.dumps(index))
    assert ModelFiles(tmp_path).weight_bytes == expected


def test_the_weights_of_a_split_gguf_model_are_all_its_files(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"m-0000{number}-of-00003.gguf").write_bytes(bytes(1000 * number))
    assert file_bytes({"gguf": str(tmp_path / "m-00001-of-00003.gguf")}) == 6000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kv_cache_dtype": "fp8"}, 128.0),
        ({"kv_cache_dtype": "auto"}, 256.0),
        ({"enforce_eager": True}, 256.0),
        (None, 256.0),
        (["--enforce-eager", "--kv-cache-dtype", "fp8_e5m2"], 128.0),
        (["--kv-cache-dtype=fp8"], 128.0),
        (["--kv-cache-dtype"], 256.0),
    ],
)
async def test_a_cache_of_half_width_takes_half_the_bytes(tmp_path: Path, options: Any, expected: float) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "torch_dtype": "bfloat16"}))
    found = await facts({"model": str(tmp_path), "options": options}, Footprint())
    assert found["kv_bytes_per_token"] == expected


async def test_without_files_the_weights_are_what_loading_took() -> None:
    assert (await facts({}, Footprint(GIB, 15 * GIB)))["weight_bytes"] == 15 * GIB
    found = await facts({}, Footprint(GIB))
    assert (found["weight_bytes"], found["kv_bytes_per_token"]) == (GIB, None)


HUB = "an/id-of-a-hub"


async def test_what_loading_took_is_not_the_weights_of_a_model_that_is_loaded_with_its_cache() -> None:
    found = await facts({"model": HUB}, Footprint(GIB, 72 * GIB))
    assert (found["weight_bytes"], found["kv_bytes_per_token"]) == (None, None)


@pytest.mark.parametrize("options", [None, {"revision": "v2"}, ["--revision", "v2"]])
async def test_the_weights_of_a_model_of_a_hub_are_those_of_the_copy_that_was_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--an--id-of-a-hub"
    for revision, commit, size in (("main", "a" * 40, 1500), ("v2", "b" * 40, 700)):
        files = folder / "snapshots" / commit
        files.mkdir(parents=True)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / revision).write_text(commit)
        (files / "config.json").write_text(json.dumps(SHAPE))
        (files / "model.safetensors").write_bytes(bytes(size))
    found = await facts({"model": HUB, "options": options}, Footprint(GIB, 72 * GIB))
    assert (found["weight_bytes"], found["kv_bytes_per_token"]) == (1500 if options is None else 700, 256.0)


class Breaks(Made):
    """Gives tokens, and no end to those who want many of them: it fails."""

    async def count_tokens(self, request: Request) -> int:
        return len(request.prompt.split())

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        for _ in range(min(request.max_tokens, 8)):
            await asyncio.sleep(0.001)
            yield Delta("a", 1)
        if request.max_tokens > 8:
            raise EngineError("out of memory")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(("lead_tokens", "probes"), [(4, [(16, 1)]), (20, [(16, 1)]), (0, [])])
async def test_an_experiment_of_which_a_stream_fails_is_told_and_not_measured(
    lead_tokens: int, probes: list[tuple[int, int]]
) -> None:
    question = {"kind": "streams", "background": [(16, 40)], "probes": probes, "lead_tokens": lead_tokens, "seed": 1}
    found = await measure(Breaks(), question, Footprint(), {})  # type: ignore[arg-type]
    assert found == {"error": "EngineError: out of memory"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SHAPE, 256.0),
        ({**SHAPE, "head_dim": 32}, 512.0),
        ({"text_config": SHAPE, "dtype": "float32"}, 512.0),
        ({**SHAPE, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 2 * 576 * 2.0),
        ({**SHAPE, "layer_types": ["full_attention", "full_attention"], "sliding_window": 1024}, 256.0),
        ({**SHAPE, "layer_types": ["full_attention", "sliding_attention"]}, None),
        ({**SHAPE, "layer_types": ["full_attention", "chunked_attention"]}, None),
        ({**SHAPE, "sliding_window": 1024}, None),
        ({**SHAPE, "sliding_window": 1024, "use_sliding_window": False}, 256.0),
        ({**SHAPE, "attn_layer_period": 8}, None),
        ({**SHAPE, "num_key_value_heads": [2, 1]}, None),
        ({**SHAPE, "layer_types": ["full_attention", "linear_attention"]}, None),
        ({"hidden_size": 64}, None),
    ],
)
def test_keys_and_values_of_a_token_by_the_configuration(config: dict[str, Any], expected: float | None) -> None:
    assert kv_bytes_per_token(config) == expected


def test_a_configuration_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{half")
    assert ModelFiles(tmp_path).kv_bytes_per_token() is None
    assert ModelFiles(tmp_path).weight_bytes is None


def test_processes_that_this_one_started_count() -> None:
    before = Footprint.now()
    with subprocess.Popen(
        [sys.executable, "-c", "held = bytearray(200_000_000); print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        added = Footprint.now().beyond(before)
        child.communicate(b"\n")
    assert added.process_bytes > 150_000_000


def test_memory_of_cards_stands_for_processes_that_nobody_knows() -> None:
    before = Footprint(0, None, 4 * GIB)
    assert Footprint(0, None, 9 * GIB).beyond(before).gpu_bytes == 5 * GIB
    assert Footprint(0, 3 * GIB, 9 * GIB).beyond(before).gpu_bytes == 3 * GIB
    assert Footprint(0, None, None).beyond(Footprint()).gpu_bytes is None
