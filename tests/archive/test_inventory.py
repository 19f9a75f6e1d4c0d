# SPDX-License-Identifier: GPL-2.0-or-later
"""What an import holds is known before anything of it is read: whose it is, what is missing, what belongs where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.archive.containers import open_sources
from chatgpt_rest.archive.inventory import KEPT_BYTES, Inventory, take_inventory
from chatgpt_rest.archive.wire import SetAside, Source
from chatgpt_rest.errors import BadRequest
from tests.zips import DEFLATED, Entry, pack

Files = Mapping[str, bytes]

ALICE: Final = {"id": "user-A1iceSm1th", "email": "alice@example.org", "birth_year": 1984}
UUID: Final = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


def dump(value: object) -> bytes:
    """JSON."""
    return json.dumps(value).encode()


def inventory(folder: Path, *sources: Files, max_asset_bytes: int = 1_000_000) -> Inventory:
    """What several ZIPs of these files hold."""
    paths = []
    for number, files in enumerate(sources):
        paths.append(folder / f"{number}.zip")
        paths[-1].write_bytes(pack([Entry(name.encode(), content, DEFLATED) for name, content in files.items()]))
    return inventory_of(folder, *paths, max_asset_bytes=max_asset_bytes)


def inventory_of(folder: Path, *paths: Path, max_asset_bytes: int = 1_000_000) -> Inventory:
    """What these paths hold."""
    limits: dict[str, Any] = {"max_entries": 1000, "max_unpacked_bytes": 2**40, "max_ratio": 2000, "max_nested": 2}
    source = Source(
        paths=[str(path) for path in paths],
        work_folder=str(folder / "work"),
        max_conversation_bytes=1_000_000,
        max_asset_bytes=max_asset_bytes,
        **limits,
    )
    with open_sources(source) as opened:
        return take_inventory(opened, max_asset_bytes=max_asset_bytes)


def refused(folder: Path, *sources: Files) -> str:
    """Why nothing of this is imported."""
    with pytest.raises(BadRequest) as refusal:
        inventory(folder, *sources)
    assert refusal.value.code == "export_refused"
    return refusal.value.text


# ---------------------------------------------------------------------------------------------------------- the whole


def test_an_export_of_2026(tmp_path: Path) -> None:
    """Every file finds its place: conversations, lists about the others, what is kept, assets, what is ignored."""
    asset = "file_00000000abcdef"
    found = inventory(
        tmp_path,
        {
            "conversations-000.json": b"[]",
            "user.json": dump(ALICE),
            "export_manifest.json": dump({"version": 1}),
            "conversation_asset_file_names.json": dump({f"{asset}.dat": "Screenshot.jpg"}),
            "library_files.json": b"[]",
            "message_feedback.json": b"[1]",
            "something_new.json": b"[1]",
            "chat.html": b"<html>",
            f"{asset}.dat": b"\x89PNG",
        },
    )
    assert (found.account, found.email) == ("user-A1iceSm1th", "alice@example.org")
    assert [member.name for member in found.conversations] == ["conversations-000.json"]
    assert [member.name for member in found.libraries] == ["library_files.json"]
    assert {member.name for member in found.kept} == {
        "user.json",
        "message_feedback.json",
        "something_new.json",
        "library_files.json",
    }
    assert [(held.id, held.name) for held in found.assets] == [(asset, "Screenshot.jpg")]
    assert [member.name for member in found.ignored] == ["chat.html"]
    assert (found.set_aside, found.missing) == ([], [])
    assert found.total_bytes == 2 + len(dump(ALICE)) + 2 + 2 + 3 + 3 + 4


def test_several_exports_at_once(tmp_path: Path) -> None:
    """An older and a newer export of one account are read together, both files of conversations too."""
    found = inventory(
        tmp_path,
        {"conversations.json": b"[]", "user.json": dump(ALICE)},
        {"conversations.json": b"[]", "conversations-000.json": b"[]", "user.json": dump({"id": ALICE["id"]})},
    )
    assert len(found.conversations) == 3
    assert (found.account, found.email) == ("user-A1iceSm1th", "alice@example.org")


def test_the_portal(tmp_path: Path) -> None:
    """What else lies in the privacy portal's envelope is ignored, tables and JSON of other matters included."""
    part = pack([Entry(b"conversations.json", b"[]"), Entry(b"notes.txt", b"lost")])
    found = inventory(
        tmp_path,
        {
            "report.html": b"<html>",
            "Financial/Payments.csv": b"1,2",
            "Account/profile.json": b"{}",
            "User Online Activity/Conversations__1f2e-chatgpt-0001.zip": part,
        },
    )
    assert {member.name for member in found.ignored} == {
        "report.html",
        "Financial/Payments.csv",
        "Account/profile.json",
    }
    assert [(aside.place, aside.reason) for aside in found.set_aside] == [
        (
            "0.zip/User Online Activity/Conversations__1f2e-chatgpt-0001.zip/notes.txt",
            "there is no asset's id in its name",
        )
    ]


