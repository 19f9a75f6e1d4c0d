# SPDX-License-Identifier: GPL-2.0-or-later
"""The stream of an answer, frame by frame: legacy events with the whole text so far, and everything wrong with them."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any, Final

from .answers import growth
from .faults import Fault
from .messages import Json

DONE: Final = b"data: [DONE]\n\n"
IMAGE_PART: Final = {
    "content_type": "image_asset_pointer",
    "asset_pointer": "file-service://file-Q2r7Y4dWb1VxJq0mKzT9cLpE",
    "size_bytes": 48213,
    "width": 1024,
    "height": 1024,
    "metadata": None,
}


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a stream tells: the messages of one answer, as they are stored."""

    conversation_id: str
    title: str | None
    final: Json
    echoes: list[Json] = field(default_factory=list)
    """What was sent, the prompt last; none when an answer is continued or made again."""
    between: list[Json] = field(default_factory=list)
    """What the model said to its tools and they to it before it answered."""

    def events(self) -> list[Json]:
        """The growing answer. The last event holds the stored message itself."""
        texts = growth(self.final["content"]["parts"][0])
        return [self._event(self._unfinished(text)) for text in texts[:-1]] + [self._event(self.final)]

    def prelude(self) -> list[Json]:
        """What comes before the answer: the echo of what was sent and the messages of tools."""
        return [self._event(message) for message in self.echoes + self.between]

    def _event(self, message: Json) -> Json:
        return {"message": message, "conversation_id": self.conversation_id, "error": None}

    def _unfinished(self, text: str) -> Json:
        message = copy.deepcopy(self.final)
        message["content"]["parts"] = [text]
        message["status"] = "in_progress"
        message["end_turn"] = None
        del message["metadata"]["finish_details"]
        del message["metadata"]["is_complete"]
        return message


@dataclass(slots=True)
class Frames:
    """A stream ready to be written; `first` is the index of the first frame of the answer itself."""

    frames: list[bytes]
    first: int


def frames(answer: Answer, fault: Fault) -> Frames:
    """The stream of an answer as bytes, one frame an event, with the fault's kind of wrong."""
    prelude, events = answer.prelude(), answer.events()
    name = fault.stream
    if name in {"empty", "done_only", "error_event_only", "only_user_event"}:
        kept = prelude[: len(answer.echoes)] if name == "only_user_event" else []
        kept += [_error_event(answer, fault)] if name == "error_event_only" else []
        return Frames([_frame(event) for event in kept] + ([DONE] if name != "empty" else []), len(kept))
    if name == "delta_encoding":
        return Frames([*_delta_frames(answer), DONE], 1)
    if name in {"null_metadata", "null_author", "null_finish_details", "missing_ids", "non_string_parts"}:
        events = [_spoilt(event, name) for event in events]
    if name in {"error_event", "internal_server_error_line", "no_done"}:
        events = events[: fault.after_events]
    if name == "title_event":
        prelude, events = [*prelude, _title_event(answer)], [*events, _moderation_event(answer)]
    written = [_frame(event, form=name) for event in prelude + events]
    if name == "huge_line":
        written.insert(len(prelude), b'data: {"message": "' + b"x" * fault.size_bytes + b'"}\n\n')
    if name == "error_event":
        written.append(_frame(_error_event(answer, fault)))
    if name == "internal_server_error_line":
        written.append(b"Internal Server Error\n")
    if name not in {"internal_server_error_line", "no_done"}:
        written.append(DONE)
    return Frames(written, len(prelude))


def trailing_frame(answer: Answer) -> bytes:
    """What keeps coming when a stream does not end with [DONE]."""
    return b": still here\n\n" + _frame(_moderation_event(answer))


def _frame(event: Json, *, form: str | None = None) -> bytes:
    if form == "no_space":
        return f"data:{json.dumps(event)}\n\n".encode()
    if form == "raw_separators":
        return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode("utf-8", "surrogatepass")
    if form == "multi_line_data":
        lines = json.dumps(event, indent=1).split("\n")
        return ("".join(f"data: {line}\n" for line in lines) + "\n").encode()
    return f"data: {json.dumps(event)}\n\n".encode()


def _spoilt(event: Json, name: str) -> Json:
    event = copy.deepcopy(event)
    message = event["message"]
    if name == "null_metadata":
        message["metadata"] = None
    elif name == "null_author":
        message["author"] = None
    elif name == "null_finish_details":
        message["metadata"]["finish_details"] = None
    elif name == "non_string_parts":
        message["content"]["parts"].insert(0, IMAGE_PART)
    else:
        del message["id"], event["conversation_id"]
    return event


def _error_event(answer: Answer, fault: Fault) -> Json:
    return {"message": None, "conversation_id": answer.conversation_id, "error": fault.error_text}


def _title_event(answer: Answer) -> Json:
    title = answer.title or "New chat"
    return {"type": "title_generation", "title": title, "conversation_id": answer.conversation_id}


def _moderation_event(answer: Answer) -> Json:
    return {
        "conversation_id": answer.conversation_id,
        "message_id": answer.final["id"],
        "is_completion": True,
        "moderation_response": {"flagged": False, "blocked": False, "moderation_id": "modr-8XGvTn2kPqLw"},
    }


def _delta_frames(answer: Answer) -> list[bytes]:
    """The encoding of the 2026 web client: a first frame that names it, an empty message, then patches."""
    texts = growth(answer.final["content"]["parts"][0])
    empty: Any = copy.deepcopy(answer.events()[0])
    empty["message"]["content"]["parts"] = [""]
    opening = {"p": "", "o": "add", "v": empty, "c": 0}
    named = b'event: delta_encoding\ndata: "v1"\n\n'
    patches: list[Json] = []
    for before, after in zip(["", *texts], texts, strict=False):
        patches.append({"p": "/message/content/parts/0", "o": "append", "v": after[len(before) :]})
    finish = {"p": "/message/status", "o": "replace", "v": answer.final["status"]}
    patches.append({"p": "", "o": "patch", "v": [finish, {"p": "/message/end_turn", "o": "replace", "v": True}]})
    return [named, *(b"event: delta\n" + _frame(patch) for patch in [opening, *patches])]
