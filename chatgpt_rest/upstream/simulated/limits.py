# SPDX-License-Identifier: GPL-2.0-or-later
"""Upstream's own limits, as faults: so many requests go through, the rest are refused."""

from __future__ import annotations

from typing import Any

from . import refusals
from .faults import Fault


def hourly_limit(
    *,
    after: int,
    text: str | None = None,
    status: int = 429,
    retry_after_seconds: int | None = None,
    clears_in: int | None = None,
    path: str = "*",
    account: str | None = None,
) -> Fault:
    """Refuse all requests after the first `after`. With `clears_in` it is a model's cap, which says when it ends."""
    detail: Any = text or refusals.HOURLY_LIMIT
    if clears_in is not None:
        detail = {"code": "model_cap_exceeded", "clears_in": clears_in, "message": text or refusals.MODEL_CAP}
    headers = {} if retry_after_seconds is None else {"Retry-After": str(retry_after_seconds)}
    return Fault(path=path, account=account, after=after, status=status, body={"detail": detail}, headers=headers)