def test_a_bare_file_of_any_name(tmp_path: Path) -> None:
    """A file that is named itself holds conversations, unless its name is another file's of an export."""
    for name in ("my chats.json", "download", "user.json", "file-abcdef-picture.png"):
        (tmp_path / name).write_bytes(dump(ALICE))
    found = inventory_of(tmp_path, *(path for path in sorted(tmp_path.iterdir())))
    assert [member.place for member in found.conversations] == ["download", "my chats.json"]
    assert found.account == "user-A1iceSm1th"
    assert [held.id for held in found.assets] == ["file-abcdef"]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"a.dat": b"1", "b/c.png": b"2"}, "0.zip: no conversations.json, so this is no export of ChatGPT"),
        ({"a.dat": b"1", "b/c.png": b"2"}, "; found was 0.zip/a.dat, 0.zip/b/c.png"),
        ({}, "; found was nothing"),
        ({f"{number}.dat": b"" for number in range(9)}, "0.zip/4.dat and 4 more"),
    ],
    ids=["no export", "others", "nothing", "many"],
)  # fmt: skip
def test_no_conversations_anywhere(tmp_path: Path, files: Files, text: str) -> None:
    """Where no source has conversations it is refused, with what was found instead."""
    assert text in refused(tmp_path, files)


def test_an_empty_folder(tmp_path: Path) -> None:
    """An empty folder is refused as no export."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest, match=r"^empty: no conversations"):
        inventory_of(tmp_path, tmp_path / "empty")


def test_the_reason_why_there_are_no_conversations(tmp_path: Path) -> None:
    """Where the conversations were there and could not be read, the refusal tells why."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "conversations.json").symlink_to("/elsewhere")
    with pytest.raises(BadRequest, match=r"folder/conversations\.json: it is a symbolic link"):
        inventory_of(tmp_path, tmp_path / "folder")


def test_a_part_with_assets_only(tmp_path: Path) -> None:
    """A part of an export need not hold conversations."""
    found = inventory(tmp_path, {"conversations.json": b"[]"}, {"file-abcdef.dat": b"1"})
    assert len(found.assets) == 1


# -------------------------------------------------------------------------------------------------------- the account


def test_two_accounts(tmp_path: Path) -> None:
    """Exports of two people are not mixed."""
    text = refused(
        tmp_path,
        {"conversations.json": b"[]", "user.json": dump(ALICE)},
        {"conversations.json": b"[]", "user.json": dump({"id": "user-Bob"})},
    )
    assert text.startswith("0.zip/user.json and 1.zip/user.json: they belong to two accounts")


@pytest.mark.parametrize(
    "user",
    [
        b"", b"[]", b"{", b"[" * 100_000, b"\xff",
        b'{"id": 1}', b'{"id": ""}', b'{"id": "a\\nb"}', dump({"id": "x" * 201}),
    ],
    ids=range(9),
)  # fmt: skip
def test_a_user_that_is_none(tmp_path: Path, user: bytes) -> None:
    """Where user.json names nobody the export names no account; the file itself is kept as it is."""
    found = inventory(tmp_path, {"conversations.json": b"[]", "user.json": user})
    assert found.account is None
    assert [aside.place for aside in found.set_aside] == ["0.zip/user.json"]
    assert [member.name for member in found.kept] == ["user.json"]


