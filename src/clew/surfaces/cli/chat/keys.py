"""What the keys do in the chat, besides those of the editing line (Emacs keys: Ctrl-A, Ctrl-W, Ctrl-R …)."""

from __future__ import annotations

from typing import Protocol

from prompt_toolkit.application.current import get_app
from prompt_toolkit.filters import Condition, has_completions, is_searching
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from clew.surfaces.cli.chat.composer import Composer
from clew.surfaces.cli.chat.loop import ChatLoop

LEAVE_HINT = "Ctrl-D or /quit leaves."


class View(Protocol):
    """What the keys act on besides the chat."""

    hint: str

    @property
    def is_early(self) -> bool:
        """Whether what is typed was typed before the input line was there."""
        ...

    @property
    def composer(self) -> Composer: ...


def chat_keys(view: View, loop: ChatLoop) -> KeyBindings:
    """Bindings that hold while the input line has the focus."""
    keys = KeyBindings()
    in_line = Condition(lambda: get_app().current_buffer is view.composer.buffer)
    _sending(keys, view, in_line)
    _leaving(keys, view, loop, in_line)
    _recalling(keys, view, loop, in_line)
    return keys


def _sending(keys: KeyBindings, view: View, in_line: Condition) -> None:
    @keys.add("enter", filter=in_line & ~is_searching)
    def _(event: KeyPressEvent) -> None:
        view.hint = ""
        event.current_buffer.complete_state = None
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=in_line)
    @keys.add("c-j", filter=in_line)
    def _(event: KeyPressEvent) -> None:
        """A new line; but an Enter typed before the chat was there has become this key, and sends."""
        if view.is_early:
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    @keys.add("tab", filter=in_line)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None:
            buffer.complete_next()
        else:
            buffer.start_completion(insert_common_part=True)

    @keys.add(Keys.BracketedPaste, filter=in_line)
    def _(event: KeyPressEvent) -> None:
        view.composer.paste(event.data)


def _leaving(keys: KeyBindings, view: View, loop: ChatLoop, in_line: Condition) -> None:
    @keys.add("c-c", filter=in_line & ~is_searching)
    @keys.add("<sigint>", filter=in_line)
    def _(event: KeyPressEvent) -> None:
        """Stops what runs; else empties the line; else says how to leave."""
        view.hint = ""
        if loop.interrupt():
            return
        was_empty = view.composer.is_empty
        view.composer.clear()
        view.hint = LEAVE_HINT if was_empty else ""

    @keys.add("c-d", filter=in_line)
    def _(event: KeyPressEvent) -> None:
        if view.composer.is_empty:
            loop.leave()
        else:
            event.current_buffer.delete()

    @keys.add("c-z")
    def _(event: KeyPressEvent) -> None:
        event.app.suspend_to_background()


def _recalling(keys: KeyBindings, view: View, loop: ChatLoop, in_line: Condition) -> None:
    composer = view.composer
    at_rest = in_line & ~has_completions & ~is_searching
    empty = Condition(lambda: composer.is_empty and loop.asker.question is None)
    untouched = Condition(lambda: composer.is_untouched)
    editing = Condition(lambda: bool(composer.takes_back))

    @keys.add("up", filter=at_rest & empty)
    def _(event: KeyPressEvent) -> None:
        """The last message, to be edited."""
        view.hint = ""
        loop.recall(1)

    @keys.add("up", filter=at_rest & untouched)
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.document.cursor_position_row > 0:
            event.current_buffer.cursor_up()
        else:
            loop.recall(composer.takes_back + 1)

    @keys.add("down", filter=at_rest & untouched)
    def _(event: KeyPressEvent) -> None:
        if not event.current_buffer.document.on_last_line:
            event.current_buffer.cursor_down()
        elif composer.takes_back > 1:
            loop.recall(composer.takes_back - 1)
        else:
            composer.clear()

    @keys.add("escape", filter=at_rest & editing)
    def _(event: KeyPressEvent) -> None:
        """Leaves the message as it was."""
        composer.clear()
