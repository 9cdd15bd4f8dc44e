"""What people read is what was said: nothing swallowed, nothing made up, nothing run."""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.conversation.messages import (
    AssistantBody,
    Attachment,
    NewMessage,
    Role,
    Status,
    Thinking,
    ToolBody,
    ToolCall,
)
from clew.domain.ledger.commits import NewBlob
from clew.domain.ledger.errors import NotFound, Refused
from clew.domain.ledger.rows import Handle
from clew.runtime.archive.formats import ExportFormat, export
from clew.runtime.archive.html import IMAGE_BYTES_MAX
from clew.runtime.archive.markdown import code, escaped, fenced, quoted
from clew.runtime.archive.reading import RESULT_CHARACTERS_MAX, elided, iso, moment
from clew.runtime.archive.tree import PAGE_MESSAGES
from clew.testing.ledgers import (
    ANN,
    EVE,
    add,
    assistant,
    attachment,
    begin,
    compact,
    event,
    exchange,
    run_turn,
    say,
    sha256,
    tool_call,
    tool_result,
    undo,
    user,
)
from tests.unit.archive.streams import known_to_all, written

pytestmark = pytest.mark.anyio

PIECES: Final = (
    "```", "~~~", "````", "\n", "\r", "\r\n", " ", "    ", "> ", "# ", "### User · now", "---", "===", "- ", "1. ", "<!--",
    "-->", "<script>alert(1)</script>", "<pre>", "</pre></div></article>", "<![CDATA[", "&amp;", '"', "'", "`", "\\", "[a]: b",
    "word", "\0", "\u2028", "\x1b[0m", "שלום", "| a | b |",
)  # fmt: skip
nasty: st.SearchStrategy[str] = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@pytest.fixture
async def ledger() -> MemoryLedger:
    return await known_to_all(MemoryLedger())


async def told(ledger: MemoryLedger, *messages: NewMessage, blobs: tuple[NewBlob, ...] = ()) -> Handle:
    """A session of these messages."""
    return await add(ledger, await begin(ledger), *messages, blobs=blobs)


def call(name: str = "read_file", arguments: str = '{"n":1}', ident: str = "c1") -> ToolCall:
    return ToolCall(id=ident, name=name, arguments=arguments)  # type: ignore[arg-type]


# -- Markdown ------------------------------------------------------------------------------------------------------
def blocks(markdown: str) -> list[tuple[str, str]]:
    """The outermost blocks of a document: their kind, and the words of headings and code."""
    found = []
    tokens = MarkdownIt("commonmark").parse(markdown)
    for at, token in enumerate(tokens):
        if token.level == 0 and token.nesting >= 0:
            words = tokens[at + 1].content if token.type == "heading_open" else token.content
            found.append((token.type.removesuffix("_open"), words))
    return found


def as_lines(text: str) -> str:
    """A text as any Markdown reader sees it."""
    return re.sub(r"\r\n|\r", "\n", text).replace("\0", "\ufffd")


@settings(max_examples=200, deadline=None)
@given(asked=nasty, answered=nasty, result=nasty)
@example(asked="```\nnever closed", answered="<!-- never closed", result="```\n````\n`````")
@example(asked="a\r### 2 · User · now", answered="<script>\n", result="\r```")
def test_no_text_leaves_its_place_in_markdown(asked: str, answered: str, result: str) -> None:
    """Whatever is said, the document has the same blocks, and code is the result to the letter."""
    markdown = asyncio.run(_markdown_of(asked, answered, result))
    shape = blocks(markdown)
    kinds = ["heading", "paragraph", "heading"]
    kinds += ["blockquote"] if asked else []
    kinds += (
        ["heading"] + (["blockquote"] if answered else []) + ["paragraph"] + (["fence"] if result else [])
    )
    assert [kind for kind, _ in shape] == [*kinds, "heading", "blockquote"]
    assert [words[:1] for kind, words in shape if kind == "heading"][1:] == ["1", "2", "4"]
    if result:
        assert ("fence", as_lines(result) + "\n") in shape


async def _markdown_of(asked: str, answered: str, result: str) -> str:
    ledger = await known_to_all(MemoryLedger())
    asks = call()
    handle = await told(
        ledger,
        user(asked),
        assistant(answered, asks),
        tool_result(asks, result),
        assistant("The end.", step=2),
    )
    return await written(ledger, handle.session, ExportFormat.MD)