@pytest.mark.parametrize("email", [None, 7, "", "a\0b", "x" * 300])
def test_an_address_that_is_none(tmp_path: Path, email: object) -> None:
    """An address that cannot be one is left out."""
    found = inventory(tmp_path, {"conversations.json": b"[]", "user.json": dump({"id": "user-A", "email": email})})
    assert (found.account, found.email) == ("user-A", None)


# ----------------------------------------------------------------------------------------------------- what is missing


@pytest.mark.parametrize("is_dict", [True, False], ids=["as an object", "as a list"])
def test_what_a_manifest_names(tmp_path: Path, is_dict: bool) -> None:
    """What a manifest names, in either spelling, and no part holds is missing; pages to look at are not missed."""
    files = [f"conversations-00{number}.json" for number in range(3)]
    logical = {"files": files, "sharded": True}
    manifest = {
        "version": 1,
        "manifest_file": "export_manifest.json",
        "logical_files": {"conversations.json": logical} if is_dict else [{"name": "conversations.json", **logical}],
        "export_files": [
            *({"path": name, "size_bytes": 2} for name in files),
            {"path": "chat.html", "size_bytes": 9},
            {"path": "deep/file-abc.dat", "size_bytes": 5},
            {"path": "deep/file-xyz.dat", "size_bytes": 5},
        ],
    }
    found = inventory(
        tmp_path,
        {"conversations-000.json": b"[]", "export_manifest.json": dump(manifest)},
        {"conversations-002.json": b"[]", "wrapped/deep/file-abc.dat": b"12345"},
    )
    assert found.missing == ["conversations-001.json", "deep/file-xyz.dat"]
    assert found.set_aside == []


def test_a_size_that_a_manifest_gets_wrong(tmp_path: Path) -> None:
    """A file of another size than the manifest says is read all the same, and pointed out."""
    manifest = {
        "export_files": [{"path": "conversations.json", "size_bytes": 3}, {"path": "user.json", "size_bytes": None}]
    }
    found = inventory(
        tmp_path, {"conversations.json": b"[]", "user.json": dump(ALICE), "export_manifest.json": dump(manifest)}
    )
    ((place, reason),) = [(aside.place, aside.reason) for aside in found.set_aside]
    assert (place, reason) == (
        "conversations.json",
        "it has another size than the 3 bytes that the manifest says; it is read as it is",
    )
    assert len(found.conversations) == 1


@pytest.mark.parametrize(
    "manifest",
    [
        b"", b"null", b"[" * 50_000, b'{"export_files": ["%s"]}' % ("\u0300" * 9_000 + "\u0323" * 9_000).encode(),
        b'{"export_files": 7, "logical_files": "x"}', b'{"logical_files": [null, {"files": 3}]}',
        b'{"export_files": [null, {"path": 3}, {"path": "user.json", "size_bytes": true}, {"path": ""}]}',
        b'{"logical_files": {"a": {"files": [null, {"path": "conversations.json"}, 4, "/"]}, "b": null}}', b"\xff\xfe",
    ],
    ids=range(9),
)  # fmt: skip
def test_a_manifest_that_is_none(tmp_path: Path, manifest: bytes) -> None:
    """Whatever a manifest holds, the export is read."""
    files = {"conversations.json": b"[]", "user.json": dump(ALICE), "export_manifest.json": manifest}
    found = inventory(tmp_path, files)
    assert found.missing == []
    assert {aside.place for aside in found.set_aside} <= {"0.zip/export_manifest.json"}


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [
        (["000", "001"], []),
        (["001", "004"], ["conversations-000.json", "conversations-002.json", "conversations-003.json"]),
        (["00", "2"], ["conversations-001.json"]),
        (["000", "999999999"], ["conversations-001.json to conversations-999999998.json"]),
    ],
    ids=str,
)
def test_gaps_in_the_numbers(tmp_path: Path, numbers: list[str], missing: list[str]) -> None:
    """Where no manifest tells, numbers that are left out tell what is missing."""
    found = inventory(tmp_path, {f"conversations-{number}.json": b"[]" for number in numbers})
    assert found.missing == missing


