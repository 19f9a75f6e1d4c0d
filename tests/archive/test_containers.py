# SPDX-License-Identifier: GPL-2.0-or-later
"""ZIPs, folders and files become members that can be read, within the limits, and nothing else is ever opened."""

from __future__ import annotations

import os
import socket
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from chatgpt_rest.archive.containers import Sources, open_sources
from chatgpt_rest.archive.wire import Source
from chatgpt_rest.archive.zips import Damaged
from chatgpt_rest.errors import BadRequest, StorageFailed
from tests.disks import small_disk
from tests.zips import DEFLATED, Entry, pack

MEGABYTE: Final = 1024 * 1024
PORTAL: Final = pack([Entry(b"part.zip", pack([Entry(b"conversations.json", b"[]")]))])


def source(folder: Path, *paths: Path | str, **limits: Any) -> Source:
    """What the reading process is told, with small limits."""
    allowed = {
        "max_entries": 100,
        "max_unpacked_bytes": 10 * MEGABYTE,
        "max_ratio": 200,
        "max_nested": 2,
        "max_conversation_bytes": MEGABYTE,
        "max_asset_bytes": MEGABYTE,
    }
    return Source(paths=[str(path) for path in paths], work_folder=str(folder / "work"), **{**allowed, **limits})


def zipped(path: Path, members: Mapping[str, bytes]) -> Path:
    """A ZIP of these files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def read(what: Source) -> dict[str, bytes]:
    """Everything that can be read, by place."""
    with open_sources(what) as sources:
        return {member.place: member.read() for member in sources.members}


def set_aside(sources: Sources) -> list[tuple[str, str]]:
    """What cannot be read, and why."""
    return [(aside.place, aside.reason) for aside in sources.set_aside]


def become_a_pipe(path: Path) -> None:
    """Put a named pipe where there was a file."""
    path.unlink()
    os.mkfifo(path)


def refused(what: Source) -> str:
    """Why nothing of this is imported."""
    with pytest.raises(BadRequest) as refusal, open_sources(what):
        pass
    assert refusal.value.code == "export_refused"
    assert refusal.value.text.isprintable()
    return refusal.value.text


# ------------------------------------------------------------------------------------------------------- what is read


def test_mixed_sources(tmp_path: Path) -> None:
    """A ZIP, a folder and a file are read in one import, each file under the name of what it lies in."""
    export = zipped(tmp_path / "export.zip", {"conversations.json": b"[]", "a/b.dat": b"bytes"})
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "c.dat").write_bytes(b"c")
    (folder / "user.json").write_bytes(b"{}")
    bare = tmp_path / "chats.json"
    bare.write_bytes(b"[1]")
    assert read(source(tmp_path, export, folder, bare)) == {
        "export.zip/conversations.json": b"[]",
        "export.zip/a/b.dat": b"bytes",
        "folder/user.json": b"{}",
        "folder/deep/c.dat": b"c",
        "chats.json": b"[1]",
    }


def test_zips_of_a_folder(tmp_path: Path) -> None:
    """The parts of an export that lie in a folder are read too; a ZIP that was an attachment stays one."""
    folder = tmp_path / "folder"
    folder.mkdir()
    zipped(folder / "part-1.zip", {"conversations-000.json": b"[]"})
    zipped(folder / "file-abc-sent.zip", {"secret": b""})
    assert sorted(read(source(tmp_path, folder))) == [
        "folder/file-abc-sent.zip",
        "folder/part-1.zip/conversations-000.json",
    ]


def test_a_zip_by_any_name(tmp_path: Path) -> None:
    """A file that begins like a ZIP is one, whatever it is called."""
    export = zipped(tmp_path / "download", {"conversations.json": b"[]"})
    assert list(read(source(tmp_path, export))) == ["download/conversations.json"]


def test_a_document_that_is_named_itself(tmp_path: Path) -> None:
    """An attachment that happens to be a ZIP, as documents are, is not opened."""
    document = zipped(tmp_path / "file-abcdef-Letter.docx", {"word/document.xml": b"<x/>"})
    assert list(read(source(tmp_path, document))) == ["file-abcdef-Letter.docx"]


def test_zips_within_a_zip(tmp_path: Path) -> None:
    """The privacy portal's ZIP of ZIPs is read through, and leaves nothing behind on the disk."""
    inner = pack([Entry(b"conversations.json", b"[" + b" " * 1000 + b"]", DEFLATED)])
    portal = tmp_path / "portal.zip"
    portal.write_bytes(pack([Entry(b"report.html", b"<html>"), Entry(b"Activity/part-1.zip", inner, DEFLATED)]))
    with open_sources(source(tmp_path, portal)) as sources:
        assert [member.place for member in sources.members] == [
            "portal.zip/report.html",
            "portal.zip/Activity/part-1.zip/conversations.json",
        ]
        assert len(sources.members[1].read()) == 1002
        assert list((tmp_path / "work").iterdir()) == []


