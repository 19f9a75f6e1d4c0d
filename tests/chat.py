# SPDX-License-Identifier: GPL-2.0-or-later
"""`/v1/chat/completions` as a client of OpenAI's uses it, and what upstream saw of that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT
from tests.house import Answered, Client

PATH: Final = "/v1/chat/completions"


def user(text: str) -> dict[str, str]:
    """A prompt."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    """An answer, as a client remembers it."""
    return {"role": "assistant", "content": text}


async def complete(
    client: Client, *messages: Mapping[str, object], headers: Mapping[str, str] | None = None, **options: Any
) -> Answered:
    """A completion of these messages, whole."""
    return await client.post(PATH, json={"messages": messages, **options}, headers=headers or {})


def content(answer: Answered) -> str:
    """The words of a completion."""
    assert answer.status == 200, answer.body
    words: str = answer.json["choices"][0]["message"]["content"]
    return words


def chunks(answer: Answered) -> list[Any]:
    """The JSON of a stream's events; `[DONE]` as text, and no comments."""
    events = [event for event in answer.body.decode().split("\n\n") if event.startswith("data: ")]
    return [event if event == "[DONE]" else json.loads(event) for event in (each[6:] for each in events)]


async def stream(
    client: Client, *messages: Mapping[str, object], headers: Mapping[str, str] | None = None, **options: Any
) -> list[Any]:
    """The same as chunks, read to their end."""
    answer = await complete(client, *messages, stream=True, headers=headers, **options)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    return chunks(answer)


def text_of(events: list[Any]) -> str:
    """What a client puts together of the deltas."""
    choices = [choice for event in events if event != "[DONE]" for choice in event.get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def asks(chatgpt: SimulatedChatGPT) -> list[Any]:
    """What upstream was asked, request by request."""
    return [
        json.loads(each.body)
        for each in chatgpt.requests
        if each.method == "POST" and each.path.endswith("/conversation")
    ]


def sent(asked: Any) -> list[tuple[str, str]]:
    """The messages of one request upstream."""
    return [(each["author"]["role"], each["content"]["parts"][0]) for each in asked["messages"]]


def branch(conversation: SimConversation) -> list[tuple[str, str]]:
    """What was said in the current branch upstream."""
    said = [(each["author"]["role"], each["content"]["parts"][0]) for each in conversation.branch()]
    return [each for each in said if each[1]]
