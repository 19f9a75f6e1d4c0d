# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports of any size in a moment and in little memory: believable conversations, written once and used again and again
under other ids.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Final

from tests import export_trees
from tests.export_assets import Shelf
from tests.export_messages import SPRING_2024, Json, Pen

ACCOUNT: Final = "user-A1iceSm1thA1iceSm1th0000"

_TEMPLATES: Final = 300
_MARK: Final = b"@@@@@@@@"
"""Stands in every id of a template, and a number in its place in each copy."""
_LETTERS: Final = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "st", "br", "ch")
_VOWELS: Final = ("a", "e", "i", "o", "u", "ou", "ea")
_SELDOM: Final = ("ä", "é", "ж", "京", "’", "…", '"', "\n\n", "\n- ", "🙂")
"""One word in fifty holds one of these, which JSON escapes."""
_VOCABULARY: Final = 4_000


@dataclass(frozen=True)
class Huge:
    """What was written. `json_bytes` is the size of the files of conversations, unpacked."""

    json_bytes: int
    conversations: int
    messages: int


def write_huge(path: Path, size_bytes: int, *, shard_bytes: int | None = None, seed: int = 0) -> Huge:
    """Write a ZIP with at least so much JSON, in one file or in shards of this size."""
    conversations = _conversations(Random(seed))
    json_bytes = number = messages = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for shard in count():
            name = "conversations.json" if shard_bytes is None else f"conversations-{shard:03}.json"
            until = size_bytes if shard_bytes is None else min(size_bytes, json_bytes + shard_bytes)
            entry = zipfile.ZipInfo(name, (2026, 4, 1, 12, 30, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                before = b"["
                while json_bytes < until:
                    text, found = next(conversations)
                    json_bytes += member.write(before + text)
                    number, messages, before = number + 1, messages + found, b","
                json_bytes += member.write(b"]")
            if json_bytes >= size_bytes:
                break
        archive.writestr("user.json", json.dumps({"id": ACCOUNT, "email": "alice@example.org"}))
    return Huge(json_bytes, number, messages)


def _conversations(random: Random) -> Iterator[tuple[bytes, int]]:
    """Conversations without end, and how many messages each has."""
    templates = list(_templates(random))
    for number, (text, messages) in zip(count(), cycle(templates), strict=False):
        yield text.replace(_MARK, b"%08x" % number), messages


def _templates(random: Random) -> Iterator[tuple[bytes, int]]:
    author = _Author(random, Shelf(random))
    for _ in range(_TEMPLATES):
        tree = export_trees.conversation(author, [_turn] * random.choice((1, 2, 3, 5, 8, 13, 40)))
        yield json.dumps(tree, separators=(",", ":")).encode(), sum(1 for _ in export_trees.messages(tree))


class _Author(Pen):
    """Writes longer than a pen does, and its ids can be replaced."""

    def __init__(self, random: Random, shelf: Shelf) -> None:
        super().__init__(random, shelf, SPRING_2024)
        self._vocabulary = ["".join(self._letters()) for _ in range(_VOCABULARY)]
        self._number = 0

    def uuid(self) -> str:
        self._number += 1
        return f"{_MARK.decode()}-{self._number:06x}-4abc"

    def words(self, most: int = 12) -> str:
        """So many, and not one more or less; a few of them far more often than the others, as in any language."""
        return " ".join(self._vocabulary[int(self.random.paretovariate(0.6)) % _VOCABULARY] for _ in range(most))

    def _letters(self) -> Iterator[str]:
        for _ in range(self.random.randint(1, 4)):
            yield self.random.choice(_LETTERS)
            yield self.random.choice(_VOWELS)
        if self.random.random() < 0.02:
            yield self.random.choice(_SELDOM)


def _turn(pen: Pen) -> Json:
    metadata: Json = {
        "model_slug": "gpt-4o",
        "finish_details": {"type": "stop", "stop_tokens": [200_002]},
        "is_complete": True,
        "citations": [],
        "content_references": [],
        "request_id": pen.uuid(),
        "timestamp_": "absolute",
        "parent_id": pen.uuid(),
    }
    return pen.text("assistant", pen.words(pen.random.choice((20, 60, 150, 400))), metadata=metadata)
