"""Addresses of servers that no name can be looked up for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dask_fmware.errors import DeploymentError, EngineLoadError
from dask_fmware_workers.engines import create_engine
from dask_fmware_workers.engines.openai_server import OpenAIEngine


@pytest.mark.parametrize("host", ["b\u00fccher..example", "a..example", f"{'a' * 64}.example", "\u00fc" * 64])
def test_a_host_that_cannot_be_looked_up_is_refused_with_the_deployment(host: str) -> None:
    with pytest.raises(DeploymentError, match="openai: base_url has a host or port that is none"):
        create_engine("openai", {"base_url": f"http://{host}/v1", "model": "m"})


@pytest.mark.parametrize("host", ["b\u00fccher.example", "example.com.", "10.0.0.7:8000", "[::1]:8000"])
def test_a_host_that_can_be_is_taken(host: str) -> None:
    create_engine("openai", {"base_url": f"http://{host}/v1", "model": "m"})


async def test_an_address_that_the_library_alone_refuses_is_named_when_the_engine_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class InvalidURL(Exception):
        pass

    def refuse(**_: object) -> None:
        raise InvalidURL("Invalid IDNA hostname")

    limits = SimpleNamespace(max_connections=1, max_keepalive_connections=1)
    library = SimpleNamespace(
        AsyncOpenAI=refuse, DefaultAsyncHttpxClient=SimpleNamespace, DEFAULT_CONNECTION_LIMITS=limits
    )
    monkeypatch.setattr("dask_fmware_workers.engines.openai_client._import_openai", lambda: library)
    engine = OpenAIEngine(base_url="http://\u2603.example/v1", model="m")
    said = "cannot be asked (InvalidURL: Invalid IDNA hostname); correct 'base_url'"
    with pytest.raises(EngineLoadError) as caught:
        await engine.start()
    assert said in str(caught.value)
    assert "model 'm' at http://\u2603.example/v1" in str(caught.value)
    await engine.close()
