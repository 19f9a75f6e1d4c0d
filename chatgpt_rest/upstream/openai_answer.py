# SPDX-License-Identifier: GPL-2.0-or-later
"""A completion while it comes, as an answer of ChatGPT's shape: mirror, export and pages read it like any other."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final, Self

from chatgpt_rest import chatgpt_json
from chatgpt_rest.clock import SECOND, Clock
from chatgpt_rest.errors import UpstreamBroken, UpstreamError
from chatgpt_rest.model import Completeness, Node, Question, Secret
from chatgpt_rest.upstream.openai_refusals import refusal_in_stream

_FINISHES: Final = {"length": "max_tokens"}
"""What ChatGPT calls it otherwise than the API does."""
_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")
_LONGEST_TEXT: Final = 8 * 1024 * 1024  # characters: many times what any model writes at once, but for one that raves


class CompletionAnswer:
    """An implementation of `protocol.Answer`, filled by the chunks of a stream. Its ids are chosen here, and its time
    is this machine's: its home is the mirror. `key` is what it was asked with, and what upstream must not put into it.
    """

    title: str | None = None

    def __init__(self, question: Question, clock: Clock, *, key: Secret) -> None:
        self._question = question
        self._clock = clock
        self._key = key
        self._reads: AsyncIterator[Iterable[object]] | None = None
        self._tell: Callable[[UpstreamError], Awaitable[None]] | None = None
        self._own_id = str(uuid.uuid4())
        self._began_at: int | None = None
        self._pieces: list[str] = []
        self._length = 0  # of them all, in characters
        self._told = 0  # how much of that iterating has given
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
            "content": {"content_type": "text", "parts": [self._text()]},
            "status": "finished_successfully" if self.is_complete else "in_progress",
            "end_turn": True if self.is_complete else None,
            "weight": 1.0,
            "metadata": metadata,
            "recipient": "all",
        }
        completeness = Completeness.COMPLETE if self.is_complete else Completeness.PARTIAL
        return (chatgpt_json.node(message, parent=self._question.message_id, completeness=completeness),)

    def follow(
        self, reads: AsyncIterator[Iterable[object]], *, tell: Callable[[UpstreamError], Awaitable[None]]
    ) -> None:
        """Be filled by these chunks, those that came at once together; `tell` hears of errors first."""
        self._reads = reads
        self._tell = tell

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._reads is None or self._tell is None:
            raise StopAsyncIteration
        while True:
            try:
                # One step for all that came at once: each costs as much as the whole text is long.
                for chunk in await anext(self._reads):
                    self.take(chunk)
            except UpstreamError as error:
                await self._tell(error)
                raise
            if self._length > self._told:
                self._told, self.message_id = self._length, self._own_id
                return self._text()

    def take(self, chunk: object) -> None:
        """Take one chunk in. Raises UpstreamError where it is an error, or the answer grows beyond reason; what is of
        no known shape is passed over.
        """
        if not isinstance(chunk, dict):
            return
        if chunk.get("error"):
            self._has_error = True
            raise refusal_in_stream(chunk["error"])
        if isinstance(model := chunk.get("model"), str) and model and self._key.reveal() not in model:
            self._model = chatgpt_json.printable(model)
        if isinstance(usage := chunk.get("usage"), dict):
            counts = {name: usage[name] for name in _COUNTS if isinstance(usage.get(name), int)}
            self._usage = counts or self._usage
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index") in (None, 0):  # others would be further answers
                self._take_choice(choice)

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
        piece = chatgpt_json.printable(piece) or ""
        if self._length + len(piece) > _LONGEST_TEXT:
            self._has_error = True
            raise UpstreamBroken("upstream's answer is longer than any answer can be")
        if piece:
            self._pieces.append(piece)
            self._length += len(piece)

    def _text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""
