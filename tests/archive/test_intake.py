# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames into a real mirror: what the ledger says is what lies there, however the import ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.archive import wire
from chatgpt_rest.archive.intake import Intake, take_in
from chatgpt_rest.archive.ledger import Assets, Conversations, Files, Ledger, Messages
from chatgpt_rest.clock import DAY
from chatgpt_rest.errors import NotFound
from chatgpt_rest.incoming import Incoming, NodeRow, Pointer
from chatgpt_rest.mirror import AccountMirror, Mirror
from tests.disks import small_disk
from tests.house import NOON, ManualClock
from tests.mirrors import opening
from tests.rows import rows

PNG: Final = b"\x89PNG\r\n\x1a\n" + b"a picture"
OPENED: Final = wire.Opened(account="alice", email=None, total_bytes=1000, missing=[], missing_total=0)
ENDED: Final = wire.Ended(done_bytes=1000)


@pytest.fixture
async def mirror(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Mirror]:
    """An open mirror that knows Alice."""
    async with opening(tmp_path, clock) as opened:
        await opened.accounts.ensure("alice", email=None)
        yield opened


@pytest.fixture
def alice(mirror: Mirror) -> AccountMirror:
    """What is Alice's."""
    return mirror.of("alice")


def conversation(name: str, *said: str, pointers: Iterable[str] = (), update_time: int = NOON) -> Incoming:
    """A conversation that says this, one message after the other; the last one points to these assets."""
    nodes: list[NodeRow] = []
    for number, text in enumerate(said):
        parent = f"{name}-{number - 1}" if number else None
        message: dict[str, Any] = {
            "id": f"{name}-{number}",
            "author": {"role": "user"},
            "content": {"content_type": "text", "parts": [text]},
        }
        nodes.append(
            ("alice", name, f"{name}-{number}", number, parent, None, None, json.dumps(message).encode(), None, 1)
        )
    return Incoming(
        id=name,
        title=name.title(),
        create_time=NOON,
        update_time=update_time,
        current_node=f"{name}-{len(said) - 1}",
        envelope=b"{}",
        is_archived=False,
        is_starred=False,
        project=None,
        model=None,
        is_slim=False,
        digest=sha256(repr(said).encode()).digest()[:16],
        messages=len(said),
        hidden=0,
        nodes=nodes,
        pointers=[Pointer(f"{name}-{len(said) - 1}", asset) for asset in pointers],
    )


def batch(*conversations: Incoming) -> wire.Batch:
    """One transaction's worth."""
    return wire.Batch(list(conversations), done_bytes=500)


def asset(name: str, content: bytes = PNG, *, fault: str | None = None) -> list[wire.Frame]:
    """An asset in two pieces."""
    return [
        wire.AssetBegins(name, "picture.png", f"{name}.dat", len(content)),
        wire.AssetBytes(content[:4], 600),
        wire.AssetBytes(content[4:], 700),
        wire.AssetEnds(fault),
    ]


async def take(mirror: Mirror, *frames: wire.Frame, clock: ManualClock, dry_run: bool = False) -> Ledger:
    """Import what these frames hold, as Alice's, in the way of a pipe."""

    async def bodies() -> AsyncIterator[bytes]:
        for frame in (OPENED, *frames):
            yield bytes(wire.encode(frame)[4:])

    return await take_in(Intake(mirror.of("alice"), mirror.files, clock=clock, dry_run=dry_run), bodies())


async def test_conversations_are_in_and_counted(mirror: Mirror, alice: AccountMirror, clock: ManualClock) -> None:
    """What the mirror shows is what came; the ledger says how many."""
    ledger = await take(mirror, batch(conversation("a", "one", "two"), conversation("b", "three")), ENDED, clock=clock)
    assert ledger.is_complete
    assert ledger.conversations == Conversations(read=2, imported=2)
    assert ledger.messages == Messages(read=3, imported=3)
    said = json.loads((await alice.conversations.messages_json("a")).body)
    assert [message["message"] for message in said] == ["one", "two"]