# ----------------------------------------------------------------------------------------------------------- assets


def assets(found: Inventory) -> dict[str, str | None]:
    """What assets are called, by id."""
    return {held.id: held.name for held in found.assets}


def test_assets_of_every_time(tmp_path: Path) -> None:
    """Each naming gives the id, and what the asset was called where its name or the list of names still tells."""
    found = inventory(
        tmp_path,
        {
            "conversations.json": b"[]",
            "file-AAAAAAAA-Notes (2).pdf": b"1",
            f"dalle-generations/file-BBBBBBBB-{UUID}.webp": b"1",
            f"user-1/file_0000cc-{UUID}.png": b"1",
            "file_0000dd-sanitized.png": b"1",
            f"{UUID}/audio/file_0000ee.wav": b"1",
            "file-FFFFFFFF.dat": b"1",
            "file-GGGGGGGG.dat": b"1",
            "dalle-generations/picture.webp": b"1",
            "odd name.dat": b"1",
            "oddname.dat": b"1",
            "conversation_asset_file_names.json": dump(
                {
                    "file-FFFFFFFF.dat": "a/b/Screenshot\u0007.jpg",
                    "file-GGGGGGGG": UUID,
                    "file-HHHHHHHH.dat": "dalle-generations/picture.webp",
                    "file-IIIIIIII.dat": "the same.png",
                    "file-JJJJJJJJ.dat": "the same.png",
                    "oddname.dat": "Half \ud83d",
                    "file-KKKKKKKK.dat": 7,
                    "../x.dat": "y",
                }
            ),
        },
    )
    assert assets(found) == {
        "file-AAAAAAAA": "Notes (2).pdf",
        "file-BBBBBBBB": None,
        "file_0000cc": None,
        "file_0000dd": None,
        "file_0000ee": None,
        "file-FFFFFFFF": "Screenshot.jpg",
        "file-GGGGGGGG": UUID,
        "file-HHHHHHHH": "picture.webp",
        "oddname": "Half \ufffd",
    }
    assert [(aside.kind, aside.place) for aside in found.set_aside] == [("asset", "0.zip/odd name.dat")]


def test_one_asset_twice(tmp_path: Path) -> None:
    """Of two files of one asset the first is taken; the second is pointed out where it is another size."""
    first = {"conversations.json": b"[]", "file-AAAAAAAA.dat": b"1", "file-BBBBBBBB.dat": b"1"}
    second = {"file-AAAAAAAA.dat": b"1", "file-BBBBBBBB.dat": b"22"}
    found = inventory(tmp_path, first, second)
    assert [held.member.place for held in found.assets] == ["0.zip/file-AAAAAAAA.dat", "0.zip/file-BBBBBBBB.dat"]
    assert found.set_aside == [
        SetAside(
            "asset",
            "1.zip/file-BBBBBBBB.dat",
            "it is not the first file of this asset, and has another size",
            id="file-BBBBBBBB",
        )
    ]


def test_what_is_too_large(tmp_path: Path) -> None:
    """An asset beyond the limit, and a file beside the conversations beyond 16 MiB, are set aside."""
    found = inventory(
        tmp_path,
        {"conversations.json": b"[]", "file-AAAAAAAA.dat": b"12345", "sora.json": b" " * (KEPT_BYTES + 1)},
        max_asset_bytes=4,
    )
    assert (found.assets, found.kept) == ([], [])
    assert [(aside.kind, aside.id) for aside in found.set_aside] == [("file", None), ("asset", "file-AAAAAAAA")]
    assert "[archive] max_asset_bytes" in found.set_aside[1].reason


def test_files_of_no_account(tmp_path: Path) -> None:
    """JSON far from anything of the export is no part of it, and an empty file is nothing at all."""
    found = inventory(
        tmp_path,
        {"export/conversations.json": b"[]", "export/new.json": b"[]", "other/package.json": b"{}", "empty.bin": b""},
    )
    assert [member.name for member in found.kept] == ["export/new.json"]
    assert [aside.place for aside in found.set_aside] == ["0.zip/other/package.json"]
    assert [member.name for member in found.ignored] == ["empty.bin"]
