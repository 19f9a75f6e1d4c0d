# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers already rendered, kept in memory until what they show changes."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import aiosqlite

from chatgpt_rest.mirror.database import Database


@dataclass(frozen=True, slots=True)
class Rendered:
    """A body of JSON, and the validator that stands for exactly these bytes. `total` counts a list beyond its page."""

    body: bytes
    total: int = 0
    is_whole: bool = True
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        # Weak, as the same answer may be sent compressed.
        object.__setattr__(self, "etag", f'W/"{blake2b(self.body, digest_size=12).hexdigest()}"')


_ENTRY_BYTES: Final = 1024  # what an entry costs beside its body, roughly: empty answers are not free


class RenderedCache:
    """The most recently used answers, up to `size_bytes` of them.

    A reader notes the account's generation before it reads, and what it rendered is kept only if the account has not
    changed since: else it could put back what a writer has just made old.
    """

    def __init__(self, *, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._held_bytes = 0
        self._entries: OrderedDict[tuple[str, ...], Rendered] = OrderedDict()
        self._keys: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)  # by account
        self._generations: Counter[str] = Counter()

    def generation(self, account: str) -> int:
        """A number that changes with everything written for this account."""
        return self._generations[account]

    def get(self, *key: str) -> Rendered | None:
        """The answer under `(account, view, …)`, if it is still true."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, rendered: Rendered, *key: str, generation: int) -> Rendered:
        """Keep an answer under `(account, view, …)`, unless the account changed since `generation`."""
        if self._generations[key[0]] == generation and len(rendered.body) <= self._size_bytes // 4:
            self._remove(key)
            self._entries[key] = rendered
            self._keys[key[0]].add(key)
            self._held_bytes += len(rendered.body) + _ENTRY_BYTES
            while self._held_bytes > self._size_bytes:
                self._remove(next(iter(self._entries)))
        return rendered

    def drop(self, account: str, *conversations: str) -> None:
        """These conversations of the account changed, and so did every list of it. With none named, all of it did."""
        self._generations[account] += 1
        for key in list(self._keys[account]):
            if key[1] == "list" or not conversations or key[2] in conversations:
                self._remove(key)

    def _remove(self, key: tuple[str, ...]) -> None:
        removed = self._entries.pop(key, None)
        if removed is not None:
            self._keys[key[0]].discard(key)
            self._held_bytes -= len(removed.body) + _ENTRY_BYTES


@asynccontextmanager
async def changing(
    database: Database, cache: RenderedCache, account: str, *conversations: str
) -> AsyncIterator[aiosqlite.Connection]:
    """A transaction that changes these conversations, after which nothing rendered before it is believed any more."""
    try:
        async with database.write() as connection:
            yield connection
    finally:
        cache.drop(account, *conversations)
