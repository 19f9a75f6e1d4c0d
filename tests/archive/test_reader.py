# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that reads an export, as it is started: what it says, in which order, and how it ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import pytest

from chatgpt_rest.archive import wire
from tests.process import CHECKOUT, PATIENCE_SECONDS
from tests.zips import DEFLATED, Entry, pack

ACCOUNT: Final = "user-A1iceSm1th"
LIMITS: Final[dict[str, int]] = {
    "max_entries": 1_000,
    "max_unpacked_bytes": 2**40,
    "max_ratio": 200,
    "max_nested": 2,
    "max_conversation_bytes": 4 * 1024 * 1024,
    "max_asset_bytes": 64 * 1024 * 1024,
}


def conversation(number: int, *, text: str = "Hello") -> dict[str, Any]:
    """A small conversation of the full shape."""
    message = {"id": "m", "author": {"role": "user"}, "content": {"content_type": "text", "parts": [text]}}
    node: dict[str, Any] = {"id": "m", "message": message, "parent": None, "children": []}
    name = f"conversation-{number}"
    return {"id": name, "conversation_id": name, "title": f"No. {number}", "update_time": 1.5, "mapping": {"m": node}}


def dump(value: object) -> bytes:
    """JSON."""
    return json.dumps(value).encode()


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    """A ZIP of these files."""
    path.write_bytes(pack([Entry(name.encode(), content, DEFLATED) for name, content in files.items()]))
    return path


class Reader:
    """The process, and the frames that it sends."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    @property
    def stdin(self) -> IO[bytes]:
        """What it is told things by."""
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """What its frames come out of."""
        assert self.process.stdout is not None
        return self.process.stdout

    def tell(self, what: wire.Source | wire.Go) -> None:
        """A line to the process."""
        self.stdin.write(msgspec.json.encode(what) + b"\n")
        self.stdin.flush()

    def frame(self) -> wire.Frame | None:
        """The next frame; None at the end."""
        length = self.stdout.read(4)
        return wire.decode(self.stdout.read(int.from_bytes(length, "big"))) if length else None

    def rest(self) -> list[wire.Frame]:
        """All further frames."""
        return list(iter(self.frame, None))

    def end(self) -> tuple[int, str]:
        """Its status, and what it complained of."""
        status = self.process.wait(PATIENCE_SECONDS)
        assert self.process.stderr is not None
        return status, self.process.stderr.read().decode()


@contextmanager
def started(*paths: Path | str, **limits: int) -> Iterator[Reader]:
    """The process, told to open these paths."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "chatgpt_rest.archive.reader"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=CHECKOUT,
    ) as process:
        reader = Reader(process)
        try:
            names = [str(path) for path in paths]
            work_folder = str(Path(names[0]).parent / "work")
            reader.tell(wire.Source(paths=names, work_folder=work_folder, **{**LIMITS, **limits}))
            yield reader
        finally:
            process.kill()


def read(*paths: Path | str, **limits: int) -> list[wire.Frame]:
    """Every frame of an import."""
    with started(*paths, **limits) as reader:
        first = reader.frame()
        assert isinstance(first, wire.Opened), first
        reader.tell(wire.Go(ACCOUNT))
        frames = [first, *reader.rest()]
        assert reader.end() == (0, "")
    return frames


def refused(*paths: Path | str, **limits: int) -> str:
    """Why an import is refused: the only thing that is sent."""
    with started(*paths, **limits) as reader:
        (frame,) = reader.rest()
        assert reader.end() == (0, "")
    assert isinstance(frame, wire.Refused)
    assert frame.code == "export_refused"
    return frame.text


def conversations(frames: list[wire.Frame]) -> list[str]:
    """The ids of the conversations that came."""
    return [each.id for frame in frames if isinstance(frame, wire.Batch) for each in frame.conversations]


def set_aside(frames: list[wire.Frame]) -> list[wire.SetAside]:
    """What was set aside."""
    return [frame for frame in frames if isinstance(frame, wire.SetAside)]


# --------------------------------------------------------------------------------------------------------- the course


