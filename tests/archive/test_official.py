# SPDX-License-Identifier: GPL-2.0-or-later
"""ChatGPT's own format, written: another importer, which shares nothing with this program, reads all of it back."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import re
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chatgpt_rest import chatgpt_json
from chatgpt_rest.archive.members import asset_id
from chatgpt_rest.archive.official import Contents, write_official
from chatgpt_rest.archive.zips import read_directory
from chatgpt_rest.errors import MirrorError, StorageFailed
from chatgpt_rest.mirror import Mirror
from chatgpt_rest.model import Conversation
from tests.belongings import PNG, add_asset, add_conversation, identifier
from tests.disks import small_disk
from tests.house import ManualClock
from tests.mirrors import opening
from tests.shapes import conversation_json, message, slim_message


@dataclass
class Imported:
    """What another importer makes of an export: after the description of the format alone."""

    user: dict[str, Any]
    conversations: list[dict[str, Any]]
    assets: dict[str, tuple[str, bytes]]
    """Name and bytes, by id."""


def read_export(path: Path) -> Imported:
    """Read an official export as any program could that believes its manifest."""
    with zipfile.ZipFile(path) as export:
        assert export.testzip() is None
        manifest = json.loads(export.read("export_manifest.json"))
        assert (manifest["version"], manifest["manifest_file"]) == (1, "export_manifest.json")
        sizes = {each["path"]: each["size_bytes"] for each in manifest["export_files"]}
        assert {info.filename: info.file_size for info in export.infolist() if "manifest" not in info.filename} == sizes
        logical = manifest["logical_files"]["conversations.json"]
        assert logical["sharded"] is True
        shards = [json.loads(export.read(name)) for name in logical["files"]]
        assert all(len(shard) == 100 for shard in shards[:-1])
        names = json.loads(export.read("conversation_asset_file_names.json"))
        return Imported(
            user=json.loads(export.read("user.json")),
            conversations=[each for shard in shards for each in shard],
            assets={member.removesuffix(".dat"): (name, export.read(member)) for member, name in names.items()},
        )


def zip_of(path: Path) -> dict[str, bytes]:
    """Every file of a ZIP."""
    with zipfile.ZipFile(path) as export:
        return {name: export.read(name) for name in export.namelist()}


def said(tree: dict[str, Any]) -> list[str]:
    """The texts of the current branch, found as the facts on the format tell to."""
    nodes, path, at = tree["mapping"], [], tree["current_node"]
    while at in nodes:
        path.append(nodes[at])
        at = nodes[at]["parent"]
    for above, below in zip(path[1:], path, strict=False):
        assert below["id"] in above["children"]
    return ["".join(node["message"]["content"]["parts"]) for node in reversed(path) if node["message"]]


async def all_of(mirror: Mirror, account: str = "alice") -> AsyncIterator[Conversation]:
    """What an export of everything comes to."""
    conversations = mirror.of(account).conversations
    async for name in conversations.exportable():
        yield await conversations.get(name)


async def write(
    mirror: Mirror, target: Path, *, conversations: AsyncIterator[Conversation] | None = None, is_whole: bool = True
) -> Contents:
    """Alice's export."""
    return await write_official(
        target,
        conversations or all_of(mirror),
        mirror=mirror.of("alice"),
        files=mirror.files,
        email="alice@home",
        is_whole=is_whole,
        on_bytes=lambda _: None,
    )


@pytest.fixture
async def mirror(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Mirror]:
    """A mirror that knows Alice and Bob, and Bob's own conversation."""
    async with opening(tmp_path, clock) as opened:
        for account in ("alice", "bob"):
            await opened.accounts.ensure(account, email=f"{account}@home")
        await add_conversation(opened, 0xB0B, account="bob")
        yield opened


# ---------------------------------------------------------------------------------------------------- what is in it


async def test_another_importer_reads_it_all(mirror: Mirror, tmp_path: Path) -> None:
    """Every conversation, in shards of a hundred, with its words, its title and both of its ids; nobody else's."""
    for number in range(250):
        path = [message(f"Question {number}?", role="user"), slim_message("Grüße 🌍\u2028"), message("")]
        await add_conversation(mirror, number, *path, is_archived=number % 2 == 0)
    contents = await write(mirror, tmp_path / "export.zip")
    assert contents == Contents(conversations=250, assets=0, lost=0, files=6)
    imported = read_export(tmp_path / "export.zip")
    assert imported.user == {"id": "alice", "email": "alice@home"}
    assert [each["id"] for each in imported.conversations] == [identifier(number) for number in range(250)]
    for number, each in enumerate(imported.conversations):
        assert (each["conversation_id"], each["title"]) == (identifier(number), f"Talk {number}")
        assert said(each) == [f"Question {number}?", "Grüße 🌍\u2028", ""]
        assert each["is_archived"] is (number % 2 == 0)


