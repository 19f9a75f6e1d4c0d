# SPDX-License-Identifier: GPL-2.0-or-later
"""An account as a folder of files that people read, through the real mirror and the real forms."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatgpt_rest.archive.forms import FORMS
from chatgpt_rest.archive.library import Shelving, write_library
from chatgpt_rest.archive.shelf import INDEX
from chatgpt_rest.errors import StorageFailed
from chatgpt_rest.mirror import Mirror
from chatgpt_rest.model import Conversation
from tests.belongings import PNG, add_asset, add_conversation
from tests.disks import small_disk
from tests.house import ManualClock
from tests.mirrors import opening
from tests.shapes import message

FIRST = "2026-11-18 Talk 1 (00000001)"
SECOND = "2026-11-18 Talk 2 (00000002)"


@pytest.fixture
async def mirror(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Mirror]:
    """A mirror with two conversations of Alice's and one of Bob's."""
    async with opening(tmp_path / "mirror", clock) as opened:
        for account in ("alice", "bob"):
            await opened.accounts.ensure(account, email=None)
        await add_conversation(opened, 1)
        await add_conversation(opened, 2, message("A question?", role="user"), message("An *answer*."))
        await add_conversation(opened, 0xB0B, account="bob")
        yield opened


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Where the files go."""
    return tmp_path / "library"


async def export(mirror: Mirror, folder: Path, form: str = "markdown", *, only: str | None = None) -> Shelving:
    """Bring the folder up to date with all of Alice's conversations, or with one."""
    conversations = mirror.of("alice").conversations

    async def trees() -> AsyncIterator[Conversation]:
        async for name in conversations.exportable():
            if only in {None, name}:
                yield await conversations.get(name)

    return await write_library(
        folder,
        trees(),
        mirror=mirror.of("alice"),
        files=mirror.files,
        form=FORMS[form],
        on_bytes=lambda _: None,
    )


def files(folder: Path) -> dict[str, bytes]:
    """Everything in the folder but the index, by its path in it."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if name != INDEX}


def times(folder: Path) -> dict[str, int]:
    """When each of them was written last."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != INDEX}


@pytest.mark.parametrize(("form", "suffix"), [("markdown", ".md"), ("html", ".html"), ("json", ".json")])
async def test_each_conversation_has_its_file(mirror: Mirror, library: Path, form: str, suffix: str) -> None:
    """All of the account's, none of another's, with their words in them; exported again, nothing is touched."""
    done = await export(mirror, library, form)
    assert done == Shelving(written=2)
    assert set(files(library)) == {FIRST + suffix, SECOND + suffix}
    assert b"Words 1." in files(library)[FIRST + suffix]
    before = times(library)
    assert await export(mirror, library, form) == Shelving(unchanged=2)
    assert times(library) == before


async def test_only_what_changed_is_written(mirror: Mirror, library: Path) -> None:
    """A new title changes one file, under the name that it always had."""
    await export(mirror, library)
    await mirror.of("alice").conversations.edit("00000001-0000-4000-8000-000000000000", title="Renamed")
    assert await export(mirror, library) == Shelving(written=1, unchanged=1)
    assert b"# Renamed" in files(library)[f"{FIRST}.md"]


async def test_assets_lie_beside(mirror: Mirror, library: Path) -> None:
    """They are copied once and for all, and linked from where they belong: the library's own placing counts, too."""
    name = await add_conversation(mirror, 3, message("A picture", role="user"), message("Here."))
    await add_asset(mirror, "file-a", PNG, conversation_id=name, node="n0", name="Cat.png")
    await add_asset(mirror, "file-b", b"a,b\n", conversation_id=name, name="table.csv")
    await add_asset(mirror, "file-c", b"of nobody", conversation_id=None)
    assert await export(mirror, library) == Shelving(written=3, assets=2)
    found = files(library)
    assert (found["assets/file-a.png"], found["assets/file-b.csv"]) == (PNG, b"a,b\n")
    assert "assets/file-c.txt" not in found
    text = found["2026-11-18 Talk 3 (00000003).md"].decode()
    assert text.index("](assets/file-a.png)") < text.index("Here.") < text.index("[table.csv](assets/file-b.csv)")
    assert await export(mirror, library) == Shelving(unchanged=3)


