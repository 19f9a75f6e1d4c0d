# SPDX-License-Identifier: GPL-2.0-or-later
"""Upstream's ways to say no, and what each one means here. Pure: a status, headers and bytes in, an error out.

The status alone does not tell: the hourly limit and "Only one message at a time" have come as 400 and as 429, an
expired token as 401 and as 403, the bot check as a page and as JSON. So codes and words are looked at first. Errors
carry upstream's own JSON as `body`; their text is ours, since upstream's may repeat what the person wrote.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

from chatgpt_rest.errors import (
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamLimit,
    UpstreamNotFound,
    UpstreamRefusedToken,
    UpstreamRefusesPrograms,
    UpstreamRejected,
    UpstreamSlow,
)

DEFAULT_LIMIT_SECONDS: Final = 3600
"""How long a limit holds that does not say so: the one that is hourly is the longest of these."""
LONGEST_LIMIT_SECONDS: Final = 7 * 24 * 3600
"""Caps of some models clear after a week. What claims to hold for longer is taken for a mistake."""

_REFUSES_PROGRAMS: Final = (
    "upstream's bot check turned this program away. Reading goes on from the mirror; to ask, set [upstream] kind = "
    '"openai" and give an API key (docs/service.md tells how), or [upstream] base_url to a compatible backend'
)
_UNUSUAL: Final = re.compile(r"unusual activity", re.IGNORECASE)
_ONE_AT_A_TIME: Final = re.compile(r"only one message at a time", re.IGNORECASE)
_MODEL_CAP: Final = re.compile(r"usage cap|cap for gpt", re.IGNORECASE)
_LIMIT: Final = re.compile(
    r"too many requests|rate[ _-]?limit|reached .{0,60}\blimit|limit (?:reached|exceeded)", re.IGNORECASE
)

# Of a 404, what says that this very conversation is no more. A path that is not served, a project that is not there and
# what nobody has seen yet are 404s, too, and prove nothing gone.
_GONE_CODES: Final = frozenset({"conversation_not_found", "conversation_deleted"})
_GONE: Final = re.compile(r"conversation not found\.?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Words:
    """What upstream said, wherever in its JSON it said it."""

    text: str
    code: str
    clears_in: float | None


def refusal(status: int, body: bytes, headers: Mapping[str, str]) -> UpstreamError:
    """The error for a response that is none of the 2xx."""
    said, is_json = parsed(body)
    words = words_of(said)
    if not is_json and not _is_page(body):
        words = Words(body[:1000].decode("utf-8", "replace"), "", None)
    retry_after = wait_told(headers)
    told = _by_words(status, words, said, retry_after)
    return told or _by_status(status, said, words, retry_after_seconds=retry_after, is_json=is_json)


def refusal_in_stream(error: object) -> UpstreamError:
    """The error for what an answer's stream says has gone wrong, in mid-stream or in place of the whole of it."""
    told = _by_words(None, words_of(error), error, None)
    return told or UpstreamBroken("upstream broke the answer off with an error of its own", body=error)


def no_answer(body: bytes) -> UpstreamError:
    """The error for a success that held no answer at all; `body` is what stood in the place of a stream."""
    said, is_json = parsed(body)
    if is_json and said is not None:
        return refusal_in_stream(said)
    if _is_page(body):
        return UpstreamBroken("upstream answered with a web page where an answer belongs")
    return UpstreamBroken("upstream sent an empty answer", code="upstream_empty_answer")


def _by_words(
    status: int | None, words: Words, said: object, retry_after_seconds: float | None
) -> UpstreamError | None:
    if status == 401 or words.code == "token_expired":
        return UpstreamRefusedToken("upstream does not accept the access token", body=said)
    if _UNUSUAL.search(words.text):
        return UpstreamRefusesPrograms(_REFUSES_PROGRAMS, body=said, details={"hint": _REFUSES_PROGRAMS})
    if _ONE_AT_A_TIME.search(words.text):
        return UpstreamBusy(
            "upstream is still writing another answer", body=said, retry_after_seconds=retry_after_seconds
        )
    clears_in = words.clears_in or retry_after_seconds or DEFAULT_LIMIT_SECONDS
    if words.code == "model_cap_exceeded" or _MODEL_CAP.search(words.text):
        return UpstreamLimit(
            "upstream's cap of this model is reached", retry_after_seconds=clears_in, is_of_one_model=True, body=said
        )
    if status == 429 or words.code in {"rate_limit_exceeded", "too_many_requests"} or _LIMIT.search(words.text):
        return UpstreamLimit("upstream's own limit is reached", retry_after_seconds=clears_in, body=said)
    return None


def _by_status(
    status: int, said: object, words: Words, *, retry_after_seconds: float | None, is_json: bool
) -> UpstreamError:
    if status == 403 and not is_json:
        return UpstreamRefusesPrograms(_REFUSES_PROGRAMS)
    if words.code == "conversation_inaccessible":
        return UpstreamNotFound("upstream does not show this conversation to this account", is_gone=False, body=said)
    if status == 403:
        return UpstreamBroken(
            "upstream forbids this; the access token may have expired", code="upstream_forbidden", body=said
        )
    if status == 404 and is_json:
        is_gone = words.code in _GONE_CODES or (not words.code and _GONE.fullmatch(words.text) is not None)
        text = "upstream has no such conversation" if is_gone else "upstream finds nothing there"
        return UpstreamNotFound(text, is_gone=is_gone, body=said)
    if status == 404:
        return UpstreamBroken("upstream has no such path (404); is base_url right?", code="upstream_unknown_path")
    if status == 408:
        return UpstreamSlow("upstream gave up waiting (408)", body=said)
    if 400 <= status < 500:
        return UpstreamRejected(f"upstream finds the request wrong ({status})", body=said)
    if status < 500:
        text = f"upstream answers as if this were not its API ({status}); is base_url right?"
        return UpstreamBroken(text, code="upstream_unknown_path")
    return UpstreamBroken(f"upstream failed ({status})", body=said, retry_after_seconds=retry_after_seconds)


def parsed(body: bytes) -> tuple[object, bool]:
    """The JSON in `body`, and whether it is any."""
    try:
        return json.loads(body.decode("utf-8")), True
    except (ValueError, RecursionError):
        return None, False


def _is_page(body: bytes) -> bool:
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def words_of(said: object) -> Words:
    """The words of `{"detail": "…"}`, `{"detail": {code, message, clears_in}}`, `{"error": …}` or a bare string.

    Arrays are not read: a 422 repeats what was sent, and a prompt about rate limits is no rate limit.
    """
    detail: Any = said
    if isinstance(said, dict):
        detail = next((said[name] for name in ("detail", "error") if said.get(name) is not None), said)
    if isinstance(detail, str):
        return Words(detail, "", None)
    if not isinstance(detail, dict):
        return Words("", "", None)
    text, code, clears_in = detail.get("message"), detail.get("code"), detail.get("clears_in")
    return Words(
        text if isinstance(text, str) else "",
        code if isinstance(code, str) else "",
        _sane_seconds(clears_in) if isinstance(clears_in, int | float) and not isinstance(clears_in, bool) else None,
    )


def wait_told(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds. One given as a date is held against the response's own `Date`: clocks differ."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return _sane_seconds(float(value))
    except ValueError:
        pass
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):
        return None
    return _sane_seconds(wait / timedelta(seconds=1))


def _sane_seconds(value: float) -> float | None:
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return min(seconds, LONGEST_LIMIT_SECONDS) if math.isfinite(seconds) and seconds > 0 else None
