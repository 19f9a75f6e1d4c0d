# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages and nodes in ChatGPT's "full" shape: every key the web backend sends, in its types."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

DEFAULT_MODEL = "gpt-5"


def message(
    message_id: str,
    role: str,
    content: Json,
    *,
    at: float | None,
    name: str | None = None,
    metadata: Json | None = None,
    recipient: str = "all",
    channel: str | None = None,
    status: str = "finished_successfully",
    end_turn: bool | None = None,
    weight: float = 1.0,
) -> Json:
    """One message; `at` is epoch seconds, or None as on system and context messages."""
    return {
        "id": message_id,
        "author": {"role": role, "name": name, "metadata": {}},
        "create_time": at,
        "update_time": None,
        "content": content,
        "status": status,
        "end_turn": end_turn,
        "weight": weight,
        "metadata": metadata if metadata is not None else {},
        "recipient": recipient,
        "channel": channel,
    }


def text(*parts: Any) -> Json:
    """The content of almost every message: `text`, whose parts are strings and sometimes objects."""
    return {"content_type": "text", "parts": list(parts)}


def hidden_system_message(message_id: str) -> Json:
    """The empty system message with which every conversation begins and which nobody sees."""
    metadata = {"is_visually_hidden_from_conversation": True}
    return message(message_id, "system", text(""), at=None, metadata=metadata, end_turn=True, weight=0.0)


def user_message(message_id: str, content: Json, *, at: float) -> Json:
    """A prompt, with the id its client chose."""
    metadata: Json = {
        "serialization_metadata": {"custom_symbol_offsets": []},
        "timestamp_": "absolute",
        "message_type": None,
    }
    return message(message_id, "user", content, at=at, metadata=metadata)


def assistant_message(
    message_id: str,
    answer: str,
    *,
    at: float,
    model: str,
    parent_id: str,
    cut: bool = False,
    metadata: Json | None = None,
) -> Json:
    """An answer that has ended: by itself, or `cut` by the model's limit of tokens."""
    finish: Json = {"type": "max_tokens"} if cut else {"type": "stop", "stop_tokens": [200002]}
    return message(
        message_id,
        "assistant",
        text(answer),
        at=at,
        metadata={
            "citations": [],
            "content_references": [],
            "message_type": "next",
            "model_slug": model,
            "default_model_slug": model,
            "parent_id": parent_id,
            "finish_details": finish,
            "is_complete": not cut,
            "timestamp_": "absolute",
            **(metadata or {}),
        },
        channel="final",
        status="finished_partial_completion" if cut else "finished_successfully",
        end_turn=not cut,
    )


def text_of(content: Json) -> str:
    """The string parts of a content, joined by newlines; empty where it has none."""
    parts = content.get("parts")
    return "\n".join(part for part in parts if isinstance(part, str)) if isinstance(parts, list) else ""
