# SPDX-License-Identifier: GPL-2.0-or-later
"""What an answer knows of itself while its events come in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from chatgpt_rest.errors import UpstreamBroken, UpstreamLimit, UpstreamRefusesPrograms
from chatgpt_rest.model import Completeness, Question
from chatgpt_rest.upstream.answer import LiveAnswer
from tests.upstream.far_end import PROMPT_ID, RecordingGate, question

CONVERSATION = "c0ffee00-0000-4000-8000-000000000001"
COMPLETE, PARTIAL = Completeness.COMPLETE, Completeness.PARTIAL


def said(identifier: str, text: str = "words", *, role: str = "assistant", **members: Any) -> dict[str, Any]:
    """An event that holds one message."""
    message = {
        "id": identifier,
        "author": {"role": role},
        "content": {"content_type": "text", "parts": [text]},
        "metadata": {},
        **members,
    }
    return {"message": message, "conversation_id": CONVERSATION, "error": None}


def answer_of(*events: object, asked: Question | None = None) -> LiveAnswer:
    """The answer to a prompt in a new conversation, unless another question was `asked`, after these events."""
    answer = LiveAnswer(asked or question())
    for event in events:
        answer.take(event)
    return answer


def shown(answer: LiveAnswer) -> list[tuple[str, str | None, Completeness]]:
    """The answer's nodes, in short."""
    return [(node.id, node.parent, node.completeness) for node in answer.nodes()]


FINISHED = {"finish_details": {"type": "stop"}}


@pytest.mark.parametrize(
    ("event", "is_done", "expected"),
    [
        (said("a"), False, False),
        (said("a"), True, True),
        (said("a", metadata=FINISHED), False, True),
        (said("a", end_turn=True), False, True),
        (said("a", end_turn=None), False, False),
        (said("a", end_turn=False), False, False),
        (said("a", metadata={"finish_details": None}), False, False),
        (said("a", metadata=FINISHED, recipient="browser"), False, False),
        (said(PROMPT_ID, role="user", end_turn=True), True, False),
        (said("a", role="tool", end_turn=True), True, False),
    ],
)
def test_when_an_answer_is_complete(event: object, is_done: bool, expected: bool) -> None:
    """With an event of the assistant's, and `[DONE]`, a finish or an end of turn."""
    answer = answer_of(event)
    answer.is_done = is_done
    assert answer.is_complete is expected


def test_error_event_after_partial_text_is_not_complete() -> None:
    """An error makes an answer incomplete whatever came before; what came stays."""
    answer = answer_of(said("a", end_turn=True))
    with pytest.raises(UpstreamBroken):
        answer.take({"message": None, "error": "Something went wrong"})
    answer.is_done = True
    assert not answer.is_complete
    assert shown(answer) == [("a", PROMPT_ID, PARTIAL)]


def test_an_error_beside_a_message_keeps_the_message() -> None:
    """One event may hold the last words and the error."""
    answer = LiveAnswer(question())
    with pytest.raises(UpstreamLimit):
        answer.take({**said("a"), "error": "Too many requests in 1 hour. Try again later."})
    assert [node.id for node in answer.nodes()] == ["a"]


def test_a_detail_in_an_event_is_an_error() -> None:
    """A refusal may come as an event of the stream."""
    with pytest.raises(UpstreamRefusesPrograms):
        answer_of({"detail": "Our systems have detected unusual activity"})


@pytest.mark.parametrize("error", [None, "", False])
def test_no_error_is_no_error(error: object) -> None:
    """What stands for "none" is not raised."""
    assert not answer_of({**said("a"), "error": error}).is_empty


@pytest.mark.parametrize("event", ["v1", {"v": "more", "p": "", "o": "append"}, {"v": {"message": {}}, "c": 0}])
def test_delta_frames_are_named(event: object) -> None:
    """Also where no `event:` line announces the encoding."""
    with pytest.raises(UpstreamBroken, match="delta encoding"):
        answer_of(event)


@pytest.mark.parametrize("event", [None, 7, [], {}, {"message": "x"}, {"message": None}, {"type": "moderation"}])
def test_other_events_are_passed_over(event: object) -> None:
    """What is no message changes nothing."""
    answer = answer_of(event)
    assert answer.is_empty
    assert answer.nodes() == ()


def test_a_title_in_mid_stream_is_kept() -> None:
    """A title event names the new conversation."""
    assert (
        answer_of({"type": "title_generation", "title": "Greeting", "conversation_id": CONVERSATION}).title
        == "Greeting"
    )


def test_each_event_repeats_its_message() -> None:
    """Of many versions of one message there is one node, the last version."""
    (node,) = answer_of(said("a", "Hel"), said("a", "Hello")).nodes()
    assert node.message is not None
    assert json.loads(node.message)["content"]["parts"] == ["Hello"]