def test_a_file_is_taken_once(tmp_path: Path) -> None:
    """A file that is named twice, by itself, by a link and by its folder, is read once."""
    folder = tmp_path / "folder"
    folder.mkdir()
    export = zipped(folder / "export.zip", {"conversations.json": b"[]"})
    link = tmp_path / "export.zip"
    link.hardlink_to(export)
    with open_sources(source(tmp_path, export, export, folder, link)) as sources:
        assert len(sources.members) == 1


def test_two_assets_that_share_their_bytes_are_two(tmp_path: Path) -> None:
    """Programs that save space link files of the same content: they stay two files."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file-abc.dat").write_bytes(b"same")
    (folder / "file-xyz.dat").hardlink_to(folder / "file-abc.dat")
    assert len(read(source(tmp_path, folder))) == 2


def test_sources_of_the_same_name(tmp_path: Path) -> None:
    """Sources that share a name are told apart by the folders they lie in."""
    paths = [tmp_path / month / "export.zip" for month in ("may", "june")]
    for path in paths:
        path.parent.mkdir()
        zipped(path, {"conversations.json": b"[]"})
    assert list(read(source(tmp_path, *paths))) == [
        "may/export.zip/conversations.json",
        "june/export.zip/conversations.json",
    ]


def test_times(tmp_path: Path) -> None:
    """A file's time is what its ZIP or its disk says; the day on which the calendar of ZIPs begins says nothing."""
    export = tmp_path / "export.zip"
    with zipfile.ZipFile(export, "w") as archive:
        archive.writestr(zipfile.ZipInfo("old.json"), b"")
        archive.writestr(zipfile.ZipInfo("new.json", (2026, 4, 1, 12, 0, 0)), b"")
    bare = tmp_path / "bare.json"
    bare.write_bytes(b"[]")
    os.utime(bare, (1_775_000_000, 1_775_000_000))
    with open_sources(source(tmp_path, export, bare)) as sources:
        old, new, third = (member.modified_at for member in sources.members)
    assert (old, new) == (None, 1_775_044_800_000_000)
    assert third is not None
    assert abs(third - 1_775_000_000_000_000) <= 14 * 3_600_000_000  # whatever zone this machine is in


def test_a_time_that_no_calendar_has(tmp_path: Path) -> None:
    """A disk may claim that a file was changed in billions of years: then it is not known when that was."""
    with small_disk(tmp_path / "disk", size_mib=1) as disk:
        (disk / "bare.json").write_bytes(b"[]")
        os.utime(disk / "bare.json", (2**61, 2**61))
        with open_sources(source(tmp_path, disk / "bare.json")) as sources:
            assert sources.members[0].modified_at is None


# --------------------------------------------------------------------------------------------------- what is set aside