def test_a_whole_export(tmp_path: Path) -> None:
    """An export is opened, and comes in order: what is odd, conversations, placements, files, assets, the end."""
    library = [{"file_id": "file-bbb", "initiating_conversation_id": "conversation-1", "file_name": "b/Saturn.png"}, {}]
    export = zipped(
        tmp_path / "export.zip",
        {
            "user.json": dump({"id": ACCOUNT, "email": "alice@example.org"}),
            "chat.html": b"<html>",
            "file-aaa-Notes.pdf": b"%PDF",
            "file-bbb.dat": b"\x89PNG" * 600_000,
            "conversations-000.json": dump([conversation(1), conversation(2)]),
            "conversations-002.json": dump([conversation(3)]),
            "library_files.json": dump(library),
            "nobody knows.bin": b"1",
        },
    )
    frames = read(export, max_ratio=5_000)
    opened, aside, ignored, batch, placement, *rest = frames
    assert isinstance(opened, wire.Opened)
    assert (opened.account, opened.email) == (ACCOUNT, "alice@example.org")
    assert opened.missing == ["conversations-001.json"]
    assert aside == wire.SetAside("asset", "export.zip/nobody knows.bin", "there is no asset's id in its name")
    assert ignored == wire.Ignored("export.zip/chat.html")
    assert isinstance(batch, wire.Batch)
    assert [each.id for each in batch.conversations] == ["conversation-1", "conversation-2", "conversation-3"]
    assert {row[0] for each in batch.conversations for row in each.nodes} == {ACCOUNT}
    assert placement == wire.Placement("file-bbb", "conversation-1", None, "Saturn.png", None)
    user, kept_library, *assets, ended = rest
    assert user == wire.ExportFile(
        "user.json", dump({"id": ACCOUNT, "email": "alice@example.org"}), 1_775_044_800_000_000
    )
    assert isinstance(kept_library, wire.ExportFile)
    assert assets[0] == wire.AssetBegins("file-aaa", "Notes.pdf", "export.zip/file-aaa-Notes.pdf", 4)
    assert isinstance(assets[1], wire.AssetBytes)
    assert assets[2:4] == [wire.AssetEnds(), wire.AssetBegins("file-bbb", None, "export.zip/file-bbb.dat", 2_400_000)]
    pieces = [frame.content for frame in assets[4:-1] if isinstance(frame, wire.AssetBytes)]
    assert b"".join(pieces) == b"\x89PNG" * 600_000
    assert max(map(len, pieces)) <= wire.ASSET_CHUNK_BYTES
    assert assets[-1] == wire.AssetEnds()
    assert ended == wire.Ended(opened.total_bytes)


def test_progress(tmp_path: Path) -> None:
    """What is done only grows, from batch to batch and block to block, to the total, also past what is damaged."""
    cut = dump([conversation(number) for number in range(3_000)])[:-1_000]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "conversations.json").write_bytes(cut)
    (folder / "file-aaa.dat").write_bytes(bytes(3_000_000))
    (folder / "message_feedback.json").write_bytes(b"[]")
    frames = read(folder)
    done = [frame.done_bytes for frame in frames if isinstance(frame, wire.Batch | wire.AssetBytes | wire.Ended)]
    assert isinstance(frames[0], wire.Opened)
    assert len(done) > 4
    assert done == sorted(done)
    assert done[-1] == frames[0].total_bytes == len(cut) + 3_000_002


def test_batches_are_bounded(tmp_path: Path) -> None:
    """A batch holds two megabytes of conversations at the most, unless it is a single one."""
    texts = ["x" * 400_000] * 9 + ["y" * 3_000_000] + ["z"]
    bare = tmp_path / "chats.json"
    bare.write_bytes(dump([conversation(number, text=text) for number, text in enumerate(texts)]))
    batches = [frame.conversations for frame in read(bare) if isinstance(frame, wire.Batch)]
    assert [len(batch) for batch in batches] == [5, 4, 1, 1]


def test_bad_conversations_among_good_ones(tmp_path: Path) -> None:
    """A conversation that cannot be read is set aside by its place, id and title, and stops no other."""
    bad = {**conversation(2), "mapping": 7}
    bare = tmp_path / "chats.json"
    bare.write_bytes(dump([conversation(1), bad, "no conversation", conversation(3)]))
    frames = read(bare)
    first, second = set_aside(frames)
    assert conversations(frames) == ["conversation-1", "conversation-3"]
    assert (first.kind, first.id, first.title) == ("conversation", "conversation-2", "No. 2")
    assert first.place == f"chats.json #1 (byte {len(dump([conversation(1)])) + 1})"
    assert (second.kind, second.id) == ("conversation", None)


