# SPDX-License-Identifier: GPL-2.0-or-later
"""An answer while it comes: every message its stream has shown, and whether it is whole."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, Self

from chatgpt_rest import chatgpt_json
from chatgpt_rest.chatgpt_json import is_id
from chatgpt_rest.errors import UpstreamBroken, UpstreamError
from chatgpt_rest.model import Completeness, Node, Question
from chatgpt_rest.upstream import refusals
from chatgpt_rest.upstream.events import delta_encoding

OPENING: Final = (
    'data: {"message": {"id": null, "author": {"role": "assistant"}, "content": null}, "conversation_id": null}'
)
"""A line that revChatGPT makes an empty event of: the sign that the response's headers are in."""


class LiveAnswer:
    """An implementation of `protocol.Answer`, filled by the stream's events on their way into revChatGPT.

    Its texts are what comes out of revChatGPT, without what the assistant says to its tools. Where an answer consists
    of several messages, the text begins anew with each.
    """

    def __init__(self, question: Question) -> None:
        self._question = question
        self._messages: dict[str, Mapping[str, Any]] = {}
        self._last: Mapping[str, Any] | None = None  # of the assistant's messages
        self._own_id = str(uuid.uuid4())  # for an answer that upstream gives no id
        self._has_error = False
        self._texts: AsyncIterator[Mapping[str, Any]] | None = None
        self._tell: Callable[[UpstreamError], Awaitable[None]] | None = None
        self._text = ""
        self.is_done = False
        """The stream has said `[DONE]`."""
        self.conversation_id: str | None = None
        self.title: str | None = None

    @property
    def finish(self) -> str | None:
        kind = _dict(_dict(_dict(self._last).get("metadata")).get("finish_details")).get("type")
        return kind if isinstance(kind, str) else None

    @property
    def is_complete(self) -> bool:
        if self._last is None or self._has_error:
            return False
        has_ended = self.finish is not None or self._last.get("end_turn") is True
        return self.is_done or (has_ended and _is_for_people(self._last))

    @property
    def is_empty(self) -> bool:
        """The assistant has not said anything yet, not even an empty text."""
        return self._last is None

    def nodes(self) -> tuple[Node, ...]:
        last = next(reversed(self._messages), None)
        question = self._question
        is_prompt_missing = question.message_id not in self._messages and not question.is_continuation
        before = question.message_id if is_prompt_missing else question.parent_id
        nodes: list[Node] = []
        for identifier, message in self._messages.items():
            named = _dict(message.get("metadata")).get("parent_id")
            parent = named if isinstance(named, str) and is_id(named) and named != identifier else before
            is_partial = identifier == last and not self.is_complete and _role(message) not in {"user", "system"}
            completeness = Completeness.PARTIAL if is_partial else Completeness.COMPLETE
            nodes.append(chatgpt_json.node(message, parent=parent, completeness=completeness))
            before = identifier
        return tuple(nodes)

    def follow(
        self, texts: AsyncIterator[Mapping[str, Any]], *, tell: Callable[[UpstreamError], Awaitable[None]]
    ) -> None:
        """Iterate over what `texts`, an answer of revChatGPT's, gives; `tell` hears of errors first."""
        self._texts = texts
        self._tell = tell

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._texts is None or self._tell is None:
            raise StopAsyncIteration
        while True:
            try:
                event = await anext(self._texts)
            except UpstreamError as error:
                await self._tell(error)
                raise
            text: str = event["message"]
            if _is_for_people(event) and text not in {"", self._text}:
                self._text = text
                return text

    def take(self, event: object) -> Mapping[str, Any] | None:
        """Take one event in; what came of it where it is the assistant's, else None.

        Raises UpstreamError where the event is an error. An id or an author that is missing is filled in.
        """
        if isinstance(event, str) or (isinstance(event, dict) and "v" in event and "message" not in event):
            raise delta_encoding()
        if not isinstance(event, dict):
            return None
        named = event.get("conversation_id")
        if isinstance(named, str) and is_id(named):
            self.conversation_id = named
        elif self.conversation_id is None:
            self.conversation_id = self._question.conversation_id
        message = event.get("message")
        taken = self._taken(message) if isinstance(message, dict) else None
        error = event.get("error") or (None if message else event.get("detail"))
        if error:
            self._has_error = True
            raise refusals.refusal_in_stream(error)
        title = event.get("title")
        if not message and isinstance(title, str) and title.strip():
            self.title = title
        return taken

    def line(self, message: Mapping[str, Any]) -> str:
        """`message` as an event that revChatGPT reads without dropping or crashing on anything."""
        metadata = _dict(message.get("metadata"))
        event = {
            "message": {
                "id": message["id"],
                "author": message["author"],
                "content": {"content_type": "text", "parts": [chatgpt_json.text(message)]},
                "metadata": {
                    "model_slug": metadata.get("model_slug"),
                    "finish_details": {"type": self.finish},
                    "citations": metadata.get("citations") or [],
                },
                "end_turn": message.get("end_turn", True),
                "recipient": message.get("recipient", "all"),
            },
            "conversation_id": self.conversation_id,
        }
        return "data: " + json.dumps(event)

    def check(self, stray: bytes) -> None:
        """Raise UpstreamBroken at the end of a stream that was no answer; `stray` is what stood in place of one."""
        if self.is_empty:
            raise refusals.no_answer(stray)
        if self.conversation_id is None:
            raise UpstreamBroken("upstream does not say in which conversation it answered")

    def _taken(self, message: Mapping[str, Any]) -> Mapping[str, Any] | None:
        role = _role(message)
        identifier = message.get("id")
        if not isinstance(identifier, str) or not is_id(identifier):
            identifier = self._question.message_id if role == "user" else self._own_id
        if role is None:
            role = "user" if identifier == self._question.message_id else "assistant"
        if message.get("id") != identifier or _role(message) is None:
            author = {"name": None, "metadata": {}, **_dict(message.get("author")), "role": role}
            message = {**message, "id": identifier, "author": author}
        self._messages[identifier] = message
        if role != "assistant":
            return None
        self._last = message
        return message


def _role(message: Mapping[str, Any]) -> str | None:
    role = _dict(message.get("author")).get("role")
    return role if isinstance(role, str) else None


def _is_for_people(message: Mapping[str, Any]) -> bool:
    return message.get("recipient") in (None, "all")  # a tuple: upstream may send what cannot be hashed


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
