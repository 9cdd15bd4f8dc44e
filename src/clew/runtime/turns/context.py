"""What the next model call is built from: read from the ledger, step by step, never carried over from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from clew.domain.compaction.estimate import prefix_tokens, text_tokens
from clew.domain.compaction.policy import Load
from clew.domain.conversation.ids import PrincipalId, SessionId, SummaryId
from clew.domain.conversation.messages import Message
from clew.domain.ledger.rows import Handle, Prefix, SummaryRow
from clew.domain.models.request import ModelProfile, ModelRequest
from clew.domain.tools.session_settings import Effort
from clew.domain.turn.prompt import Overlay, build_request, media_named
from clew.runtime.ports.ledger import Ledger


class Ready(msgspec.Struct, frozen=True):
    """A request, and the bytes of the images and sounds it names."""

    request: ModelRequest
    blobs: Mapping[str, bytes]


class TurnContext:
    """The path of one running turn. Only what was appended since is read again: the holder's fence keeps the rest true."""

    def __init__(
        self,
        ledger: Ledger,
        principal: PrincipalId,
        session: SessionId,
        *,
        prefix: Prefix,
        profile: ModelProfile,
        overlays: Sequence[Overlay],
        effort: Effort | None,
    ) -> None:
        self._ledger = ledger
        self._principal = principal
        self._session = session
        self._profile = profile
        self._effort = effort
        self._path: tuple[Message, ...] = ()
        self._summary: SummaryRow | None = None
        self._texts: dict[str, str] = {}
        self._media: dict[str, bytes] = {}
        self.tokens = 0
        """Of the last request made, as an estimate that errs high."""
        self.begins_with(prefix, overlays)

    def begins_with(self, prefix: Prefix, overlays: Sequence[Overlay]) -> None:
        """From the next request on."""
        self._prefix = prefix
        self._overlays = overlays
        hints = sum(text_tokens(overlay.text) for overlay in overlays)
        self._load = Load(prefix_tokens(prefix) + hints)

    async def request(self, handle: Handle) -> Ready:
        """The request for the path as it stands at the handle's head, under the summary in force there."""
        new = await self._ledger.path(self._principal, self._session, handle.head, above=len(self._path))
        await self._read_text_files(new)
        self._path += new
        if self._summary is None or self._summary.id != handle.summary:
            self._summary = await self._in_force(handle.summary)
        self.tokens = self._load.of(self._path, self._summary)
        request = build_request(
            prefix=self._prefix,
            path=self._path,
            profile=self._profile,
            summary=self._summary,
            overlays=self._overlays,
            files=self._texts,
            effort=self._effort,
        )
        return Ready(request, await self._media_bytes(request))

    async def _in_force(self, ident: SummaryId | None) -> SummaryRow | None:
        if ident is None:
            return None
        summaries = await self._ledger.summaries(self._principal, self._session)
        return next(summary for summary in summaries if summary.id == ident)

    async def _read_text_files(self, messages: Sequence[Message]) -> None:
        for message in messages:
            for attachment in message.attachments:
                if attachment.sha256 in self._texts or not attachment.is_text:
                    continue
                blob = await self._ledger.blob(self._principal, self._session, attachment.sha256)
                self._texts[attachment.sha256] = blob.bytes.decode("utf-8", errors="replace")

    async def _media_bytes(self, request: ModelRequest) -> Mapping[str, bytes]:
        for sha256 in media_named(request):
            if sha256 not in self._media:
                self._media[sha256] = (await self._ledger.blob(self._principal, self._session, sha256)).bytes
        return self._media