@pytest.mark.parametrize(
    "name", ["\ud800", "../" * 100_000, 17, "WEB:3b1f"], ids=["surrogate", "path", "number", "WEB"]
)
def test_an_id_that_is_none(tmp_path: Path, name: object) -> None:
    """It is told as far as it can be shown, whatever it is, and stops no other conversation."""
    bare = tmp_path / "chats.json"
    bad = {**conversation(2), "id": name, "conversation_id": name, "title": "Odd " + "\ud800" * 100_000}
    bare.write_bytes(dump([conversation(1), bad, conversation(3)]))
    frames = read(bare)
    (aside,) = set_aside(frames)
    assert conversations(frames) == ["conversation-1", "conversation-3"]
    assert aside.reason == "its id cannot be used here"
    assert len(aside.id or "") + len(aside.title or "") < 1_000
    assert (aside.title or "").startswith("Odd \ufffd")


def test_a_file_of_a_million_things_that_are_no_conversations(tmp_path: Path) -> None:
    """A thousand of them are enough to know it: the rest of the file is not read, and told as one."""
    bare = tmp_path / "chats.json"
    bare.write_bytes(b"[" + b"1," * 1_000_000 + dump(conversation(1)) + b"]")
    asides = set_aside(read(bare))
    assert len(asides) == 1_000
    assert {aside.reason for aside in asides[:-1]} == {"it has no mapping"}
    assert (asides[-1].kind, asides[-1].reason) == (
        "file", "it is no list of conversations: 1000 things in a row are none, and what follows is not read",
    )  # fmt: skip
    assert asides[-1].place == "chats.json #999 (byte 1999)"


def test_what_is_no_conversation_may_be_often(tmp_path: Path) -> None:
    """As long as conversations lie between, all of a file is read."""
    bare = tmp_path / "chats.json"
    bare.write_bytes(dump([*range(999), conversation(1), *range(999), conversation(2)]))
    assert conversations(read(bare)) == ["conversation-1", "conversation-2"]


def test_a_library_of_a_million_things_that_are_no_files(tmp_path: Path) -> None:
    """Nor is that read to its end."""
    files = {"conversations.json": b"[]", "library_files.json": b"[" + b"1," * 1_000_000 + b'{"file_id":"file-a"}]'}
    frames = read(zipped(tmp_path / "export.zip", files), max_ratio=5_000)
    (aside,) = set_aside(frames)
    assert aside.reason == "1000 things in a row name no file, and what follows is not read"
    assert not [frame for frame in frames if isinstance(frame, wire.Placement)]


def test_a_manifest_of_very_many_names(tmp_path: Path) -> None:
    """A thousand of what is missing are named, and all of it is counted."""
    manifest = {"export_files": [f"file-{number}.dat" for number in range(20_000)]}
    files = {"conversations.json": b"[]", "export_manifest.json": dump(manifest)}
    opened = read(zipped(tmp_path / "export.zip", files))[0]
    assert isinstance(opened, wire.Opened)
    assert (len(opened.missing), opened.missing_total) == (1_000, 20_000)


@pytest.mark.parametrize("method", [0, DEFLATED], ids=["stored", "deflated"])
def test_a_wrong_checksum(tmp_path: Path, method: int) -> None:
    """What a damaged file still gives is read, the damage is named, and the other files are read."""
    content = dump([conversation(1), conversation(2)])
    entries = [
        Entry(b"conversations-000.json", content, method, checksum=7),
        Entry(b"conversations-001.json", dump([conversation(3)])),
    ]
    export = tmp_path / "export.zip"
    export.write_bytes(pack(entries))
    frames = read(export)
    assert conversations(frames) == ["conversation-1", "conversation-2", "conversation-3"]
    (aside,) = set_aside(frames)
    assert (aside.kind, aside.place) == ("file", "export.zip/conversations-000.json")
    assert aside.reason.startswith("its checksum is wrong")


def test_a_file_that_lies_about_its_size(tmp_path: Path) -> None:
    """Of a file that holds more than is declared nothing beyond that is read."""
    content = dump([conversation(1), conversation(2)])
    export = tmp_path / "export.zip"
    export.write_bytes(pack([Entry(b"conversations.json", content, DEFLATED, size=len(content) - 20)]))
    frames = read(export)
    assert conversations(frames) == ["conversation-1"]
    assert set_aside(frames)


