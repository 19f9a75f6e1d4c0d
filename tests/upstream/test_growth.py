# SPDX-License-Identifier: GPL-2.0-or-later
"""Events that repeat the one before with more text: what is known by their bytes is what decoding them tells."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatgpt_rest.errors import UpstreamError
from chatgpt_rest.upstream.answer import LiveAnswer
from chatgpt_rest.upstream.events import EventReader
from chatgpt_rest.upstream.growth import Grown
from tests.upstream.far_end import PROMPT_ID, RecordingGate, question

CONVERSATION = "c0ffee00-0000-4000-8000-000000000001"


def event(text: str, *, identifier: str = "a", **members: Any) -> dict[str, Any]:
    """One event of an answer."""
    return {
        "message": {
            "id": identifier,
            "author": {"role": "assistant", "metadata": {"parts": ["x"]}},
            "content": {"content_type": "text", "parts": [text]},
            "metadata": {"parts": [text], "model_slug": "gpt-5"},
            "end_turn": None,
            **members,
        },
        "conversation_id": CONVERSATION,
        "error": None,
    }


def plain(text: str, **members: Any) -> dict[str, Any]:
    """The same, with its text in one place alone, as upstream sends it."""
    return event(text, metadata={"model_slug": "gpt-5"}, author={"role": "assistant"}, **members)


def frame(sent: object, *, is_ascii: bool = True) -> bytes:
    """An event as upstream writes it."""
    return b"data: " + json.dumps(sent, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass") + b"\n\n"


def read(*chunks: bytes) -> list[object]:
    """What a reader makes of a stream in these chunks."""
    reader = EventReader()
    return [each for chunk in chunks for each in reader.feed(chunk)]


def growths(*chunks: bytes) -> list[str]:
    """The texts that were told apart from their events."""
    return [each.text for each in read(*chunks) if isinstance(each, Grown)]


def test_of_an_event_that_goes_on_only_what_is_new_is_decoded() -> None:
    """Two events in a row show where the text is; from there on each is known by its bytes."""
    texts = ["It", "It holds", 'It holds "', 'It holds "on"\n', 'It holds "on"\n\u00e9\U0001f600']
    for is_ascii in (True, False):
        assert growths(*(frame(plain(text), is_ascii=is_ascii) for text in texts)) == [
            ' "',
            'on"\n',
            "\u00e9\U0001f600",
        ]


def test_events_that_came_together_are_one() -> None:
    """Of several in a chunk there is one growth, by all that is new."""
    assert growths(b"".join(frame(plain("word " * count)) for count in range(1, 50))) == ["word " * 47]


@pytest.mark.parametrize(
    "between",
    [
        frame({"type": "title_generation", "title": "T"}),
        frame(plain("other", identifier="b")),
        frame(plain("It hol", status="finished")),
        frame(plain("It rose")),
        b'data: {"message":\ndata: null}\n\n',
    ],
    ids=["no_message", "another_message", "another_member", "rewritten", "many_lines"],
)
def test_what_is_not_the_event_before_is_decoded(between: bytes) -> None:
    """After anything else the next event is read as a whole, however much it looks like an earlier one."""
    before = [frame(plain(text)) for text in ("It", "It hol", "It holds")]
    assert growths(*before, between, frame(plain("It holds on"))) == ["ds"]


@pytest.mark.parametrize("text", ["\ud83d", "holds \ud83d"])
def test_half_a_character_is_not_taken_for_a_whole_one(text: str) -> None:
    """A pair of surrogates that is cut between two events is one character in the second."""
    whole = text[:-1] + "\U0001f600"
    sent = [frame(plain(each)) for each in ("", "h" if text[0] == "h" else "", text, whole)]
    assert read(*sent)[-1] == plain(whole)


@pytest.mark.parametrize(
    "content",
    [
        {"content_type": "code", "text": "TEXT"},
        {"content_type": "text", "parts": ["TEXT", "more"]},
        {"content_type": "multimodal_text", "parts": ["TEXT"]},
        {"content_type": "text", "parts": [{"text": "TEXT"}]},
        {"content_type": "text", "parts": "TEXT"},
    ],
)
def test_other_content_is_decoded(content: dict[str, Any]) -> None:
    """Only plain text in one piece is told apart from its event."""
    sent = [json.dumps(plain("", content=content)).replace("TEXT", "word " * count).encode() for count in range(5)]
    assert growths(*(b"data: " + each + b"\n\n" for each in sent)) == []


def test_the_text_is_not_taken_for_one_that_looks_like_it() -> None:
    """Other members of the same form, in front of the text and behind it, grow or stay without harm."""
    sent = [event("word " * count) for count in range(1, 6)]
    assert read(*map(frame, sent)) == sent


def test_growth_of_something_else_is_not_the_texts() -> None:
    """What looks like the text and grows is found out: a mark put at its end is not found in the text."""
    sent = [event("word"), event("word"), event("word", author={"role": "assistant", "metadata": {"parts": ["xy"]}})]
    assert read(*map(frame, sent))[-1] == sent[-1]


def test_a_line_that_lacks_the_end_of_its_text_is_no_event() -> None:
    """One quote cannot both begin and end an empty text."""
    whole = frame(plain(""))
    assert growths(whole, whole, whole.replace(b'[""]', b'["]')) == []


def test_bytes_that_are_no_utf8_are_joined_with_nothing() -> None:
    """A character that was cut in its bytes is whole in the next event, not two replacements."""
    start, end = frame(plain("TEXT")).split(b"TEXT")
    sent = [start + text + end for text in (b"a", b"ab", b"abc\xe2\x82", b"abc\xe2\x82\xac", b"abc\xe2\x82\xacd")]
    assert read(*sent)[-2:] == [plain("abc\u20ac"), Grown("d")]


# ------------------------------------------------------------------------------------------------- generated streams


@dataclass(frozen=True)
class Stream:
    """A stream, as the frames that it consists of."""

    frames: list[bytes]

    @property
    def sent(self) -> bytes:
        return b"".join(self.frames)


WORDS = st.text(
    st.sampled_from('yz \\"/\n\r\t{}[]:,')
    | st.characters(codec="utf-8")
    | st.sampled_from("\ud83d\ude00\ud800\u2028\x00"),
    max_size=6,
)
OTHERS = st.sampled_from(
    [
        {"type": "moderation", "conversation_id": CONVERSATION},
        {"title": "A title", "conversation_id": CONVERSATION},
        {"message": None, "error": "Something went wrong"},
        plain("echo", identifier=PROMPT_ID, role="user"),
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Answers of one or two messages that grow, are rewritten, change their metadata, and are interrupted."""
    frames: list[bytes] = []
    text, identifier, members = "", "a", dict[str, Any]()
    is_ascii = draw(st.booleans())
    form = draw(
        st.sampled_from(
            [(b"data: ", b"\n\n"), (b"data:", b"\n"), (b"data: ", b"\r\n\r\n"), (b"\xef\xbb\xbfdata: ", b"\n\n")]
        )
    )
    for _ in range(draw(st.integers(1, 12))):
        what = draw(st.sampled_from(["more"] * 8 + ["half", "rewrite", "member", "message", "other", "escape"]))
        sent: object = None
        match what:
            case "more" | "escape":
                text += draw(WORDS)
            case "half":
                text += draw(st.sampled_from(["\ud83d", "\ude00", "\ud83d\ude00"]))
            case "rewrite":
                text = draw(WORDS)
            case "member":
                members = {
                    "status": draw(st.sampled_from(["in_progress", "finished"])),
                    "end_turn": draw(st.booleans()),
                }
            case "message":
                identifier, text = draw(st.sampled_from("ab")), ""
            case _:
                sent = draw(OTHERS)
        written = json.dumps(sent or plain(text, identifier=identifier, **members), ensure_ascii=is_ascii)
        if what == "escape":
            written = written.replace("/", "\\/").replace("z", "\\u007a")
        data = written.encode("utf-8", "surrogatepass")
        frames.append(form[0] + data + form[1])
    return Stream(frames)


