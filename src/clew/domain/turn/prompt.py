"""The request as a function of what is stored.

Given the frozen prefix, the path, the summary in force, the turn's overlays and the model's profile, the same request
comes out, today or after a restart. Whatever a provider would refuse is repaired here, from stored rows alone, and
never in the ledger: calls without results, results out of place, call ids used twice, arguments that are no JSON,
another model's thinking, roles in a row. So request N is a prefix of request N+1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final, assert_never

import msgspec

from clew.domain.compaction.cut import standing
from clew.domain.conversation.messages import (
    AssistantBody,
    Attachment,
    EventBody,
    Message,
    Role,
    Status,
    ToolBody,
    ToolCall,
    UserBody,
)
from clew.domain.ledger.rows import Prefix, SummaryRow
from clew.domain.models.request import (
    AssistantTurn,
    AudioPart,
    CallPart,
    ImagePart,
    ModelProfile,
    ModelRequest,
    Part,
    RequestMessage,
    TextPart,
    ThinkingPart,
    ToolDeclaration,
    ToolTurn,
    UserTurn,
)
from clew.domain.tools.session_settings import Effort

ORPHAN: Final = "This call did not run to its end; whether it took effect is not known."
NO_REPLY: Final = "(no reply)"
GO_ON: Final = "(continue)"
_STATUS_WORDS: Final = {
    Status.INTERRUPTED: "[interrupted before the end]",
    Status.ERROR: "[failed]",
    Status.REFUSED: "[refused]",
    Status.UNKNOWN: "[outcome unknown]",
    Status.NOT_RUN: "[not run]",
}
_declarations: Final = msgspec.json.Decoder(tuple[ToolDeclaration, ...]).decode
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """Text for the requests of one turn. It has no way into the ledger: no commit takes one."""

    text: str


def build_request(
    *,
    prefix: Prefix,
    path: Sequence[Message],
    profile: ModelProfile,
    summary: SummaryRow | None = None,
    overlays: Sequence[Overlay] = (),
    files: Mapping[str, str] | None = None,
    effort: Effort | None = None,
) -> ModelRequest:
    """`files` holds the text of attached text files by hash. Promises a request that every server of this profile takes."""
    shown = standing(path, summary)
    renderer = _Renderer(profile, files or {}, overlays, _last_opening(shown))
    messages: list[RequestMessage] = [] if summary is None else [_summary_turn(summary)]
    messages.extend(renderer.render(shown))
    return ModelRequest(
        model=profile.name,
        system=prefix.system_prompt,
        tools=_declarations(prefix.tools) if profile.takes_tools else (),
        messages=tuple(_alternated(messages) if profile.needs_alternation else messages),
        effort=effort if profile.takes_effort else None,
        max_output=profile.max_output,
    )


def media_named(request: ModelRequest) -> tuple[str, ...]:
    """The hashes of every image and sound in the request, once each, in order."""
    named: dict[str, None] = {}
    for message in request.messages:
        parts = message.parts if isinstance(message, UserTurn) else ()
        images = message.images if isinstance(message, ToolTurn) else ()
        named.update((part.sha256, None) for part in (*parts, *images) if not isinstance(part, TextPart))
    return tuple(named)


def canonical(messages: Sequence[RequestMessage]) -> bytes:
    """The message list as canonical JSON: what "prefix" means in rule 8."""
    return _encode(list(messages))


def _last_opening(path: Sequence[Message]) -> int:
    return max((m.seq for m in path if m.is_asked and m.step == 0), default=-1)


def _summary_turn(summary: SummaryRow) -> UserTurn:
    text = f"<summary_of_earlier_conversation>\n{summary.text}\n</summary_of_earlier_conversation>"
    return UserTurn(parts=(TextPart(text),))


class _Renderer:
    """Walks a path once, pairing calls with their results wherever those were stored."""

    def __init__(
        self, profile: ModelProfile, files: Mapping[str, str], overlays: Sequence[Overlay], last_opening: int
    ) -> None:
        self._profile = profile
        self._files = files
        self._overlays = overlays
        self._last_opening = last_opening
        self._wire_ids: dict[str, str] = {}
        self._used: set[str] = set()

    def render(self, path: Sequence[Message]) -> Iterator[RequestMessage]:
        results = {m.body.call: m for m in path if isinstance(m.body, ToolBody)}
        asked: set[str] = set()
        for message in path:
            match message.role:
                case Role.USER:
                    yield self._user(message)
                case Role.EVENT:
                    yield self._event(message)
                case Role.ASSISTANT:
                    yield self._assistant(message)
                    for call in message.calls:
                        asked.add(call.id)
                        yield self._result(call, results.get(call.id))
                case Role.TOOL:
                    if isinstance(message.body, ToolBody) and message.body.call not in asked:
                        yield _stray(message, message.body)
                case _:
                    assert_never(message.role)

    def _user(self, message: Message) -> UserTurn:
        body = message.body if isinstance(message.body, UserBody) else UserBody()
        parts: list[Part] = [TextPart(message.text)] if message.text or not body.attachments else []
        parts.extend(self._attached(attachment) for attachment in body.attachments)
        if self._profile.shows_context or body.sender:
            parts.append(TextPart(_context(message, body, full=self._profile.shows_context)))
        return UserTurn(parts=(*parts, *self._overlaid(message)))

    def _event(self, message: Message) -> UserTurn:
        kind = message.body.kind if isinstance(message.body, EventBody) else "note"
        text = f'<event kind="{kind}" note="not written by the user">\n{message.text}\n</event>'
        return UserTurn(parts=(TextPart(text), *self._overlaid(message)))

    def _overlaid(self, message: Message) -> Iterator[TextPart]:
        if message.seq == self._last_opening:
            yield from (TextPart(overlay.text) for overlay in self._overlays)

    def _attached(self, attachment: Attachment) -> Part:
        name = attachment.name or "attachment"
        if attachment.is_image:
            if self._profile.takes_images:
                return ImagePart(attachment.sha256, attachment.media_type)
            return TextPart(f"[image {name}: this model takes no images]")
        if attachment.is_audio:
            if self._profile.takes_audio:
                return AudioPart(attachment.sha256, attachment.media_type)
            return TextPart(f"[sound {name}: this model takes no sound]")
        text = self._files.get(attachment.sha256)
        if text is None:
            return TextPart(
                f"[file {name}: {attachment.media_type}, {attachment.size} bytes, cannot be shown as text]"
            )
        return TextPart(f'<file name="{name}">\n{text}\n</file>')

    def _assistant(self, message: Message) -> AssistantTurn:
        body = message.body if isinstance(message.body, AssistantBody) else AssistantBody()
        words = _STATUS_WORDS.get(message.status)
        text = message.text if words is None else f"{message.text}\n{words}".strip()
        return AssistantTurn(
            text=text if text or body.calls else NO_REPLY,
            calls=tuple(self._call(call) for call in body.calls),
            thinking=tuple(
                ThinkingPart(text=t.text, signature=t.signature)
                for t in body.thinking
                if t.signature and t.model == self._profile.name
            ),
        )

    def _call(self, call: ToolCall) -> CallPart:
        return CallPart(id=self._wire_id(call), name=call.name, arguments=_as_object(call.arguments))

    def _wire_id(self, call: ToolCall) -> str:
        """The provider's id as it gave it; ours when it gave none, or the same one twice."""
        if call.id not in self._wire_ids:
            wire = call.provider_id if call.provider_id and call.provider_id not in self._used else call.id
            self._used.add(wire)
            self._wire_ids[call.id] = wire
        return self._wire_ids[call.id]

    def _result(self, call: ToolCall, message: Message | None) -> ToolTurn:
        if message is None:
            return ToolTurn(call=self._wire_id(call), name=call.name, text=ORPHAN)
        words = _STATUS_WORDS.get(message.status)
        text = message.text if words is None else f"{words} {message.text}".strip()
        images = tuple(
            ImagePart(a.sha256, a.media_type)
            for a in message.attachments
            if a.is_image and self._profile.takes_images
        )
        return ToolTurn(call=self._wire_id(call), name=call.name, text=text, images=images)


