# SPDX-License-Identifier: GPL-2.0-or-later
"""What ChatGPT says no with: its statuses and bodies, word for word, and the names by which faults call them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

CDN_PAGE: Final = """<!DOCTYPE html>
<html lang="en-US"><head><title>Just a moment...</title><meta name="robots" content="noindex,nofollow"></head>
<body><h1>chatgpt.com</h1><p>Enable JavaScript and cookies to continue</p></body></html>
"""

GATEWAY_PAGE: Final = """<html>
<head><title>502 Bad Gateway</title></head>
<body><center><h1>502 Bad Gateway</h1></center></body>
</html>
"""

UNUSUAL_ACTIVITY: Final = "Our systems have detected unusual activity coming from your system. Please try again later."
HOURLY_LIMIT: Final = "Too many requests in 1 hour. Try again later."
MODEL_CAP: Final = "You've reached the current usage cap for this model. Please try again later."
ONE_AT_A_TIME: Final = (
    "Only one message at a time. Please allow any other responses to complete before sending another message, "
    "or wait one minute."
)


class Refusal(Exception):
    """An answer that is a refusal: raised by a handler, sent as it is. A `body` that is no string travels as JSON."""

    def __init__(
        self, status: int, body: Any, *, content_type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status)
        self.status = status
        self.text = body if isinstance(body, str) else json.dumps(body)
        self.content_type = content_type or ("text/plain" if isinstance(body, str) else "application/json")
        self.headers = dict(headers or {})


def _coded(status: int, code: str, message: str) -> Refusal:
    return Refusal(status, {"detail": {"code": code, "message": message}})


def bad_token() -> Refusal:
    """The 401 for a token that is missing, forged or revoked."""
    return Refusal(401, {"detail": "Could not parse your authentication token. Please try signing in again."})


def expired_token() -> Refusal:
    """The 401 for a token that was good once."""
    message = "Your authentication token has expired. Please try refreshing it."
    return _coded(401, "token_expired", message)


def conversation_not_found(conversation_id: str) -> Refusal:
    """The newer 404, for an id that nobody has."""
    return _coded(404, "conversation_not_found", f"Conversation {conversation_id} not found")


def conversation_deleted(conversation_id: str) -> Refusal:
    """The newer 404, for a conversation that was deleted."""
    return _coded(404, "conversation_deleted", f"Conversation {conversation_id} has been deleted")


def conversation_inaccessible(conversation_id: str) -> Refusal:
    """The newer 404, for another account's conversation."""
    message = f"Conversation {conversation_id} is not accessible with your current account"
    return _coded(404, "conversation_inaccessible", message)


def not_found() -> Refusal:
    """The older 404, whose detail is a bare string; requests that write still answer with it."""
    return Refusal(404, {"detail": "Conversation not found"})


def invalid(*where: str | int, why: str, kind: str = "value_error") -> Refusal:
    """A 422, whose detail is an array that says where the request is wrong."""
    return Refusal(422, {"detail": [{"loc": list(where), "msg": why, "type": kind}]})


def one_at_a_time() -> Refusal:
    """The 429 for a prompt while another one is being answered."""
    return Refusal(429, {"detail": ONE_AT_A_TIME})


def hourly_limit() -> Refusal:
    """The 429 for too many requests."""
    return Refusal(429, {"detail": HOURLY_LIMIT})


def model_cap(clears_in: int = 252) -> Refusal:
    """The 429 for too many prompts to one model; `clears_in` is in seconds."""
    detail = {"code": "model_cap_exceeded", "clears_in": clears_in, "message": MODEL_CAP}
    return Refusal(429, {"detail": detail})


NAMED: Final[Mapping[str, Refusal]] = {
    "bad_token": bad_token(),
    "token_expired": expired_token(),
    "forbidden": Refusal(403, {"detail": "forbidden"}),
    "html_403": Refusal(403, CDN_PAGE, content_type="text/html"),
    "unusual_activity": Refusal(403, {"detail": UNUSUAL_ACTIVITY}),
    "not_found": not_found(),
    "too_large": Refusal(413, {"detail": [{"loc": ["body"], "msg": "too large", "type": "value_error.size"}]}),
    "invalid": invalid("body", "messages", why="field required", kind="value_error.missing"),
    "hourly_limit": hourly_limit(),
    "one_at_a_time": one_at_a_time(),
    "model_cap": model_cap(),
    "server_error": Refusal(500, "Internal Server Error"),
    "bad_gateway": Refusal(502, GATEWAY_PAGE, content_type="text/html"),
    "unavailable": Refusal(503, "upstream connect error or disconnect/reset before headers"),
}
"""Refusals a fault can give by name: `fault("conversations", error="html_403")`."""
