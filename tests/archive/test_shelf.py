# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder of files that an export keeps up to date, and that still belongs to its owner."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.archive.shelf import ASSETS, INDEX, Outcome, Shelf, open_shelf
from chatgpt_rest.errors import Conflict, MirrorError, StorageFailed
from chatgpt_rest.model import Conversation
from tests.disks import small_disk

ID: Final = "66f1a2b3-0000-4000-8000-000000000000"
NAME: Final = "1970-01-01 Walks (66f1a2b3).md"
FIRST: Final = f"id: {ID}\nfirst\n".encode()
SECOND: Final = f"id: {ID}\nsecond\n".encode()
THIRD: Final = f"id: {ID}\nthird\n".encode()


def tree(title: str = "Walks", identifier: str = ID) -> Conversation:
    """A conversation with nothing in it."""
    return Conversation(identifier, title, 0, 0, None, {})


def shelf(folder: Path, *, account: str = "alice", suffix: str = ".md") -> AbstractContextManager[Shelf]:
    """The folder, open for Markdown of Alice's."""
    return open_shelf(folder, account=account, suffix=suffix)


def put(folder: Path, content: bytes, title: str = "Walks", identifier: str = ID) -> Outcome:
    """One export of one conversation."""
    with shelf(folder) as opened:
        return opened.put(tree(title, identifier), content)


def files(folder: Path) -> dict[str, bytes]:
    """What a person sees in the folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


# ---------------------------------------------------------------------------------------------------------- one file


def test_a_conversation_keeps_its_file(tmp_path: Path) -> None:
    """Whatever becomes of its title, it is written into the same file."""
    assert put(tmp_path, FIRST) is Outcome.WRITTEN
    assert put(tmp_path, SECOND, "Renamed") is Outcome.WRITTEN
    assert files(tmp_path) == {NAME: SECOND}


def test_what_did_not_change_is_not_touched(tmp_path: Path) -> None:
    """The same bytes again leave the file's time, and its inode, as they are."""
    put(tmp_path, FIRST)
    os.utime(tmp_path / NAME, ns=(1, 1))
    before = (tmp_path / NAME).stat()
    assert put(tmp_path, FIRST) is Outcome.UNCHANGED
    after = (tmp_path / NAME).stat()
    assert (after.st_mtime_ns, after.st_ino) == (1, before.st_ino)


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    """A folder that is made is its owner's alone, and so is every file."""
    folder = tmp_path / "made" / "here"
    put(folder, FIRST)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_file_that_was_removed_comes_back(tmp_path: Path) -> None:
    """An export brings the folder up to date: what is missing is written again."""
    put(tmp_path, FIRST)
    (tmp_path / NAME).unlink()
    assert put(tmp_path, FIRST) is Outcome.WRITTEN
    assert files(tmp_path) == {NAME: FIRST}


def test_an_empty_file_is_nobody_s_work(tmp_path: Path) -> None:
    """What a power cut leaves of a file that was just written is written again."""
    put(tmp_path, FIRST)
    (tmp_path / NAME).write_bytes(b"")
    assert put(tmp_path, FIRST) is Outcome.WRITTEN
    assert files(tmp_path) == {NAME: FIRST}


# ------------------------------------------------------------------------------------------------------------ edited


def test_what_somebody_edited_stays(tmp_path: Path) -> None:
    """As long as the conversation is what it was, nothing is written at all."""
    put(tmp_path, FIRST)
    (tmp_path / NAME).write_bytes(b"my notes")
    assert put(tmp_path, FIRST) is Outcome.EDITED
    assert files(tmp_path) == {NAME: b"my notes"}


def test_news_of_what_was_edited_lie_beside_it(tmp_path: Path) -> None:
    """The current version is written as `… (new)`, once, and then kept current; the edited file is never touched."""
    put(tmp_path, FIRST)
    (tmp_path / NAME).write_bytes(b"my notes")
    assert put(tmp_path, SECOND) is Outcome.BESIDE
    assert files(tmp_path) == {NAME: b"my notes", "1970-01-01 Walks (66f1a2b3) (new).md": SECOND}
    assert put(tmp_path, SECOND) is Outcome.EDITED
    assert put(tmp_path, THIRD) is Outcome.BESIDE
    assert files(tmp_path) == {NAME: b"my notes", "1970-01-01 Walks (66f1a2b3) (new).md": THIRD}


def test_an_edited_file_that_was_given_up_is_ours_again(tmp_path: Path) -> None:
    """Who moves the new version over an edited file has the next one written there."""
    put(tmp_path, FIRST)
    (tmp_path / NAME).write_bytes(b"my notes")
    put(tmp_path, SECOND)
    (tmp_path / "1970-01-01 Walks (66f1a2b3) (new).md").rename(tmp_path / NAME)
    assert put(tmp_path, SECOND) is Outcome.UNCHANGED
    assert put(tmp_path, THIRD) is Outcome.WRITTEN
    assert files(tmp_path) == {NAME: THIRD}


