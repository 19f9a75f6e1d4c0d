# SPDX-License-Identifier: GPL-2.0-or-later
"""How an error is told to a client that speaks OpenAI's protocol: everything below `/v1` answers so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from chatgpt_rest import chatgpt_json
from chatgpt_rest.errors import (
    BudgetSpent,
    MirrorError,
    RequestTimeout,
    StorageFailed,
    Unavailable,
    UnknownModel,
    UpstreamLimit,
)
from chatgpt_rest.refusing import refusal

PREFIX: Final = "/v1"

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_WORTH_RETRYING: Final = frozenset({Unavailable.code, StorageFailed.code, RequestTimeout.code})
_LONGEST_WORDS: Final = 1_000  # of upstream's, in characters


@dataclass(frozen=True, slots=True)
class OpenAIRefusal:
    """What a client is told: `{"error": {message, type, param, code}}`. `code` is the one that docs/api.md lists.

    Clients send a request again by themselves after any 408, 409, 429 or 5xx, unless the headers say that this is of
    no use: it is only where nothing was asked yet and no budget spent.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    details: dict[str, object] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def members(self) -> dict[str, object]:
        """As the body of an answer, or of the event that ends a stream."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": {**told, **self.details}}

    def response(self) -> web.Response:
        return web.Response(
            status=self.status,
            body=chatgpt_json.dump(self.members()),
            content_type="application/json",
            headers={"x-should-retry": "false", **self.headers, "Cache-Control": "no-store"},
        )


FAULT: Final = OpenAIRefusal(500, "something went wrong here; the log says what", "internal")
"""Of this program: its log says more."""


def is_automatic_retry(request: web.Request) -> bool:
    """Whether a client says that it sends this again of its own accord, and nobody asked anew."""
    count = request.headers.get("X-Stainless-Retry-Count", "0")
    return count.isascii() and count.isdigit() and count.strip("0") != ""


def speaks_openai(request: web.BaseRequest) -> bool:
    """Whether a request is for OpenAI's routes: those that are there, and those that are not."""
    return request.path == PREFIX or request.path.startswith(PREFIX + "/")


async def openai_refusal(request: web.Request, error: MirrorError) -> OpenAIRefusal:
    """What the client that sent `request` is told of `error`. Statuses are those of `chatgpt_rest.refusing`, but where
    clients of OpenAI's know another one: a spent budget, a model that is not there.
    """
    told = await refusal(request, error)
    status, param = told.status, told.details.get("param")
    if isinstance(error, BudgetSpent | UpstreamLimit):
        status = 429
    elif isinstance(error, UnknownModel):
        status, param = 404, "model"
    details = {name: value for name, value in told.details.items() if name != "param"}
    return OpenAIRefusal(
        status,
        _message(error, told.said),
        told.code,
        param=param if isinstance(param, str) else None,
        details=details,
        headers={**told.headers, "x-should-retry": "true" if told.code in _WORTH_RETRYING else "false"},
    )


def _message(error: MirrorError, said: object) -> str:
    """Our text, with upstream's words after it where its JSON has some."""
    if isinstance(said, str) and error.body is None:
        return said  # which may be another than the error's own: a key is not told what a token is told
    words = _words(said)
    return f"{error.text}: {words[:_LONGEST_WORDS]}" if words else error.text


def _words(said: object) -> str:
    """The text of `"…"`, `{"detail": "…"}` or `{"detail": {"message": "…"}}`; `error` may stand for `detail`."""
    inner: Any = said
    for _ in range(3):
        if not isinstance(inner, dict):
            break
        inner = next((inner[name] for name in ("detail", "error", "message") if inner.get(name) is not None), None)
    return inner if isinstance(inner, str) else ""