async def test_what_came_is_written_back(mirror: Mirror, tmp_path: Path) -> None:
    """Every key and value of a conversation is in the export as upstream showed it, times to the last bit."""
    came = conversation_json(
        message("Hello.", metadata={"odd": [0.1 + 0.2, 1e-7, -0.0, 2**53, None, "half \ud83d"]}),
        conversation_id=identifier(1),
        create_time=1_685_293_988.2335281,
        unheard_of={"a": {"b": ["c"]}},
        plugin_ids=None,
    )
    await mirror.of("alice").conversations.save_whole(chatgpt_json.conversation(came))
    await write(mirror, tmp_path / "export.zip")
    (written,) = read_export(tmp_path / "export.zip").conversations
    assert {key: written[key] for key in came} == came


async def test_what_was_edited_here_is_in_it(mirror: Mirror, tmp_path: Path) -> None:
    """A title set here stands in the place of the one that came; what was deleted here does not come along."""
    renamed, deleted = await add_conversation(mirror, 1), await add_conversation(mirror, 2)
    await mirror.of("alice").conversations.edit(renamed, title="Mine", is_pending=True)
    await mirror.of("alice").deletions.bury(deleted)
    await write(mirror, tmp_path / "export.zip")
    assert [each["title"] for each in read_export(tmp_path / "export.zip").conversations] == ["Mine"]


async def test_assets_come_along(mirror: Mirror, tmp_path: Path) -> None:
    """All of them, placed or not, as `<id>.dat` with their names beside; not those of deleted conversations only."""
    kept, deleted = await add_conversation(mirror, 1), await add_conversation(mirror, 2)
    await add_asset(mirror, "file-a", PNG, conversation_id=kept, name="Screenshot.png")
    await add_asset(mirror, "file_b", b"", conversation_id=None)
    await add_asset(mirror, "file_c", b"deleted", conversation_id=deleted)
    await add_asset(mirror, "file_d", b"bob's", conversation_id=None, account="bob")
    await mirror.of("alice").deletions.bury(deleted)
    contents = await write(mirror, tmp_path / "export.zip")
    assert (contents.assets, contents.lost) == (2, 0)
    imported = read_export(tmp_path / "export.zip")
    assert imported.assets == {"file-a": ("Screenshot.png", PNG), "file_b": ("file_b", b"")}


async def test_a_lost_asset_is_counted(mirror: Mirror, tmp_path: Path) -> None:
    """Where an asset's file is gone the rest is written, and the loss told."""
    await add_asset(mirror, "file-a", PNG, conversation_id=None)
    await add_asset(mirror, "file-b", b"here", conversation_id=None)
    mirror.files.path(hashlib.sha256(PNG).digest()).unlink()
    assert await write(mirror, tmp_path / "export.zip") == Contents(0, assets=1, lost=1, files=5)
    with zipfile.ZipFile(tmp_path / "export.zip") as export:
        assert {name for name in export.namelist() if name.endswith(".dat")} == {"file-b.dat"}


async def test_other_files_come_back_as_they_came(mirror: Mirror, tmp_path: Path) -> None:
    """user.json and the rest byte for byte; what is written anew, the manifest for one, is there once."""
    kept = {
        "user.json": b'{ "id": "alice", "birth_year": 1990 }\n',
        "message_feedback.json": b"[ ]",
        "library_files.json": b'[{"id": {"id": "libfile_1"}}]\r\n',
        "conversations.json": b"old",
        "conversations-007.json": b"old",
        "export_manifest.json": b"old",
        "conversation_asset_file_names.json": b"old",
    }
    for name, content in kept.items():
        await mirror.of("alice").imports.keep_file(name, content, modified_at=None)
    await write(mirror, tmp_path / "export.zip")
    read_export(tmp_path / "export.zip")
    with zipfile.ZipFile(tmp_path / "export.zip") as export:
        for name in ("user.json", "message_feedback.json", "library_files.json"):
            assert export.read(name) == kept[name]
        assert not any(export.read(name) == b"old" for name in export.namelist())
        assert len(set(export.namelist())) == len(export.namelist())


async def test_a_part_holds_what_belongs_to_it(mirror: Mirror, tmp_path: Path) -> None:
    """An export of some conversations holds their assets and whose it is, nothing that tells of the others."""
    first, second = await add_conversation(mirror, 1), await add_conversation(mirror, 2)
    await add_asset(mirror, "file-1", b"one", conversation_id=first)
    await add_asset(mirror, "file-2", b"two", conversation_id=second)
    await mirror.of("alice").imports.keep_file("message_feedback.json", b"[]", modified_at=None)

    async def some() -> AsyncIterator[Conversation]:
        yield await mirror.of("alice").conversations.get(second)

    await write(mirror, tmp_path / "export.zip", conversations=some(), is_whole=False)
    imported = read_export(tmp_path / "export.zip")
    assert ([each["id"] for each in imported.conversations], set(imported.assets)) == ([second], {"file-2"})
    with zipfile.ZipFile(tmp_path / "export.zip") as export:
        assert "message_feedback.json" not in export.namelist()