def test_what_somebody_edited_beside_it_stays_too(tmp_path: Path) -> None:
    """Notes made in `… (new)` are as safe: what is new goes to `… (new 2)` from then on."""
    new, second = tmp_path / "1970-01-01 Walks (66f1a2b3) (new).md", "1970-01-01 Walks (66f1a2b3) (new 2).md"
    put(tmp_path, FIRST)
    (tmp_path / NAME).write_bytes(b"my notes")
    put(tmp_path, SECOND)
    new.write_bytes(b"more notes")
    for content in (THIRD, SECOND, THIRD):
        assert put(tmp_path, content) is Outcome.BESIDE
    assert put(tmp_path, THIRD) is Outcome.EDITED
    assert files(tmp_path) == {NAME: b"my notes", new.name: b"more notes", second: THIRD}


# ------------------------------------------------------------------------------------------------------------- names


def test_two_conversations_never_share_a_file(tmp_path: Path) -> None:
    """Not where their ids begin alike, nor where only a case-insensitive disk would take their names for one."""
    with shelf(tmp_path) as opened:
        for number, identifier in enumerate([ID, f"{ID[:-1]}1", ID.upper(), ID.upper()[:-1] + "1"]):
            opened.put(tree("Walks" if number % 2 else "WALKS", identifier), b"%d" % number)
    assert len(files(tmp_path)) == 4
    assert len({name.casefold() for name in files(tmp_path)}) == 4


def test_somebody_else_s_file_is_not_taken(tmp_path: Path) -> None:
    """A file of that very name that holds something else stays; the conversation gets another name."""
    (tmp_path / NAME).write_bytes(b"a shopping list")
    assert put(tmp_path, FIRST) is Outcome.WRITTEN
    assert files(tmp_path)[NAME] == b"a shopping list"
    assert len(files(tmp_path)) == 2
    assert put(tmp_path, FIRST) is Outcome.UNCHANGED


def test_forms_live_side_by_side(tmp_path: Path) -> None:
    """Markdown and HTML of one conversation are files of their own, each kept up to date."""
    put(tmp_path, FIRST)
    with shelf(tmp_path, suffix=".html") as opened:
        assert opened.put(tree(), b"<p>") is Outcome.WRITTEN
    assert put(tmp_path, FIRST) is Outcome.UNCHANGED
    with shelf(tmp_path, suffix=".html") as opened:
        assert opened.put(tree(), b"<p>") is Outcome.UNCHANGED


def test_what_an_export_did_not_meet_is_told(tmp_path: Path) -> None:
    """Files whose conversation did not come, as far as they are there and of this form."""
    put(tmp_path, FIRST)
    with shelf(tmp_path) as opened:
        opened.put(tree(identifier="other"), b"other")
        assert list(opened.not_met()) == [(ID, NAME)]
    (tmp_path / NAME).unlink()
    with shelf(tmp_path) as opened:
        assert [name for _, name in opened.not_met()] == ["1970-01-01 Walks (other).md"]
    with shelf(tmp_path, suffix=".html") as opened:
        assert not list(opened.not_met())


# ------------------------------------------------------------------------------------------------------------- index


@pytest.mark.parametrize("index", [None, b"", b"\xff\x00[[[", b'{"id": 1}\n[]\n"x"\n', b"[" * 100_000])
def test_a_lost_index_is_rebuilt(tmp_path: Path, index: bytes | None) -> None:
    """Each conversation finds its file again by the mark in the name and the id in the text."""
    put(tmp_path, FIRST)
    if index is None:
        (tmp_path / INDEX).unlink()
    else:
        (tmp_path / INDEX).write_bytes(index)
    assert put(tmp_path, FIRST, "Renamed") is Outcome.UNCHANGED
    assert put(tmp_path, SECOND, "Renamed") is Outcome.WRITTEN
    assert files(tmp_path) == {NAME: SECOND}


@pytest.mark.parametrize("title", ["Notes (readme).md", "Notes (readme) (66f1a2b3).md", "(a).md (b).md"])
def test_a_title_is_no_mark(tmp_path: Path, title: str) -> None:
    """Without its index a conversation finds its file also where its title looks like the end of a file's name."""
    put(tmp_path, FIRST, title)
    (tmp_path / INDEX).unlink()
    assert put(tmp_path, FIRST, title) is Outcome.UNCHANGED
    assert len(files(tmp_path)) == 1


def test_without_an_index_nothing_is_overwritten(tmp_path: Path) -> None:
    """Where nobody knows whether a file was edited, it is taken for edited."""
    put(tmp_path, FIRST)
    (tmp_path / INDEX).unlink()
    assert put(tmp_path, SECOND) is Outcome.BESIDE
    assert files(tmp_path)[NAME] == FIRST


