"""The command `clew setup`: a conversation at a terminal, flags for scripts."""

from __future__ import annotations

import asyncio
import sys

import click
import msgspec

from clew.config.settings import ModelSettings
from clew.runtime.ports.models import ModelUnavailable
from clew.surfaces.cli.codes import Exit, UsageError
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.model import pull_weights
from clew.surfaces.cli.setup.draft import Draft, Listed, Refusal, listed_models, save, try_model
from clew.surfaces.cli.setup.offers import ADDRESS, DEMO, WEIGHTS, Offer, known_names, named
from clew.surfaces.cli.setup.wizard import run_setup, tell_saved

KEY_BYTES_MAX = 64 * 1024


@click.command()
@click.option("--provider", metavar="NAME", help="Who runs the model, such as anthropic, openai, ollama.")
@click.option("--base-url", metavar="URL", help="Any other server that speaks the OpenAI protocol.")
@click.option("--demo", is_flag=True, help="The tiny demo model on this machine.")
@click.option("--model", metavar="NAME", help="The model; without it the provider's usual one.")
@click.option("--key-stdin", is_flag=True, help="Read the API key from standard input.")
@click.pass_obj
def setup(  # noqa: PLR0917
    host: Host,
    provider: str | None,
    base_url: str | None,
    demo: bool,
    model: str | None,
    key_stdin: bool,
) -> int:
    """Choose the model that answers, and keep its key.

    Without options it asks; with them it does as told.

    \b
    clew setup --base-url http://127.0.0.1:11434/v1 --model llama3.2
    clew setup --provider anthropic --key-stdin < key.txt
    """
    if provider is None and base_url is None and not demo:
        if model or key_stdin:
            raise UsageError("Say where the model runs: --provider NAME, --base-url URL or --demo.")
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError("Setup asks at a terminal; elsewhere say --provider, --base-url or --demo.")
        return Exit.DONE if run_setup(host) else Exit.INTERRUPTED
    offer = _offer(provider, base_url, demo)
    if offer.is_demo:
        if model or key_stdin:
            raise UsageError("--demo takes neither --model nor --key-stdin.")
        pull_weights(host, WEIGHTS)
        draft = Draft(settings=offer.settings)
    else:
        draft = _drafted(host, offer, base_url, model, _read_key() if key_stdin else "")
    tell_saved(host, draft, save(host, draft))
    return Exit.DONE


def _offer(provider: str | None, base_url: str | None, demo: bool) -> Offer:
    if (provider is not None) + (base_url is not None) + demo > 1:
        raise UsageError("Use one of --provider, --base-url and --demo.")
    if demo:
        return DEMO
    if provider is None:
        return ADDRESS
    offer = named(provider)
    if offer is None:
        raise UsageError(f"{provider} is no provider Clew knows: {', '.join(known_names())}.")
    return offer


def _read_key() -> str:
    key = "".join(sys.stdin.read(KEY_BYTES_MAX).split())
    if not key:
        raise UsageError("--key-stdin: there is no key on standard input.")
    return key


def _drafted(host: Host, offer: Offer, base_url: str | None, model: str | None, key: str) -> Draft:
    """What the flags say, tried. Raises ModelUnavailable with the sentence why it cannot be."""
    draft = Draft(settings=offer.settings if base_url is None else ModelSettings(base_url=base_url))
    if key:
        name = (offer.key_names or (ADDRESS.key_names[0],))[0]
        settings = draft.settings
        if not offer.needs_key:
            settings = msgspec.structs.replace(settings, api_key_env=name)
        draft = Draft(settings=settings, key_name=name, key=key)
    try:
        return asyncio.run(_tried(host, offer, draft, model))
    except Refusal as refusal:
        raise ModelUnavailable(f"{refusal} Nothing was changed.") from refusal


async def _tried(host: Host, offer: Offer, draft: Draft, model: str | None) -> Draft:
    listed = Listed()
    try:
        listed = await listed_models(host, draft, offer)
    except Refusal:
        if not model:
            raise
    chosen = model or _usual(offer, listed.names)
    if not (listed.proves and chosen in listed.names):
        await try_model(host, draft.with_model(chosen))
    return draft.with_model(chosen)


def _usual(offer: Offer, names: tuple[str, ...]) -> str:
    if offer.model:
        return offer.model
    if len(names) == 1:
        return names[0]
    raise Refusal(f"Say which model with --model: {', '.join(names[:20])}{' …' if len(names) > 20 else ''}.")
