# SPDX-License-Identifier: GPL-2.0-or-later
"""What a file of an export is can be told by its name, whenever the export was made."""

from __future__ import annotations

import pytest

from chatgpt_rest.archive.members import Kind, asset_id, asset_name, is_zip, kind_of, shard_number


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("conversations.json", Kind.CONVERSATIONS),
        ("conversations-000.json", Kind.CONVERSATIONS),
        ("export/Conversations-017.JSON", Kind.CONVERSATIONS),
        ("conversations (1).json", Kind.CONVERSATIONS),
        ("conversations_backup.json", Kind.CONVERSATIONS),
        ("shared_conversations.json", Kind.KEPT),
        ("export_manifest.json", Kind.MANIFEST),
        ("conversation_asset_file_names.json", Kind.ASSET_NAMES),
        ("deep/er/library_files.json", Kind.LIBRARY),
        ("user.json", Kind.USER),
        ("sora.json", Kind.KEPT),
        ("something_new.json", Kind.JSON),
        ("conversationsx.json", Kind.JSON),
        ("chat.html", Kind.NOTHING),
        ("__MACOSX/._conversations.json", Kind.NOTHING),
        ("a/__MACOSX/b.dat", Kind.NOTHING),
        ("._conversations.json", Kind.NOTHING),
        (".DS_Store", Kind.NOTHING),
        ("Thumbs.db", Kind.NOTHING),
        ("User Online Activity/Conversations__1f2e-chatgpt-0001.zip", Kind.ZIP),
        ("file-0HDUxyz-project.zip", Kind.ASSET),
        ("file-0HDUxyz-conversations.json", Kind.ASSET),
        ("file-0HDUxyz.dat", Kind.ASSET),
        ("Financial/Payments.csv", Kind.UNKNOWN),
        ("picture.png", Kind.UNKNOWN),
    ],
)
def test_kinds(name: str, kind: Kind) -> None:
    """A file's last name tells what it is, in any folder."""
    assert kind_of(name) is kind


@pytest.mark.parametrize(
    ("name", "id_", "former"),
    [
        ("file-0HDUxyz.dat", "file-0HDUxyz", None),
        ("file_00000000abcdef.dat", "file_00000000abcdef", None),
        ("file_00000000abcdef", "file_00000000abcdef", None),
        ("file-0HDUxyz-Screenshot 1 (final).png", "file-0HDUxyz", "Screenshot 1 (final).png"),
        ("file-0HDUxyz-a-b.tar.gz", "file-0HDUxyz", "a-b.tar.gz"),
        ("file_00abcdef-sanitized.pdf", "file_00abcdef", None),
        ("dalle-generations/file-0HDUxyz-1b4e28ba-2fa1-11d2-883f-0016d3cca427.webp", "file-0HDUxyz", None),
        ("user-1a2b/file_00abcdef-1b4e28ba-2fa1-11d2-883f-0016d3cca427.png", "file_00abcdef", None),
        ("6c0e/audio/file_00abcdef.wav", "file_00abcdef", None),
        ("profile-0HDUxyz.png", None, None),
        ("file-.png", None, None),
        ("file_00ab_cd.png", None, None),
        ("dalle-generations/1b4e28ba.webp", None, None),
    ],
)
def test_assets(name: str, id_: str | None, former: str | None) -> None:
    """Every naming of assets since 2023 gives the id that messages point to, and the former name if it has it."""
    assert (asset_id(name), asset_name(name)) == (id_, former)


def test_parts_and_attachments() -> None:
    """A ZIP that was sent to ChatGPT is an attachment, and no part of the export."""
    assert is_zip("part-1.ZIP")
    assert not is_zip("file-0HDUxyz-part-1.zip")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("conversations-000.json", 0),
        ("a/conversations-12.json", 12),
        ("conversations.json", None),
        ("x-001.json", None),
    ],
)
def test_shards(name: str, number: int | None) -> None:
    """The numbers of shards are what shows that one is missing."""
    assert shard_number(name) == number
