"""Tool calls, put together from the pieces servers stream.

The wire says: a call has an `index`; its first piece brings `id` and `name`, later pieces bring `arguments`. What is
met in the field, and must come out as the calls the model made:

* every call under index 0, told apart by id, or by nothing but being whole
  (Ollama before 0.6; vLLM and SGLang as shown in InternLM/lmdeploy issue 3412; BerriAI/litellm pull 37792);
* no index at all (Ollama, ollama/ollama pull 5915);
* later pieces with an empty name (LM Studio, lmstudio-bug-tracker issue 649) or an empty id (vLLM);
* the name repeated in every piece (llama.cpp before ggml-org/llama.cpp pull 13800);
* the same id in every piece, in two calls of one answer, or none at all.

An index or id that points to a known call is believed; a piece opens a new call when it names another function, or
the same again after arguments that are already whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from clew.adapters.models.openai_chat.chunks import CallPiece, FunctionPiece
from clew.domain.models.answer import AskedCall, CallDelta


@dataclass(slots=True, eq=False)
class _Call:
    position: int
    id: str = ""
    name: str = ""
    fragments: list[str] = field(default_factory=list)
    in_view: bool = False
    """Whether it was shown; it is not before its name is known."""

    @property
    def arguments(self) -> str:
        return "".join(self.fragments)

    @property
    def is_whole(self) -> bool:
        try:
            return isinstance(msgspec.json.decode(self.arguments), dict)
        except msgspec.DecodeError:
            return False


class CallAssembly:
    """The calls of one answer, in the order in which they came into view."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    def take(self, pieces: list[CallPiece]) -> list[CallDelta]:
        """Adds the pieces of one chunk and says what is new to show."""
        opened: list[_Call] = []
        return [delta for piece in pieces if (delta := self._take(piece, opened)) is not None]

    def calls(self) -> tuple[AskedCall, ...]:
        """The calls as they stand. An id that two calls share identifies neither: the second goes without.

        No arguments at all means an empty object, which is what servers that send nothing mean by it.
        """
        seen: set[str] = set()
        asked = []
        for call in self._calls:
            provider_id = "" if call.id in seen else call.id
            seen.add(call.id)
            arguments = call.arguments
            if not arguments.strip():
                arguments = "{}"
            asked.append(AskedCall(provider_id=provider_id, name=call.name, arguments=arguments))
        return tuple(asked)

    @property
    def characters(self) -> int:
        return sum(len(call.name) + len(call.arguments) for call in self._calls)

    def _take(self, piece: CallPiece, opened: list[_Call]) -> CallDelta | None:
        function = piece.function or FunctionPiece()
        name, text = function.name or "", function.text
        call = self._call_of(piece, name, text, opened)
        call.id = call.id or _id_text(piece)
        call.name = call.name or name
        call.fragments.append(text)
        return _news(call, text)

    def _call_of(self, piece: CallPiece, name: str, text: str, opened: list[_Call]) -> _Call:
        known = self._known(piece, name)
        if known is None or _starts_anew(known, name, text, in_this_chunk=known in opened):
            known = _Call(position=len(self._calls))
            self._calls.append(known)
            opened.append(known)
        if piece.index is not None:
            self._by_index[piece.index] = known
        if (own := _id_text(piece)) and not known.id:
            self._by_id[own] = known
        return known

    def _known(self, piece: CallPiece, name: str) -> _Call | None:
        """The call this piece points to, if any. A fragment that points nowhere belongs to the last call."""
        own, last = _id_text(piece), self._calls[-1] if self._calls else None
        if piece.index is None:
            return self._by_id.get(own, None if name else last) if own else last
        here = self._by_index.get(piece.index)
        if here is None or not own or not here.id or here.id == own:
            return here
        return self._by_id.get(own, None if name else here)


def _id_text(piece: CallPiece) -> str:
    return "" if piece.id is None else str(piece.id)


def _starts_anew(call: _Call, name: str, text: str, *, in_this_chunk: bool) -> bool:
    if not name or not call.name:
        return False
    return name != call.name or in_this_chunk or (bool(text) and call.is_whole)


def _news(call: _Call, text: str) -> CallDelta | None:
    if not call.name or (call.in_view and not text):
        return None
    fragment = text if call.in_view else call.arguments
    call.in_view = True
    return CallDelta(index=call.position, name=call.name, arguments=fragment)
