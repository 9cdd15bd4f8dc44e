"""What a person sends from an editor: blocks in, a text and its files out; and a stored message as blocks again.

The text is what was typed. A file that was mentioned stands in it as a link, where it was mentioned; its content, when
the editor sent it along, is attached.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from clew.domain.conversation.messages import Attachment
from clew.runtime.turns.waiting import NewFile
from clew.wire.acp_types import (
    AudioBlock,
    EmbeddedResourceResource,
    ImageBlock,
    ResourceBlock,
    ResourceLinkBlock,
    TextBlock,
)
from clew.wire.jsonrpc import INVALID_PARAMS, RpcError

Block = TextBlock | ImageBlock | AudioBlock | ResourceLinkBlock | ResourceBlock
_PLAIN: Final = "text/plain"


class Said(NamedTuple):
    text: str
    files: tuple[NewFile, ...]


def said(blocks: Sequence[Block]) -> Said:
    """Raises RpcError for a prompt without content, and for what is no base64 or no sound."""
    texts: list[str] = []
    files: list[NewFile] = []
    for block in blocks:
        match block:
            case TextBlock(text=text):
                texts.append(text)
            case AudioBlock(data=data, mime_type=kind):
                if not kind.startswith("audio/"):
                    raise RpcError(INVALID_PARAMS, f"{kind[:40]!r} is no type of sound.")
                files.append(NewFile(media_type=kind, bytes=_bytes(data)))
            case ImageBlock(data=data, mime_type=kind, uri=uri):
                files.append(NewFile(media_type=kind, bytes=_bytes(data), name=_path(uri) if uri else None))
            case ResourceLinkBlock(name=name, uri=uri):
                texts.append(_link(name, uri))
            case ResourceBlock(resource=resource):
                texts.append(_link(PurePosixPath(_path(resource.uri)).name, resource.uri))
                files.append(_embedded(resource))
    text = "".join(texts)
    if not text.strip() and not files:
        raise RpcError(INVALID_PARAMS, "There is nothing to say: the prompt is empty.")
    return Said(text, tuple(files))


def _embedded(resource: EmbeddedResourceResource) -> NewFile:
    if resource.text is not None:
        content = resource.text.encode("utf-8", errors="replace")
        return NewFile(media_type=resource.mime_type or _PLAIN, bytes=content, name=_path(resource.uri))
    kind = resource.mime_type or "application/octet-stream"
    return NewFile(media_type=kind, bytes=_bytes(resource.blob or ""), name=_path(resource.uri))


def _bytes(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RpcError(INVALID_PARAMS, f"A block's data is not base64: {error}.") from error


def _link(name: str, uri: str) -> str:
    return f"[@{name}]({uri})" if name else uri


def _path(uri: str) -> str:
    """The path of a file's address; any other address as it is."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    return unquote(parts.path) if parts.scheme == "file" else uri


def attached(attachment: Attachment, content: bytes) -> Block:
    """What was attached to a stored message, as a block."""
    name = attachment.name or attachment.sha256[:12]
    uri = name if ":" in name else f"file://{name if name.startswith('/') else '/' + name}"
    if attachment.is_image:
        data = base64.b64encode(content).decode()
        return ImageBlock(data=data, mime_type=attachment.media_type, uri=uri if attachment.name else None)
    if attachment.is_audio:
        return AudioBlock(data=base64.b64encode(content).decode(), mime_type=attachment.media_type)
    if attachment.is_text:
        text = content.decode("utf-8", errors="replace")
        resource = EmbeddedResourceResource(uri=uri, mime_type=attachment.media_type, text=text)
    else:
        data = base64.b64encode(content).decode()
        resource = EmbeddedResourceResource(uri=uri, mime_type=attachment.media_type, blob=data)
    return ResourceBlock(resource=resource)
