# SPDX-License-Identifier: GPL-2.0-or-later
"""Access tokens: JWTs that only this simulation can have signed, and whose they are."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import Callable
from typing import Any, Final

from . import refusals

HEADER: Final = {"alg": "HS256", "typ": "JWT", "kid": "simulated"}


class Tokens:
    """Issues access tokens and tells whose they are: JWTs signed with a secret of this simulation alone."""

    def __init__(self, secret: bytes, now: Callable[[], float]) -> None:
        self._secret = secret
        self._now = now
        self._serial = itertools.count(1)
        self._revoked: set[str] = set()

    def issue(self, user_id: str, email: str, *, expires_in_seconds: float) -> str:
        """A new token, unlike any before it; a negative age makes one that has expired already."""
        issued_at = int(self._now())
        claims = {
            "aud": ["https://api.openai.com/v1"],
            "client_id": "app_simulated",
            "exp": int(issued_at + expires_in_seconds),
            "https://api.openai.com/auth": {"user_id": user_id},
            "https://api.openai.com/profile": {"email": email, "email_verified": True},
            "iat": issued_at,
            "iss": "https://auth.openai.com",
            "jti": str(next(self._serial)),
            "nbf": issued_at,
            "scp": ["openid", "email", "profile", "offline_access", "model.request", "model.read"],
            "sub": f"auth0|{user_id}",
        }
        signed = f"{_encode(HEADER)}.{_encode(claims)}"
        return f"{signed}.{self._signature(signed)}"

    def revoke(self, token: str) -> None:
        self._revoked.add(token)

    def forget_revocations(self) -> None:
        self._revoked.clear()

    def verify(self, authorization: str | None) -> str:
        """The user id behind an Authorization header; raises Refusal (401) unless we signed its token ourselves."""
        scheme, _, token = (authorization or "").partition(" ")
        signed, _, signature = token.rpartition(".")
        expected = self._signature(signed)
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            expected.encode(), signature.encode("utf-8", "replace")
        ):
            raise refusals.bad_token()
        claims: dict[str, Any] = json.loads(_decode(signed.partition(".")[2]))
        if token in self._revoked:
            raise refusals.bad_token()
        if claims["exp"] <= self._now():
            raise refusals.expired_token()
        return str(claims["https://api.openai.com/auth"]["user_id"])

    def _signature(self, signed: str) -> str:
        digest = hmac.digest(self._secret, signed.encode("utf-8", "surrogateescape"), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _encode(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part, separators=(",", ":")).encode()).rstrip(b"=").decode()


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