def _context(message: Message, body: UserBody, *, full: bool) -> str:
    """When, where and, in a shared session, by whom; a name is what somebody calls themselves, so it is quoted."""
    said = ["<sent"]
    if full:
        sent = datetime.fromtimestamp(message.created_at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        said.append(f'at="{sent}"')
    if body.sender:
        said.append(f'by="{escape(body.sender)}" id="{escape(message.actor)}"')
    if full and body.cwd:
        said.append(f'cwd="{body.cwd}"')
    return f"{' '.join(said)}/>"


def _stray(message: Message, body: ToolBody) -> UserTurn:
    """A result whose call is not on the path (its head stands between them): shown as data."""
    return UserTurn(
        parts=(TextPart(f'<event kind="tool_result" tool="{body.name}">\n{message.text}\n</event>'),)
    )


def _as_object(arguments: str) -> str:
    """The arguments if they are a JSON object; servers refuse a history that holds anything else."""
    try:
        if isinstance(msgspec.json.decode(arguments or "{}"), dict):
            return arguments or "{}"
    except msgspec.DecodeError:
        pass  # what the model wrote is kept, as a string
    return msgspec.json.encode({"_invalid": arguments}).decode()


def _alternated(messages: Sequence[RequestMessage]) -> Iterator[RequestMessage]:
    """A fixed filler wherever two messages of one side follow each other; stored messages are never joined."""
    before: RequestMessage | None = None
    for message in messages:
        if isinstance(before, UserTurn | ToolTurn) and isinstance(message, UserTurn):
            yield AssistantTurn(text=NO_REPLY)
        elif isinstance(message, AssistantTurn) and (before is None or isinstance(before, AssistantTurn)):
            yield UserTurn(parts=(TextPart(GO_ON),))
        yield message
        before = message