def known(answer: LiveAnswer) -> tuple[object, ...]:
    """All that an answer knows of itself."""
    nodes = [(node.id, node.parent, node.completeness, node.message) for node in answer.nodes()]
    return nodes, answer.title, answer.conversation_id, answer.finish, answer.is_complete, answer.is_empty


def take(answer: LiveAnswer, events: Iterable[object]) -> tuple[list[str], bool]:
    """The messages that grew, and whether an error came."""
    grown: dict[str, None] = {}
    try:
        for each in events:
            identifier = answer.take(each)
            if identifier is not None:
                grown[identifier] = None
    except UpstreamError:
        return list(grown), True
    return list(grown), False


@settings(max_examples=300)
@given(streams(), st.data())
def test_growth_tells_what_decoding_tells(stream: Stream, data: st.DataObject) -> None:
    """At every cut of a stream an answer knows what it would know had each event been decoded by itself."""
    sent = stream.sent
    cuts = sorted({*data.draw(st.lists(st.integers(0, len(sent)), max_size=8)), len(sent)})
    ends = [0]
    for each in stream.frames:
        ends.append(ends[-1] + len(each))
    reader, quick = EventReader(), LiveAnswer(question())
    for start, end in pairwise([0, *cuts]):
        _, has_failed = take(quick, reader.feed(sent[start:end]))
        slow = LiveAnswer(question())
        whole = [each for stop, each in zip(ends[1:], stream.frames, strict=True) if stop <= end]
        # A line ends at its first newline, an event of one line with it.
        rest = sent[ends[len(whole)] : end]
        events = [value for each in [*whole, rest] for value in EventReader().feed(each)]
        _, was_failing = take(slow, events)
        assert (known(quick), has_failed) == (known(slow), was_failing)
        if has_failed:
            return


async def as_read(answer: LiveAnswer, lines: list[str]) -> list[tuple[str | None, str]]:
    """The messages and their texts that come of these lines, handed on as revChatGPT does."""

    async def events() -> AsyncIterator[Mapping[str, Any]]:
        for line in lines:
            message = json.loads(line.removeprefix("data: "))["message"]
            yield {
                "message": message["content"]["parts"][0],
                "author": message["author"],
                "parent_id": message["id"],
                "recipient": message["recipient"],
            }

    answer.follow(events(), tell=RecordingGate().refused)
    return [(answer.message_id, text) async for text in answer]


@settings(max_examples=200)
@given(streams(), st.data())
async def test_lines_of_what_is_new_give_the_whole_text(stream: Stream, data: st.DataObject) -> None:
    """Each text that comes out is the text so far of the message that grew, as its node has it."""
    sent = stream.sent
    cuts = sorted({*data.draw(st.lists(st.integers(0, len(sent)), max_size=8)), len(sent)})
    reader, answer = EventReader(), LiveAnswer(question())
    lines: list[str] = []
    expected: list[tuple[str, str]] = []
    for start, end in pairwise([0, *cuts]):
        grown, has_failed = take(answer, reader.feed(sent[start:end]))
        texts = {node.id: json.loads(node.message or b"null")["content"]["parts"][0] for node in answer.nodes()}
        lines += map(answer.line, grown)
        expected += [(identifier, texts[identifier]) for identifier in grown if texts[identifier]]
        if has_failed:
            break
    assert await as_read(answer, lines) == [each for each, _ in groupby(expected)]