@given(text=nasty)
def test_quotes_and_fences_hold_the_text(text: str) -> None:
    """Without their marks they are the text again."""
    marked = quoted(text).split("\n")
    assert all(line == ">" or line.startswith("> ") for line in marked)
    assert "\n".join(line[2:] for line in marked) == as_lines(text)
    opening, *inside, closing = fenced(text).split("\n")
    assert "\n".join(inside) == as_lines(text)
    assert set(opening) == {"`"}
    assert opening == closing
    assert opening not in text


@given(text=nasty)
def test_titles_and_names_mean_nothing_but_themselves(text: str) -> None:
    """Neither escaped text nor code within a line opens anything."""
    flat = " ".join(text.replace("\0", "\ufffd").split())
    (inline,) = MarkdownIt("commonmark").parseInline(f"a {escaped(flat)} z")
    assert [child.type for child in inline.children or []] == ["text"]
    assert inline.children is not None
    assert inline.children[0].content == f"a {flat} z"
    (inline,) = MarkdownIt("commonmark").parseInline(f"a {code(flat)} z")
    assert [child.type for child in inline.children or []] == ["text", "code_inline", "text"]


# -- HTML ----------------------------------------------------------------------------------------------------------
class Page(HTMLParser):
    """What a browser would make of a page: its elements and its words."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


TAGS: Final = frozenset(
    [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "main",
        "h1",
        "h2",
        "p",
        "b",
        "span",
        "time",
        "article",
        "section",
        "aside",
        "div",
        "pre",
        "code",
        "details",
        "summary",
        "figure",
        "figcaption",
        "img",
        "ol",
        "li",
        "bdi",
    ]
)


@settings(max_examples=150, deadline=None)
@given(asked=nasty, answered=nasty, result=nasty, name=nasty)
@example(
    asked="```\n<script>",
    answered="</pre></div><img src=x onerror=alert(1)>",
    result="</code>",
    name='"><b onload="',
)
def test_no_text_is_markup_in_html(asked: str, answered: str, result: str, name: str) -> None:
    """Whatever is said, in a text, a name or a title, the elements are ours and all of the words are there."""
    html, plain = asyncio.run(_pages_of(asked, answered, result, name))
    page, known = Page(html), Page(plain)
    assert not page.open
    shape = [tag for tag, _ in page.elements if tag not in ("div", "pre", "code", "span")]
    assert shape == [tag for tag, _ in known.elements if tag not in ("div", "pre", "code", "span")]
    assert {tag for tag, _ in page.elements} <= TAGS
    for text in (asked, answered, result, name):
        for line in re.split(r"[\r\n]", text.replace("\0", "\ufffd")):
            if not re.match(r" {0,3}(```|~~~)", line):
                assert " ".join(line.split()) in " ".join(page.text.split())


async def _pages_of(asked: str, answered: str, result: str, name: str) -> tuple[str, str]:
    pages = []
    for texts in ((asked, answered, result, name), ("a", "b", "c", "d")):
        ledger = await known_to_all(MemoryLedger())
        reference = Attachment(sha256=sha256("x"), media_type="text/html", size=1, name=texts[3] or "unnamed")
        blob = NewBlob(sha256=sha256("x"), media_type="text/html", bytes=b"x")
        asks = call(texts[3], texts[2])
        handle = await begin(ledger, title=texts[3])
        said = (
            user(texts[0], reference, actor=texts[3]),
            assistant(texts[1], asks),
            tool_result(asks, texts[2]),
        )
        handle = await add(ledger, handle, *said, event(texts[0], texts[3]), blobs=(blob,))
        pages.append(await written(ledger, handle.session, ExportFormat.HTML))
    return pages[0], pages[1]


async def test_a_page_needs_nothing_else(ledger: MemoryLedger) -> None:
    """No script, no address; its policy forbids both; it fits a phone and follows the reader's light or dark."""
    reference, blob = attachment(b"\x89PNG", "a.png")
    handle = await told(ledger, user("See https://example.org/x.js", reference), blobs=(blob,))
    html = await written(ledger, handle.session, ExportFormat.HTML)
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "a", "base"} & {tag for tag, _ in page.elements}
    assert all(source.startswith("data:image/png;base64,") for source in page.attributes("src"))
    assert not page.attributes("href")
    assert "url(" not in html
    assert "@import" not in html
    assert any("default-src 'none'" in content for content in page.attributes("content"))
    assert any("width=device-width" in content for content in page.attributes("content"))
    assert "prefers-color-scheme: dark" in html
    assert html.count("example.org") == 1