async def test_a_page_holds_its_pictures_itself(mirror: Mirror, library: Path) -> None:
    """HTML needs no file beside it."""
    name = await add_conversation(mirror, 3)
    await add_asset(mirror, "file-a", PNG, conversation_id=name)
    assert await export(mirror, library, "html", only=name) == Shelving(written=1)
    (page,) = files(library).values()
    assert b"data:image/png;base64," in page


async def test_json_names_the_files(mirror: Mirror, library: Path) -> None:
    """The path of each asset, from the folder."""
    name = await add_conversation(mirror, 3)
    await add_asset(mirror, "file-a", PNG, conversation_id=name)
    await export(mirror, library, "json", only=name)
    tree = json.loads(files(library)["2026-11-18 Talk 3 (00000003).json"])
    assert [each["file"] for message in tree["messages"] for each in message["assets"]] == ["assets/file-a.png"]


async def test_a_lost_asset_is_counted(mirror: Mirror, library: Path) -> None:
    """Where the mirror has not the bytes any more the conversation is written, and the loss told."""
    await add_asset(mirror, "file-a", PNG, conversation_id="00000001-0000-4000-8000-000000000000")
    mirror.files.path(hashlib.sha256(PNG).digest()).unlink()
    assert await export(mirror, library) == Shelving(written=2, lost=1)
    assert b"assets/" not in files(library)[f"{FIRST}.md"]


async def test_what_was_deleted_stays_and_is_told(mirror: Mirror, library: Path) -> None:
    """Its file is its owner's now. What merely was not asked for is not told of."""
    await export(mirror, library)
    await mirror.of("alice").deletions.bury("00000001-0000-4000-8000-000000000000")
    done = await export(mirror, library, only="none at all")
    assert done == Shelving(gone=[f"{FIRST}.md"])
    assert f"{FIRST}.md" in files(library)


async def test_edited_files_are_told(mirror: Mirror, library: Path) -> None:
    """By name, with those whose news lie beside them."""
    await export(mirror, library)
    for name in (FIRST, SECOND):
        (library / f"{name}.md").write_bytes(b"mine")
    await mirror.of("alice").conversations.edit("00000002-0000-4000-8000-000000000000", title="Renamed")
    done = await export(mirror, library)
    assert done == Shelving(edited=[f"{FIRST}.md", f"{SECOND}.md"], beside=[f"{SECOND}.md"])
    assert b"# Renamed" in files(library)[f"{SECOND} (new).md"]


async def test_stopped_in_the_middle_every_file_is_whole(mirror: Mirror, library: Path) -> None:
    """What had come stays, remembered; the next export goes on from there."""

    async def broken() -> AsyncIterator[Conversation]:
        yield await mirror.of("alice").conversations.get("00000001-0000-4000-8000-000000000000")
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await write_library(
            library,
            broken(),
            mirror=mirror.of("alice"),
            files=mirror.files,
            form=FORMS["markdown"],
            on_bytes=lambda _: None,
        )
    assert set(files(library)) == {f"{FIRST}.md"}
    assert await export(mirror, library) == Shelving(written=1, unchanged=1)


async def test_a_full_disk_leaves_no_half_asset(mirror: Mirror, tmp_path: Path) -> None:
    """An asset that finds no room is told in one line; what was written before it is whole."""
    await add_asset(mirror, "file-a", PNG * 1000, conversation_id="00000002-0000-4000-8000-000000000000")
    with small_disk(tmp_path / "disk", size_mib=1) as disk:
        with pytest.raises(StorageFailed, match=re.escape(f"the disk that holds {disk} is full")):
            await export(mirror, disk)
        assert set(files(disk)) == {f"{FIRST}.md", f"{SECOND}.md"}
