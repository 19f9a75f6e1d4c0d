# SPDX-License-Identifier: GPL-2.0-or-later
"""ChatGPT through revChatGPT: the implementation of `protocol.Upstream`.

revChatGPT and httpx are imported when something goes upstream for the first time, in a thread: that takes up to half a
second, which a server that only reads from its mirror never spends and one that serves others must not stand still for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from chatgpt_rest import __version__, chatgpt_json, chatgpt_lists
from chatgpt_rest.chatgpt_json import is_id
from chatgpt_rest.errors import BadRequest, UpstreamBroken, UpstreamError
from chatgpt_rest.model import Conversation, ListPage, Model, ProjectPage, Question
from chatgpt_rest.upstream.answer import LiveAnswer
from chatgpt_rest.upstream.protocol import Answer, Caller

if TYPE_CHECKING:
    from chatgpt_rest.upstream.chatbot import Chatbot, Chatbots


class RevChatGPT:
    """Upstream at `base_url` (it ends in `/`), asked for `model` where a question names none.

    `answer_timeout_seconds` is for an answer from its request to its last word. Raises what `protocol.Upstream` says.
    """

    keeps_conversations = True

    def __init__(self, *, base_url: str, model: str | None = None, answer_timeout_seconds: float = 600) -> None:
        if not base_url.endswith("/"):
            raise ValueError("base_url must end in /")
        self._base_url = base_url
        self._model = model
        self._answer_timeout_seconds = answer_timeout_seconds
        self._opening = asyncio.Lock()
        self._chatbots: Chatbots | None = None

    async def list_page(self, caller: Caller, *, offset: int, limit: int, is_archived: bool = False) -> ListPage:
        async with self._chatbot(caller) as chatbot:
            page = await chatbot.get_conversations(offset, limit, is_archived=is_archived)
            return chatgpt_lists.list_page(page, offset=offset, limit=limit, is_archived=is_archived)

    async def list_projects(self, caller: Caller, *, cursor: str | None = None) -> ProjectPage:
        begin = cursor or ""
        async with self._chatbot(caller) as chatbot:
            return chatgpt_lists.project_page(await chatbot.get_projects(begin), cursor=begin)

    async def list_project(self, caller: Caller, project_id: str, *, cursor: str | None = None) -> ListPage:
        _check_id(project_id)
        begin = cursor or "0"
        async with self._chatbot(caller) as chatbot:
            page = await chatbot.get_project(project_id, begin)
            return chatgpt_lists.project_list(page, project_id=project_id, cursor=begin)

    async def conversation(self, caller: Caller, conversation_id: str) -> Conversation:
        _check_id(conversation_id)
        async with self._chatbot(caller) as chatbot:
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
        tell = partial(_tell, caller, question.model or self._model)
        answer = LiveAnswer(question)
        chatbot = (await self._opened()).chatbot(caller, answer)
        async with AsyncExitStack() as stack:
            async with _told(tell):
                answering = chatbot.answering(question, timeout_seconds=self._answer_timeout_seconds)
                events = await stack.enter_async_context(answering)
            answer.follow(events, tell=tell)
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
        async with self._chatbot(caller) as chatbot:
            await chatbot.edit_conversation(conversation_id, changes)

    async def delete(self, caller: Caller, conversation_id: str) -> None:
        _check_id(conversation_id)
        async with self._chatbot(caller) as chatbot:
            await chatbot.delete_conversation(conversation_id)

    async def delete_all(self, caller: Caller) -> None:
        async with self._chatbot(caller) as chatbot:
            await chatbot.clear_conversations()

    async def models(self, caller: Caller) -> tuple[Model, ...]:
        async with self._chatbot(caller) as chatbot:
            return chatgpt_lists.models(await chatbot.get_models())

    async def aclose(self) -> None:
        """Close every connection. Answers that are still coming break off."""
        if self._chatbots is not None:
            await self._chatbots.aclose()

    @asynccontextmanager
    async def _chatbot(self, caller: Caller) -> AsyncGenerator[Chatbot]:
        """A chatbot for one request that is no ask. What it or a parser cannot read leaves the context as
        UpstreamBroken, and the gate hears of each UpstreamError.
        """
        chatbots = await self._opened()
        async with _told(partial(_tell, caller, None)):
            with _understanding():
                yield chatbots.chatbot(caller)

    async def _opened(self) -> Chatbots:
        async with self._opening:
            if self._chatbots is None:
                self._chatbots = await asyncio.to_thread(self._open)
        return self._chatbots

    def _open(self) -> Chatbots:
        from chatgpt_rest.upstream.chatbot import Chatbots

        return Chatbots(base_url=self._base_url, model=self._model, user_agent=f"chatgpt_rest/{__version__}")


def _check_id(value: str | None) -> None:
    if value is None or not is_id(value):
        raise BadRequest("this is no id of a conversation, a message or a project")


async def _tell(caller: Caller, model: str | None, error: UpstreamError) -> None:
    """Let the gate know what upstream said, without the token where it repeated that."""
    if caller.token.reveal() in repr(error.body):
        error.body = None
    await caller.gate.refused(error, model=model)


@asynccontextmanager
async def _told(tell: Callable[[UpstreamError], Awaitable[None]]) -> AsyncGenerator[None]:
    try:
        yield
    except UpstreamError as error:
        await tell(error)
        raise


@contextmanager
def _understanding() -> Iterator[None]:
    """Turn what revChatGPT and the parser say of an answer they cannot read into UpstreamBroken."""
    try:
        yield
    except RecursionError:
        reason = "it is nested too deeply"
    except json.JSONDecodeError:
        reason = "it is no JSON; a web page, perhaps"
    except ValueError as error:
        reason = str(error)
    else:
        return
    raise UpstreamBroken(f"upstream's answer cannot be read: {reason}")