async def test_the_same_twice_changes_nothing(mirror: Mirror, tmp_path: Path, clock: ManualClock) -> None:
    """Every row is as it was, and the ledger says so."""
    frames = [batch(conversation("a", "one", pointers=["file-a"])), *asset("file-a"), ENDED]
    await take(mirror, *frames, clock=clock)
    tables = ("conversation", "node", "asset", "attachment")
    before = [rows(tmp_path / "mirror.sqlite", f"select * from {table}") for table in tables]
    ledger = await take(mirror, *frames, clock=clock)
    assert ledger.conversations == Conversations(read=1, unchanged=1)
    assert ledger.messages == Messages(read=1, unchanged=1)
    assert ledger.assets == Assets(read=1, unchanged=1, placed=1)
    assert [rows(tmp_path / "mirror.sqlite", f"select * from {table}") for table in tables] == before


async def test_a_newer_export_adds(mirror: Mirror, clock: ManualClock) -> None:
    """What was here counts as unchanged, what is new as imported, and the conversation as enriched."""
    await take(mirror, batch(conversation("a", "one")), ENDED, clock=clock)
    ledger = await take(mirror, batch(conversation("a", "one", "two", update_time=NOON + DAY)), ENDED, clock=clock)
    assert ledger.conversations == Conversations(read=1, enriched=1)
    assert ledger.messages == Messages(read=2, imported=1, unchanged=1)


async def test_what_was_deleted_here_stays_so(mirror: Mirror, alice: AccountMirror, clock: ManualClock) -> None:
    """It is counted as what it is, and not shown."""
    await take(mirror, batch(conversation("a", "one")), ENDED, clock=clock)
    await alice.deletions.bury("a")
    ledger = await take(mirror, batch(conversation("a", "one", "two")), ENDED, clock=clock)
    assert ledger.conversations == Conversations(read=1, left_deleted=1)
    assert ledger.messages == Messages(read=2, left_deleted=2)
    with pytest.raises(NotFound):
        await alice.conversations.messages_json("a")


async def test_what_was_purged_brings_no_asset_back(mirror: Mirror, alice: AccountMirror, clock: ManualClock) -> None:
    """Neither its row nor its file; one that another conversation shows too comes in."""
    purged = conversation("a", "one", pointers=["file-a", "file-b"])
    await take(mirror, batch(purged), ENDED, clock=clock)
    await alice.deletions.bury("a")
    clock.move(seconds=1)
    await mirror.purge_deleted(before=clock.now())
    kept = conversation("b", "two", pointers=["file-b"])
    frames = [batch(purged, kept), *asset("file-a", b"%PDF-1 secret"), *asset("file-b"), ENDED]
    ledger = await take(mirror, *frames, clock=clock)
    assert (ledger.assets.read, ledger.assets.left_deleted, ledger.assets.stored) == (2, 1, 1)
    assert [each.id for each in await alice.assets.all()] == ["file-b"]
    assert not mirror.files.path(sha256(b"%PDF-1 secret").digest()).exists()


async def test_what_is_purged_before_its_bytes_come_brings_none(
    mirror: Mirror, alice: AccountMirror, clock: ManualClock
) -> None:
    """A purge may fall between a conversation and the asset that it shows."""
    intake = Intake(alice, mirror.files, clock=clock, dry_run=False)
    await intake.take(batch(conversation("a", "one", pointers=["file-a"])))
    await alice.deletions.bury("a")
    clock.move(seconds=1)
    await mirror.purge_deleted(before=clock.now())
    for frame in (*asset("file-a", b"%PDF-1 secret"), ENDED):
        await intake.take(frame)
    ledger = await intake.finish()
    assert (ledger.assets.left_deleted, ledger.assets.stored) == (1, 0)
    assert await alice.assets.all() == []
    assert not mirror.files.path(sha256(b"%PDF-1 secret").digest()).exists()


@pytest.mark.parametrize("dry_run", [False, True])
async def test_another_file_of_an_asset_is_set_aside_by_name(
    mirror: Mirror, alice: AccountMirror, clock: ManualClock, *, dry_run: bool
) -> None:
    """The good one stays."""
    await take(mirror, *asset("file-a"), ENDED, clock=clock)
    ledger = await take(mirror, *asset("file-a", b""), ENDED, clock=clock, dry_run=dry_run)
    assert (ledger.assets.read, ledger.assets.set_aside) == (1, 1)
    assert [(each.kind, each.id, each.title) for each in ledger.set_aside] == [("asset", "file-a", "picture.png")]
    assert mirror.files.path((await alice.assets.find("file-a")).digest).read_bytes() == PNG


