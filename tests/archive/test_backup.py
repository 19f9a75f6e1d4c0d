# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup as a file: what is in it, that it is checked to the last byte, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import stat
import warnings
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatgpt_rest.archive.backup import DATABASE, FORMAT, KEY, Manifest, Place, open_backup, pack, read_backup
from chatgpt_rest.errors import BadRequest
from chatgpt_rest.mirror.snapshot import Contents, inspect, known_schema, take_snapshot
from tests.house import ManualClock
from tests.mirrors import opening

LIST: Final = "backup.json"
SECRET: Final = b"k" * 32
PICTURES: Final = (b"a picture" * 1_000, b"a recording" * 30_000, b"")

Entries = list[tuple[zipfile.ZipInfo, bytes]]


def digest_of(content: bytes) -> str:
    """The SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def put_asset(place: Place, content: bytes) -> str:
    """Lay an asset beside the mirror; gives its digest."""
    digest = digest_of(content)
    place.asset(digest).parent.mkdir(parents=True, exist_ok=True)
    place.asset(digest).write_bytes(content)
    return digest


@pytest.fixture
async def place(tmp_path: Path, clock: ManualClock) -> Place:
    """A mirror that nobody has open, and three assets beside it."""
    place = Place(tmp_path / "mirror.sqlite", tmp_path / "assets")
    async with opening(tmp_path, clock) as mirror:
        await mirror.accounts.accept("alice", b"alice", email=None, expires_at=clock.now() + 1)
    for content in PICTURES:
        put_asset(place, content)
    return place


def made(place: Place, assets: tuple[str, ...] = (), look: Callable[[int], None] = lambda _: None) -> bytes:
    """A backup of this mirror, said to name these assets besides the three."""
    snapshot = place.database.with_name("snapshot")
    snapshot.unlink(missing_ok=True)
    snapshot.touch()
    take_snapshot(place.database, snapshot, look=lambda _: None)
    found = inspect(snapshot, look=lambda: None)
    contents = Contents(found.schema, 1, 2, 3, (*map(digest_of, PICTURES), *assets))
    stream = io.BytesIO()
    pack(
        stream,
        place,
        snapshot=snapshot,
        contents=contents,
        key=SECRET,
        version="9.9",
        created_at="2026-11-18",
        look=look,
    )
    return stream.getvalue()


def write(tmp_path: Path, content: bytes) -> Path:
    """A file of these bytes."""
    file = tmp_path / "backup.zip"
    file.write_bytes(content)
    return file


def entries_of(content: bytes) -> Entries:
    """What a ZIP holds."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(info, archive.read(info)) for info in archive.infolist()]


