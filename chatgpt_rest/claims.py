# SPDX-License-Identifier: GPL-2.0-or-later
"""What an access token says of itself. It is a JWT in ChatGPT's case; nothing of it is verified here, or believed."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from chatgpt_rest.clock import DAY, SECOND
from chatgpt_rest.model import Secret

EXPIRES_SOON: Final = 7 * DAY
"""From when on the owner is told that a token ends."""

_LATEST_EXPIRY: Final = 1e11  # seconds: what lies beyond is no date


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says of itself. Believed only once upstream has accepted the token."""

    user_id: str | None = None
    email: str | None = None
    expires_at: int | None = None
    is_unsigned: bool = False


def looks_like_token(text: str) -> bool:
    """Whether this is shaped like a JWT: in any place but the Authorization header somebody's mistake."""
    return text.startswith("eyJ") and text.count(".") == 2


def claims_of(token: Secret) -> Claims:
    """What a JWT says; nothing where it is none. Nothing in it is verified here."""
    parts = token.reveal().split(".")
    if len(parts) != 3:
        return Claims()
    header, payload = _json_part(parts[0]), _json_part(parts[1])
    if not header or not payload:
        return Claims()
    user_id = _member(payload, "https://api.openai.com/auth", "user_id")
    email = _member(payload, "https://api.openai.com/profile", "email")
    return Claims(
        user_id=user_id if isinstance(user_id, str) and 0 < len(user_id) <= 200 and user_id.isprintable() else None,
        email=email if isinstance(email, str) and len(email) <= 320 and email.isprintable() else None,
        expires_at=_expiry(payload.get("exp")),
        is_unsigned=not parts[2] or str(header.get("alg", "none")).lower() == "none",
    )


def _expiry(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST_EXPIRY:
        return None
    return int(value * SECOND)


def _json_part(part: str) -> dict[str, Any]:
    try:
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _member(payload: Mapping[str, Any], section: str, name: str) -> object:
    found = payload.get(section)
    return found.get(name) if isinstance(found, dict) else None
