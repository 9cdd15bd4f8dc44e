"""What a provider wants back with an answer, kept as the signature of its thinking.

An answer of ours is a text, calls and thinking; one of theirs is a sequence of parts, some signed, encrypted or
numbered, and refused later if they come back in another order or without their mark (Anthropic's thinking blocks,
Google's thought signatures, OpenAI's reasoning items). The sequence without its words fits into one string.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class KeptPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part. `length` is how many characters of the text or thinking it has; a call has its place in the order."""

    kind: Literal["text", "thinking", "call"]
    length: int = 0
    id: str | None = None
    signature: str | None = None
    provider: str | None = None
    details: dict[str, Any] | None = None

    @property
    def is_marked(self) -> bool:
        """Whether it carries anything that its words do not."""
        return any((self.id, self.signature, self.details))


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """The parts of one answer, and whose they are."""

    parts: tuple[KeptPart, ...]
    provider: str | None = None
    system: str | None = None
    """pydantic-ai's `canonical_system`: by whose keys the marks can be checked."""

    def encoded(self) -> str:
        return msgspec.json.encode(self).decode()

    def fits(self, *, text: int, thinking: int, calls: int) -> bool:
        """Whether the parts are those of an answer with as many characters and calls."""
        return (
            sum(part.length for part in self.parts if part.kind == "text") == text
            and sum(part.length for part in self.parts if part.kind == "thinking") == thinking
            and sum(part.kind == "call" for part in self.parts) == calls
        )


def decode_kept(signature: str | None) -> Kept | None:
    """None for a signature that is not ours: it came by another wire."""
    if not signature or not signature.startswith("{"):
        return None
    try:
        return msgspec.json.decode(signature, type=Kept)
    except msgspec.DecodeError:
        return None