async def test_what_repeats_itself_is_no_bomb(mirror: Mirror, tmp_path: Path) -> None:
    """However well it would pack, an importer that fears bombs takes it; what comes after is packed as before."""
    await add_conversation(mirror, 1, message("words and more words " * 400_000))
    await add_conversation(mirror, 2, message("".join(f"{number} bottles of beer, " for number in range(200_000))))
    await mirror.of("alice").imports.keep_file("shopping.json", b"[" + b" " * 3_000_000 + b"]", modified_at=None)
    target = tmp_path / "export.zip"
    await write(mirror, target)
    assert len(read_export(target).conversations) == 2
    with target.open("rb") as file:
        entries = read_directory(file, "export", max_entries=100, max_ratio=100)
    assert target.stat().st_size < 15_000_000
    assert sum(entry.size_bytes for entry in entries) > 15_000_000


async def test_names_that_no_zip_may_hold_are_made_safe(mirror: Mirror, tmp_path: Path) -> None:
    """Those that differ in their letters' case alone, and those of places on a disk: each file is there, once."""
    odd = [
        "Notes.json",
        "notes.json",
        "a\\b.json",
        "C:x.json",
        "Export_Manifest.json",
        "USER.json",
        "conver\u017fations-000.json",
    ]
    for name in odd:
        await mirror.of("alice").imports.keep_file(name, chatgpt_json.dump([name]), modified_at=None)
    for name in ("file-a", "file-A"):
        await add_asset(mirror, name, name.encode(), conversation_id=None)
    target = tmp_path / "export.zip"
    await write(mirror, target)
    imported = read_export(target)
    assert {asset_id(member): content for member, content in zip_of(target).items() if asset_id(member)} == {
        "file-a": b"file-a",
        "file-A": b"file-A",
    }
    assert imported.user["id"] == "alice"
    with target.open("rb") as file:
        names = {entry.name for entry in read_directory(file, "export", max_entries=100, max_ratio=100)}
    assert names >= {"Notes.json", "notes (2).json", "a_b.json", "C_x.json", "USER (2).json"}


async def test_an_empty_account_is_an_export_too(mirror: Mirror, tmp_path: Path) -> None:
    """One shard with nothing in it: importers expect one."""
    assert await write(mirror, tmp_path / "export.zip") == Contents(0, 0, 0, files=4)
    assert read_export(tmp_path / "export.zip").conversations == []


# -------------------------------------------------------------------------------------------------------- the file


async def test_the_same_mirror_gives_the_same_bytes(mirror: Mirror, tmp_path: Path) -> None:
    """Nothing in the archive tells of when it was written; only its owner can read it."""
    await add_asset(mirror, "file-a", PNG, conversation_id=await add_conversation(mirror, 1))
    await write(mirror, tmp_path / "one.zip")
    await write(mirror, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert (tmp_path / "one.zip").stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(tmp_path / "one.zip") as export:
        stored = {info.filename for info in export.infolist() if info.compress_type == zipfile.ZIP_STORED}
        assert stored == {"file-a.dat"}
        assert {info.date_time for info in export.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_what_breaks_off_leaves_nothing(mirror: Mirror, tmp_path: Path, how: str) -> None:
    """Stopped in the middle, there is neither an archive nor a part of one, and what stood there before stays."""
    await add_conversation(mirror, 1)
    target = tmp_path / "exports" / "export.zip"
    target.parent.mkdir()
    target.write_bytes(b"an older one")

    async def broken() -> AsyncIterator[Conversation]:
        async for each in all_of(mirror):
            yield each
        raise asyncio.CancelledError if how == "cancelled" else MirrorError("no more")

    with pytest.raises(asyncio.CancelledError if how == "cancelled" else MirrorError):
        await write(mirror, target, conversations=broken())
    assert {path.name: path.read_bytes() for path in target.parent.iterdir()} == {"export.zip": b"an older one"}


async def test_what_a_killed_one_left_is_removed(mirror: Mirror, tmp_path: Path) -> None:
    """A partial archive that no process holds any more, of whatever name; one that is being written stays."""
    folder = tmp_path / "exports"
    folder.mkdir()
    dead, living = (folder / f"{name}.zip.chatgpt_rest.partial" for name in ("dead", "living"))
    dead.write_bytes(b"in clear")
    with living.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        await write(mirror, folder / "export.zip")
    assert {path.name for path in folder.iterdir()} == {"export.zip", living.name}


@pytest.mark.parametrize("size_bytes", [0, 2_000_000], ids=["conversations", "asset"])
async def test_a_full_disk_leaves_nothing(mirror: Mirror, tmp_path: Path, size_bytes: int) -> None:
    """Whether JSON or an asset found no room: told in one line, and the partial file is gone."""
    words = hashlib.shake_256(b"").hexdigest(1 if size_bytes else 4_000_000)
    await add_asset(mirror, "file-a", b"\0" * size_bytes, conversation_id=None)
    await add_conversation(mirror, 1, message(words))
    with small_disk(tmp_path / "disk", size_mib=1) as disk:
        with pytest.raises(StorageFailed, match=re.escape(f"the disk that holds {disk / 'export.zip'} is full")):
            await write(mirror, disk / "export.zip")
        assert not list(disk.iterdir())
