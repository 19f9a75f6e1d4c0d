# SPDX-License-Identifier: GPL-2.0-or-later
"""An answer in OpenAI's shapes: a whole completion, and one in chunks."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any, Final

from aiohttp import web

from chatgpt_rest import chatgpt_json
from chatgpt_rest.clock import SECOND
from chatgpt_rest.context import MIRROR
from chatgpt_rest.errors import MirrorError, NotFound, StorageFailed
from chatgpt_rest.live import LiveAsk, Piece
from chatgpt_rest.mirror import AccountMirror
from chatgpt_rest.refusing_openai import FAULT, OpenAIRefusal, openai_refusal
from chatgpt_rest.turns import ShownText, answer_text

DONE: Final = b"data: [DONE]\n\n"

_SEAM: Final = "\n\n"  # as `answer_text` has it between two messages
_FINISHES: Final = {"max_tokens": "length"}  # whatever else ChatGPT says, the answer came to its end

log = logging.getLogger(__name__)


async def completion(request: web.Request, message: Mapping[str, Any], *, model: str, now: int) -> dict[str, object]:
    """The answer that `message` ends, whole. `model` is for an answer that does not say whose it is; `now` in µs."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": await _content(request[MIRROR], message), "refusal": None},
        "logprobs": None,
        "finish_reason": _finish(message),
    }
    created = chatgpt_json.time_us(message.get("create_time")) or now
    whole = _envelope("chat.completion", message["id"], created=created, model=message["model"] or model)
    return {**whole, "choices": [choice], **(_usage(message) or _unknown_usage(request))}


async def chunks(
    request: web.Request, live: LiveAsk, *, model: str, now: int, wants_usage: bool
) -> AsyncGenerator[bytes]:
    """The answer as it grows, in events; together their texts are the `content` of the whole. After an error the last
    event is that error, and no `[DONE]` comes.
    """
    text = GrowingText()
    first: str | None = None

    def event(delta: dict[str, object], *, finish: str | None = None, by: str = model) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**_envelope("chat.completion.chunk", first or "", created=now, model=by), "choices": [choice]})

    async for piece in live.pieces():
        if first is None:
            first = piece.message_id
            yield event({"role": "assistant", "content": "", "refusal": None})
        if words := text.add(piece):
            yield event({"content": words})
    message = await _outcome(request, live)
    if isinstance(message, OpenAIRefusal):
        yield _event(message.members())
        return
    if first is None:  # an answer without a word, such as an image
        first = message["id"]
        yield event({"role": "assistant", "content": "", "refusal": None})
    if words := text.rest():
        yield event({"content": words})
    answered_by = message["model"] or model
    yield event({}, finish=_finish(message), by=answered_by)
    if wants_usage and (usage := _usage(message)):
        whole = _envelope("chat.completion.chunk", first, created=now, model=answered_by)
        yield _event({**whole, "choices": [], **usage})
    yield DONE


class GrowingText:
    """An answer's pieces as one text that only ever grows, as a client that cannot take anything back is told it.

    Messages are a blank line apart. Where ChatGPT rewrote what was told already, the new text goes on from as far as
    the old one had come.
    """

    def __init__(self) -> None:
        self._told_before: set[str] = set()
        self._id: str | None = None
        self._shown = ShownText()
        self._told = 0  # characters of this message
        self._skipped = 0  # characters of it that are told already, and come again
        self._seam = ""  # what stands before its first word
        self._has_told = False

    def add(self, piece: Piece) -> str:
        """What is to be told now that this has come."""
        if piece.message_id in self._told_before:
            return ""  # a message that another one followed already
        rest = ""
        if piece.message_id != self._id:
            rest = self.rest()
            if self._id is not None:
                self._told_before.add(self._id)
            self._id, self._shown, self._told, self._skipped = piece.message_id, ShownText(), 0, 0
            self._seam = _SEAM if self._has_told else ""
        elif piece.is_rewrite:
            self._shown, self._skipped = ShownText(), self._told
        return rest + self._new(self._shown.add(piece.text))

    def rest(self) -> str:
        """What was held back, now that no more of this message comes."""
        return self._new(self._shown.rest())

    def _new(self, words: str) -> str:
        new = words[self._skipped :]
        self._skipped -= len(words) - len(new)
        if not new:
            return ""
        seam, self._seam, self._has_told = self._seam, "", True
        self._told += len(new)
        return seam + new


async def _outcome(request: web.Request, live: LiveAsk) -> dict[str, Any] | OpenAIRefusal:
    """The answer, or what a client is told in its place. Of a fault of ours, be it one in telling an error, the log
    alone has more.
    """
    try:
        try:
            return await live.result()
        except MirrorError as error:
            return await openai_refusal(request, error)
    except Exception:
        log.exception("an ask failed in mid-answer")
        return FAULT


async def _content(mirror: AccountMirror, message: Mapping[str, Any]) -> str:
    """The words of the whole turn: before the message that it ends with there may be others."""
    turn = [message]
    with suppress(NotFound, StorageFailed):  # it was paid for, and is given although it cannot be written down now
        tree = await mirror.conversations.get(message["conversation_id"], even_if_deleted=True)
        shown = chatgpt_json.messages(tree, message["id"])
        if shown and shown[-1]["id"] == message["id"]:  # which is given as it came, and not as much as is written of it
            for each in reversed(shown[:-1]):
                if each["author"]["role"] in {"user", "system"}:
                    break
                turn.append(each)
    return answer_text(reversed(turn))


def _envelope(kind: str, message_id: str, *, created: int, model: str) -> dict[str, object]:
    return {"id": f"chatcmpl-{message_id}", "object": kind, "created": created // SECOND, "model": model}


def _finish(message: Mapping[str, Any]) -> str:
    return _FINISHES.get(message["finish_details"] or "", "stop")


def _usage(message: Mapping[str, Any]) -> dict[str, object]:
    """The tokens it took, where upstream told them: nobody else can count them."""
    usage = message.get("usage")
    return {"usage": usage} if isinstance(usage, dict) else {}


def _unknown_usage(request: web.Request) -> dict[str, object]:
    """Nothing, as OpenAI's own description allows. But programs over its Python package look into `usage` without
    asking whether there is one (`llm --no-stream`): they find no numbers there.
    """
    if request.headers.get("X-Stainless-Lang") != "python":
        return {}
    return {"usage": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"))}


def _event(members: Mapping[str, object]) -> bytes:
    return b"data: " + chatgpt_json.dump(members) + b"\n\n"