def test_damaged_files_beside_the_conversations(tmp_path: Path) -> None:
    """A damaged asset ends with its fault; damaged lists and other files are set aside."""
    entries = [
        Entry(b"conversations.json", b"[]"),
        Entry(b"file-aaa.dat", b"12345", checksum=7),
        Entry(b"library_files.json", b"[{}]", checksum=7),
        Entry(b"sora.json", b"{}", checksum=7),
    ]
    export = tmp_path / "export.zip"
    export.write_bytes(pack(entries))
    frames = read(export)
    (end,) = [frame for frame in frames if isinstance(frame, wire.AssetEnds)]
    assert end.fault is not None
    assert end.fault.startswith("its checksum is wrong")
    assert {aside.place for aside in set_aside(frames)} == {"export.zip/library_files.json", "export.zip/sora.json"}
    assert not [frame for frame in frames if isinstance(frame, wire.ExportFile)]


def test_odd_entries_of_the_library(tmp_path: Path) -> None:
    """Entries of library_files.json that say nothing of use are passed over, and the rest of it is read."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "conversations.json").write_bytes(b"[]")
    good = {"file_id": "file_1", "origination_message_id": "m", "mime_type": "image/png", "file_name": "\ud83d\0"}
    entries = [7, None, {"file_id": 3}, {"file_id": "../x"}, good]
    (folder / "library_files.json").write_bytes(dump(entries))
    placements = [frame for frame in read(folder) if isinstance(frame, wire.Placement)]
    assert placements == [wire.Placement("file_1", None, "m", "\ufffd", "image/png")]


# -------------------------------------------------------------------------------------------------------- what ends it


def test_hostile_directories_are_refused_at_once(tmp_path: Path) -> None:
    """What is wrong with a directory is the only thing that is ever said of it."""
    export = tmp_path / "export.zip"
    export.write_bytes(pack([Entry(b"conversations.json", b"[]"), Entry(b"../../etc/passwd", b"x")]))
    assert (
        refused(export)
        == "export.zip/../../etc/passwd: its name leads out of the archive; no export of ChatGPT has such a file"
    )


@pytest.mark.parametrize("path", ["/dev/zero", "/nonexistent"])
def test_what_is_no_file(path: str) -> None:
    """A device is never read, and what does not exist is said to."""
    assert path.rpartition("/")[2] in refused(path)


@pytest.mark.parametrize("content", [b"Dear diary", b"%PDF-1.7", b" \n ", b"\xff\xfe[\0]\0"], ids=range(4))
def test_what_is_no_export(tmp_path: Path, content: bytes) -> None:
    """A file that is neither a ZIP nor JSON is refused."""
    (tmp_path / "notes").write_bytes(content)
    assert refused(tmp_path / "notes").startswith("notes: it is neither a ZIP nor JSON")


@pytest.mark.parametrize("prefix", [b"[", b'{"conversations": ['])
def test_another_products_export(tmp_path: Path, prefix: bytes) -> None:
    """Claude's export is recognised by what it holds, and refused by name."""
    chat = dump({"uuid": "1", "name": "Hello", "chat_messages": [{"text": "Hello"}]})
    closing = b"]" if prefix == b"[" else b"]}"
    export = zipped(tmp_path / "export.zip", {"conversations.json": prefix + chat + closing, "users.json": b"[]"})
    assert refused(export) == (
        "export.zip/conversations.json: this is an export of Claude; only those of ChatGPT are read here"
    )


def test_another_products_export_among_ours(tmp_path: Path) -> None:
    """One foreign file refuses the whole import: nothing of it is sent."""
    ours = zipped(tmp_path / "ours.zip", {"conversations.json": dump([conversation(1)])})
    theirs = zipped(tmp_path / "theirs.zip", {"conversations.json": b'[{"chat_messages": []}]'})
    assert refused(ours, theirs).startswith("theirs.zip/conversations.json: this is an export of Claude")


def test_it_ends_when_it_is_not_told_to_go_on(tmp_path: Path) -> None:
    """Who hangs up after `Opened` gets nothing more."""
    bare = tmp_path / "chats.json"
    bare.write_bytes(dump([conversation(1)]))
    with started(bare) as reader:
        assert isinstance(reader.frame(), wire.Opened)
        reader.stdin.close()
        assert reader.rest() == []
        assert reader.end() == (0, "")


