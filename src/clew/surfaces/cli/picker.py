"""A list to pick from with the arrow keys, narrowed by typing. Stands in the chat, or alone in the terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.output import Output
from prompt_toolkit.utils import get_cwidth

ROWS_MAX: Final = 12
_MARGIN_ROWS: Final = 5
"""Title, filter and what stands below the list."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list. Typing looks for words in label and detail."""

    key: str
    label: str
    detail: str = ""


class Picker:
    """`chosen` gives the choice, or None when it was left. With `free`, a text that fits nothing is a choice too."""

    def __init__(self, title: str, choices: Sequence[Choice], *, free: bool = False) -> None:
        self._title = title
        self._choices = tuple(choices)
        self._free = free
        self._at = 0
        self._rows = ROWS_MAX
        self._chosen: asyncio.Future[Choice | None] = asyncio.get_running_loop().create_future()
        self.buffer = Buffer(multiline=False, on_text_changed=lambda _: self._first())
        self.container = HSplit([
            Window(FormattedTextControl([("bold", title)]), height=1, wrap_lines=False),
            Window(
                BufferControl(self.buffer, key_bindings=self._keys()),
                height=1, get_line_prefix=lambda *_: [("ansicyan", "filter: ")],
            ),
            Window(FormattedTextControl(self._list), dont_extend_height=True, wrap_lines=False),
        ])  # fmt: skip

    async def chosen(self) -> Choice | None:
        return await self._chosen

    def fit(self, rows: int) -> None:
        """How many rows there are for everything."""
        self._rows = max(1, min(ROWS_MAX, rows - _MARGIN_ROWS))

    @property
    def matching(self) -> list[Choice]:
        words = self.buffer.text.casefold().split()
        return [
            choice
            for choice in self._choices
            if all(word in f"{choice.label} {choice.detail} {choice.key}".casefold() for word in words)
        ]

    def leave(self) -> None:
        self._end(None)

    # -- keys ----------------------------------------------------------------------------------------------------
    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        for names, step in (
            (("up", "c-p"), -1),
            (("down", "c-n"), 1),
            (("pageup",), -10),
            (("pagedown",), 10),
        ):
            for name in names:
                keys.add(name)(lambda event, step=step: self._move(step))
        keys.add("enter")(lambda event: self._pick())
        for name in ("c-c", "<sigint>", "escape", "c-g"):
            keys.add(name, eager=name == "escape")(lambda event: self.leave())

        @keys.add("c-d")
        def _(event: KeyPressEvent) -> None:
            if not self.buffer.text:
                self.leave()

        return keys

    def _first(self) -> None:
        self._at = 0

    def _move(self, step: int) -> None:
        self._at = max(0, min(len(self.matching) - 1, self._at + step))

    def _pick(self) -> None:
        matching, typed = self.matching, self.buffer.text.strip()
        if self._free and typed and not any(choice.key == typed for choice in matching[:1]) and not matching:
            self._end(Choice(key=typed, label=typed))
        elif matching:
            self._end(matching[min(self._at, len(matching) - 1)])

    def _end(self, choice: Choice | None) -> None:
        if not self._chosen.done():
            self._chosen.set_result(choice)

    # -- the list ------------------------------------------------------------------------------------------------
    def _list(self) -> StyleAndTextTuples:
        matching = self.matching
        if not matching:
            if self._free and self.buffer.text.strip():
                return [("ansiyellow", f"Enter takes “{self.buffer.text.strip()}” as it is.")]
            return [("ansiyellow", "Nothing fits; Backspace widens, Esc leaves.")]
        self._at = min(self._at, len(matching) - 1)
        first = max(0, min(self._at - self._rows // 2, len(matching) - self._rows))
        shown = matching[first : first + self._rows]
        width = max(get_cwidth(choice.label) for choice in shown)
        lines: StyleAndTextTuples = []
        for at, choice in enumerate(shown, first):
            style, mark = ("bold ansicyan", "> ") if at == self._at else ("", "  ")
            gap = " " * (min(width, 60) - get_cwidth(choice.label) + 2)
            lines += [(style, f"{mark}{choice.label}"), ("ansibrightblack", f"{gap}{choice.detail}\n")]
        count = f"{self._at + 1} of {len(matching)}"
        lines.append(("ansibrightblack", f"  {count} · ↑↓ Enter picks · type to narrow · Esc leaves"))
        return lines


async def pick(picker: Picker, output: Output) -> Choice | None:
    """Shows a list alone; it is gone from the screen afterwards."""
    application: Application[Choice | None] = Application(
        layout=Layout(picker.container, focused_element=picker.buffer),
        output=output,
        erase_when_done=True,
        before_render=lambda app: picker.fit(app.output.get_size().rows),
    )

    async def follow() -> None:
        application.exit(result=await picker.chosen())

    following = asyncio.create_task(follow())
    try:
        return await application.run_async(set_exception_handler=False)
    except EOFError:
        return None
    finally:
        following.cancel()