def zipped(entries: Entries) -> bytes:
    """A ZIP of these."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of duplicate names
        with zipfile.ZipFile(stream, "w") as archive:
            for info, content in entries:
                archive.writestr(info, content)
    return stream.getvalue()


def relisted(entries: Entries, **changes: Any) -> Entries:
    """The same with another backup.json."""
    *others, (info, content) = entries
    return [*others, (info, msgspec.json.encode({**msgspec.json.decode(content), **changes}))]


def refusal(tmp_path: Path, content: bytes) -> str:
    """Why these bytes are no backup, opened and read to the end."""
    with pytest.raises(BadRequest) as caught, open_backup(write(tmp_path, content)) as backup:
        backup.verify(look=lambda _: None)
    return caught.value.text


def test_a_backup_holds_database_key_and_assets_and_lists_them(place: Place, tmp_path: Path) -> None:
    """Each with its size and SHA-256; read back, each is what it was."""
    looked: list[int] = []
    content = made(place, look=looked.append)
    with open_backup(write(tmp_path, content)) as backup:
        manifest = backup.manifest
        assert (manifest.format, manifest.schema, manifest.version) == (FORMAT, known_schema(), "9.9")
        assert (manifest.accounts, manifest.conversations, manifest.messages, manifest.assets) == (1, 2, 3, 3)
        assert (manifest.purged, manifest.missing) == ([], [])
        assert [member.name for member in manifest.members[:2]] == [DATABASE, KEY]
        contents = {member.name: b"".join(backup.read(member)) for member in manifest.members}
        assert {member.name: member.sha256 for member in manifest.members} == {
            name: digest_of(each) for name, each in contents.items()
        }
    assert contents.pop(DATABASE) == place.database.with_name("snapshot").read_bytes()
    assert contents.pop(KEY) == SECRET
    assert contents == {f"assets/{digest_of(each)[:2]}/{digest_of(each)}": each for each in PICTURES}
    assert sum(looked) == manifest.size_bytes - len(SECRET)


def test_the_database_is_packed_and_the_rest_is_not(place: Place) -> None:
    """Images and recordings gain nothing by it."""
    packed = {info.filename for info, _ in entries_of(made(place)) if info.compress_type == zipfile.ZIP_DEFLATED}
    assert packed == {DATABASE, LIST}


def test_an_asset_that_was_purged_meanwhile_is_told_and_no_fault(place: Place, tmp_path: Path) -> None:
    """The mirror does not name it any more."""
    digest = digest_of(b"gone")
    with open_backup(write(tmp_path, made(place, (digest,)))) as backup:
        assert (backup.manifest.purged, backup.manifest.missing, backup.manifest.assets) == ([digest], [], 3)


@pytest.mark.parametrize("damaged", [False, True])
def test_an_asset_that_is_lost_is_told(place: Place, tmp_path: Path, damaged: bool) -> None:
    """The mirror names it, and its file is not there or is not what it was: the backup is made without it."""
    digest = put_asset(place, b"once")
    place.asset(digest).write_bytes(b"now") if damaged else place.asset(digest).unlink()
    with closing(sqlite3.connect(place.database)) as connection, connection:
        connection.execute(
            "insert into asset (account, id, digest, size_bytes, media_type) values ('alice', 'f', ?, 4, 'x/y')",
            (bytes.fromhex(digest),),
        )
    with open_backup(write(tmp_path, made(place, (digest,)))) as backup:
        assert (backup.manifest.purged, backup.manifest.missing, backup.manifest.assets) == ([], [digest], 3)
        backup.verify(look=lambda _: None)


def test_what_the_looking_raises_ends_the_work(place: Place, tmp_path: Path) -> None:
    """While it is written, and while it is read."""

    def look(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        made(place, look=look)
    with open_backup(write(tmp_path, made(place))) as backup, pytest.raises(InterruptedError):
        backup.verify(look=look)


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    """A file that is not there, a folder, a pipe, something else, another program's ZIP, an empty one."""
    os.mkfifo(pipe := tmp_path / "pipe")
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "no regular file"), (pipe, "no regular file")):
        with pytest.raises(BadRequest, match=reason), open_backup(path):
            pass
    assert "this is no backup" in refusal(tmp_path, b"words")
    assert "this is no backup" in refusal(tmp_path, b"")
    assert "there is no backup.json in it" in refusal(tmp_path, zipped([(zipfile.ZipInfo("user.json"), b"{}")]))
    for content in (b"{}", b"[", b"\xff", b'{"format": 1, "version": "1"}'):
        assert "backup.json cannot be read" in refusal(tmp_path, zipped([(zipfile.ZipInfo(LIST), content)]))


def test_a_newer_one_is_refused(place: Place, tmp_path: Path) -> None:
    """By its format, whatever else it says, and by its schema; an older schema is none of its business."""
    entries = entries_of(made(place))
    newer = zipped([(zipfile.ZipInfo(LIST), b'{"format": 2, "version": "7.1", "more": []}')])
    assert "newer version of this program (7.1)" in refusal(tmp_path, newer)
    told = refusal(tmp_path, zipped(relisted(entries, schema=known_schema() + 1)))
    assert f"newer version of this program (9.9, schema {known_schema() + 1}; " in told
    with open_backup(write(tmp_path, zipped(relisted(entries, schema=1)))) as backup:
        assert backup.manifest.schema == 1


def without(entries: Entries, name: str) -> Entries:
    """One left out."""
    return [each for each in entries if each[0].filename != name]


def with_link(entries: Entries) -> Entries:
    """A link in the place of the key."""
    link = zipfile.ZipInfo(KEY)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return [entries[0], (link, b"/etc/passwd"), *entries[2:]]


def with_member(entries: Entries, name: str, content: bytes) -> Entries:
    """One more, listed as it should be."""
    members = msgspec.json.decode(entries[-1][1])["members"]
    listed = {"name": name, "size_bytes": len(content), "sha256": digest_of(content)}
    return relisted([(zipfile.ZipInfo(name), content), *entries], members=[*members, listed])


