"""The input line: pastes, edits, questions, history, and what @ attaches."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory

from clew.surfaces.cli.chat.attach import attachments
from clew.surfaces.cli.chat.completion import ChatCompleter
from clew.surfaces.cli.chat.composer import Composer, Entry
from clew.surfaces.cli.chat.history import ChatHistory, ShellLines, Typed
from clew.testing.world import HandClock


class Line:
    """A composer whose entries are kept."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.takes = True
        self.composer = Composer(ChatCompleter(Path()), InMemoryHistory(), self._accept)

    def _accept(self, entry: Entry) -> bool:
        if self.takes:
            self.entries.append(entry)
        return self.takes

    def send(self) -> None:
        self.composer.buffer.validate_and_handle()


def test_a_long_paste_is_a_mark_and_is_sent_whole() -> None:
    """Also beside what was typed, and from Windows."""
    line, long = Line(), "\r\n".join(f"row {n}" for n in range(100))
    line.composer.buffer.insert_text("look: ")
    line.composer.paste(long)
    line.composer.paste("short")
    assert line.composer.buffer.text == "look: [pasted text 1: 100 lines]short"
    line.send()
    assert line.entries[-1].text == "look: " + long.replace("\r\n", "\n") + "short"
    assert line.composer.is_empty


def test_a_line_that_is_not_taken_stays() -> None:
    """So does the paste behind its mark."""
    line = Line()
    line.takes = False
    line.composer.paste("x" * 5000)
    line.send()
    line.takes = True
    line.send()
    assert line.entries == [Entry(text="x" * 5000)]


def test_an_edit_is_known_as_one_until_it_is_sent_or_left() -> None:
    """Then the line is an ordinary one again."""
    line = Line()
    line.composer.put("before", takes_back=2)
    untouched = [line.composer.is_untouched]
    line.composer.buffer.insert_text("!")
    untouched.append(line.composer.is_untouched)
    assert untouched == [True, False]
    line.send()
    line.composer.buffer.insert_text("next")
    line.send()
    assert line.entries == [Entry(text="before!", takes_back=2), Entry(text="next")]


def test_what_was_half_written_comes_back_after_a_question() -> None:
    """And what was begun meanwhile is not overwritten."""
    line = Line()
    line.composer.buffer.insert_text("half ")
    line.composer.set_aside()
    line.composer.buffer.insert_text("y")
    line.send()
    line.composer.bring_back()
    assert line.composer.buffer.text == "half "
    line.composer.set_aside()
    line.composer.buffer.insert_text("new words")
    line.composer.bring_back()
    assert line.composer.buffer.text == "new words"


def test_only_shell_commands_are_kept_in_a_file(tmp_path: Path) -> None:
    """Readable by its owner; messages are in the ledger, and there only."""
    lines = ShellLines(tmp_path / "history")
    history = ChatHistory([Typed(5, "a message"), Typed(9, "a message")], lines, HandClock())
    for text in ("secret words", "!ls", "/new", "!make\nall"):
        history.append_string(text)
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o600
    assert [entry.text for entry in lines.read()] == ["!ls", "!make\nall"]
    assert "secret" not in (tmp_path / "history").read_text()


def test_a_history_that_was_cut_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """A crash may leave half a line."""
    (tmp_path / "history").write_bytes(b'{"at":1,"text":"!one"}\n{"at":2,"te')
    assert ShellLines(tmp_path / "history").read() == [Typed(1, "!one")]


def test_the_newest_is_recalled_first(tmp_path: Path) -> None:
    """Each text once."""
    past = [Typed(3, "c"), Typed(1, "a"), Typed(2, "b"), Typed(4, "a")]
    history = ChatHistory(past, ShellLines(tmp_path / "history"), HandClock())
    assert list(history.load_history_strings()) == ["a", "c", "b"]


def test_at_attaches_files_and_leaves_words_alone(tmp_path: Path) -> None:
    """Quoted names, names at the end of a sentence, each file once."""
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "two words.json").write_text("{}")
    (tmp_path / "pic.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF\0")
    said = 'see @a.txt, @"two words.json" @pic.png @paper.pdf and @a.txt; mail me@home.org or ask @anna'
    files, problems = attachments(said, tmp_path)
    assert [(f.name, f.media_type) for f in files] == [
        ("a.txt", "text/plain"),
        ("two words.json", "text/plain"),
        ("pic.png", "image/png"),
        ("paper.pdf", "application/pdf"),
    ]
    assert problems == []


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("@no/such.txt", "There is no file"),
        ("@folder", "is a directory"),
        (f"@{'x' * 5000}", ""),
        ("@~nobody-here/x", "There is no file"),
    ],
)
def test_what_cannot_be_attached_is_said(tmp_path: Path, said: str, sentence: str) -> None:
    """And the message is sent without it."""
    (tmp_path / "folder").mkdir()
    files, problems = attachments(said, tmp_path)
    assert files == []
    assert [sentence in problem for problem in problems] == ([True] if sentence else [])


def completed(cwd: Path, text: str) -> list[str]:
    """The lines that completing gives."""
    found = ChatCompleter(cwd).get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + c.start_position] + c.text for c in found]


def test_commands_their_choices_and_paths_complete(tmp_path: Path) -> None:
    """Directories first, hidden files only when asked for, names with spaces in quotes."""
    (tmp_path / "src").mkdir()
    for name in ("setup.py", "some notes.md", ".secret"):
        (tmp_path / name).touch()
    assert completed(tmp_path, "/und") == ["/undo"]
    assert completed(tmp_path, "/mode a") == ["/mode ask", "/mode accept-edits", "/mode all"]
    assert completed(tmp_path, "read @s") == ["read @src/", "read @setup.py", 'read @"some notes.md"']
    assert completed(tmp_path, "@.") == ["@.secret"]
    assert completed(tmp_path, "an@s") == []
    assert completed(tmp_path, "@nowhere/x") == []