def test_it_ends_when_nobody_reads(tmp_path: Path) -> None:
    """Where the writer dies the reader ends, quietly."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "conversations.json").write_bytes(b"[]")
    (tmp_path / "folder" / "file-aaa.dat").write_bytes(bytes(10_000_000))
    with started(tmp_path / "folder") as reader:
        assert isinstance(reader.frame(), wire.Opened)
        reader.tell(wire.Go(ACCOUNT))
        assert isinstance(reader.frame(), wire.AssetBegins)
        reader.stdout.close()
        assert reader.end() == (-signal.SIGPIPE, "")


def test_sigterm_ends_it(tmp_path: Path) -> None:
    """SIGTERM ends it at once; Ctrl-C in a terminal is for the program that started it."""
    bare = tmp_path / "chats.json"
    bare.write_bytes(b"[]")
    with started(bare) as reader:
        assert isinstance(reader.frame(), wire.Opened)
        reader.process.send_signal(signal.SIGINT)
        reader.process.send_signal(signal.SIGTERM)
        assert reader.end() == (-signal.SIGTERM, "")


def test_nonsense_is_refused_without_repeating_it(tmp_path: Path) -> None:
    """A fault of the program itself is told by its kind and place in the source, never with what it was about."""
    with subprocess.Popen(
        [sys.executable, "-m", "chatgpt_rest.archive.reader"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=CHECKOUT,
    ) as process:
        out, err = process.communicate(b'{"paths": "a secret"}\n', PATIENCE_SECONDS)
    assert wire.decode(out[4:]) == wire.Refused("the export could not be read: ValidationError", "export_refused")
    assert b"secret" not in out + err
    assert err.startswith(b"ValidationError at reader.py:")


# ------------------------------------------------------------------------------------------------------ what it costs


def test_it_is_bounded_and_polite(tmp_path: Path) -> None:
    """Its memory is limited, it leaves no core behind, and it lets the server go first."""
    bare = tmp_path / "chats.json"
    bare.write_bytes(b"[]")
    with started(bare) as reader:
        assert isinstance(reader.frame(), wire.Opened)
        memory, _ = resource.prlimit(reader.process.pid, resource.RLIMIT_AS)
        core, _ = resource.prlimit(reader.process.pid, resource.RLIMIT_CORE)
        assert (memory, core) == (512 * 1024**2 + 16 * LIMITS["max_conversation_bytes"], 0)
        assert os.getpriority(os.PRIO_PROCESS, reader.process.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)


def test_it_loads_little() -> None:
    """Neither the server nor the terminal nor what goes upstream is loaded to read a file."""
    code = "import sys, chatgpt_rest.archive.reader; print(*sys.modules)"
    # With an empty environment: what measures coverage loads a good deal itself.
    python = [sys.executable, "-c", code]
    loaded = subprocess.run(python, cwd=CHECKOUT, env={}, capture_output=True, text=True, check=True)
    assert {"aiohttp", "rich", "typer", "revChatGPT", "httpx", "aiosqlite", "sqlite3", "ssl"}.isdisjoint(
        loaded.stdout.split()
    )


@pytest.mark.parametrize("is_bomb", [False, True])
def test_sixty_thousand_entries(tmp_path: Path, is_bomb: bool) -> None:
    """60,000 entries are refused in a moment, also those of a ZIP inside that unpacks from a few kilobytes."""
    content = pack([Entry(b"%05d" % number) for number in range(60_000)])
    export = tmp_path / "export.zip"
    export.write_bytes(pack([Entry(b"inner.zip", content, DEFLATED)]) if is_bomb else content)
    began = time.monotonic()
    assert "[archive] max_entries" in refused(export, max_entries=50_000)
    assert time.monotonic() - began < PATIENCE_SECONDS / 2


def test_a_bomb_of_zeros(tmp_path: Path) -> None:
    """A hundred megabytes of zeros in a hundred kilobytes are refused before they are unpacked."""
    export = zipped(tmp_path / "export.zip", {"conversations.json": b"[]", "file-aaa.dat": bytes(100 * 1024 * 1024)})
    assert "[archive] max_ratio" in refused(export)


def test_a_deep_conversation(tmp_path: Path) -> None:
    """JSON 100,000 levels deep is set aside, and what follows it is read."""
    bare = tmp_path / "chats.json"
    deep = b'{"id": "deep", "mapping": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    bare.write_bytes(b"[" + deep + b"," + dump(conversation(1)) + b"]")
    frames = read(bare)
    assert conversations(frames) == ["conversation-1"]
    assert [aside.kind for aside in set_aside(frames)] == ["conversation"]