def with_size(entries: Entries, size_bytes: int) -> Entries:
    """An asset listed with another size."""
    members = msgspec.json.decode(entries[-1][1])["members"]
    members[2]["size_bytes"] = size_bytes
    return relisted(entries, members=members)


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: without(entries, KEY),
        lambda entries: without(entries, DATABASE),
        lambda entries: [*entries, (zipfile.ZipInfo("more"), b"")],
        lambda entries: [entries[0], *entries],
        lambda entries: [(entries[0][0], entries[0][1] + b"x"), *entries[1:]],
        lambda entries: [entries[0], (entries[1][0], b"j" * 32), *entries[2:]],
        lambda entries: relisted(entries, members=[]),
        lambda entries: relisted(entries, members=list(reversed(msgspec.json.decode(entries[-1][1])["members"]))),
        with_link,
        lambda entries: with_member(entries, "../../etc/cron.d/job", b"* * * * * root true"),
        lambda entries: with_member(entries, "/etc/passwd", b"root"),
        lambda entries: with_member(entries, "config.toml", b""),
        lambda entries: with_member(entries, "assets/ab/cdef", b"short"),
        lambda entries: with_member(entries, f"assets/00/{'0' * 64}", b"another digest than its name"),
        lambda entries: with_member(entries, f"assets/{digest_of(b'x')[:2]}/../{digest_of(b'x')}", b"x"),
        lambda entries: with_size(entries, 0),
        lambda entries: with_size(entries, -1),
        lambda entries: with_size(entries, 2**62),
    ],
)
def test_a_zip_that_is_not_exactly_as_listed_is_refused(
    place: Place, tmp_path: Path, change: Callable[[Entries], Entries]
) -> None:
    """Left out, added, doubled, longer, changed, a link, names and sizes that no backup has."""
    told = refusal(tmp_path, zipped(change(entries_of(made(place)))))
    assert told.startswith(("this is no backup", "the backup is damaged: "))


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33])
def test_a_key_that_is_none_is_refused(place: Place, tmp_path: Path, key: bytes) -> None:
    """However right its digest: with another length the server would not start."""
    entries = entries_of(made(place))
    members = msgspec.json.decode(entries[-1][1])["members"]
    members[1] |= {"size_bytes": len(key), "sha256": digest_of(key)}
    doctored = relisted([entries[0], (entries[1][0], key), *entries[2:]], members=members)
    assert "its key is none" in refusal(tmp_path, zipped(doctored))


@pytest.fixture(scope="module")
def small() -> tuple[bytes, dict[str, str]]:
    """A tiny backup, and the digest of each file in it."""
    contents = {DATABASE: b"database" * 50, KEY: SECRET, f"assets/{digest_of(b'x')[:2]}/{digest_of(b'x')}": b"x"}
    members = [{"name": name, "size_bytes": len(each), "sha256": digest_of(each)} for name, each in contents.items()]
    counts = dict.fromkeys(("accounts", "conversations", "messages", "assets"), 1)
    manifest = {"format": 1, "schema": 1, "version": "1", "created_at": "", "purged": [], "missing": [], **counts}
    listed = msgspec.json.encode({**manifest, "members": members})
    entries = [(zipfile.ZipInfo(name), content) for name, content in (*contents.items(), (LIST, listed))]
    return zipped(entries), {name: digest_of(each) for name, each in contents.items()}


@settings(max_examples=300)
@given(data=st.data())
def test_a_backup_that_was_tampered_with_is_refused_or_harmless(
    data: st.DataObject, small: tuple[bytes, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whichever bytes change or are cut away: what is taken for whole gives the files that were put in."""
    whole, digests = small
    content = bytearray(whole)
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        content[place] = byte
    cut = data.draw(st.none() | st.integers(0, len(whole)))
    file = tmp_path_factory.getbasetemp() / "tampered.zip"
    file.write_bytes(bytes(content)[:cut])
    try:
        with open_backup(file) as backup:
            backup.verify(look=lambda _: None)
            found: Manifest = backup.manifest
    except BadRequest:
        return
    read = {member.name: member.sha256 for member in found.members}
    assert read == digests


def test_a_stream_is_read_without_regard_to_its_position(place: Place, tmp_path: Path) -> None:
    """As where it has just been written."""
    with write(tmp_path, made(place)).open("r+b") as stream:
        stream.seek(100)
        read_backup(stream).verify(look=lambda _: None)
