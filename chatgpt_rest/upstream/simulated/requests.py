# SPDX-License-Identifier: GPL-2.0-or-later
"""The log of requests that arrived, as the far end of the budget counts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

BASE_PATH: Final = "/backend-api/"


@dataclass(slots=True)
class ReceivedRequest:
    """One request, recorded when its headers arrived and before any fault applied."""

    sequence: int
    method: str
    path: str
    """As it stood on the wire, percent-encoding and query included."""
    account: str | None
    """The user id of its token; None when the token was not valid at that moment."""
    arrived_at: float
    headers: Mapping[str, str] = field(repr=False)
    """As they came; lookups ignore case."""
    body: bytes = field(default=b"", repr=False)
    status: int | None = None
    """What it was answered; None while it waits, and when its connection was reset instead."""

    @property
    def endpoint(self) -> str:
        """The path relative to /backend-api/ without its query; whole where it lies elsewhere."""
        return self.path.partition("?")[0].removeprefix(BASE_PATH)

    def matches(self, method: str | None, path: str | None, account: str | None) -> bool:
        """Whether it is one of those meant; None means any. `path` is a glob on `endpoint`."""
        return (
            (method is None or self.method == method.upper())
            and (path is None or fnmatchcase(self.endpoint, path))
            and (account is None or self.account == account)
        )