async def test_what_an_export_points_to_is_remembered_within_bounds(mirror: Mirror, clock: ManualClock) -> None:
    """Of one that points to more, what is missing is counted where it was written."""
    many = [conversation(name, "one", pointers=[f"file-{name}-{n}" for n in range(60_000)]) for name in "ab"]
    ledger = await take(mirror, batch(*many), *asset("file-b-7"), ENDED, clock=clock)
    assert ledger.assets == Assets(read=1, stored=1, placed=1, missing=119_999)


async def test_two_parts_files_of_one_name_are_counted_as_kept(
    mirror: Mirror, alice: AccountMirror, clock: ManualClock
) -> None:
    """But not one that says nothing new."""
    contents = b'[{"id":1}]', b'[{"id":2}]', b'[{"id":1}]'
    ledger = await take(mirror, *[wire.ExportFile("f.json", each, None) for each in contents], ENDED, clock=clock)
    assert ledger.files == Files(kept=2, ignored=1)
    assert await alice.imports.files() == [("f.json", b'[{"id":1},{"id":2}]')]


async def test_an_asset_is_stored_and_placed(mirror: Mirror, alice: AccountMirror, clock: ManualClock) -> None:
    """Its bytes lie under their digest; whether a message points to it is told, and which are missing."""
    said = conversation("a", "one", pointers=["file-a", "file-c"])
    ledger = await take(mirror, batch(said), *asset("file-a"), *asset("file-b", b"GIF89a"), ENDED, clock=clock)
    assert ledger.assets == Assets(read=2, stored=2, placed=1, unplaced=1, missing=1)
    found = await alice.assets.find("file-a")
    assert (found.media_type, found.size_bytes) == ("image/png", len(PNG))
    assert mirror.files.path(found.digest).read_bytes() == PNG


async def test_an_asset_that_is_not_whole_is_set_aside(
    mirror: Mirror, alice: AccountMirror, tmp_path: Path, clock: ManualClock
) -> None:
    """Nothing of it is left, and what follows it comes in."""
    ledger = await take(mirror, *asset("file-a", fault="it is damaged"), *asset("file-b"), ENDED, clock=clock)
    assert (ledger.assets.read, ledger.assets.set_aside, ledger.assets.stored) == (2, 1, 1)
    (aside,) = ledger.set_aside
    assert (aside.kind, aside.id, aside.place, aside.reason) == ("asset", "file-a", "file-a.dat", "it is damaged")
    assert [each.id for each in await alice.assets.all()] == ["file-b"]
    assert len([path for path in (tmp_path / "assets").rglob("*") if path.is_file()]) == 1


async def test_the_library_places_what_no_message_shows(
    mirror: Mirror, alice: AccountMirror, clock: ManualClock
) -> None:
    """By the message that it names, by the conversation, or not at all."""
    frames: list[wire.Frame] = [batch(conversation("a", "one"))]
    frames += [
        wire.Placement("file-a", None, "a-0", "A picture", "image/png"),
        wire.Placement("file-b", "a", None, None, None),
        wire.Placement("file-c", "gone", None, None, None),
    ]
    for name in ("file-a", "file-b", "file-c"):
        frames += asset(name)
    ledger = await take(mirror, *frames, ENDED, clock=clock)
    assert (ledger.assets.placed, ledger.assets.unplaced) == (2, 1)
    attached = {(each.id, each.node) for each in await alice.assets.of_conversation("a")}
    assert attached == {("file-a", "a-0"), ("file-b", "")}


async def test_other_files_are_kept_as_they_are(mirror: Mirror, alice: AccountMirror, clock: ManualClock) -> None:
    """Byte for byte; what holds nothing is counted, and what is missing named."""
    ledger = await take(
        mirror,
        wire.Opened(account=None, email=None, total_bytes=1, missing=["conversations-001.json"], missing_total=2),
        wire.ExportFile("user.json", b'{"id": "alice"}', None),
        wire.Ignored("chat.html"),
        wire.SetAside("file", "odd.bin", "no asset id in its name"),
        ENDED,
        clock=clock,
    )
    assert ledger.files == Files(kept=1, ignored=1, set_aside=1, missing=["conversations-001.json"], missing_total=2)
    assert await alice.imports.files() == [("user.json", b'{"id": "alice"}')]