async def test_images_are_in_the_page(ledger: MemoryLedger) -> None:
    """Pictures are shown; what could be more than a picture, and what is huge, is named."""
    kinds = ("image/png", "image/svg+xml", "text/html", "image/jpeg")
    files = [
        (
            Attachment(sha256=sha256(kind), media_type=kind, size=size, name=f'file {n} " onerror="x'),
            NewBlob(sha256=sha256(kind), media_type=kind, bytes=kind.encode()),
        )
        for n, (kind, size) in enumerate(zip(kinds, (9, 9, 9, IMAGE_BYTES_MAX + 1), strict=True))
    ]
    message = user("Look.", *(reference for reference, _ in files))
    handle = await told(ledger, message, blobs=tuple(blob for _, blob in files))
    page = Page(await written(ledger, handle.session, ExportFormat.HTML))
    assert page.attributes("src") == ["data:image/png;base64,aW1hZ2UvcG5n"]
    markdown = await written(ledger, handle.session, ExportFormat.MD)
    for n in range(4):
        assert f'file {n} " onerror="x (' in page.text
        assert f'*Attached:* file {n} " onerror="x (' in markdown
    assert page.attributes("alt") == ['file 0 " onerror="x (image/png, 9 bytes)']
    assert not page.attributes("onerror")


async def test_code_is_set_as_code(ledger: MemoryLedger) -> None:
    """A fence becomes a block with its language named; one that is never closed takes the rest."""
    handle = await told(ledger, user("Before\n```py\nx < 1\n```\nafter\n~~~\nthe ``` rest"))
    html = await written(ledger, handle.session, ExportFormat.HTML)
    assert '<div class="text" dir="auto">Before</div>' in html
    assert '<pre><span class="language">py</span><code>x &lt; 1</code></pre>' in html
    assert '<div class="text" dir="auto">after</div><pre><code>the ``` rest</code></pre>' in html
    handle = await add(ledger, handle, user("````\n```\n~~~~~\n````\n```not a fence``` but prose"))
    html = await written(ledger, handle.session, ExportFormat.HTML)
    assert (
        '<pre><code>```\n~~~~~</code></pre><div class="text" dir="auto">```not a fence``` but prose</div>'
        in html
    )


# -- all of them ---------------------------------------------------------------------------------------------------
FOR_PEOPLE: Final = (ExportFormat.MD, ExportFormat.HTML)


@pytest.mark.parametrize("wanted", FOR_PEOPLE)
async def test_calls_stand_beside_their_results(ledger: MemoryLedger, wanted: ExportFormat) -> None:
    """Each call is followed by what became of it; what has no answer, and what answers late, is said to."""
    first, second, third = (call(name, ident=name) for name in ("first_tool", "second_tool", "third_tool"))
    failed = NewMessage(
        role=Role.TOOL,
        text="No such file.",
        step=1,
        actor="second_tool",
        status=Status.ERROR,
        body=ToolBody(call=second.id, name="second_tool"),
    )
    handle = await told(
        ledger,
        user("Go."),
        assistant("Going.", first, second, third),
        failed,
        tool_result(call("fourth_tool", ident="unasked"), "Orphan."),
        assistant("Again.", first, second, third),
        failed,
        tool_result(first, "Found it."),
        user("Wait!", step=1),
        tool_result(third, "Late."),
    )
    text = await written(ledger, handle.session, wanted)
    order = [
        "Going.",
        "first_tool",
        "done",
        "Found it.",
        "second_tool",
        "failed",
        "No such file.",
        "third_tool",
    ]
    order += ["no result", "Wait!", "Result of third", "Late."]
    places = [text.find(words, text.find("Again.")) for words in ["Again.", *order[1:]]]
    assert -1 not in places
    assert "Orphan." in text
    assert places == sorted(places)


