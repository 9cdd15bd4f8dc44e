"""Who is who: the accounts of people, the codes with which they are paired and linked, and their roles."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from clew.adapters.stores.memory.state import Offer, State
from clew.domain.conversation.ids import LOCAL, PrincipalId
from clew.domain.ledger.errors import NotFound, Refused
from clew.domain.ledger.rows import Person
from clew.domain.routing.pairing import ONLY_ACCOUNT, Account, FirstProof, Pairing, Shown, link, unlinked


def identified(state: State, platform: str, external_id: str) -> PrincipalId | None:
    return state.identities.get((platform, external_id))


def known_as(state: State, platform: str, ids: Sequence[str]) -> dict[str, str]:
    names = {
        *ids,
        *(name for (where, ident), name in state.aliases.items() if where == platform and ident in ids),
    }
    return {i: name for (where, i), name in state.aliases.items() if where == platform and name in names}


def know_as(state: State, platform: str, name: str, ids: Sequence[str]) -> None:
    state.aliases |= {(platform, ident): name for ident in ids}


def offer_pairing(state: State, code_sha256: str, principal: PrincipalId, expires_at: int) -> None:
    state.pairings[code_sha256] = Offer(principal=principal, expires_at=expires_at)


def offer_link(state: State, code_sha256: str, first: PrincipalId | None, expires_at: int) -> None:
    proof = None if first is None else FirstProof(first)
    state.pairings[code_sha256] = Offer(first=proof, expires_at=expires_at)


def pairing_is_open(state: State, at: int) -> bool:
    return any(offer.expires_at > at for offer in state.pairings.values())


def pair(
    state: State,
    code_sha256: str,
    account: Account,
    at: int,
    *,
    known: PrincipalId | None = None,
    sure: bool = False,
) -> Pairing:
    """Whoever was paired before is paired anew: the newest code counts."""
    offer = state.pairings.get(code_sha256)
    if offer is None or offer.expires_at <= at:
        raise NotFound("There is no such pairing code, or it has expired.")
    if offer.principal is not None:
        principal = state.joined.get(offer.principal, offer.principal)
        state.identities[account.platform, account.external_id] = principal
        del state.pairings[code_sha256]
        return Pairing(shown=Shown.PAIRED, principal=principal)
    who = state.identities.get((account.platform, account.external_id)) or known
    came = link(offer.first, account, who, sure=sure)
    if isinstance(came, str):
        raise Refused(came)
    if came.shown == Shown.NOTED and offer.first is None:
        state.pairings[code_sha256] = replace(offer, first=FirstProof(came.principal, account))
    elif came.shown == Shown.LINKED and offer.first is not None:
        if came.joined is not None:
            _join(state, came.joined, came.principal)
        for proven in (account, offer.first.account):
            if proven is not None:
                state.identities[proven.platform, proven.external_id] = came.principal
        del state.pairings[code_sha256]
    return came


def _join(state: State, joined: PrincipalId, stays: PrincipalId) -> None:
    for row in state.sessions.values():
        if row.owner == joined:
            state.shares[row.id, stays] = "write"
        elif row.owner != stays and (may := state.shares.get((row.id, joined))) is not None:
            state.shares.setdefault((row.id, stays), may)
    for account, principal in list(state.identities.items()):
        if principal == joined:
            state.identities[account] = stays
    for before, principal in list(state.joined.items()):
        if principal == joined:
            state.joined[before] = stays
    state.joined[joined] = stays


def unlink(state: State, account: Account) -> PrincipalId:
    was = state.identities.get((account.platform, account.external_id))
    if was is None:
        raise NotFound(f"{account.platform} {account.external_id} is nobody's account.")
    others = [*state.identities.values(), *state.joined.values()].count(was) - 1
    if was != LOCAL and not others:
        raise Refused(ONLY_ACCOUNT.format(f"{account.platform} {account.external_id}", was))
    fresh = unlinked(account, state.roles)
    state.roles[fresh], state.names[fresh] = "user", account.external_id
    unpair(state, account)
    state.identities[account.platform, account.external_id] = fresh
    return fresh


def unpair(state: State, account: Account) -> bool:
    for code, offer in list(state.pairings.items()):
        if offer.first is not None and offer.first.account == account:
            del state.pairings[code]  # it proved this as whoever it was then
    return state.identities.pop((account.platform, account.external_id), None) is not None


def set_role(state: State, principal: PrincipalId, role: str) -> None:
    found = person(state, principal)
    if found is None:
        raise NotFound(f"There is nobody called {principal}.")
    if found.role not in ("admin", "user") or role not in ("admin", "user"):
        raise Refused(f"{found.id} is {found.role}: only people are made admin or user.")
    state.roles[found.id] = role


def people(state: State) -> tuple[Person, ...]:
    found = (
        person(state, ident)
        for ident, role in sorted(state.roles.items())
        if role != "group" and ident not in state.joined
    )
    return tuple(one for one in found if one is not None)


def person(state: State, principal: PrincipalId) -> Person | None:
    ident = state.joined.get(principal, principal)
    if ident not in state.roles:
        return None
    accounts = tuple(sorted(account for account, who in state.identities.items() if who == ident))
    return Person(id=ident, name=state.names.get(ident, ident), role=state.roles[ident], accounts=accounts)
