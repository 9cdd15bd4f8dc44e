"""The formats a session is exported in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import StrEnum

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.runtime.archive.html import export_html
from clew.runtime.archive.jsonl import export_jsonl
from clew.runtime.archive.markdown import export_markdown
from clew.runtime.archive.plain_json import export_json
from clew.runtime.ports.ledger import Ledger


class ExportFormat(StrEnum):
    """The value is the word people type, and the ending of the file."""

    MD = "md"
    JSON = "json"
    JSONL = "jsonl"
    HTML = "html"


def export(
    ledger: Ledger,
    principal: PrincipalId,
    session: SessionId,
    wanted: ExportFormat,
    *,
    whole_tree: bool = False,
) -> AsyncIterator[bytes]:
    """The session as it was when the first chunk was asked for. JSONL always holds the whole tree.

    The first chunk raises NotFound, or Refused for a temporary session.
    """
    match wanted:
        case ExportFormat.MD:
            return export_markdown(ledger, principal, session, whole_tree=whole_tree)
        case ExportFormat.JSON:
            return export_json(ledger, principal, session, whole_tree=whole_tree)
        case ExportFormat.JSONL:
            return export_jsonl(ledger, principal, session)
        case ExportFormat.HTML:
            return export_html(ledger, principal, session, whole_tree=whole_tree)
