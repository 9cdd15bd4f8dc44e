"""Route keys name exactly one place each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clew.domain.routing.routes import ChatKind, Route, Sharing, is_meant, parse

IDS = st.one_of(
    st.text(max_size=12),
    st.text("/:%cwtu0123456789-", max_size=12),
    st.integers().map(str),
    st.just("x" * 5000),
)
ROUTES = st.builds(
    Route,
    platform=IDS,
    account=IDS,
    chat=IDS,
    workspace=st.none() | IDS,
    thread=st.none() | IDS,
    user=st.none() | IDS,
)


@given(ROUTES)
def test_a_key_says_its_route(route: Route) -> None:
    """Whatever ids hold (separators, surrogates, nothing at all), the key is read back as the same route."""
    assert parse(route.key) == route


@given(ROUTES, ROUTES)
def test_two_places_have_two_keys(one: Route, other: Route) -> None:
    """Two routes share a key only if they are the same."""
    assert (one.key == other.key) == (one == other)


def test_a_topic_and_a_user_of_one_number_are_two_places() -> None:
    """Topic 4242 and user 4242 of one chat, and chat 4242 of two workspaces, are four places."""
    chat = Route(platform="telegram", account="1", chat="4242")
    places = {
        Route(platform="telegram", account="1", chat="9", thread="4242").key,
        Route(platform="telegram", account="1", chat="9", user="4242").key,
        Route(platform="telegram", account="1", chat="4242", workspace="a").key,
        chat.key,
    }
    assert len(places) == 4


@given(st.text(max_size=40))
def test_other_keys_are_no_routes(text: str) -> None:
    """A key that was not made of a route (the terminal's, or any text) names none."""
    route = parse(text)
    assert route is None or route.key == text
    for other in ("terminal:local", "p/a/x:1", "p/a/c"):
        assert parse(other) is None


@given(IDS, IDS, st.sampled_from(list(ChatKind)), st.booleans(), st.booleans())
def test_people_share_a_place_only_where_the_settings_say_so(
    ann: str, ben: str, kind: ChatKind, group_per_user: bool, thread_per_user: bool
) -> None:
    """Two people of one chat have one place if and only if that kind of chat is shared."""
    sharing = Sharing(group_per_user=group_per_user, thread_per_user=thread_per_user)
    chat = Route(platform="p", account="a", chat="c", thread="t" if kind == ChatKind.THREAD else None)
    together = sharing.route(chat, kind, ann) == sharing.route(chat, kind, ben)
    apart = thread_per_user if kind == ChatKind.THREAD else group_per_user
    assert together == (ann == ben or kind == ChatKind.DM or not apart)
    assert sharing.is_shared(kind) == (kind != ChatKind.DM and not apart)


def test_among_others_it_answers_when_it_is_meant() -> None:
    """In a group only what names or answers us is for us, unless the settings say otherwise."""
    assert is_meant(ChatKind.DM, addressed=False, require_mention=True)
    assert not is_meant(ChatKind.GROUP, addressed=False, require_mention=True)
    assert is_meant(ChatKind.GROUP, addressed=True, require_mention=True)
    assert is_meant(ChatKind.THREAD, addressed=False, require_mention=False)
