# SPDX-License-Identifier: GPL-2.0-or-later
"""The directory of a ZIP is believed only as far as it can be true, and so are the bytes of its files."""

from __future__ import annotations

import io
import time
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.archive.zips import Damaged, read_directory, shown, unpacked
from chatgpt_rest.archive.zips import Entry as Found
from chatgpt_rest.errors import BadRequest
from tests.zips import DEFLATED, Entry, pack

MEGABYTE: Final = 1024 * 1024
LINES: Final = b"".join(b"%d\n" % number for number in range(400_000))
PLAIN: Final = Entry(b"conversations.json", b"[]")
LINK: Final = 0o120777
DEVICE: Final = 0o020666


def opened(content: bytes, folder: Path, *, max_entries: int = 100, max_ratio: int = 200) -> list[Found]:
    """The directory of a ZIP of these bytes."""
    path = folder / "export.zip"
    path.write_bytes(content)
    with path.open("rb") as file:
        return read_directory(file, "export.zip", max_entries=max_entries, max_ratio=max_ratio)


def refused(content: bytes, folder: Path, *, max_entries: int = 100, max_ratio: int = 200) -> str:
    """Why a ZIP of these bytes is refused."""
    with pytest.raises(BadRequest) as refusal:
        opened(content, folder, max_entries=max_entries, max_ratio=max_ratio)
    assert refusal.value.code == "export_refused"
    return refusal.value.text


def contents(entry: Entry, folder: Path) -> tuple[bytes, str | None]:
    """What can be read of the only file of a ZIP, and what is wrong with the rest."""
    (found,) = opened(pack([entry]), folder)
    got = bytearray()
    with (folder / "export.zip").open("rb") as file:
        try:
            for block in unpacked(file.fileno(), found):
                got += block
        except Damaged as damage:
            return bytes(got), str(damage)
    return bytes(got), None


# -------------------------------------------------------------------------------------------------------- directories


@pytest.mark.parametrize("is_large", [False, True], ids=["zip", "zip64"])
def test_what_a_directory_says(tmp_path: Path, is_large: bool) -> None:
    """Files come in the order of the directory, with sizes and the time on the clock of who packed them."""
    entries = [
        Entry(b"b.dat", b"xy"),
        Entry(b"folder/", mode=0o040755),
        Entry("folder/ä.json".encode(), b"x" * 999, DEFLATED),
    ]
    second, first = reversed(opened(pack(entries, zip64=is_large), tmp_path))
    assert (first.name, first.size_bytes, first.is_deflated) == ("b.dat", 2, False)
    assert (second.name, second.size_bytes, second.is_deflated) == ("folder/ä.json", 999, True)
    assert first.modified_at == 1_775_044_800_000_000  # noon on 1 April 2026, as if in UTC