def test_links_in_a_folder(tmp_path: Path) -> None:
    """Links, to files as to folders, are set aside and not followed, also where they lead in a circle."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "conversations.json").symlink_to("/etc/passwd")
    (folder / "round").symlink_to(folder)
    (folder / "user.json").write_bytes(b"{}")
    with open_sources(source(tmp_path, folder)) as sources:
        assert [member.place for member in sources.members] == ["folder/user.json"]
        assert set_aside(sources) == [
            ("folder/conversations.json", "it is a symbolic link"),
            ("folder/round", "it is a symbolic link"),
        ]


def test_what_is_no_file_in_a_folder(tmp_path: Path) -> None:
    """A named pipe or a socket in a folder is set aside; nobody waits for it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "conversations.json")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        with open_sources(source(tmp_path, folder)) as sources:
            assert [reason for _, reason in set_aside(sources)] == ["it is a named pipe", "it is a socket"]


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything: for a while this process is somebody who may not."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_what_may_not_be_read() -> None:
    """What its reader has no right to is set aside in a folder, and refused where it was named."""
    with TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        (top / "conversations.json").write_bytes(b"[]")
        (top / "locked").mkdir()
        zipped(top / "part.zip", {"conversations.json": b"[]"})
        for path in top.iterdir():
            path.chmod(0)
        denied = "it cannot be opened: Permission denied"
        with nobody(), open_sources(source(top, top)) as sources:
            with pytest.raises(Damaged, match=denied):
                sources.members[0].read()
            assert set_aside(sources) == [(f"{top.name}/part.zip", denied), (f"{top.name}/locked", denied)]
        with nobody():
            assert refused(source(top, top / "locked")) == f"locked: {denied}"
            assert refused(source(top, top / "part.zip")) == f"part.zip: {denied}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "it cannot be opened: No such file or directory"),
        (lambda path: path.write_bytes(b"12"), "it was shortened while it was read, by 3 bytes"),
        (become_a_pipe, "it cannot be opened: it is no regular file"),
    ],
    ids=["gone", "shorter", "a pipe"],
)
def test_a_file_that_changes(tmp_path: Path, change: Callable[[Path], object], reason: str) -> None:
    """A file that changes between the check and the reading is damaged, and never waited for."""
    bare = tmp_path / "bare.json"
    bare.write_bytes(b"12345")
    with open_sources(source(tmp_path, bare)) as sources:
        change(bare)
        with pytest.raises(Damaged, match=reason):
            sources.members[0].read()


def test_a_file_that_grows(tmp_path: Path) -> None:
    """Of a file that grows no more is read than was there when it was checked."""
    bare = tmp_path / "bare.json"
    bare.write_bytes(b"12345")
    with open_sources(source(tmp_path, bare)) as sources:
        bare.write_bytes(b"123456789")
        assert sources.members[0].read() == b"12345"


def test_a_damaged_zip_within_a_zip(tmp_path: Path) -> None:
    """A ZIP inside that does not unpack is set aside, and the others are read."""
    whole = pack([Entry(b"conversations.json", b"[]")])
    portal = tmp_path / "portal.zip"
    portal.write_bytes(pack([Entry(b"part-1.zip", whole, checksum=1), Entry(b"part-2.zip", whole)]))
    with open_sources(source(tmp_path, portal)) as sources:
        assert [member.place for member in sources.members] == ["portal.zip/part-2.zip/conversations.json"]
        ((place, reason),) = set_aside(sources)
    assert (place, reason) == ("portal.zip/part-1.zip", "its checksum is wrong: some of it is damaged")


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/nonexistent/export.zip", "a\0b"], ids=ascii)
def test_paths_that_are_no_files(tmp_path: Path, path: str) -> None:
    """A device, a path that leads nowhere and one that is none are refused."""
    assert ": it " in refused(source(tmp_path, path))


def test_a_named_pipe(tmp_path: Path) -> None:
    """A named pipe is refused; nobody waits for what comes through it."""
    os.mkfifo(tmp_path / "export.zip")
    assert refused(source(tmp_path, tmp_path / "export.zip")) == "export.zip: it is a named pipe, no file and no folder"


def test_nothing_named(tmp_path: Path) -> None:
    """An import of nothing is refused."""
    assert refused(source(tmp_path)) == "import: no file was named"


def test_an_empty_file(tmp_path: Path) -> None:
    """A download that brought nothing is refused."""
    (tmp_path / "export.zip").touch()
    assert refused(source(tmp_path, tmp_path / "export.zip")) == "export.zip: it is empty"


