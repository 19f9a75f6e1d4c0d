# SPDX-License-Identifier: GPL-2.0-or-later
"""revChatGPT's AsyncChatbot, made safe. Importing this module imports revChatGPT (0.2 to 0.5 s): only when needed.

Its constructor must never run: it sends the token to a third party, makes folders below HOME and logs the token. So
the attributes its methods read are set here, and those methods that fan out, inject, publish or block are taken away.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, NoReturn
from urllib.parse import quote

from revChatGPT.V1 import AsyncChatbot

from chatgpt_rest.model import Question, SentMessage
from chatgpt_rest.upstream.answer import LiveAnswer
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.session import Session
from chatgpt_rest.upstream.transport import open_client

_CHATTY: Final = ("revChatGPT", "httpx", "httpcore")


class Chatbots:
    """Makes a chatbot for each request (a few µs), all of them over one client. `aclose` closes that."""

    def __init__(self, *, base_url: str, model: str | None, user_agent: str) -> None:
        for name in _CHATTY:
            # Below WARNING they write arguments, addresses with ids, and headers.
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = open_client(base_url, user_agent=user_agent)
        self._base_url = base_url
        self._model = model

    def chatbot(self, caller: Caller, answer: LiveAnswer | None = None) -> Chatbot:
        session = Session(self._client, base_url=self._base_url, caller=caller, answer=answer)
        return Chatbot(session, base_url=self._base_url, model=self._model)

    async def aclose(self) -> None:
        await self._client.aclose()


class Chatbot(AsyncChatbot):  # type: ignore[misc]  # revChatGPT ships no types
    """One caller's chatbot, for one request."""

    def __init__(self, session: Session, *, base_url: str, model: str | None) -> None:
        self.session = session
        self.base_url = base_url
        self.config = {"model": model}
        self.conversation_id = None
        self.parent_id = None
        self.conversation_mapping: dict[str, str] = {}
        self.lazy_loading = True
        self.disable_history = False
        self.conversation_id_prev_queue: list[str | None] = []
        self.parent_id_prev_queue: list[str | None] = []
        self._running: AsyncGenerator[dict[str, Any]] | None = None

    @asynccontextmanager
    async def answering(
        self, question: Question, *, timeout_seconds: float
    ) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
        """revChatGPT's events for the answer to `question`; the response's headers are in as the context is entered.

        One HTTP request. Never its `auto_continue`, which loses the newlines at the seam.
        """
        if question.is_continuation:
            events = self.continue_write(
                question.conversation_id, question.parent_id, question.model, timeout=timeout_seconds
            )
        else:
            events = self.post_messages(
                messages=[
                    *map(_sent, question.before),
                    _sent(SentMessage(question.message_id, "user", question.prompt)),
                ],
                conversation_id=question.conversation_id,
                parent_id=question.parent_id
                if question.conversation_id
                else None,  # else it makes one up, as it must be
                model=question.model,
                timeout=timeout_seconds,
            )
        async with aclosing(events):
            try:
                await anext(events)
                yield events
            finally:
                # The outer generator does not close the one it iterates over, which holds the response.
                if self._running is not None:
                    await self._running.aclose()

    async def get_conversations(self, offset: int, limit: int, *, is_archived: bool = False) -> Any:
        """A page of the list as upstream sent it, newest update first. revChatGPT's own drops all but the items."""
        archived = "&is_archived=true" if is_archived else ""
        return await self._read(f"conversations?offset={offset}&limit={limit}&order=updated{archived}")

    async def get_projects(self, cursor: str) -> Any:
        """A page of the account's projects as upstream sent it; `""` begins. revChatGPT knows none of them."""
        wanted = "owned_only=true&conversations_per_gizmo=0&limit=20"
        return await self._read(f"gizmos/snorlax/sidebar?{wanted}&cursor={quote(cursor, safe='')}")

    async def get_project(self, project_id: str, cursor: str) -> Any:
        """A page of a project's conversations as upstream sent it, newest update first; `0` begins."""
        return await self._read(f"gizmos/{project_id}/conversations?cursor={quote(cursor, safe='')}&limit=50")

    async def get_models(self) -> Any:
        """The models that the account may ask, as upstream sent them. revChatGPT knows none but one."""
        return await self._read("models")

    async def edit_conversation(self, conversation_id: str, changes: dict[str, str | bool]) -> None:
        """Set a title or archive, in one request. In `change_title` a quote in a title breaks out of the JSON."""
        await self.session.patch(f"{self.base_url}conversation/{conversation_id}", data=json.dumps(changes))

    async def _read(self, path: str) -> Any:
        return json.loads((await self.session.get(self.base_url + path)).text)

    def _AsyncChatbot__send_request(self, *args: Any, **kwargs: Any) -> AsyncGenerator[dict[str, Any]]:  # noqa: N802  # its private name
        self._running = super()._AsyncChatbot__send_request(*args, **kwargs)
        return self._running

    def _refused(self, *args: object, **kwargs: object) -> NoReturn:
        """Stands in for a method that must not run."""
        raise NotImplementedError("this method of revChatGPT is not safe to use")

    _AsyncChatbot__map_conversations = _refused  # fans out to 21 requests
    ask = _refused  # lets nobody choose the message's id
    change_title = _refused  # a quote in the title becomes JSON, such as "is_visible": false
    gen_title = _refused  # pays for a title that it throws away
    share_conversation = _refused  # makes a conversation public
    login = _refused  # asks a third party
    set_access_token = _refused  # logs the token, and caches it on disk
    get_plugins = _refused  # these three are the synchronous class's, and block the loop
    install_plugin = _refused
    get_unverified_plugin = _refused
    reset_chat = _refused  # these two write their arguments to the log, and a chatbot here lives for one request
    rollback_conversation = _refused


def _sent(message: SentMessage) -> dict[str, Any]:
    sent = {
        "id": message.id,
        "author": {"role": message.role},
        "content": {"content_type": "text", "parts": [message.text]},
    }
    # As ChatGPT marks those system messages that are a person's and not its own.
    return {**sent, "metadata": {"is_user_system_message": True}} if message.role == "system" else sent
