# SPDX-License-Identifier: GPL-2.0-or-later
"""OpenAI's API, or any server that speaks it, through the official `openai` package: the implementation of
`protocol.Upstream` that keeps no conversations.

Each request goes with the API key that its caller brings, and the history that its question brings.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from chatgpt_rest import __version__, chatgpt_json
from chatgpt_rest.clock import Clock
from chatgpt_rest.errors import UnknownModel, UpstreamError, UpstreamRejected
from chatgpt_rest.model import Model, Question, Turn
from chatgpt_rest.upstream.openai_answer import CompletionAnswer
from chatgpt_rest.upstream.protocol import Answer, Caller

if TYPE_CHECKING:
    from chatgpt_rest.upstream.openai_client import OpenAIClient

_ANY_MODEL: Final = "auto"
"""What ChatGPT calls the model of its own choosing. An API wants to be told one."""


class OpenAIUpstream:
    """The API at `base_url` (it ends in `/`). `answer_timeout_seconds` is for an answer from its request to its last
    word. Raises what `protocol.Upstream` says.
    """

    keeps_conversations = False

    def __init__(self, *, base_url: str, clock: Clock, answer_timeout_seconds: float = 600) -> None:
        self._base_url = base_url
        self._clock = clock
        self._answer_timeout_seconds = answer_timeout_seconds
        self._opening = asyncio.Lock()
        self._client: OpenAIClient | None = None
        self._tells_usage = True  # until a server does not know the option that asks for it

    @asynccontextmanager
    async def ask(self, caller: Caller, question: Question) -> AsyncGenerator[Answer]:
        """Raises UnknownModel where the question names no model, UpstreamRejected for a continuation: the API has no
        way to go on with a message that was cut.
        """
        if question.is_continuation:
            raise UpstreamRejected("an OpenAI API cannot go on with an answer that was cut")
        if question.model in {None, _ANY_MODEL}:
            raise UnknownModel(
                "this upstream chooses no model by itself: name one in the request, or as [upstream] model"
            )
        tell = partial(_tell, caller, question.model)
        answer = CompletionAnswer(question, self._clock, key=caller.token)
        client = await self._opened()
        async with AsyncExitStack() as stack:
            try:
                reads = await self._completing(stack, client, caller, question, answer)
            except UpstreamError as error:
                await tell(error)
                raise
            answer.follow(reads, tell=tell)
            yield answer

    async def models(self, caller: Caller) -> tuple[Model, ...]:
        """The models in upstream's order. A server may tell a model's `name` and the size of its window besides."""
        client = await self._opened()
        try:
            items = await client.models(caller)
        except UpstreamError as error:
            await _tell(caller, None, error)
            raise
        return tuple(model for item in items if (model := _model(item)) is not None)

    async def aclose(self) -> None:
        """Close every connection. Answers that are still coming break off."""
        if self._client is not None:
            await self._client.aclose()

    async def _completing(
        self,
        stack: AsyncExitStack,
        client: OpenAIClient,
        caller: Caller,
        question: Question,
        answer: CompletionAnswer,
    ) -> AsyncIterator[Iterable[object]]:
        """The chunks of the answer, open until `stack` ends. One request; two where upstream refuses the option that
        asks it to count tokens, once in the life of this process: nothing was asked then.
        """
        body: dict[str, Any] = {"model": question.model, "messages": _messages(question)}
        timeout_seconds = self._answer_timeout_seconds
        if self._tells_usage:
            counting = {**body, "stream_options": {"include_usage": True}}
            try:
                return await stack.enter_async_context(
                    client.completing(caller, answer, counting, timeout_seconds=timeout_seconds)
                )
            except UpstreamRejected as error:
                if "stream_options" not in json.dumps(error.body):
                    raise
                self._tells_usage = False
        return await stack.enter_async_context(client.completing(caller, answer, body, timeout_seconds=timeout_seconds))

    async def _opened(self) -> OpenAIClient:
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._open)
        return self._client

    def _open(self) -> OpenAIClient:
        from chatgpt_rest.upstream.openai_client import OpenAIClient

        return OpenAIClient(base_url=self._base_url, user_agent=f"chatgpt_rest/{__version__}")

    def _keeps_none(self, *args: object, **kwargs: object) -> NoReturn:
        """Stands in for what only an upstream can do that keeps conversations."""
        raise NotImplementedError("an OpenAI API keeps no conversations: this must not be asked of it")

    list_page = _keeps_none
    list_projects = _keeps_none
    list_project = _keeps_none
    conversation = _keeps_none
    edit = _keeps_none
    delete = _keeps_none
    delete_all = _keeps_none


async def _tell(caller: Caller, model: str | None, error: UpstreamError) -> None:
    """Let the gate know what upstream said, without the key where it repeated that."""
    if caller.token.reveal() in repr(error.body):
        error.body = None
    await caller.gate.refused(error, model=model)


def _messages(question: Question) -> list[dict[str, str | None]]:
    """The whole branch and the prompt. An answer of which nothing came says nothing, and some servers refuse it."""
    before = (Turn(each.role, each.text) for each in question.before)
    turns = [turn for turn in (*question.history, *before) if turn.text or turn.role == "user"]
    # JSON could not be sent with half a character in it, which an imported message may have.
    return [
        {"role": turn.role, "content": chatgpt_json.printable(turn.text)}
        for turn in (*turns, Turn("user", question.prompt))
    ]


def _model(item: object) -> Model | None:
    told: dict[str, Any] = item if isinstance(item, dict) else {}
    identifier, title = told.get("id"), told.get("name")
    if not isinstance(identifier, str) or not identifier:
        return None
    windows = (told.get(name) for name in ("context_length", "max_model_len"))
    return Model(
        id=identifier,
        title=title if isinstance(title, str) else None,
        max_tokens=next((window for window in windows if type(window) is int), None),
    )