def test_an_export_that_was_killed_goes_on(tmp_path: Path) -> None:
    """What had been remembered but not written yet, or written but half remembered, is no edit of anybody's."""
    put(tmp_path, FIRST)
    with (tmp_path / INDEX).open("ab") as index:
        index.write(json.dumps({"id": ID, "name": NAME, "digest": "of what was never written"}).encode() + b"\n")
        index.write(b'{"id": "66f1a2b3-00')
    assert put(tmp_path, SECOND) is Outcome.WRITTEN
    assert files(tmp_path) == {NAME: SECOND}


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    """Half a file, here and among the assets, even where there is nothing to write any more."""
    put(tmp_path, FIRST)
    (tmp_path / "assets").mkdir()
    for half in (tmp_path / ".chatgpt_rest.partial", tmp_path / "assets" / ".chatgpt_rest.partial"):
        half.write_bytes(b"half a fi")
    assert put(tmp_path, FIRST) is Outcome.UNCHANGED
    assert {path.name for path in tmp_path.rglob("*")} == {NAME, INDEX, "assets"}


def test_the_index_does_not_grow_with_exports(tmp_path: Path) -> None:
    """In the end it holds one line for the account and one for each file."""
    for content in (FIRST, SECOND, THIRD):
        put(tmp_path, content)
    assert len((tmp_path / INDEX).read_bytes().splitlines()) == 2


def test_an_index_from_elsewhere_leads_nowhere(tmp_path: Path) -> None:
    """Names in it that are no files of this folder are not believed."""
    folder = tmp_path / "notes"
    folder.mkdir()
    victim = tmp_path / "victim.md"
    victim.write_bytes(b"")
    lines = [{"id": ID, "name": name, "digest": ""} for name in ("../victim.md", str(victim), ".md", "a\0.md")]
    (folder / INDEX).write_text("\n".join(map(json.dumps, lines)))
    assert put(folder, FIRST) is Outcome.WRITTEN
    assert files(folder) == {NAME: FIRST}
    assert victim.read_bytes() == b""


# ------------------------------------------------------------------------------------------------------------ refused


def test_two_accounts_do_not_mix(tmp_path: Path) -> None:
    """A folder that holds one account's conversations is refused to another's, and stays as it is."""
    put(tmp_path, FIRST)
    before = (tmp_path / INDEX).read_bytes()
    with pytest.raises(Conflict, match=r"account alice; choose another for bob"), shelf(tmp_path, account="bob"):
        pass
    assert (tmp_path / INDEX).read_bytes() == before


def test_two_exports_at_once_are_refused(tmp_path: Path) -> None:
    """The second is told to wait; the first goes on."""
    with shelf(tmp_path) as first:
        with pytest.raises(Conflict, match="another export is writing"), shelf(tmp_path):
            pass
        first.put(tree(), FIRST)
    assert put(tmp_path, FIRST) is Outcome.UNCHANGED


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """It is named, and left alone."""
    place = tmp_path / "file"
    place.write_bytes(b"precious")
    with pytest.raises(MirrorError, match="is no folder; name another place"), shelf(place):
        pass
    assert place.read_bytes() == b"precious"


@pytest.mark.parametrize("name", [INDEX, ASSETS])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path.parent.parent)], ids=["pipe", "link"])
def test_what_is_ours_is_no_link_and_no_pipe(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    """An index or a folder of assets in whose place something else lies is named, and nothing is written."""
    folder = tmp_path / "notes"
    folder.mkdir()
    make(folder / name)
    with pytest.raises(MirrorError, match=rf"{re.escape(str(folder / name))} is .+ and no (file|folder); move it away"):
        put(folder, FIRST)
    assert [path.name for path in folder.iterdir()] == [name]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_pipe_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    """At once: nobody may ever write into it."""
    put(tmp_path, FIRST)
    (tmp_path / NAME).unlink()
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(MirrorError, match=f"{re.escape(NAME)}: it is no regular file"):
        put(tmp_path, SECOND)


def test_a_pipe_that_is_called_like_a_file_is_somebody_s(tmp_path: Path) -> None:
    """It is not looked into, and the file gets another name."""
    os.mkfifo(tmp_path / NAME)
    assert put(tmp_path, FIRST) is Outcome.WRITTEN
    assert (tmp_path / NAME).is_fifo()


def test_where_nothing_can_be_written_that_is_told() -> None:
    """The place and the reason, in one line."""
    with pytest.raises(MirrorError, match=r"^/proc/\S+: "), shelf(Path("/proc/chatgpt_rest/export")):
        pass


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    """What was written is whole, nothing else is there; with room again the export goes on."""
    with small_disk(tmp_path / "disk", size_mib=1) as disk:
        put(disk, FIRST)
        (disk / "ballast").write_bytes(b"\0" * 700_000)
        with pytest.raises(StorageFailed, match=f"the disk that holds {disk} is full"):
            put(disk, SECOND + b"x" * 700_000)
        assert {path.name for path in disk.iterdir()} == {NAME, INDEX, "ballast"}
        assert (disk / NAME).read_bytes() == FIRST
        (disk / "ballast").unlink()
        assert put(disk, SECOND) is Outcome.WRITTEN