def test_zips_as_zipfile_writes_them(tmp_path: Path) -> None:
    """A ZIP that was written as a stream, with its sizes behind each file, opens like any other."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, content: object, /) -> int:
            self.written += bytes(content)  # type: ignore[call-overload]  # whatever has bytes
            return len(bytes(content))  # type: ignore[call-overload]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", b"[1, 2, 3]")
        archive.writestr("a.dat", b"bytes")
    found = opened(bytes(pipe.written), tmp_path)
    with (tmp_path / "export.zip").open("rb") as file:
        assert [b"".join(unpacked(file.fileno(), entry)) for entry in found] == [b"[1, 2, 3]", b"bytes"]


@pytest.mark.parametrize(
    "name",
    [
        "../conversations.json", "a/../../b", "..", "/etc/passwd", "C:/x", "c:x", "a\\b", "..\\x", "a\x00.json", "a\nb",
        "a\x1b[2J", "\x85", "\u0300\u0323" * 300,
    ],
    ids=ascii,
)  # fmt: skip
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    """A name that could lead out of a folder, or play tricks on a terminal, refuses the ZIP, shown escaped."""
    text = refused(pack([PLAIN, Entry(name.encode())]), tmp_path)
    assert text.startswith("export.zip/")
    assert "its name" in text
    assert text.isprintable()


@pytest.mark.parametrize(
    ("first", "second"),
    [("a.json", "a.json"), ("A.json", "a.JSON"), ("ß", "SS"), ("é", "e\u0301"), ("a/b", "a/./b"), ("a", "a/")],
    ids=ascii,
)
def test_names_that_are_the_same(tmp_path: Path, first: str, second: str) -> None:
    """Two names that some file system takes for one refuse the ZIP: which of them is meant cannot be told."""
    assert "two files of this name" in refused(pack([Entry(first.encode()), Entry(second.encode())]), tmp_path)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Entry(b"a", b"/etc/passwd", mode=LINK), "link"),
        (Entry(b"a", mode=DEVICE), "device"),
        (Entry(b"a", b"x" * 20, flags=0x801), "encrypted"),
        (Entry(b"a", b"x" * 20, flags=0x41), "encrypted"),
        (Entry(b"a", b"x" * 20, method=12), "packed in a way"),
        (Entry(b"a", b"x" * 20, method=99), "packed in a way"),
        (Entry(b"a", b"x" * 20, flags=0x820), "packed in a way"),
        (Entry(b"a", b"x" * 20, size=21), "contradict"),
        (Entry(b"a", b"x", offset=0), "overlaps"),
        (Entry(b"a", b"x", offset=1), "overlaps"),
        (Entry(b"a", b"x", offset=2_000_000), "lies where it does not"),
        (Entry(b"a", b"x", offset=0xFFFFFFF0), "lies where it does not"),
        (Entry(b"a", b"x", size=50, packed_size=50), "reaches into"),
        (Entry(b"a", b"x", local_name=b"b"), "another name"),
        (Entry(b"a", b"x", DEFLATED, size=64 * 1024 * 1024 + 1), "unpack the ZIP and import the folder"),
        (Entry(b"a", b"x", DEFLATED, size=2**32 - 2), "more than 200 times its size"),
    ],
    ids=lambda value: None if isinstance(value, Entry) else value,
)
def test_entries_that_no_export_has(tmp_path: Path, entry: Entry, reason: str) -> None:
    """Links, locked files, unknown packing, overlaps, bombs: the ZIP is refused, naming the file and what to do."""
    text = refused(pack([PLAIN, entry]), tmp_path)
    assert text.startswith("export.zip/")
    assert reason in text


def test_a_small_file_may_shrink_to_almost_nothing(tmp_path: Path) -> None:
    """Up to 64 MiB no ratio makes a bomb: silence, one colour and words that repeat themselves are no attack."""
    entry = Entry(b"a", b"x", DEFLATED, size=64 * 1024 * 1024)
    assert opened(pack([entry]), tmp_path, max_ratio=2)[0].size_bytes == 64 * 1024 * 1024


def test_one_file_under_two_names(tmp_path: Path) -> None:
    """Two entries that share their bytes, the trick of the bombs that pass every ratio, refuse the ZIP."""
    inner = Entry(b"a.json", b" " * 1000, DEFLATED)
    whole = pack([inner])
    outer = Entry(b"b.json", whole[: whole.index(b"PK\1\2")])
    assert "overlaps" in refused(pack([outer, replace(inner, offset=30 + len(outer.name))]), tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its end is missing"),
        (b"PK", "its end is missing"),
        (b"<html>Log in</html>" * 99, "its end is missing"),
        (pack([PLAIN])[:-1], "its end is missing"),
        (pack([PLAIN], comment=b"abc")[:-1], "cut off"),
        (pack([PLAIN])[:-40], "its end is missing"),
        (pack([PLAIN])[5:], "its beginning or its middle is missing"),
        (pack([PLAIN], before=b"#!/bin/sh\n"), "does not fit the file"),
        (pack([PLAIN]) + b"\n", "other data follows"),
        (pack([PLAIN], disk=1), "split"),
        (pack([PLAIN], directory_offset=3), "does not fit the file"),
        (pack([PLAIN], count=2), "does not hold the 2 files"),
        (pack([PLAIN], count=0), "does not hold the 0 files"),
        (pack([PLAIN]).replace(b"PK\1\2", b"PK\1\3"), "directory is damaged"),
        (pack([Entry(b"\xff\xfe", b"not UTF-8")]), "directory is damaged"),
    ],
    ids=range(15),
)
def test_what_is_no_whole_zip(tmp_path: Path, content: bytes, reason: str) -> None:
    """What is cut off, split or no ZIP is refused with what is wrong."""
    text = refused(content, tmp_path)
    assert text.startswith("export.zip: ")
    assert reason in text


@pytest.mark.parametrize("is_honest", [True, False])
def test_too_many_entries(tmp_path: Path, is_honest: bool) -> None:
    """60,000 entries are refused at once, also where the end of the ZIP claims that there is one."""
    content = pack([Entry(b"%05d" % number) for number in range(60_000)], count=None if is_honest else 1)
    began = time.process_time()
    assert "[archive] max_entries" in refused(content, tmp_path, max_entries=50_000)
    assert time.process_time() - began < 2


def test_ten_million_entries(tmp_path: Path) -> None:
    """A directory that claims to be larger than any allowed number of files needs is not even read."""
    content = bytearray(pack([PLAIN], zip64=True))
    content[-22 - 20 - 32 : -22 - 20 - 16] = (10_000_000).to_bytes(8, "little") * 2
    assert "[archive] max_entries" in refused(bytes(content), tmp_path)


@given(st.data())
def test_any_byte_may_be_wrong(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever happens to a ZIP's bytes, it opens or is refused, and its files give what they declare or less."""
    content = bytearray(pack([PLAIN, Entry(b"a.dat", b"x" * 300, DEFLATED), Entry(b"b.dat", b"y" * 40)]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(len(content) - 30, len(content)))
    folder = tmp_path_factory.mktemp("zip")
    try:
        entries = opened(bytes(content[:cut]), folder)
    except BadRequest:
        return
    with (folder / "export.zip").open("rb") as file:
        for entry in entries:
            given_out = 0
            try:
                for block in unpacked(file.fileno(), entry):
                    given_out += len(block)
            except Damaged:
                pass
            else:
                assert given_out == entry.size_bytes
            assert given_out <= entry.size_bytes


# ----------------------------------------------------------------------------------------------------------- contents


@pytest.mark.parametrize("method", [0, DEFLATED], ids=["stored", "deflated"])
def test_a_whole_file(tmp_path: Path, method: int) -> None:
    """A file of several megabytes comes whole, in blocks of a megabyte at the most."""
    assert contents(Entry(b"a", LINES, method), tmp_path) == (LINES, None)


@pytest.mark.parametrize(
    ("entry", "rest", "reason"),
    [
        (Entry(b"a", b"x" * 100, checksum=1), b"x" * 100, "its checksum is wrong"),
        (Entry(b"a", b"x" * 100, DEFLATED, checksum=1), b"x" * 100, "its checksum is wrong"),
        (Entry(b"a", b"x" * 100, DEFLATED, size=99), b"x" * 99, "it holds more than its archive says"),
        (Entry(b"a", b"x" * 100, DEFLATED, size=101), b"x" * 100, "it ends early, 1 bytes short"),
        (Entry(b"a", b"x" * 100, DEFLATED, packed=b"\xff" * 30), b"", "its packed bytes are damaged"),
        (Entry(b"a", b"x" * 100, DEFLATED, packed=b""), b"", "it ends early, 100 bytes short"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_damaged_files(tmp_path: Path, entry: Entry, rest: bytes, reason: str) -> None:
    """A file that is not what its directory says gives what there is, no more than declared, then its fault."""
    got, fault = contents(entry, tmp_path)
    assert got == rest
    assert fault is not None
    assert fault.startswith(reason)


def test_a_file_that_is_cut_in_the_middle(tmp_path: Path) -> None:
    """What was unpacked before the damage is handed out."""
    packed = Entry(b"a", LINES, DEFLATED).bytes_packed
    got, fault = contents(Entry(b"a", LINES, DEFLATED, packed=packed[: len(packed) // 2]), tmp_path)
    assert LINES.startswith(got)
    assert len(got) > 100_000
    assert fault is not None


# -------------------------------------------------------------------------------------------------------------- names


@given(st.text(min_size=1))
def test_names_are_safe_to_show(name: str) -> None:
    """Whatever a file is called, its name can be printed, is short, and can be written as UTF-8."""
    assert shown(name).isprintable()
    assert len(shown(name)) <= 201
    assert shown(name).encode()


def test_ordinary_names_are_shown_as_they_are() -> None:
    """Letters of all scripts stay what they are."""
    name = unicodedata.normalize("NFC", "Ausflug nach Zürich 東京.png")
    assert shown(name) == name
