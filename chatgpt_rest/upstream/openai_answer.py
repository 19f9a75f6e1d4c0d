# SPDX-License-Identifier: GPL-2.0-or-later
"""A completion while it comes, as an answer of ChatGPT's shape: mirror, export and pages read it like any other."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Self

from chatgpt_rest import chatgpt_json
from chatgpt_rest.clock import SECOND, Clock
from chatgpt_rest.errors import UpstreamError
from chatgpt_rest.model import Completeness, Node, Question
from chatgpt_rest.upstream.openai_refusals import refusal_in_stream

_FINISHES: Final = {"length": "max_tokens"}
"""What ChatGPT calls it otherwise than the API does."""
_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


class CompletionAnswer:
    """An implementation of `protocol.Answer`, filled by the chunks of a stream. Its ids are chosen here, and its time
    is this machine's: its home is the mirror.
    """

    title: str | None = None

    def __init__(self, question: Question, clock: Clock) -> None:
        self._question = question
        self._clock = clock
        self._chunks: AsyncIterator[object] | None = None
        self._tell: Callable[[UpstreamError], Awaitable[None]] | None = None
        self._own_id = str(uuid.uuid4())
        self._began_at: int | None = None
        self._text = ""
        self._half = ""  # of a character that came in two pieces
        self._model = question.model
        self._usage: dict[str, int] | None = None
        self._has_error = False
        self.is_done = False
        """The stream has said `[DONE]`."""
        self.conversation_id: str | None = question.conversation_id or str(uuid.uuid4())
        self.message_id: str | None = None
        self.finish: str | None = None

    @property
    def has_begun(self) -> bool:
        """The assistant has begun to speak, if only with an empty text."""
        return self._began_at is not None

    @property
    def is_complete(self) -> bool:
        return self.has_begun and not self._has_error and (self.is_done or self.finish is not None)

    def nodes(self) -> tuple[Node, ...]:
        if self._began_at is None:
            return ()
        metadata: dict[str, Any] = {"model_slug": self._model}
        if self.finish is not None:
            metadata["finish_details"] = {"type": self.finish}
        if self._usage is not None:
            metadata["usage"] = self._usage
        message = {
            "id": self._own_id,
            "author": {"role": "assistant", "name": None, "metadata": {}},
            "create_time": self._began_at / SECOND,
            "update_time": None,
            "content": {"content_type": "text", "parts": [self._text]},
            "status": "finished_successfully" if self.is_complete else "in_progress",
            "end_turn": True if self.is_complete else None,
            "weight": 1.0,
            "metadata": metadata,
            "recipient": "all",
        }
        completeness = Completeness.COMPLETE if self.is_complete else Completeness.PARTIAL
        return (chatgpt_json.node(message, parent=self._question.message_id, completeness=completeness),)

    def follow(self, chunks: AsyncIterator[object], *, tell: Callable[[UpstreamError], Awaitable[None]]) -> None:
        """Be filled by these chunks; `tell` hears of errors first."""
        self._chunks = chunks
        self._tell = tell

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._chunks is None or self._tell is None:
            raise StopAsyncIteration
        while True:
            before = len(self._text)
            try:
                self.take(await anext(self._chunks))
            except UpstreamError as error:
                await self._tell(error)
                raise
            if len(self._text) > before:
                self.message_id = self._own_id
                return self._text

    def take(self, chunk: object) -> None:
        """Take one chunk in. Raises UpstreamError where it is an error; what is of no known shape is passed over."""
        if not isinstance(chunk, dict):
            return
        if chunk.get("error"):
            self._has_error = True
            raise refusal_in_stream(chunk["error"])
        if isinstance(model := chunk.get("model"), str) and model:
            self._model = chatgpt_json.printable(model)
        if isinstance(usage := chunk.get("usage"), dict):
            counts = {name: usage[name] for name in _COUNTS if isinstance(usage.get(name), int)}
            self._usage = counts or self._usage
        choices = chunk.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            self._take_choice(choices[0])

    def _take_choice(self, choice: dict[str, Any]) -> None:
        if self._began_at is None:
            self._began_at = self._clock.now()
        delta = choice.get("delta")
        if isinstance(delta, dict):
            # A model that declines says so in `refusal`, as words that take the place of the answer's.
            for piece in (delta.get("content"), delta.get("refusal")):
                if isinstance(piece, str):
                    self._append(piece)
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish:
            self.finish = _FINISHES.get(finish, finish)

    def _append(self, piece: str) -> None:
        piece = self._half + piece
        self._half = ""
        if piece and "\ud800" <= piece[-1] <= "\udbff":
            piece, self._half = piece[:-1], piece[-1]
        self._text += chatgpt_json.printable(piece) or ""
