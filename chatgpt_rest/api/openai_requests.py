# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client of OpenAI's asks for: the history that it brings along, and the prompt at its end.

What this server has no use for (`temperature`, `max_tokens`, `tools` …) is ignored, as other compatible servers do.
What belongs to a message (an image, a call of a tool) and cannot be sent is refused: the answer would be to something
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from chatgpt_rest.api.body import Fields
from chatgpt_rest.ask import AskRequest
from chatgpt_rest.errors import BadRequest
from chatgpt_rest.model import Turn

_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_KNOWN_PARTS: Final = frozenset({"image_url", "input_audio", "file", "refusal"})
_CALLS: Final = ("tool_calls", "function_call")
_MOST_MESSAGES: Final = 20_000  # twice the longest conversation; each costs a place in the index to look up


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A completion that is asked for. `turns` is all that was said before the prompt."""

    turns: tuple[Turn, ...]
    prompt: str
    model: str | None
    is_streamed: bool
    wants_usage: bool
    """In the stream, where upstream tells it."""

    def asked(self) -> AskRequest:
        """What is to be asked; equal for requests that ask the same, however the answer is to come."""
        return AskRequest(prompt=self.prompt, model=self.model, history=self.turns)


def chat_request(fields: Fields) -> ChatRequest:
    """The request in a body's fields. Raises BadRequest, which names the field and never repeats its value."""
    n = fields.raw("n")
    if n is not None and (isinstance(n, bool) or n != 1):
        raise _refused("n", "must be 1: there is one answer to a prompt")
    said = fields.raw("messages")
    if not isinstance(said, list) or not said:
        raise _refused("messages", "must be a list of at least one message")
    if len(said) > _MOST_MESSAGES:
        raise _refused("messages", f"must be a list of at most {_MOST_MESSAGES} messages")
    turns = [_turn(message, f"messages[{at}]") for at, message in enumerate(said)]
    *before, last = turns
    if last.role != "user":
        raise _refused("messages", "must end with the user's message")
    if not last.text:
        raise _refused("messages", "must end with a message that says something")
    options = fields.raw("stream_options")
    return ChatRequest(
        turns=tuple(before),
        prompt=last.text,
        model=fields.name("model"),
        is_streamed=fields.boolean("stream") or False,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _turn(message: object, where: str) -> Turn:
    if not isinstance(message, dict):
        raise _refused(where, "must be an object")
    role = message.get("role")
    if role in ("tool", "function"):
        raise _refused(f"{where}.role", "is a tool's: tools cannot be used here")
    if not isinstance(role, str) or role not in _ROLES:
        raise _refused(f"{where}.role", "must be system, developer, user or assistant")
    for name in _CALLS:
        if message.get(name):
            raise _refused(f"{where}.{name}", "is a call of a tool: tools cannot be used here")
    return Turn(_ROLES[role], _text(message, where))


def _text(message: Mapping[str, Any], where: str) -> str:
    content, where = message.get("content"), f"{where}.content"
    if content is None and message.get("role") == "assistant":
        return ""  # an answer that was stopped before its first word, or an image
    if isinstance(content, str):
        return _writable(content, where)
    if not isinstance(content, list):
        raise _refused(where, "must be a string or a list of text parts")
    # Each part is a paragraph of its own to those who send several: a document, and the question about it.
    return "\n".join(_part(part, f"{where}[{at}]") for at, part in enumerate(content))


def _part(part: object, where: str) -> str:
    if not isinstance(part, dict):
        raise _refused(where, "must be an object")
    kind, text = part.get("type"), part.get("text")
    if kind != "text":
        named = f"is of the type {kind}" if isinstance(kind, str) and kind in _KNOWN_PARTS else "is no text part"
        raise _refused(where, f"{named}: only text can be sent here")
    if not isinstance(text, str):
        raise _refused(f"{where}.text", "must be a string")
    return _writable(text, f"{where}.text")


def _writable(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refused(where, "holds half a character (a lone surrogate)") from None
    return text


def _refused(where: str, why: str) -> BadRequest:
    return BadRequest(f"{where} {why}", details={"param": where})
