"""The pools of the one HTTP client."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from clew.adapters.models.http import CONNECTIONS_A_POOL, _Pools
from clew.testing.model_server import ModelServer

pytestmark = pytest.mark.anyio


async def test_pools_are_filled_one_after_the_other_and_emptied_again() -> None:
    """One request after the other needs one pool; many at once share the fewest; a closed response makes room."""
    async with ModelServer([]) as server:
        pools = _Pools(verify=False)
        async with httpx.AsyncClient(transport=pools) as client:
            for _ in range(3):
                await client.get(f"{server.base_url}/models")
            assert [pool.busy for pool in pools._pools] == [0]
            many = CONNECTIONS_A_POOL * 3
            open_ = [client.stream("GET", f"{server.base_url}/models") for _ in range(many)]
            await asyncio.gather(*(stream.__aenter__() for stream in open_))
            assert [pool.busy for pool in pools._pools] == [CONNECTIONS_A_POOL] * 3
            await asyncio.gather(*(stream.__aexit__(None, None, None) for stream in open_))
            assert [pool.busy for pool in pools._pools] == [0, 0, 0]


async def test_a_request_that_fails_makes_room_too() -> None:
    """Nobody listens there."""
    pools = _Pools(verify=False)
    async with httpx.AsyncClient(transport=pools) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://127.0.0.1:9/")
    assert [pool.busy for pool in pools._pools] == [0]
