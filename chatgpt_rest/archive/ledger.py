# SPDX-License-Identifier: GPL-2.0-or-later
"""The ledger of an import: what came, and what became of each of it. Whatever was read stands under exactly one
outcome, so that both sides add up.

What was read is counted by what the export holds, the outcomes by what the mirror says it did: that they are equal is a
finding, and no matter of arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from chatgpt_rest.archive.wire import SetAside
from chatgpt_rest.errors import MirrorError
from chatgpt_rest.incoming import Incoming
from chatgpt_rest.mirror import Taken

MOST_NAMED: Final = 1_000
"""Of what was set aside; the rest is only counted."""


class Conversations(msgspec.Struct, frozen=True, kw_only=True):
    """`left_deleted` were deleted here, and stay so."""

    read: int = 0
    imported: int = 0
    enriched: int = 0
    unchanged: int = 0
    left_deleted: int = 0
    set_aside: int = 0


class Messages(msgspec.Struct, frozen=True, kw_only=True):
    """The same of messages; `hidden` are those among them that ChatGPT's own page leaves out."""

    read: int = 0
    imported: int = 0
    enriched: int = 0
    unchanged: int = 0
    left_deleted: int = 0
    set_aside: int = 0
    hidden: int = 0


class Assets(msgspec.Struct, frozen=True, kw_only=True):
    """The first six as above. Of what is here, `placed` belongs to a conversation that is here and `unplaced` to none;
    `missing` are pointed to by this export's conversations and are nowhere; by any conversation of the account's, where
    this export's point to more than a hundred thousand.
    """

    read: int = 0
    stored: int = 0
    unchanged: int = 0
    left_deleted: int = 0
    set_aside: int = 0
    placed: int = 0
    unplaced: int = 0
    missing: int = 0


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """The export's other files. `missing` are those that a manifest names, or a gap in their numbers implies: the first
    thousand of `missing_total`.
    """

    kept: int = 0
    ignored: int = 0
    set_aside: int = 0
    missing: list[str] = []
    missing_total: int = 0


class Aside(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that could not be taken in: what it is, where it lies, and why."""

    kind: str
    id: str | None
    title: str | None
    place: str
    reason: str
    messages: int


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why an import ended before its end."""

    error: str
    code: str

    @classmethod
    def of(cls, error: MirrorError) -> Fault:
        return cls(error=error.text, code=error.code)


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """How an import ended. `bytes` is what was read, unpacked."""

    account: str
    dry_run: bool
    error: Fault | None
    conversations: Conversations
    messages: Messages
    assets: Assets
    files: Files
    set_aside: list[Aside]
    set_aside_total: int
    seconds: float
    bytes: int

    @property
    def is_complete(self) -> bool:
        """Whether the export was read to its end. What came before a fault is in the mirror all the same."""
        return self.error is None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return {"account": values.pop("account"), "is_complete": self.is_complete, **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Ledger:
        """What `as_json` made."""
        return msgspec.convert(values, cls)


class Tally:
    """Counts while an import goes on."""

    def __init__(self) -> None:
        self.conversations: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.assets: Counter[str] = Counter()
        self.files: Counter[str] = Counter()
        self.missing_files: list[str] = []
        self._set_aside: list[Aside] = []
        self._set_aside_total = 0

    def took(self, incoming: Incoming, taken: Taken) -> None:
        """A conversation came, and this is what the mirror made of it."""
        self.conversations.update(("read", taken.outcome))
        self.messages.update(
            read=incoming.messages,
            imported=taken.imported,
            enriched=taken.enriched,
            unchanged=taken.unchanged,
            left_deleted=taken.left_deleted,
            hidden=incoming.hidden,
        )

    def took_asset(self, outcome: str) -> None:
        """An asset came, and was `stored`, found `unchanged` or, being a deleted conversation's, `left_deleted`."""
        self.assets.update(("read", outcome))

    def put_aside(self, what: SetAside) -> None:
        """Something could not be taken in."""
        if what.kind == "conversation":
            self.conversations.update(("read", "set_aside"))
        elif what.kind == "asset":
            self.assets.update(("read", "set_aside"))
        else:
            self.files["set_aside"] += 1
        self.messages.update(read=what.messages, set_aside=what.messages)
        self._set_aside_total += 1
        if len(self._set_aside) < MOST_NAMED:
            self._set_aside.append(
                Aside(
                    kind=what.kind,
                    id=what.id,
                    title=what.title,
                    place=what.place,
                    reason=what.reason,
                    messages=what.messages,
                )
            )

    def ledger(self, account: str, *, dry_run: bool, fault: Fault | None, seconds: float, done_bytes: int) -> Ledger:
        """How things stand."""
        return Ledger(
            account=account,
            dry_run=dry_run,
            error=fault,
            conversations=Conversations(**self.conversations),
            messages=Messages(**self.messages),
            assets=Assets(**self.assets),
            files=Files(**self.files, missing=list(self.missing_files)),
            set_aside=list(self._set_aside),
            set_aside_total=self._set_aside_total,
            seconds=seconds,
            bytes=done_bytes,
        )
