# SPDX-License-Identifier: GPL-2.0-or-later
"""ChatGPT through revChatGPT: the implementation of `protocol.Upstream`.

revChatGPT and httpx are imported when something goes upstream for the first time, in a thread: that takes up to half a
second, which a server that only reads from its mirror never spends and one that serves others must not stand still for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from chatgpt_rest import __version__, chatgpt_json
from chatgpt_rest.chatgpt_json import is_id
from chatgpt_rest.errors import BadRequest, UpstreamBroken
from chatgpt_rest.model import Conversation, ListPage, Question
from chatgpt_rest.upstream.answer import LiveAnswer
from chatgpt_rest.upstream.protocol import Answer, Caller

if TYPE_CHECKING:
    from chatgpt_rest.upstream.chatbot import Chatbot, Chatbots


class RevChatGPT:
    """Upstream at `base_url` (it ends in `/`), asked for `model` where a question names none.

    `answer_timeout_seconds` is for an answer from its request to its last word. Raises what `protocol.Upstream` says.
    """

    def __init__(self, *, base_url: str, model: str | None = None, answer_timeout_seconds: float = 600) -> None:
        if not base_url.endswith("/"):
            raise ValueError("base_url must end in /")
        self._base_url = base_url
        self._model = model
        self._answer_timeout_seconds = answer_timeout_seconds
        self._opening = asyncio.Lock()
        self._chatbots: Chatbots | None = None

    async def list_page(self, caller: Caller, *, offset: int, limit: int, is_archived: bool = False) -> ListPage:
        chatbot = await self._chatbot(caller)
        with _understanding():
            page = await chatbot.get_conversations(offset, limit, is_archived=is_archived)
            return chatgpt_json.list_page(page, limit=limit)

    async def conversation(self, caller: Caller, conversation_id: str) -> Conversation:
        _check_id(conversation_id)
        chatbot = await self._chatbot(caller)
        with _understanding():
            tree = await chatbot.get_msg_history(conversation_id)
            return chatgpt_json.conversation(tree, conversation_id=conversation_id)

    @asynccontextmanager
    async def ask(self, caller: Caller, question: Question) -> AsyncGenerator[Answer]:
        """Raises BadRequest also where a conversation is named and no parent: to find that out is one more request."""
        if not question.is_continuation:
            _check_id(question.message_id)
        if question.conversation_id is not None or question.is_continuation:
            _check_id(question.conversation_id)
            _check_id(question.parent_id)
        answer = LiveAnswer(question)
        chatbot = await self._chatbot(caller, answer)
        async with chatbot.answering(question, timeout_seconds=self._answer_timeout_seconds) as events:
            answer.follow(events)
            yield answer

    async def edit(
        self, caller: Caller, conversation_id: str, *, title: str | None = None, is_archived: bool | None = None
    ) -> None:
        _check_id(conversation_id)
        changes: dict[str, str | bool] = {}
        if title is not None:
            changes["title"] = title
        if is_archived is not None:
            changes["is_archived"] = is_archived
        if not changes:
            raise BadRequest("there is nothing to change")
        await (await self._chatbot(caller)).edit_conversation(conversation_id, changes)

    async def delete(self, caller: Caller, conversation_id: str) -> None:
        _check_id(conversation_id)
        await (await self._chatbot(caller)).delete_conversation(conversation_id)

    async def delete_all(self, caller: Caller) -> None:
        await (await self._chatbot(caller)).clear_conversations()

    async def aclose(self) -> None:
        """Close every connection. Answers that are still coming break off."""
        if self._chatbots is not None:
            await self._chatbots.aclose()

    async def _chatbot(self, caller: Caller, answer: LiveAnswer | None = None) -> Chatbot:
        async with self._opening:
            if self._chatbots is None:
                self._chatbots = await asyncio.to_thread(self._open)
        return self._chatbots.chatbot(caller, answer)

    def _open(self) -> Chatbots:
        from chatgpt_rest.upstream.chatbot import Chatbots

        return Chatbots(base_url=self._base_url, model=self._model, user_agent=f"chatgpt_rest/{__version__}")


def _check_id(value: str | None) -> None:
    if value is None or not is_id(value):
        raise BadRequest("this is no id of a conversation or a message")


@contextmanager
def _understanding() -> Iterator[None]:
    """Turn what revChatGPT and the parser say of an answer they cannot read into UpstreamBroken."""
    try:
        yield
    except RecursionError:
        reason = "it is nested too deeply"
    except UnicodeError:
        reason = "it is not UTF-8"
    except ValueError as error:
        reason = str(error)
    else:
        return
    raise UpstreamBroken(f"upstream's answer cannot be read: {reason}")