def test_what_is_called_a_zip_and_is_none(tmp_path: Path) -> None:
    """A login page that was saved as a ZIP is refused as one."""
    (tmp_path / "export.zip").write_bytes(b"<html>Log in</html>")
    assert "this is no whole ZIP" in refused(source(tmp_path, tmp_path / "export.zip"))


def test_faults_of_an_inner_directory(tmp_path: Path) -> None:
    """The directory of a ZIP inside is checked like any other, and named by the way that leads there."""
    inner = pack([Entry(b"../x")])
    (tmp_path / "portal.zip").write_bytes(pack([Entry(b"part.zip", inner)]))
    assert refused(source(tmp_path, tmp_path / "portal.zip")).startswith("portal.zip/part.zip/../x: its name leads out")


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_nesting(tmp_path: Path, levels: int) -> None:
    """As many levels of ZIPs in ZIPs are read as are allowed, and one more refuses the import."""
    content = pack([Entry(b"conversations.json", b"[]")])
    for level in range(levels):
        content = pack([Entry(b"%d.zip" % level, content)])
    export = tmp_path / "export.zip"
    export.write_bytes(content)
    assert list(read(source(tmp_path, export, max_nested=levels)).values()) == [b"[]"]
    export.write_bytes(pack([Entry(b"outer.zip", content)]))
    assert "[archive] max_nested" in refused(source(tmp_path, export, max_nested=levels))


def test_entries_are_counted_over_all_sources(tmp_path: Path) -> None:
    """Many ZIPs and folders together have no more files than one may have."""
    export = zipped(tmp_path / "export.zip", {"a": b"", "b": b"", "c": b""})
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "de":
        (folder / name).write_bytes(b"")
    assert len(read(source(tmp_path, export, folder, max_entries=5))) == 5
    for paths in ((export, folder), (folder, export)):
        assert "[archive] max_entries" in refused(source(tmp_path, *paths, max_entries=4))


def test_what_unpacks_to_too_much(tmp_path: Path) -> None:
    """The declared sizes of everything together, ZIPs inside included, stay within the limit."""
    first = zipped(tmp_path / "first.zip", {"a": b"x" * 600})
    second = zipped(tmp_path / "second.zip", {"b": b"x" * 600})
    assert len(read(source(tmp_path, first, second, max_unpacked_bytes=1200))) == 2
    assert "[archive] max_unpacked_bytes" in refused(source(tmp_path, first, second, max_unpacked_bytes=1199))
    inner = second.read_bytes()
    (tmp_path / "outer.zip").write_bytes(pack([Entry(b"inner.zip", inner)]))
    text = refused(source(tmp_path, tmp_path / "outer.zip", max_unpacked_bytes=len(inner) + 599))
    assert text.startswith("outer.zip/inner.zip: ")


def test_a_full_disk(tmp_path: Path) -> None:
    """A ZIP inside is not unpacked where that would fill the disk that the mirror is on."""
    (tmp_path / "portal.zip").write_bytes(PORTAL)
    with small_disk(tmp_path / "work", size_mib=1), pytest.raises(StorageFailed, match="there is no room for it"):
        read(source(tmp_path, tmp_path / "portal.zip"))


def test_no_place_to_unpack(tmp_path: Path) -> None:
    """Where a ZIP inside cannot be unpacked the import ends before anything is written."""
    (tmp_path / "portal.zip").write_bytes(PORTAL)
    (tmp_path / "work").write_bytes(b"no folder")
    with pytest.raises(StorageFailed, match=r"part\.zip cannot be unpacked to"):
        read(source(tmp_path, tmp_path / "portal.zip"))


def test_the_work_folder_is_private(tmp_path: Path) -> None:
    """What is unpacked for a while is nobody else's to see."""
    (tmp_path / "portal.zip").write_bytes(PORTAL)
    read(source(tmp_path, tmp_path / "portal.zip"))
    assert stat.S_IMODE((tmp_path / "work").stat().st_mode) == 0o700
