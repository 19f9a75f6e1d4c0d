# SPDX-License-Identifier: GPL-2.0-or-later
"""revChatGPT made safe: what of it is left, and that nothing we hand it makes it stumble."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from revChatGPT.V1 import AsyncChatbot, Chatbot

from chatgpt_rest.errors import BadRequest, UpstreamError
from chatgpt_rest.upstream import chatbot as safe
from chatgpt_rest.upstream.answer import OPENING, LiveAnswer
from chatgpt_rest.upstream.session import Session
from chatgpt_rest.upstream.transport import open_client
from tests.upstream.far_end import RecordingGate, answering, caller, question, reply

USED = {
    "get_conversations",
    "get_msg_history",
    "delete_conversation",
    "clear_conversations",
    "post_messages",
    "continue_write",
}
"""Of revChatGPT's public methods, those that one request each makes safe."""

PUBLIC = sorted(
    {name for kind in (Chatbot, AsyncChatbot) for name in vars(kind) if not name.startswith("_")}
    | {"_AsyncChatbot__map_conversations"}
)


def chatbot_of(session: Any) -> safe.Chatbot:
    """A chatbot over this session."""
    return safe.Chatbot(session, base_url="http://127.0.0.1:9/backend-api/", model=None)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in USED])
def test_dangerous_methods_raise(name: str) -> None:
    """Whatever fans out, injects, publishes, blocks or logs is taken away, with whatever it is called."""
    method = getattr(chatbot_of(None), name)
    with pytest.raises(NotImplementedError):
        method()
    with pytest.raises(NotImplementedError):
        method("a", title="b")


@pytest.mark.parametrize("name", sorted(USED))
def test_what_is_used_is_asynchronous(name: str) -> None:
    """No method of the synchronous class, which blocks and logs its arguments, shows through."""
    method = getattr(safe.Chatbot, name)
    assert inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


def test_the_constructor_of_revchatgpt_never_runs() -> None:
    """It would set a cache path, and send the token away."""
    assert not hasattr(chatbot_of(None), "cache_path")


def test_the_configuration_holds_no_token() -> None:
    """What revChatGPT logs or keeps cannot hold what it was never given."""
    assert chatbot_of(None).config == {"model": None}


async def test_a_stream_needs_an_answer() -> None:
    """A session that was made for another request cannot ask."""
    async with answering(reply(b"{}")).serving() as far, open_client(far.base_url, user_agent="tests") as client:
        session = Session(client, base_url=far.base_url, caller=caller(RecordingGate()))
        with pytest.raises(TypeError):
            await session.stream("POST", far.base_url + "conversation", data="{}", timeout=1).__aenter__()
        assert far.requests == []


@pytest.mark.parametrize(
    "path",
    [
        *("share/create", "conversation/a/b", "conversation/", "", "/conversations"),
        *("gizmos/x", "gizmos/snorlax", "gizmos/snorlax/sidebar/x", "gizmos/x/sidebar", "gizmos//conversations"),
        *("gizmos/../conversations", "gizmos/%2e%2e/conversations", "gizmos/x/conversations/y", "gizmos/x/y"),
    ],
)
async def test_other_paths_do_not_leave(path: str) -> None:
    """The session knows the addresses this program has business with, and no others."""
    gate = RecordingGate()
    async with answering(reply(b"{}")).serving() as far, open_client(far.base_url, user_agent="tests") as client:
        session = Session(client, base_url=far.base_url, caller=caller(gate))
        with pytest.raises(BadRequest):
            await session.get(far.base_url + path)
        assert (far.requests, gate.taken) == ([], [])


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def members(**kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these members, right or wrong."""
    return st.fixed_dictionaries({}, optional={name: kind | ANYTHING for name, kind in kinds.items()})


MESSAGES = members(
    id=st.sampled_from(["a", "b", question().message_id]),
    author=members(role=st.sampled_from(["assistant", "user", "tool", "system"])),
    content=members(
        content_type=st.sampled_from(["text", "code", "thoughts", "multimodal_text"]),
        parts=st.lists(st.text(max_size=5)),
    ),
    metadata=members(
        finish_details=members(type=st.sampled_from(["stop", "max_tokens"])),
        model_slug=st.text(),
        parent_id=st.just("a"),
    ),
    end_turn=st.booleans(),
    recipient=st.sampled_from(["all", "browser"]),
)
EVENTS = members(message=MESSAGES, conversation_id=st.just("c"), error=st.none(), title=st.text()) | ANYTHING


class Lines:
    """A session whose stream consists of the clean lines of these events."""

    def __init__(self, answer: LiveAnswer, events: list[object]) -> None:
        self._answer = answer
        self._events = events

    @asynccontextmanager
    async def stream(self, *args: object, **kwargs: object) -> AsyncIterator[Lines]:
        yield self

    def raise_for_status(self) -> None:
        pass

    async def aiter_lines(self) -> AsyncIterator[str]:
        yield OPENING
        for event in self._events:
            message = self._answer.take(event)
            if message is not None:
                yield self._answer.line(message)


@given(st.lists(EVENTS, max_size=5))
def test_no_event_crashes_revchatgpt(events: list[object]) -> None:
    """Null, missing and mistyped members in every place: an error of ours, or an answer that can be stored."""

    async def read() -> None:
        answer = LiveAnswer(question())
        chatbot = chatbot_of(Lines(answer, events))
        async with chatbot.answering(question(), timeout_seconds=1) as texts:
            answer.follow(texts, tell=RecordingGate().refused)
            try:
                async for text in answer:
                    assert isinstance(text, str)
            except UpstreamError:
                pass
        assert answer.finish is None or answer.is_complete in {True, False}
        assert all(node.message for node in answer.nodes())

    asyncio.run(read())
