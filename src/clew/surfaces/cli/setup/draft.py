"""What is being set up: tried as it would be used, then written whole or not at all."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from clew.config.commands import set_setting, unset_setting
from clew.config.home import write_atomically
from clew.config.secrets import set_secret
from clew.config.settings import ModelSettings
from clew.domain.models.answer import Failure, FailureKind, Retrying
from clew.domain.models.request import ModelRequest, TextPart, UserTurn
from clew.runtime.ports.models import ModelClient, ModelUnavailable
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.setup.offers import Offer

TRIAL_OUTPUT_MAX: Final = 16
"""Tokens; some models refuse to be asked for one."""


class Refusal(Exception):
    """The trial failed; the sentence says why. `kind` is what to ask for again."""

    def __init__(self, sentence: str, kind: FailureKind | None = None) -> None:
        super().__init__(sentence)
        self.kind = kind


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the model, and a key that is not kept yet."""

    settings: ModelSettings
    key_name: str = ""
    key: str = ""

    def __repr__(self) -> str:
        return f"Draft({self.settings!r}, key of {len(self.key)} characters)"

    @property
    def keys(self) -> Mapping[str, str]:
        return {self.key_name: self.key} if self.key else {}

    def with_model(self, name: str) -> Draft:
        return msgspec.structs.replace(self, settings=msgspec.structs.replace(self.settings, name=name))


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """The models a place lists. `proves` says whether getting the list needed the key."""

    names: tuple[str, ...] = ()
    proves: bool = False


async def listed_models(host: Host, draft: Draft, offer: Offer) -> Listed:
    """Raises Refusal for a key or address that is wrong."""
    names = await _offered(host, draft)
    if not offer.needs_address or not draft.key:
        return Listed(names=names, proves=offer.list_proves)
    try:
        await _offered(host, Draft(settings=ModelSettings(base_url=draft.settings.base_url)))
    except Refusal:
        return Listed(names=names, proves=True)
    return Listed(names=names)  # anybody is shown this list: the key may be wrong all the same


async def _offered(host: Host, draft: Draft) -> tuple[str, ...]:
    asked = draft if draft.settings.name else draft.with_model("any")
    async with host.models(asked.settings, keys=asked.keys) as models:
        try:
            client = (await models.choose(None)).client
            names = await client.models()
        except ModelUnavailable as error:
            raise Refusal(str(error)) from error
    return tuple(sorted(names))


async def try_model(host: Host, draft: Draft) -> None:
    """Asks the model for a word. Raises Refusal, but not for what this one request was: whoever refuses that has
    taken the key and knows the model."""
    async with host.models(draft.settings, keys=draft.keys) as models:
        try:
            choice = await models.choose(None)
        except ModelUnavailable as error:
            raise Refusal(str(error)) from error
        failure = await _failure_of(choice.client, choice.profile.name)
    if failure is not None and failure.kind != FailureKind.BAD_REQUEST:
        raise failure


async def _failure_of(client: ModelClient, model: str) -> Refusal | None:
    request = ModelRequest(
        model=model, system="Answer with one word.", tools=(), max_output=TRIAL_OUTPUT_MAX,
        messages=(UserTurn(parts=(TextPart("Hello"),)),),
    )  # fmt: skip
    events = client.stream(request, blobs={}, key="setup")
    try:
        async for event in events:
            match event:
                case Retrying():
                    return Refusal(event.reason)  # whoever sits there decides whether to try again
                case Failure():
                    return Refusal(event.message, event.kind)
                case _:
                    pass  # it answers
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()
    return None


def save(host: Host, draft: Draft) -> tuple[str, ...]:
    """Keeps the key and the settings; when one fails, all are as before.

    Returns the variables of the environment that win over what was written. Raises SettingsError, SecretsError,
    HomeError.
    """
    winners: list[str] = []
    with _all_or_nothing(host.home.secrets), _all_or_nothing(host.home.config):
        if draft.key:
            set_secret(host.home, draft.key_name, draft.key)
        for key, value in _written(draft.settings).items():
            change = (
                set_setting(host.home, host.environ, key, value)
                if value
                else unset_setting(host.home, host.environ, key)
            )
            if change.overridden_by:
                winners.append(change.overridden_by)
    return tuple(winners)


def _written(settings: ModelSettings) -> Mapping[str, str]:
    """What is set, and what is unset because it belonged to the model before."""
    return {
        "model.provider": settings.provider,
        "model.base_url": settings.base_url,
        "model.api_key_env": settings.api_key_env,
        "model.name": settings.name,
    }


@contextmanager
def _all_or_nothing(file: Path) -> Iterator[None]:
    """Puts the file back as it was when something goes wrong, Ctrl-C included."""
    before = file.read_bytes() if file.exists() else None
    try:
        yield
    except BaseException:
        if before is None:
            file.unlink(missing_ok=True)
        elif file.read_bytes() != before:
            write_atomically(file, before)
        raise
