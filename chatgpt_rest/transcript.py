# SPDX-License-Identifier: GPL-2.0-or-later
"""What an answer's streams have shown so far: the first one's, and those of its continuations."""

from __future__ import annotations

from typing import Any

from chatgpt_rest import chatgpt_json
from chatgpt_rest.errors import UpstreamBroken
from chatgpt_rest.model import Conversation, Node
from chatgpt_rest.upstream.protocol import Answer


class Transcript:
    """What has come of an answer so far, over all its continuations."""

    def __init__(self) -> None:
        self.conversation_id: str | None = None
        self.title: str | None = None
        self.finish: str | None = None
        self.is_complete = False
        self._before: tuple[Node, ...] = ()
        self._now: tuple[Node, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self._before + self._now

    @property
    def has_grown(self) -> bool:
        """Whether anything came since the continuation began."""
        return bool(self._now)

    def take(self, answer: Answer) -> None:
        self._now = answer.nodes()
        self.conversation_id = answer.conversation_id or self.conversation_id
        self.title = answer.title or self.title
        self.finish = answer.finish
        self.is_complete = answer.is_complete

    def answer(self) -> dict[str, Any]:
        """The answer as a message object, from what came alone."""
        end = chatgpt_json.answer_end(self.nodes)
        if end is None or self.conversation_id is None:
            raise UpstreamBroken("upstream sent an empty answer", code="upstream_empty_answer")
        nodes = {node.id: node for node in self.nodes}
        alone = Conversation(self.conversation_id, None, None, None, end.id, nodes)
        return chatgpt_json.answer(alone, end.id)

    def begin_continuation(self) -> None:
        self._before, self._now = self.nodes, ()

    def end_continuation(self) -> None:
        self.finish, self.is_complete = "max_tokens", True