@pytest.mark.parametrize("wanted", FOR_PEOPLE)
async def test_everything_is_named(ledger: MemoryLedger, wanted: ExportFormat) -> None:
    """Roles, times, what was cut short, what the model thought, what an edit changed, what stands as a summary."""
    edits = call("edit_file")
    handle = await told(
        ledger,
        user("Mine."),
        user("Another's.", actor="bob"),
        NewMessage(
            role=Role.ASSISTANT,
            text="Thus",
            step=1,
            actor="some-model",
            status=Status.INTERRUPTED,
            body=AssistantBody(calls=(edits,), thinking=(Thinking(text="Perhaps."),)),
        ),
        NewMessage(
            role=Role.TOOL,
            text="Edited.",
            step=1,
            actor="edit_file",
            body=ToolBody(call=edits.id, name="edit_file", diff="-old\n+new"),
        ),
        event("It ended."),
    )
    handle = await compact(ledger, handle, 2, "Two people spoke.")
    text = await written(ledger, handle.session, wanted)
    words = (
        "User",
        "User (bob)",
        "Assistant (some-model), interrupted",
        "Perhaps.",
        "-old\n+new",
        "It ended.",
    )
    for found in (*words, "Event (process ended)", "2023-11-14 22:13 UTC", "Two people spoke.", "5 messages"):
        assert found in text


@pytest.mark.parametrize("wanted", FOR_PEOPLE)
async def test_a_long_result_loses_its_middle_and_says_so(ledger: MemoryLedger, wanted: ExportFormat) -> None:
    """Start and end stay; what people and models said is never shortened, and neither is JSON."""
    asks = call()
    long = "".join(f"line {n}\n" for n in range(5000))
    handle = await told(
        ledger, user(long), assistant("", asks), tool_result(asks, long.replace("line", "row"))
    )
    text = await written(ledger, handle.session, wanted)
    assert re.findall(r"line (\d+)", text) == [str(n) for n in range(5000)]
    assert "row 0\n" in text
    assert "row 4999\n" in text
    assert "row 2500\n" not in text
    (left_out,) = re.findall(r"… ([\d,]+) characters left out …", text)
    shown = sum(len(row) for row in re.findall(r"row \d+\n", text))
    assert abs(int(left_out.replace(",", "")) + shown - len(long) + 5000) <= 2
    assert long.replace("line", "row") in [
        message["text"] for message in (await _document(ledger, handle))["messages"]
    ]


