"""Setup as a conversation: where the model runs, its key, which model. Nothing is written before all of it was tried."""

from __future__ import annotations

import asyncio

import click
import msgspec

from clew.config.settings import ModelSettings
from clew.domain.models.answer import FailureKind
from clew.runtime.ports.models import ModelUnavailable
from clew.surfaces.cli.codes import EXPECTED
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.model import pull_weights
from clew.surfaces.cli.picker import Choice
from clew.surfaces.cli.setup.dialogue import Dialogue, Left
from clew.surfaces.cli.setup.draft import Draft, Listed, Refusal, listed_models, save, try_model
from clew.surfaces.cli.setup.offers import WEIGHTS, Offer, offers

NOTHING_CHANGED = "Nothing was changed."


def offer_setup(host: Host) -> None:
    """Before the first chat: when nothing is configured and nothing found, setup comes by itself."""
    if not asyncio.run(_is_needed(host)):
        return
    click.echo("Welcome to Clew. No model is configured yet, and none was found on this machine.")
    click.echo("Choose one now, or press Esc: /setup in the chat brings this back.\n")
    run_setup(host)


def run_setup(host: Host) -> bool:
    """Asks, tries, writes. False when the person left; then nothing was changed."""
    dialogue = Dialogue(host)
    try:
        while True:
            try:
                draft = _drafted(host, dialogue)
            except Refusal as refusal:
                dialogue.say(f"{refusal}\n")
                continue
            if draft is not None:
                break
        tell_saved(host, draft, save(host, draft))
    except (click.Abort, KeyboardInterrupt, Left, EOFError):
        click.echo(f"\n{NOTHING_CHANGED}")
        return False
    except EXPECTED as error:
        click.echo(f"clew: {error} {NOTHING_CHANGED}", err=True)
        return False
    return True


def tell_saved(host: Host, draft: Draft, winners: tuple[str, ...]) -> None:
    """Says what holds now, and what does not."""
    settings = draft.settings
    where = settings.base_url or settings.provider
    model = f"{settings.name} ({where})" if settings.name else "the tiny demo model"
    click.echo(f"Done: {model} answers from now on ({host.home.config}).")
    if draft.key:
        click.echo(f"The key is in {host.home.secrets}, which only you can read.")
    for name in winners:
        click.echo(f"But {name} is set in the environment, and wins over it.", err=True)


async def _is_needed(host: Host) -> bool:
    async with host.models() as models:
        try:
            return await models.detect() is None
        except ModelUnavailable:
            return False  # something is configured, if not well: the chat says what is missing


def _drafted(host: Host, dialogue: Dialogue) -> Draft | None:
    """One way through the questions; None to begin anew. Raises Left when even the first was left."""
    offer = _chosen_offer(host, dialogue)
    try:
        if offer.is_demo:
            pull_weights(host, WEIGHTS)
            return Draft(settings=offer.settings)
        draft = _with_address(dialogue, Draft(settings=offer.settings), offer)
        return _with_model(host, dialogue, offer, _with_key(host, dialogue, offer, draft))
    except Left:
        return None


def _chosen_offer(host: Host, dialogue: Dialogue) -> Offer:
    found = asyncio.run(offers(host))
    choices = [
        Choice(key=offer.key, label=offer.title, detail=offer.detail or _key_there(host, offer))
        for offer in found
    ]
    key = dialogue.choose("Where should the model run?", choices)
    return next(offer for offer in found if offer.key == key)


def _key_there(host: Host, offer: Offer) -> str:
    name = _known_key(host, offer)
    return f"{name} is set" if name else ""


def _known_key(host: Host, offer: Offer) -> str:
    """The name of a key of the environment that fits."""
    return next((name for name in offer.key_names if host.environ.get(name)), "")


def _with_address(dialogue: Dialogue, draft: Draft, offer: Offer) -> Draft:
    if not offer.needs_address:
        return draft
    while True:
        address = dialogue.line("Address of the server, with its /v1 (empty goes back)")
        if not address:
            raise Left
        if address.startswith(("http://", "https://")) and " " not in address:
            return msgspec.structs.replace(draft, settings=ModelSettings(base_url=address))
        dialogue.say("An address begins with http:// or https://, as in http://192.168.1.5:8000/v1.")


def _with_key(host: Host, dialogue: Dialogue, offer: Offer, draft: Draft) -> Draft:
    """The key is taken from the environment, or asked for; one's own server may need none."""
    if not offer.key_names:
        return draft
    known = _known_key(host, offer)
    if known and dialogue.agrees(f"{known} is set in the environment. Use it?"):
        return draft
    return _asked_key(dialogue, offer, draft)


def _asked_key(dialogue: Dialogue, offer: Offer, draft: Draft) -> Draft:
    empty = "empty goes back" if offer.needs_key else "empty for none"
    key = dialogue.secret(f"API key (paste it; it is not shown; {empty})")
    if not key and offer.needs_key:
        raise Left
    name = offer.key_names[0] if key else ""
    settings = draft.settings
    if not offer.needs_key:
        settings = msgspec.structs.replace(settings, api_key_env=name)
    return msgspec.structs.replace(draft, settings=settings, key_name=name, key=key)


def _with_model(host: Host, dialogue: Dialogue, offer: Offer, draft: Draft) -> Draft:
    """A model that was tried. What fails is asked for again. Raises Left."""
    proposed = offer.model
    while True:
        listed = Listed()
        try:
            with dialogue.waiting("Asking for its models …"):
                listed = asyncio.run(listed_models(host, draft, offer))
        except Refusal as refusal:
            dialogue.say(str(refusal))
            if offer.needs_key:
                draft = _asked_key(dialogue, offer, draft)
                continue
        proposed = chosen = _chosen_model(dialogue, proposed, listed.names)
        if listed.proves and chosen in listed.names:
            return draft.with_model(chosen)
        try:
            with dialogue.waiting(f"Trying {chosen} …"):
                asyncio.run(try_model(host, draft.with_model(chosen)))
        except Refusal as refusal:
            dialogue.say(str(refusal))
            if refusal.kind == FailureKind.AUTH and offer.key_names:
                draft = _asked_key(dialogue, offer, draft)
            continue
        return draft.with_model(chosen)


def _chosen_model(dialogue: Dialogue, proposed: str, names: tuple[str, ...]) -> str:
    if not names:
        name = dialogue.line("Name of the model (empty goes back)", proposed)
        if not name:
            raise Left
        return name
    first = [proposed] if proposed in names else []
    ordered = [*first, *(name for name in names if name not in first)]
    choices = [Choice(key=name, label=name, detail="proposed" if name in first else "") for name in ordered]
    return dialogue.choose("Which model?", choices, free=True)
