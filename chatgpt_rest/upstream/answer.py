# SPDX-License-Identifier: GPL-2.0-or-later
"""An answer while it comes: every message its stream has shown, and whether it is whole."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from chatgpt_rest import chatgpt_json
from chatgpt_rest.chatgpt_json import is_id
from chatgpt_rest.errors import UpstreamBroken, UpstreamError
from chatgpt_rest.model import Completeness, Node, Question
from chatgpt_rest.upstream import refusals
from chatgpt_rest.upstream.events import delta_encoding
from chatgpt_rest.upstream.growth import Grown, with_text

OPENING: Final = (
    'data: {"message": {"id": null, "author": {"role": "assistant"}, "content": null}, "conversation_id": null}'
)
"""A line that revChatGPT makes an empty event of: the sign that the response's headers are in."""


_BEGINS_AT: Final = "begins_at"
"""In an author as we tell it: how much of the message's text stays, and the line's words follow. The author is what
revChatGPT hands on as it is, whatever it holds.
"""


@dataclass(slots=True)
class _Said:
    """One message: as upstream last sent it whole, and the text that it has grown to since."""

    message: Mapping[str, Any]
    text: str
    told: str = ""  # what revChatGPT has been told of its text
    node: Node | None = None

    def renew(self, message: Mapping[str, Any]) -> None:
        """Upstream has sent it whole once more."""
        self.message = message
        self.text = chatgpt_json.text(message)
        self.node = None

    def grow(self, text: str) -> None:
        """It is plain text, and has this more at its end."""
        self.text += text
        self.node = None

    def as_node(self, *, parent: str | None, completeness: Completeness) -> Node:
        """What is to be kept of it, made once for all the times that it has not changed."""
        node = self.node
        if node is None or (node.parent, node.completeness) != (parent, completeness):
            if self.text != chatgpt_json.text(self.message):
                self.message = with_text(self.message, self.text)
            self.node = node = chatgpt_json.node(self.message, parent=parent, completeness=completeness)
        return node


