# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client of OpenAI's may ask for, and what it is told where it may not."""

from __future__ import annotations

from typing import Any, Final

import pytest

from chatgpt_rest.api.body import Fields
from chatgpt_rest.api.openai_requests import ChatRequest, chat_request
from chatgpt_rest.errors import BadRequest
from chatgpt_rest.model import Turn
from tests.chat import assistant, user


def request(**fields: object) -> ChatRequest:
    """What comes of such a body."""
    return chat_request(Fields(fields))


def test_a_request_is_its_history_and_its_prompt() -> None:
    """The last message is the prompt; what a client repeats of an answer beside its words is nothing to us."""
    told: dict[str, Any] = {
        **assistant("Hi."),
        "refusal": None,
        "tool_calls": None,
        "function_call": None,
        "annotations": [],
    }
    read = request(messages=[{"role": "developer", "content": "Be brief."}, user("Hello?"), told, user("And then?")])
    assert read == ChatRequest(
        turns=(Turn("system", "Be brief."), Turn("user", "Hello?"), Turn("assistant", "Hi.")),
        prompt="And then?",
        model=None,
        is_streamed=False,
        wants_usage=False,
    )


@pytest.mark.parametrize("content", [None, "", []])
def test_an_answer_without_words_is_a_turn(content: object) -> None:
    """It was stopped before its first word, or is an image: the history has it, as the mirror does."""
    said = {"role": "assistant", "content": content}
    assert request(messages=[user("Draw."), said, user("Another.")]).turns == (
        Turn("user", "Draw."),
        Turn("assistant", ""),
    )


def test_how_the_answer_comes_makes_no_other_request() -> None:
    """A retry that streams is one of a request that did not."""
    plain = request(messages=[user("Hello?")])
    assert request(messages=[user("Hello?")], stream=True, temperature=1).asked().digest() == plain.asked().digest()


@pytest.mark.parametrize(
    "other",
    [{"messages": [user("Hi?")]}, {"messages": [user("Hi."), user("Hello?")]}, {"model": "gpt-5"}],
    ids=["words", "a history", "a model"],
)
def test_what_is_asked_makes_another_request(other: dict[str, Any]) -> None:
    """The prompt, what comes before it, and who is asked."""
    plain = request(messages=[user("Hello?")]).asked()
    assert request(**{"messages": [user("Hello?")], **other}).asked().digest() != plain.digest()


PICTURE: Final = {"type": "image_url", "image_url": {"url": "data:,x"}}
TEXTLESS: Final = {"type": "text"}
CALL: Final = {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}

MALFORMED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no messages": ({}, "messages"),
    "messages that are text": ({"messages": "Hello?"}, "messages"),
    "an empty list": ({"messages": []}, "messages"),
    "a message that is text": ({"messages": ["Hello?"]}, "messages[0]"),
    "no role": ({"messages": [{"content": "x"}]}, "messages[0].role"),
    "an unknown role": ({"messages": [{"role": "owner", "content": "x"}]}, "messages[0].role"),
    "a role that is none": ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    "what a tool said": ({"messages": [{"role": "tool", "content": "x"}, user("?")]}, "messages[0].role"),
    "a call of a tool": ({"messages": [CALL, user("?")]}, "messages[0].tool_calls"),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "content that is a number": ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    "an image": ({"messages": [{"role": "user", "content": [PICTURE]}]}, "messages[0].content[0]"),
    "a part that is text": ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    "an unknown part": ({"messages": [{"role": "user", "content": [{"type": ["x"]}]}]}, "messages[0].content[0]"),
    "a part with no text": ({"messages": [{"role": "user", "content": [TEXTLESS]}]}, "messages[0].content[0].text"),
    "half a character": ({"messages": [user("\ud800")]}, "messages[0].content"),
    "an answer at the end": ({"messages": [user("x"), assistant("y")]}, "messages"),
    "nothing to answer": ({"messages": [user("")]}, "messages"),
    "two answers": ({"messages": [user("x")], "n": 2}, "n"),
    "an answer that is true": ({"messages": [user("x")], "n": True}, "n"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "param"), MALFORMED.values(), ids=MALFORMED)
def test_what_cannot_be_asked_is_refused(body: dict[str, Any], param: str) -> None:
    """The place is named in the text and beside it."""
    with pytest.raises(BadRequest) as refused:
        chat_request(Fields(body))
    assert refused.value.details == {"param": param}
    assert refused.value.text.startswith(f"{param} ")


def test_a_history_has_a_bound() -> None:
    """Whoever goes beyond it is told where it is."""
    longest = [user("x"), assistant("y")] * 10_000
    with pytest.raises(BadRequest, match=r"^messages must be a list of at most 20000 messages$"):
        request(messages=[*longest, user("x")])
    assert len(request(messages=[*longest[1:], user("x")]).turns) == 19_999


@pytest.mark.parametrize("field", ["stream", "model"])
def test_a_field_of_the_wrong_type_is_named(field: str) -> None:
    """As on every other route."""
    with pytest.raises(BadRequest, match=f"^{field} must be"):
        chat_request(Fields({"messages": [user("Hello?")], field: ["x"]}))
