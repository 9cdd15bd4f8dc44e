"""Puts the gateway together: the platforms that have a token, each imported when it has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from clew.config.errors import Problem, SettingsError
from clew.config.home import Home
from clew.config.secrets import Secret, Secrets, load_secrets
from clew.config.settings import HttpSettings, Settings
from clew.domain.routing.keys import SURFACES
from clew.domain.routing.one_person import spelled
from clew.runtime.ports.endpoints import Endpoint
from clew.runtime.talk import Services
from clew.surfaces.gateway.channel import Channel, open_channel
from clew.surfaces.gateway.gateway import Gateway, Listening

if TYPE_CHECKING:
    from clew.surfaces.http import HttpApi


async def open_gateway(
    services: Services, settings: Settings, home: Home, environ: Mapping[str, str]
) -> Gateway:
    """The gateway of these settings. Raises SettingsError when there is neither a platform nor a key for the API, PlatformRefused for what is no token."""
    # What is said here is other people's too: nothing is written into the working directory on their behalf, and there
    # are no words that the inbox may not hold.
    own, secrets = msgspec.structs.replace(services, export=None, in_memory=None), load_secrets(home, environ)
    found = [make(own, settings, secrets) for make in (_telegram, _matrix, _whatsapp)]
    channels = [channel for channel in found if channel is not None]
    channels += [_other(name, own, settings, secrets) for name in settings.gateway.platforms]
    owner_key = secrets.get(settings.http.api_key_env)
    api = None
    if settings.http.enabled and (channels or owner_key is not None or await _has_keys(services)):
        api = _api(services, settings.http, owner_key)
    if not channels and api is None:
        gateway = settings.gateway
        names = f"{gateway.telegram.token_env}, {gateway.matrix.token_env} or {gateway.whatsapp.token_env}"
        sentence = (
            f"no chat platform is set up: put a token into {names}, or into secrets.toml under that name; "
            "nor is there a key for the HTTP API, which `clew pair key create` makes"
        )
        raise SettingsError(Problem(path=("gateway",), sentence=sentence))
    listener = None if api is None else _listener(settings.http, api)
    return Gateway(channels, listener, api=api, drain_seconds=settings.gateway.drain_seconds)


async def _has_keys(services: Services) -> bool:
    people = await services.ledger.people()
    return any(platform in SURFACES for person in people for platform, _ in person.accounts)


def _api(services: Services, settings: HttpSettings, owner_key: Secret | None) -> HttpApi:
    from clew.surfaces.http import HttpApi  # noqa: PLC0415  starlette, uvicorn: 0.05 s

    own = msgspec.structs.replace(services, export=None)
    return HttpApi(own, settings, None if owner_key is None else owner_key.reveal())


def _listener(settings: HttpSettings, api: HttpApi) -> Callable[[Sequence[Endpoint]], Listening]:
    from clew.surfaces.http import Listener  # noqa: PLC0415  the same

    return partial(
        Listener, settings.host, settings.port, routes=api.routes, cors_origins=settings.cors_origins
    )


def _telegram(services: Services, settings: Settings, secrets: Secrets) -> Channel | None:
    own = settings.gateway.telegram
    token = secrets.get(own.token_env)
    if token is None:
        return None
    from clew.surfaces.gateway.platforms.telegram import Telegram, Webhook  # noqa: PLC0415  0.24 s

    webhook = None
    if own.webhook_url:
        secret = secrets.get(own.webhook_secret_env)
        if secret is None or not settings.http.enabled:
            sentence = (
                f"gateway.telegram.webhook_url needs a secret of letters and digits in {own.webhook_secret_env}, "
                "and http.enabled"
            )
            raise SettingsError(Problem(path=("gateway", "telegram", "webhook_url"), sentence=sentence))
        webhook = Webhook(url=own.webhook_url, secret=secret.reveal())
    platform = Telegram(
        token.reveal(), base_url=own.base_url, base_file_url=own.base_file_url, webhook=webhook
    )
    allow = frozenset(own.allow)
    return open_channel(services, settings, platform, Path.cwd(), allow, endpoints=platform.endpoints)


def _other(name: str, services: Services, settings: Settings, secrets: Secrets) -> Channel:
    from clew.bootstrap.plugins import load_platform  # noqa: PLC0415  reads what is installed

    own = settings.gateway.platforms[name]
    token = secrets.get(own.token_env)
    if own.token_env and token is None:
        sentence = f"gateway.platforms.{name}: there is no token in {own.token_env}"
        raise SettingsError(Problem(path=("gateway", "platforms", name), sentence=sentence))
    platform = load_platform(name, token.reveal() if token else "", own.options)
    return open_channel(services, settings, platform, Path.cwd(), frozenset(own.allow))


def _matrix(services: Services, settings: Settings, secrets: Secrets) -> Channel | None:
    own = settings.gateway.matrix
    token = secrets.get(own.token_env)
    if token is None:
        return None
    if not own.base_url:
        sentence = "gateway.matrix.base_url: say the address of the account's homeserver, such as https://matrix.example.org"
        raise SettingsError(Problem(path=("gateway", "matrix", "base_url"), sentence=sentence))
    from clew.surfaces.gateway.platforms.matrix import Matrix  # noqa: PLC0415  0.7 s: aiohttp, nio
    from clew.surfaces.gateway.platforms.matrix_events import NAME  # noqa: PLC0415  the same

    async def welcomes(sender: str, is_direct: bool) -> bool:
        """People who are known; in a talk of two also strangers, for as long as somebody may show a pairing code."""
        ledger = services.ledger
        if sender in own.allow or await ledger.identified(NAME, sender) is not None:
            return True
        return is_direct and await ledger.pairing_is_open(services.clock.now_ms())

    platform = Matrix(token.reveal(), own.base_url, welcomes)
    return open_channel(services, settings, platform, Path.cwd(), frozenset(own.allow))


def _whatsapp(services: Services, settings: Settings, secrets: Secrets) -> Channel | None:
    own = settings.gateway.whatsapp
    token = secrets.get(own.token_env)
    if token is None:
        return None
    app_secret, verify_token = secrets.get(own.app_secret_env), secrets.get(own.verify_token_env)
    if (
        app_secret is None
        or verify_token is None
        or not own.phone_number_id
        or not own.webhook_path.startswith("/")
        or not settings.http.enabled
    ):
        sentence = (
            f"gateway.whatsapp needs phone_number_id, secrets in {own.app_secret_env} and {own.verify_token_env}, "
            "a webhook_path that begins with /, and http.enabled"
        )
        raise SettingsError(Problem(path=("gateway", "whatsapp"), sentence=sentence))
    from clew.surfaces.gateway.platforms.whatsapp import NAME, Account, WhatsApp  # noqa: PLC0415  imported when it has a token

    account = Account(
        number_id=own.phone_number_id,
        token=token.reveal(),
        app_secret=app_secret.reveal(),
        verify_token=verify_token.reveal(),
        path=own.webhook_path,
        template=own.template,
    )
    allow = frozenset(map(spelled, own.allow))
    known = partial(services.ledger.known_as, NAME)
    platform = WhatsApp(account, known, preferred=allow, base_url=own.base_url)
    return open_channel(services, settings, platform, Path.cwd(), allow, endpoints=platform.endpoints)
