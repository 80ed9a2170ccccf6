"""A card server in the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.support.card_server import Cards


@pytest.fixture
def cards() -> Cards:
    """What a card server knows."""
    return Cards()


@pytest.fixture
async def socket(cards: Cards, tmp_path: Path) -> AsyncIterator[str]:
    """Socket of a card server that has no connection left at its end."""
    path = str(tmp_path / "cards")
    server = await asyncio.start_unix_server(cards.serve, path)
    yield path
    async with asyncio.timeout(10):
        await cards.idle.wait()
    server.close()
    await server.wait_closed()
