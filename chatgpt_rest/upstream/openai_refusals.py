# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways in which an OpenAI API says no, and what each one means here. Pure, as `refusals.py` is for ChatGPT.

OpenAI answers `{"error": {"message", "type", "param", "code"}}`; the servers that speak its protocol answer this and
nearly this. Its 401 repeats a part of the key, so nothing of that one is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from chatgpt_rest.errors import (
    MirrorError,
    UnknownModel,
    UpstreamBroken,
    UpstreamError,
    UpstreamLimit,
    UpstreamRefusedToken,
    UpstreamRejected,
    UpstreamSlow,
)
from chatgpt_rest.upstream.refusals import parsed, wait_told, words_of

KEY_REFUSED: Final = "api_key_refused"
"""The code of an UpstreamRefusedToken that is about the configured key."""

_RATE_SECONDS: Final = 20.0  # how long a limit by the minute holds that does not say so
_QUOTA_SECONDS: Final = 300.0  # credit does not come back by itself, but who has just paid should not wait for long
_QUOTA: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_RATE: Final = frozenset({"rate_limit_exceeded", "rate_limit_error", "tokens", "requests"})
_NO_MODEL: Final = re.compile(
    r"\b(invalid|unknown) model\b|\bmodel\b.{0,200}\b(not found|does not exist|unknown)\b", re.IGNORECASE | re.DOTALL
)


def refusal(status: int, body: bytes, headers: Mapping[str, str]) -> MirrorError:
    """The error for a response that is none of the 2xx."""
    said, is_json = parsed(body)
    wait = wait_told(headers)
    if status == 401:
        return UpstreamRefusedToken("upstream refused the configured API key", code=KEY_REFUSED)
    if (limit := _limit(status, said, wait)) is not None:
        return limit
    if status == 403:
        return UpstreamBroken("upstream forbids this to the configured API key", code="upstream_forbidden", body=said)
    if _is_about_model(status, said):
        return UnknownModel("upstream has no model of that name")
    if status == 404:
        text = "upstream has no such path (404); is base_url right? It usually ends in /v1/"
        return UpstreamBroken(text, code="upstream_unknown_path", body=said)
    if status == 408:
        return UpstreamSlow("upstream gave up waiting (408)", body=said)
    if 400 <= status < 500:
        return UpstreamRejected(f"upstream finds the request wrong ({status})", body=said)
    if status < 500:
        text = f"upstream answers as if this were no OpenAI API ({status}); is base_url right?"
        return UpstreamBroken(text, code="upstream_unknown_path")
    # Nothing of the prompt is left there to be found later, whatever else went wrong: a plain no, unlike ChatGPT's.
    return UpstreamBroken(
        f"upstream failed ({status})",
        code="upstream_refused",
        body=said if is_json else None,
        retry_after_seconds=wait,
    )


def refusal_in_stream(error: object) -> UpstreamError:
    """The error for what an answer's stream says has gone wrong."""
    said = {"error": error}
    return _limit(None, said, None) or UpstreamBroken("upstream broke the answer off with an error", body=said)


def no_answer(body: bytes) -> UpstreamError:
    """The error for a success that was no stream; `body` is what stood in its place."""
    said, is_json = parsed(body)
    if is_json and isinstance(said, dict) and said.get("error"):
        return refusal_in_stream(said["error"])
    if body:
        return UpstreamBroken("upstream sent something else than a streamed answer; is base_url right?")
    return UpstreamBroken("upstream sent an empty answer", code="upstream_empty_answer")


def _limit(status: int | None, said: object, wait: float | None) -> UpstreamLimit | None:
    """Credit that is used up stops everything. A rate is counted for each model by itself."""
    names = _names(said)
    if status == 402 or names & _QUOTA:
        return UpstreamLimit(
            "upstream's credit for the configured API key is used up",
            retry_after_seconds=wait or _QUOTA_SECONDS,
            body=said,
        )
    if status == 429 or (status is None and names & _RATE):
        return UpstreamLimit(
            "upstream's own limit is reached",
            retry_after_seconds=wait or _RATE_SECONDS,
            is_of_one_model=True,
            body=said,
        )
    return None


def _is_about_model(status: int, said: object) -> bool:
    if "model_not_found" in _names(said):
        return True
    return status in {400, 404} and _NO_MODEL.search(words_of(said).text) is not None


def _names(said: object) -> set[str]:
    """What the error calls itself: its code and its type."""
    error: Any = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return set()
    return {value for value in (error.get("code"), error.get("type")) if isinstance(value, str)}
