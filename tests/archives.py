# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports on their way into a mirror and out again, through the process that reads them and the real file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chatgpt_rest.archive.intake import Intake, take_in
from chatgpt_rest.archive.ledger import Ledger
from chatgpt_rest.archive.official import write_official
from chatgpt_rest.archive.reading import reading, source_of
from chatgpt_rest.mirror import Mirror
from chatgpt_rest.model import Conversation
from tests.exports import Counts, Export
from tests.house import ManualClock, make_config
from tests.mirrors import opening
from tests.rows import rows

TABLES: Final = {
    "account": "account",
    "conversation": "account, id",
    "node": "account, conversation, id",
    "attachment": "account, conversation, node, asset",
    "asset": "account, id",
    "export_file": "account, name",
}
"""What an import writes, and the order to compare it in."""


@dataclass(frozen=True)
class Archive:
    """A mirror with the files beside it."""

    folder: Path
    clock: ManualClock
    mirror: Mirror

    async def take(self, paths: Sequence[Path], account: str, *, dry_run: bool = False) -> Ledger:
        """Import these files as a command does that has the mirror itself."""
        config = make_config(self.folder, "http://127.0.0.1:9/")
        async with reading(source_of(paths, config)) as reader:
            await self.mirror.accounts.ensure(account, email=reader.opened.email)
            await reader.go(account)
            intake = Intake(self.mirror.of(account), self.mirror.files, clock=self.clock, dry_run=dry_run)
            return await take_in(intake, reader.bodies())

    async def take_export(self, export: Export, name: str = "export") -> Ledger:
        """Write an export to files and import them."""
        return await self.take(export.write(self.folder / name), export.account)

    async def write_out(self, account: str, target: Path) -> Path:
        """The account as an official export."""
        await write_official(
            target,
            self.trees(account),
            mirror=self.mirror.of(account),
            files=self.mirror.files,
            email=None,
            is_whole=True,
            on_bytes=lambda _: None,
        )
        return target

    async def trees(self, account: str) -> AsyncIterator[Conversation]:
        """The account's conversations, in the order of their ids."""
        mirror = self.mirror.of(account)
        for (name,) in rows(self.mirror.path, "select id from conversation order by id"):
            yield await mirror.conversations.get(name)

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every column of every row that an import writes, read past the program, and the assets' bytes."""
        return everything(self.folder)

    def kept(self) -> dict[str, bytes]:
        """The bytes of each asset, by its id."""
        found = {path.name: path.read_bytes() for path in asset_paths(self.folder)}
        return {name: found[digest.hex()] for name, digest in rows(self.mirror.path, "select id, digest from asset")}


@asynccontextmanager
async def archive_in(folder: Path) -> AsyncIterator[Archive]:
    """Open a mirror in this folder; opening it again is a restart."""
    clock = ManualClock()
    async with opening(folder, clock) as mirror:
        yield Archive(folder, clock, mirror)


def everything(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every column of every row that an import writes in this folder's mirror, and the assets' bytes."""
    mirror = folder / "mirror.sqlite"
    tables = {table: rows(mirror, f"select * from {table} order by {order}") for table, order in TABLES.items()}
    return {**tables, "files": [(path.name, path.read_bytes()) for path in asset_paths(folder)]}


def asset_paths(folder: Path) -> list[Path]:
    """Every file below the folder of assets, also what does not belong there."""
    return sorted(path for path in (folder / "assets").rglob("*") if path.is_file())


def counted(ledger: Ledger) -> Counts:
    """What a first import of an export found, as the generator counts."""
    return Counts(
        conversations=ledger.conversations.imported,
        messages=ledger.messages.imported,
        hidden=ledger.messages.hidden,
        set_aside=ledger.set_aside_total,
        assets=ledger.assets.stored,
        placed=ledger.assets.placed,
        unplaced=ledger.assets.unplaced,
        missing=ledger.assets.missing,
    )


def adds_up(ledger: Ledger) -> bool:
    """Whether everything that was read stands under exactly one outcome."""
    conversations, messages, assets = ledger.conversations, ledger.messages, ledger.assets
    named = [each.kind for each in ledger.set_aside]
    return (
        conversations.read
        == conversations.imported
        + conversations.enriched
        + conversations.unchanged
        + conversations.left_deleted
        + conversations.set_aside
        and messages.read
        == messages.imported + messages.enriched + messages.unchanged + messages.left_deleted + messages.set_aside
        and messages.hidden <= messages.read
        and assets.read == assets.stored + assets.unchanged + assets.left_deleted + assets.set_aside
        and ledger.set_aside_total == len(named)
        and conversations.set_aside == named.count("conversation")
        and assets.set_aside == named.count("asset")
    )


def canonical(value: object) -> str:
    """A JSON value such that two are equal exactly if they say the same: types and each bit of a float, in any order of
    keys.
    """
    return json.dumps(value, sort_keys=True)


def contains(whole: object, part: object) -> bool:
    """Whether every key and value of `part` is in `whole`; a node may have gained children."""
    if not isinstance(part, dict):
        return canonical(whole) == canonical(part)
    if not isinstance(whole, dict):
        return False
    return all(
        key in whole
        and (
            whole[key][: len(value)] == value
            if key == "children" and isinstance(value, list)
            else contains(whole[key], value)
        )
        for key, value in part.items()
    )


def by_id(conversations: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Conversations under the ids that they go by."""
    return {each.get("conversation_id") or each["id"]: each for each in conversations}


def messages_of(tree: dict[str, Any]) -> dict[str, Any]:
    """A conversation in which the messages stand in the place of their nodes."""
    return {**tree, "mapping": {key: (node or {}).get("message") for key, node in tree["mapping"].items()}}


def in_mirror(archive: Archive) -> dict[str, Any]:
    """Every conversation in this form, put together from what the rows keep of its JSON."""
    found = {
        name: {**json.loads(envelope or b"{}"), "mapping": {}}
        for name, envelope in rows(archive.mirror.path, "select id, envelope from conversation")
    }
    query = "select conversation, id, message from node order by conversation, position"
    for name, node, message in rows(archive.mirror.path, query):
        found[name]["mapping"][node] = None if message is None else json.loads(message)
    return found


def total_messages(archive: Archive) -> int:
    """How many messages the mirror holds."""
    return int(rows(archive.mirror.path, "select count(*) from node where message is not null")[0][0])
