# SPDX-License-Identifier: GPL-2.0-or-later
"""Files under their digests: whole or not there, the owner's alone, and none that nobody knows for long."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Set
from hashlib import sha256
from pathlib import Path

import pytest

from chatgpt_rest.errors import StorageFailed
from chatgpt_rest.mirror import AssetFiles, KeptFile
from tests.disks import small_disk
from tests.house import ManualClock
from tests.mirrors import opening


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the files are to be; it is not there yet."""
    return tmp_path / "state" / "assets"


@pytest.fixture
def files(folder: Path) -> AssetFiles:
    """The files in it."""
    return AssetFiles(folder)


async def keep(files: AssetFiles, *pieces: bytes) -> KeptFile:
    """A file comes in."""
    async with files.incoming() as file:
        for piece in pieces:
            await file.write(piece)
        return await file.keep()


def every_file(folder: Path) -> list[str]:
    """What lies in the folder, folders aside."""
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())


async def test_a_file_lies_under_its_digest(files: AssetFiles, folder: Path) -> None:
    """Whole, however it came, with its size and what it is; an empty one as well."""
    words = b"%PDF-1.7 " + bytes(100_000)
    kept = await keep(files, words[:5], words[5:])
    name = sha256(words).hexdigest()
    assert kept == KeptFile(sha256(words).digest(), len(words), "application/pdf")
    assert files.path(kept.digest) == folder / name[:2] / name
    assert files.path(kept.digest).read_bytes() == words
    assert files.path((await keep(files)).digest).read_bytes() == b""


async def test_nobody_but_the_owner_can_read_it(files: AssetFiles, folder: Path) -> None:
    """Nor look into a folder on the way, whatever the process would otherwise allow."""
    before = os.umask(0)
    try:
        kept = await keep(files, b"secret")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (files.path(kept.digest), *files.path(kept.digest).parents)]
    assert modes[:4] == [0o600, 0o700, 0o700, 0o700]


async def test_what_comes_twice_lies_there_once(files: AssetFiles, folder: Path) -> None:
    """And mends what was damaged since."""
    kept = await keep(files, b"once")
    files.path(kept.digest).write_bytes(b"o")
    assert await keep(files, b"once") == kept
    assert len(every_file(folder)) == 1
    assert files.path(kept.digest).read_bytes() == b"once"


async def test_of_what_is_not_kept_nothing_is_left(files: AssetFiles, folder: Path) -> None:
    """It was damaged, say; or who sent it went away."""

    async def lose_it() -> None:
        async with files.incoming() as file:
            await file.write(b"half of it")
            raise ConnectionResetError

    async with files.incoming() as file:
        await file.write(b"half of it")
    with pytest.raises(ConnectionResetError):
        await lose_it()
    assert every_file(folder) == []


async def test_an_import_that_is_cancelled_leaves_nothing(files: AssetFiles, folder: Path) -> None:
    """Though a thread is in the middle of writing."""
    begun = asyncio.Event()

    async def go_on_writing() -> None:
        async with files.incoming() as file:
            while True:
                begun.set()
                await file.write(bytes(1_000_000))

    task = asyncio.create_task(go_on_writing())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert every_file(folder) == []


async def test_what_a_process_that_died_was_writing_is_cleared_away(tmp_path: Path, clock: ManualClock) -> None:
    """When the next one opens the mirror; what was whole stays."""
    files = AssetFiles(tmp_path / "assets")
    kept = await keep(files, b"whole")
    async with files.incoming() as file:
        await file.write(b"half of it")
        (half,) = (tmp_path / "assets" / "incoming").iterdir()
        os.link(half, half.with_name("left"))
    async with opening(tmp_path, clock) as mirror:
        assert mirror.files.path(kept.digest).read_bytes() == b"whole"
        assert len(every_file(tmp_path / "assets")) == 1


async def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """Nothing of what did not fit is left on it."""
    with small_disk(tmp_path / "disk", size_mib=1) as disk:
        files = AssetFiles(disk / "assets")
        kept = await keep(files, b"small")
        with pytest.raises(StorageFailed, match="full") as caught:
            await keep(files, bytes(4_000_000))
        assert caught.value.code == "storage_full"
        assert every_file(disk / "assets") == [str(files.path(kept.digest).relative_to(disk / "assets"))]


async def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    """In our words, with the system's reason."""
    (tmp_path / "assets").touch()
    with pytest.raises(StorageFailed, match="assets cannot be written"):
        await keep(AssetFiles(tmp_path / "assets"), b"words")


async def test_what_nobody_knows_is_removed(files: AssetFiles, folder: Path) -> None:
    """Known files stay, and so does what is none of ours; a folder that is not there yet has nothing to remove."""

    async def known() -> Set[bytes]:
        return {kept.digest}

    kept = KeptFile(b"", 0, "")
    assert await files.remove_all_but(known) == 0
    kept, stray = await keep(files, b"known"), await keep(files, b"stray")
    files.path(stray.digest).with_name("README").touch()
    assert await files.remove_all_but(known) == 1
    assert files.path(kept.digest).exists()
    assert not files.path(stray.digest).exists()
    assert files.path(stray.digest).with_name("README").exists()


async def test_what_is_just_coming_in_is_not_removed(files: AssetFiles) -> None:
    """Between the moment when its file is there and the one when the database knows it."""
    known: set[bytes] = set()

    async def find_known() -> Set[bytes]:
        return known

    async with files.incoming() as file:
        await file.write(b"new")
        kept = await file.keep()
        removing = asyncio.create_task(files.remove_all_but(find_known))
        await asyncio.sleep(0)
        known.add(kept.digest)
    assert await removing == 0
    assert files.path(kept.digest).exists()