@given(text=st.text("ab\n", max_size=30).map(lambda piece: piece * 300))
def test_elision_counts_right(text: str) -> None:
    """Start, what was left out and end are the text."""
    shown = elided(text)
    assert len(shown.start) + shown.left_out + len(shown.end) == len(text)
    assert text.startswith(shown.start)
    assert text.endswith(shown.end)
    assert bool(shown.left_out) == (len(text) > RESULT_CHARACTERS_MAX)
    assert len(shown.start) + len(shown.end) >= min(len(text), RESULT_CHARACTERS_MAX // 2)


@pytest.fixture
async def twisted(ledger: MemoryLedger) -> Handle:
    """`one` stays; after it `two` was undone, then `three` and what followed it, then all for `four`."""
    handle = await exchange(ledger, await begin(ledger), "one")
    handle = await undo(ledger, await exchange(ledger, handle, "two"))
    handle = await undo(ledger, await exchange(ledger, handle, "three", "three and a half"))
    handle = await exchange(ledger, handle, "three and three quarters")
    return await exchange(ledger, await undo(ledger, handle, 2), "four")


@pytest.mark.parametrize("wanted", FOR_PEOPLE)
async def test_what_was_undone_is_named(ledger: MemoryLedger, twisted: Handle, wanted: ExportFormat) -> None:
    """By where it turned off and how it began; the whole tree shows all of it, once."""
    text = re.sub("<[^>]*>", "", await written(ledger, twisted.session, wanted))
    assert "2 messages after message 2, 2023-11-14 22:13 UTC: “two”" in text
    assert "4 messages after message 2, 2023-11-14 22:13 UTC: “three”" in text
    assert (
        "2 messages after message 4 of undone branch 2, 2023-11-14 22:13 UTC: “three and three quarters”"
        in text
    )
    assert "re three" not in text
    whole = re.sub("<[^>]*>", "", await written(ledger, twisted.session, wanted, whole_tree=True))
    for words in ("re one", "re two", "re three and a half", "re three and three quarters", "re four"):
        assert len(re.findall(f"{words}$", whole, re.MULTILINE)) == 1
    assert "Undone branch 3, after message 4 of undone branch 2" in whole


async def test_undone_from_the_start(ledger: MemoryLedger) -> None:
    """When nothing is left, what was undone is still named."""
    handle = await undo(ledger, await exchange(ledger, await begin(ledger), "one"))
    assert "2 messages at the start" in await written(ledger, handle.session, ExportFormat.MD)
    assert "2 messages at the start" in await written(ledger, handle.session, ExportFormat.HTML)


async def _document(ledger: MemoryLedger, handle: Handle, *, whole_tree: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(
        await written(ledger, handle.session, ExportFormat.JSON, whole_tree=whole_tree)
    )
    return found


async def test_json_is_one_document(ledger: MemoryLedger, twisted: Handle) -> None:
    """The path, and what was undone, with its messages if the whole tree is asked for."""
    document = await _document(ledger, twisted)
    assert [message["text"] for message in document["messages"]] == ["one", "re one", "four", "re four"]
    assert [branch["length"] for branch in document["undone"]] == [2, 4, 2]
    assert "messages" not in document["undone"][0]
    whole = await _document(ledger, twisted, whole_tree=True)
    said = [[message["text"] for message in branch["messages"]] for branch in whole["undone"]]
    assert said[0] == ["two", "re two"]
    assert said[2] == ["three and three quarters", "re three and three quarters"]
    empty = await _document(ledger, await begin(ledger, 2))
    assert (empty["messages"], empty["undone"]) == ([], [])


async def test_json_holds_all_of_a_message(ledger: MemoryLedger) -> None:
    """Calls, results, attachments, thoughts."""
    reference, blob = attachment(b"x", "a.png")
    asks = tool_call(await begin(ledger, 2))
    body = AssistantBody(calls=(asks,), thinking=(Thinking(text="Hm."),))
    thinks = NewMessage(role=Role.ASSISTANT, text="", step=1, actor="m", body=body)
    handle = await told(
        ledger, user("u", reference), thinks, tool_result(asks, "r"), event("e"), blobs=(blob,)
    )
    asked, answered, result, happened = (await _document(ledger, handle))["messages"]
    assert asked["attachments"][0]["name"] == "a.png"
    assert answered["calls"] == [{"id": asks.id, "name": "read_file", "arguments": '{"n": 0}'}]
    assert answered["thinking"] == ["Hm."]
    assert result["call"] == asks.id
    assert happened["kind"] == "process_ended"
    assert asked["at"] == "2023-11-14T22:13:21.000Z"


@pytest.mark.parametrize("wanted", ExportFormat)
async def test_more_than_a_page(ledger: MemoryLedger, wanted: ExportFormat) -> None:
    """Long paths and long undone branches come whole and in order, from wherever pages end."""
    count = PAGE_MESSAGES + 1
    handle = await add(ledger, await begin(ledger), *(user(f"kept {n}.") for n in range(2 * PAGE_MESSAGES)))
    handle = await add(ledger, handle, *(user(f"undone {n}.") for n in range(count)))
    handle = await undo(ledger, handle, count)
    handle = await say(ledger, handle, "the last.")
    text = await written(ledger, handle.session, wanted, whole_tree=True)
    found = re.findall(r"((?:kept|undone) \d+\.|the last\.)(?!(?:</bdi>)?”)", text)
    kept, undone = [f"kept {n}." for n in range(2 * PAGE_MESSAGES)], [f"undone {n}." for n in range(count)]
    as_written = [*kept, *undone, "the last."]
    assert found == (as_written if wanted == ExportFormat.JSONL else [*kept, "the last.", *undone])


@pytest.mark.parametrize("wanted", ExportFormat)
async def test_an_export_is_the_readers(ledger: MemoryLedger, wanted: ExportFormat) -> None:
    """A foreign session is not there; a temporary one is nowhere; an empty one is no trouble."""
    handle = await run_turn(ledger, await begin(ledger, 1), "Hello.")
    with pytest.raises(NotFound):
        _ = [chunk async for chunk in export(ledger, EVE, handle.session, wanted)]
    temporary = await begin(ledger, 2, temporary=True)
    with pytest.raises(Refused):
        _ = [chunk async for chunk in export(ledger, ANN, temporary.session, wanted)]
    assert await written(ledger, (await begin(ledger, 3)).session, wanted)


@given(milliseconds=st.integers(-(10**18), 10**18))
def test_any_time_can_be_written(milliseconds: int) -> None:
    """A clock that jumped does not keep anybody from their export."""
    assert moment(milliseconds).endswith(" UTC")
    assert iso(milliseconds).endswith("Z")