async def test_what_is_set_aside_takes_its_messages_with_it(mirror: Mirror, clock: ManualClock) -> None:
    """They are read and set aside, so that nothing is lost from the sum."""
    aside = wire.SetAside("conversation", "conversations.json #2", "it has no id", title="Untold", messages=7)
    ledger = await take(mirror, batch(conversation("a", "one")), aside, ENDED, clock=clock)
    assert ledger.conversations == Conversations(read=2, imported=1, set_aside=1)
    assert ledger.messages == Messages(read=8, imported=1, set_aside=7)
    assert ledger.is_complete


async def test_a_dry_run_writes_nothing(mirror: Mirror, tmp_path: Path, clock: ManualClock) -> None:
    """The ledger is that of the import which follows; until then the mirror is empty."""
    frames = [
        batch(conversation("a", "one", pointers=["file-a", "file-c"])),
        wire.ExportFile("user.json", b"{}", None),
        *asset("file-a"),
        *asset("file-b", b"GIF89a"),
        ENDED,
    ]
    dry = await take(mirror, *frames, clock=clock, dry_run=True)
    for table in ("conversation", "node", "asset", "attachment", "export_file"):
        assert rows(tmp_path / "mirror.sqlite", f"select * from {table}") == []
    assert not (tmp_path / "assets").exists()
    wet = await take(mirror, *frames, clock=clock)
    assert (dry.conversations, dry.messages, dry.assets) == (wet.conversations, wet.messages, wet.assets)
    assert dry.dry_run
    assert not wet.dry_run


@pytest.mark.parametrize(
    ("last", "code"),
    [(None, "reading_ended"), (wire.Refused("the export could not be read", "export_refused"), "export_refused")],
    ids=["dies", "gives up"],
)
async def test_what_came_before_the_reader_ended_is_kept(
    mirror: Mirror, alice: AccountMirror, clock: ManualClock, last: wire.Frame | None, code: str
) -> None:
    """The ledger says that it is not complete, and why; half an asset is dropped."""
    frames = [batch(conversation("a", "one")), *asset("file-a")[:2], *([last] if last else [])]
    ledger = await take(mirror, *frames, clock=clock)
    assert not ledger.is_complete
    assert ledger.error is not None
    assert ledger.error.code == code
    assert ledger.conversations == Conversations(read=1, imported=1)
    assert (await alice.conversations.messages_json("a")).body
    assert await alice.assets.all() == []


async def test_what_is_no_frame_ends_the_import(mirror: Mirror, clock: ManualClock) -> None:
    """A reader of another version is told from one that died."""

    async def bodies() -> AsyncIterator[bytes]:
        yield b"\xc1 no msgpack"

    ledger = await take_in(Intake(mirror.of("alice"), mirror.files, clock=clock, dry_run=False), bodies())
    assert ledger.error is not None
    assert "version" in ledger.error.error


async def test_a_full_disk_ends_the_import(tmp_path: Path, clock: ManualClock) -> None:
    """It is told, what came is kept, and the same import goes on where there is room."""
    first, second = conversation("a", "one"), conversation("b", "x" * 4_000_000)
    with small_disk(tmp_path / "disk", size_mib=3) as folder:
        async with opening(folder, clock) as mirror:
            await mirror.accounts.ensure("alice", email=None)
            ledger = await take(mirror, batch(first), batch(second), ENDED, clock=clock)
            assert ledger.error is not None
            assert ledger.error.code == "storage_full"
            assert ledger.conversations == Conversations(read=1, imported=1)
            again = await take(mirror, batch(first), ENDED, clock=clock)
            assert again.conversations == Conversations(read=1, unchanged=1)


async def test_a_cancelled_import_leaves_no_half_of_an_asset(
    mirror: Mirror, tmp_path: Path, clock: ManualClock
) -> None:
    """What was on its way to the disk is removed at once."""
    intake = Intake(mirror.of("alice"), mirror.files, clock=clock, dry_run=False)
    for frame in asset("file-a")[:2]:
        await intake.take(frame)
    await intake.discard()
    assert [path for path in (tmp_path / "assets").rglob("*") if path.is_file()] == []
    with pytest.raises(NotFound):
        await mirror.of("alice").assets.find("file-a")
