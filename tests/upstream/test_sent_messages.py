# SPDX-License-Identifier: GPL-2.0-or-later
"""A prompt that brings other messages along: one request, all of them kept, and the answer is to the prompt alone."""

from __future__ import annotations

import json
from typing import Final

from chatgpt_rest.model import Completeness, Question, SentMessage
from chatgpt_rest.upstream.answer import LiveAnswer
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.revchatgpt import RevChatGPT
from chatgpt_rest.upstream.simulated import SimulatedChatGPT, answer_to
from tests.upstream.far_end import PROMPT_ID

BEFORE: Final = (
    SentMessage("5e4d0f0a-0000-4000-8000-000000000001", "system", "Be brief."),
    SentMessage("5e4d0f0a-0000-4000-8000-000000000002", "user", "Who?"),
    SentMessage("5e4d0f0a-0000-4000-8000-000000000003", "assistant", "I."),
)
QUESTION: Final = Question(PROMPT_ID, "Why?", None, None, None, before=BEFORE)


async def test_all_of_it_is_one_request(chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller) -> None:
    """With the ids and the roles it was given, in order, the prompt last."""
    async with upstream.ask(alice, QUESTION) as answer:
        texts = [text async for text in answer]
    (request,) = chatgpt.requests
    sent = json.loads(request.body)["messages"]
    assert [(each["id"], each["author"]["role"], each["content"]["parts"]) for each in sent] == [
        *((each.id, each.role, [each.text]) for each in BEFORE),
        (PROMPT_ID, "user", ["Why?"]),
    ]
    assert {each["content"]["content_type"] for each in sent} == {"text"}
    assert [each.get("metadata") for each in sent] == [{"is_user_system_message": True}, None, None, None]
    assert texts[-1] == answer_to("Why?")


async def test_all_of_it_is_kept_below_one_another(
    chatgpt: SimulatedChatGPT, upstream: RevChatGPT, alice: Caller
) -> None:
    """In a conversation that is there already, below the message that is gone on from; the last one is answered."""
    there = chatgpt.alice.add_conversation("Greeting", [("Hi", "Hello")])
    parent = there.current_node
    question = Question(PROMPT_ID, "Why?", there.id, parent, None, before=BEFORE)
    async with upstream.ask(alice, question) as answer:
        async for _ in answer:
            pass
    (prompt, end) = answer.nodes()
    assert (prompt.id, end.id, end.completeness) == (PROMPT_ID, there.current_node, Completeness.COMPLETE)
    path = [parent, *(each.id for each in BEFORE), PROMPT_ID, end.id]
    assert [each["id"] for each in there.branch()][-len(path) :] == path
    assert (prompt.parent, end.parent) == (BEFORE[-1].id, PROMPT_ID)


def test_an_echo_of_an_answer_is_no_answer() -> None:
    """What was sent as the assistant's words comes back before its own begin."""
    answer = LiveAnswer(QUESTION)
    for each in (*BEFORE, SentMessage(PROMPT_ID, "user", "Why?")):
        content = {"content_type": "text", "parts": [each.text]}
        message = {"id": each.id, "author": {"role": each.role}, "content": content, "end_turn": True}
        answer.take({"message": message, "conversation_id": "c", "error": None})
    answer.is_done = True
    assert (answer.is_empty, answer.is_complete) == (True, False)
    assert [(node.id, node.parent) for node in answer.nodes()] == [(PROMPT_ID, BEFORE[-1].id)]