def test_without_an_echo_the_prompt_is_the_parent() -> None:
    """The first message hangs on the prompt where upstream did not repeat that."""
    assert shown(answer_of(said("a", end_turn=True))) == [("a", PROMPT_ID, COMPLETE)]


def test_an_echo_hangs_on_what_was_asked_after() -> None:
    """The prompt's own parent is the question's, and the answer's is the prompt."""
    asked = question(conversation_id=CONVERSATION, parent_id="before")
    answer = answer_of(said(PROMPT_ID, role="user"), said("a"), asked=asked)
    assert shown(answer) == [(PROMPT_ID, "before", COMPLETE), ("a", PROMPT_ID, PARTIAL)]


def test_messages_follow_one_another() -> None:
    """System, prompt, tool call, result, answer: a chain, of which only the last may be partial."""
    answer = answer_of(
        said("s", role="system"), said(PROMPT_ID, role="user"), said("t"), said("r", role="tool"), said("a")
    )
    assert shown(answer) == [
        ("s", None, COMPLETE),
        (PROMPT_ID, "s", COMPLETE),
        ("t", PROMPT_ID, COMPLETE),
        ("r", "t", COMPLETE),
        ("a", "r", PARTIAL),
    ]


@pytest.mark.parametrize(
    ("parent_id", "expected"), [("x", "x"), ("a", PROMPT_ID), ("../x", PROMPT_ID), (7, PROMPT_ID), (None, PROMPT_ID)]
)
def test_a_named_parent_counts_where_it_can_be_one(parent_id: object, expected: str) -> None:
    """`metadata.parent_id` is believed unless it is no id, or the message's own."""
    assert shown(answer_of(said("a", metadata={"parent_id": parent_id})))[0][1] == expected


def test_a_continuation_hangs_on_what_it_continues() -> None:
    """There is no prompt between an answer and its continuation."""
    asked = Question("", "", CONVERSATION, "cut", None, is_continuation=True)
    assert shown(answer_of(said("a", end_turn=True), asked=asked)) == [("a", "cut", COMPLETE)]


def test_an_echo_alone_is_not_partial() -> None:
    """Upstream has the prompt whole, even where no answer came."""
    assert shown(answer_of(said(PROMPT_ID, role="user"))) == [(PROMPT_ID, None, COMPLETE)]


def _without(event: dict[str, Any], *names: str) -> dict[str, Any]:
    message = {name: value for name, value in event["message"].items() if name not in names}
    return {"message": message} | {name: event[name] for name in ("conversation_id", "error") if name not in names}


def test_missing_ids_are_filled_in() -> None:
    """All events without ids are one message, in the conversation that was asked in."""
    asked = question(conversation_id=CONVERSATION, parent_id="before")
    answer = answer_of(
        _without(said("a", "Hel"), "id", "conversation_id"),
        _without(said("a", "Hello"), "id", "conversation_id"),
        asked=asked,
    )
    assert len(answer.nodes()) == 1
    assert answer.conversation_id == CONVERSATION


def test_null_author_is_the_assistant_or_the_prompt() -> None:
    """A message of nobody's is the prompt where it has its id, else the assistant's."""
    answer = answer_of(said(PROMPT_ID, author=None), said("a", author=None))
    messages = [json.loads(node.message or b"null") for node in answer.nodes()]
    assert [message["author"]["role"] for message in messages] == ["user", "assistant"]


def test_a_users_message_without_an_id_is_the_prompt() -> None:
    """An echo that lost its id is recognised by its role."""
    assert shown(answer_of(_without(said("x", role="user"), "id"))) == [(PROMPT_ID, None, COMPLETE)]


@pytest.mark.parametrize("conversation_id", ["../conversations", 7, "", None])
def test_an_id_that_is_none_is_not_taken_over(conversation_id: object) -> None:
    """What upstream calls an id goes into paths later: it has to look like one."""
    answer = answer_of({**said("a"), "conversation_id": conversation_id})
    assert answer.conversation_id is None
    with pytest.raises(UpstreamBroken, match="which conversation"):
        answer.check(b"")


async def test_the_text_leaves_out_what_is_said_to_tools_and_what_repeats() -> None:
    """A reader is told each text once, and nothing that is not meant for people."""
    texts: list[Mapping[str, Any]] = [
        {"message": text, "recipient": recipient, "parent_id": "a", "author": {"begins_at": 0}}
        for text, recipient in [("", "all"), ('search("x")', "browser"), ("A", "all"), ("A", None), ("AB", None)]
    ]

    async def events() -> Any:
        for text in texts:
            yield text

    answer = LiveAnswer(question())
    answer.follow(events(), tell=RecordingGate().refused)
    assert [text async for text in answer] == ["A", "AB"]


async def test_an_answer_that_was_never_begun_has_no_text() -> None:
    """Iterating over one that nothing is connected to ends at once."""
    assert [text async for text in LiveAnswer(question())] == []