class LiveAnswer:
    """An implementation of `protocol.Answer`, filled by the stream's events on their way into revChatGPT.

    Its texts are what comes out of revChatGPT, without what the assistant says to its tools. Where an answer consists
    of several messages, the text begins anew with each.
    """

    def __init__(self, question: Question) -> None:
        self._question = question
        self._messages: dict[str, _Said] = {}
        self._last: _Said | None = None  # of the assistant's messages
        self._newest: tuple[str, _Said] | None = None  # what the last event was of, and may grow
        self._texts: dict[str, str] = {}  # of the messages, as they have come out of revChatGPT
        self._own_id = str(uuid.uuid4())  # for an answer that upstream gives no id
        self._has_error = False
        self._told: AsyncIterator[Mapping[str, Any]] | None = None
        self._tell: Callable[[UpstreamError], Awaitable[None]] | None = None
        self._text = ""
        self.message_id: str | None = None
        """Of the message that the text which iterating gave last belongs to."""
        self.is_done = False
        """The stream has said `[DONE]`."""
        self.conversation_id: str | None = None
        self.title: str | None = None

    @property
    def finish(self) -> str | None:
        if self._last is None:
            return None
        kind = _dict(_dict(self._last.message.get("metadata")).get("finish_details")).get("type")
        return kind if isinstance(kind, str) else None

    @property
    def is_complete(self) -> bool:
        if self._last is None or self._has_error:
            return False
        last = self._last.message
        has_ended = self.finish is not None or last.get("end_turn") is True
        return self.is_done or (has_ended and _is_for_people(last))

    @property
    def is_empty(self) -> bool:
        """The assistant has not said anything yet, not even an empty text."""
        return self._last is None

    def nodes(self) -> tuple[Node, ...]:
        last = next(reversed(self._messages), None)
        question = self._question
        is_prompt_missing = question.message_id not in self._messages and not question.is_continuation
        above = question.before[-1].id if question.before else question.parent_id
        before = question.message_id if is_prompt_missing else above
        nodes: list[Node] = []
        for identifier, said in self._messages.items():
            named = _dict(said.message.get("metadata")).get("parent_id")
            parent = named if isinstance(named, str) and is_id(named) and named != identifier else before
            is_partial = identifier == last and not self.is_complete and _role(said.message) not in {"user", "system"}
            completeness = Completeness.PARTIAL if is_partial else Completeness.COMPLETE
            nodes.append(said.as_node(parent=parent, completeness=completeness))
            before = identifier
        return tuple(nodes)

    def follow(
        self, texts: AsyncIterator[Mapping[str, Any]], *, tell: Callable[[UpstreamError], Awaitable[None]]
    ) -> None:
        """Iterate over what `texts`, an answer of revChatGPT's, gives; `tell` hears of errors first."""
        self._told = texts
        self._tell = tell

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._told is None or self._tell is None:
            raise StopAsyncIteration
        while True:
            try:
                event = await anext(self._told)
            except UpstreamError as error:
                await self._tell(error)
                raise
            identifier: str = event["parent_id"]
            text: str = self._texts.get(identifier, "")[: event["author"][_BEGINS_AT]] + event["message"]
            self._texts[identifier] = text
            if _is_for_people(event) and text and (identifier, text) != (self.message_id, self._text):
                self._text = text
                self.message_id = identifier
                return text

    def take(self, event: object) -> str | None:
        """Take one event in; the id of its message where that is the assistant's, else None.

        Raises UpstreamError where the event is an error. An id or an author that is missing is filled in.
        """
        if isinstance(event, Grown):
            return self._grown(event.text)
        if isinstance(event, str) or (isinstance(event, dict) and "v" in event and "message" not in event):
            raise delta_encoding()
        self._newest = None
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

    def line(self, identifier: str) -> str:
        """What is new of the message `identifier`, which `take` named, as an event that revChatGPT reads without
        dropping or crashing on anything. Each is told once, and read back in the order in which they were told.
        """
        said = self._messages[identifier]
        begins_at = len(said.told) if said.text.startswith(said.told) else 0
        words, said.told = said.text[begins_at:], said.text
        # Put together by hand, as one is made for each event. An id holds nothing that would have to be escaped.
        return (
            f'data: {{"message": {{"id": "{identifier}", '
            f'"author": {{"role": "assistant", "{_BEGINS_AT}": {begins_at}}}, '
            f'"content": {{"parts": [{json.dumps(words)}]}}, '
            f'"recipient": {json.dumps(said.message.get("recipient", "all"))}}}, "conversation_id": null}}'
        )

    def check(self, stray: bytes) -> None:
        """Raise UpstreamBroken at the end of a stream that was no answer; `stray` is what stood in place of one."""
        if self.is_empty:
            raise refusals.no_answer(stray)
        if self.conversation_id is None:
            raise UpstreamBroken("upstream does not say in which conversation it answered")

    def _taken(self, message: Mapping[str, Any]) -> str | None:
        role = _role(message)
        identifier = message.get("id")
        if not isinstance(identifier, str) or not is_id(identifier):
            identifier = self._question.message_id if role == "user" else self._own_id
        if role is None:
            role = "user" if identifier == self._question.message_id else "assistant"
        if any(identifier == sent.id for sent in self._question.before):
            return None  # an echo: the assistant's words too were said before
        if message.get("id") != identifier or _role(message) is None:
            author = {"name": None, "metadata": {}, **_dict(message.get("author")), "role": role}
            message = {**message, "id": identifier, "author": author}
        said = self._messages.setdefault(identifier, _Said(message, ""))
        said.renew(message)
        self._newest = (identifier, said)
        if role != "assistant":
            return None
        self._last = said
        return identifier

    def _grown(self, text: str) -> str | None:
        if self._newest is None:
            return None
        identifier, said = self._newest
        said.grow(text)
        return identifier if said is self._last else None


def _role(message: Mapping[str, Any]) -> str | None:
    role = _dict(message.get("author")).get("role")
    return role if isinstance(role, str) else None


def _is_for_people(message: Mapping[str, Any]) -> bool:
    return message.get("recipient") in (None, "all")  # a tuple: upstream may send what cannot be hashed


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
