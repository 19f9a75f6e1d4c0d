# SPDX-License-Identifier: GPL-2.0-or-later
"""Access tokens as a forger makes them: any header, any claims, any signature."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

AUTH: Final = "https://api.openai.com/auth"
PROFILE: Final = "https://api.openai.com/profile"


def encoded(part: object) -> str:
    """One part of a JWT. Bytes are taken as they are, anything else as JSON."""
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims_of(token: str) -> dict[str, Any]:
    """What a JWT says."""
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


def edited(
    token: str,
    claims: dict[str, Any] | None = None,
    *,
    header: dict[str, Any] | None = None,
    signature: str | None = None,
) -> str:
    """A JWT with some of it replaced; the rest, its old signature included, stays as it was."""
    old_header, _, old_signature = token.split(".")
    return ".".join(
        [
            old_header if header is None else encoded(header),
            encoded({**claims_of(token), **(claims or {})}),
            old_signature if signature is None else signature,
        ]
    )
