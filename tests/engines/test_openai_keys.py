"""The key of a server: where it comes from, and that it shows nowhere."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dask_fmware.errors import DeploymentError, EngineCrashedError, EngineLoadError
from dask_fmware.testing.asking import ask, collect
from dask_fmware_workers.engines import create_engine
from dask_fmware_workers.engines.openai_server import OpenAIEngine
from tests.engines.openai_stub import Asked, Write, answering, serving_http, started, stubbed, whole

pytest.importorskip("openai")

KEY = "sk-very-secret-0123456789"


async def test_the_key_comes_from_environment_or_file_and_shows_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys: list[str] = []

    async def refuse(asked: Asked, write: Write) -> None:
        keys.append(asked.headers["authorization"])
        await write(whole(401, {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}))

    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    async with answering(refuse) as address:
        for source in ({"api_key_env": "MY_KEY"}, {"api_key_file": str(path)}):
            async with started(address, **source) as engine:
                with pytest.raises(EngineCrashedError, match="expired") as caught:
                    await collect(engine, ask())
                shown = [repr(engine), str(caught.value), repr(caught.value.__cause__), caplog.text]
                assert not any(KEY in text for text in shown)
                assert "MY_KEY" in str(caught.value) or str(path) in str(caught.value)
    assert keys == [f"Bearer {KEY}"] * 2


@pytest.mark.parametrize("header", [f"X-Token: {KEY}", f"Authorization: Bearer {KEY}", f"authorization: Bearer {KEY}"])
async def test_what_the_environment_holds_for_openai_goes_nowhere_else(
    header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", KEY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", header)
    async with stubbed("vllm", text="fine") as (engine, stub):
        await collect(engine, ask(max_tokens=4))
        await engine.count_tokens(ask())
        assert {asked.path for asked in stub.seen} == {"/v1/completions", "/tokenize"}
        assert KEY not in str([asked.headers for asked in stub.seen])
        assert {asked.headers["authorization"] for asked in stub.seen} == {"Bearer none"}


async def test_an_expired_key_is_told_when_the_replica_starts() -> None:
    async def refuse(asked: Asked, write: Write) -> None:
        await write(whole(403, {"error": {"message": "no"}}))

    async with serving_http(refuse) as address:
        with pytest.raises(EngineLoadError, match=r"refuses the key.*HTTP 403.*renew"):
            await OpenAIEngine(base_url=address, model="tiny").start()


async def test_a_key_that_is_missing_names_where_it_should_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    monkeypatch.setenv("ODD_KEY", "two words")
    sources = (
        ({"api_key_env": "NO_KEY"}, DeploymentError),  # of a process that runs: it will not come
        ({"api_key_env": "ODD_KEY"}, DeploymentError),
        ({"api_key_file": str(tmp_path / "none")}, EngineLoadError),  # tried again
    )
    for source, error in sources:
        with pytest.raises(error, match=r"NO_KEY|ODD_KEY|none") as caught:
            await OpenAIEngine(base_url="http://127.0.0.1:9/v1", model="m", **source).start()
        assert "two words" not in str(caught.value)


def test_a_key_in_the_deployment_is_refused_unseen() -> None:
    for arguments in ({"api_key": KEY}, {"base_url": f"http://user:{KEY}@host/v1"}):
        with pytest.raises(DeploymentError, match="api_key_env") as caught:
            create_engine("openai", {"base_url": "http://host/v1", "model": "m", **arguments})
        assert KEY not in str(caught.value)
