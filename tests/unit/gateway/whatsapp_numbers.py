"""A business phone number on WhatsApp, as the tests of its adapter know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clew.runtime.ports.endpoints import Asked
from clew.surfaces.gateway.platforms.whatsapp import Account, WhatsApp
from clew.testing.whatsapp import CloudApi


def account(template: str = "") -> Account:
    return Account(
        number_id=CloudApi.NUMBER_ID,
        token=CloudApi.TOKEN,
        app_secret=CloudApi.APP_SECRET,
        verify_token=CloudApi.VERIFY_TOKEN,
        template=template,
    )


async def nobody(ids: Sequence[str]) -> Mapping[str, str]:
    """Nobody is known by several ids."""
    return {}


async def posted_to(platform: WhatsApp, headers: Mapping[str, str], body: bytes) -> int:
    """The status that a webhook is told."""
    _, post = platform.endpoints
    return (await post.answer(Asked(headers=headers, body=body))).status
