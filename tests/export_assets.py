# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that a generated export holds beside its conversations, and the names that exports of each time give them.

Written after the description of the format alone: nothing of the program is used.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal

Naming = Literal["old", "new"]
Kind = Literal["png", "jpg", "webp", "gif", "wav", "mp3", "mp4", "pdf", "docx", "txt"]

MEDIA_TYPES: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "pdf": "application/pdf",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "txt": "text/plain",
}
_FIRST_BYTES: Final = {
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "webp": b"RIFF\x24\1\0\0WEBPVP8 ",
    "gif": b"GIF89a\1\0\1\0",
    "wav": b"RIFF\x24\1\0\0WAVEfmt ",
    "mp3": b"ID3\4\0\0\0\0\0\0",
    "mp4": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2",
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
}
_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz123456789"


@dataclass
class Asset:
    """A file that messages may point to. `content` is None where the export names it and does not hold it."""

    id: str
    kind: Kind
    name: str
    content: bytes | None
    is_generated: bool
    is_pointed_to: bool = False
    """By a message."""
    is_placed_by_library: bool = False

    @property
    def pointer(self) -> str:
        """As parts of messages write it."""
        return f"{'sediment' if self.id.startswith('file_') else 'file-service'}://{self.id}"

    @property
    def size_bytes(self) -> int:
        return 4_096 if self.content is None else len(self.content)

    @property
    def attachment(self) -> dict[str, Any]:
        """As `metadata.attachments` of a message names it."""
        return {"id": self.id, "name": self.name, "size": self.size_bytes, "mime_type": MEDIA_TYPES[self.kind]}


@dataclass
class Shelf:
    """Every asset of an export. All of it is made from `random`, and the same again from the same."""

    random: Random = field(compare=False)
    assets: list[Asset] = field(default_factory=list)
    library: list[dict[str, Any]] = field(default_factory=list)
    """What library_files.json holds."""

    def put(self, kind: Kind, *, generated: bool = False, is_here: bool = True) -> Asset:
        """A new asset, which nothing points to yet."""
        name = f"{'Рисунок' if generated else 'Screenshot'} {len(self.assets)} (final).{kind}"
        content = self._content(kind) if is_here else None
        asset = Asset(self._new_id(), kind, name, content, is_generated=generated)
        self.assets.append(asset)
        return asset

    def take(self, kind: Kind, *, generated: bool = False, is_here: bool = True) -> Asset:
        """A new asset for a message that points to it."""
        asset = self.put(kind, generated=generated, is_here=is_here)
        asset.is_pointed_to = True
        return asset

    def catalogue(self, asset: Asset, *, conversation: str | None, message: str | None) -> None:
        """Name an asset in library_files.json, as made for this message or conversation."""
        self.library.append(
            {
                "id": {"id": f"libfile_{self.random.getrandbits(96):024x}"},
                "file_id": asset.id,
                "file_name": asset.name,
                "mime_type": MEDIA_TYPES[asset.kind],
                "file_size_bytes": asset.size_bytes,
                "origination_message_id": message,
                "initiating_conversation_id": conversation,
                "created_at": "2026-04-01T12:30:00.123456Z",
            }
        )
        asset.is_placed_by_library = conversation is not None or message is not None

    def members(self, naming: Naming) -> Iterator[tuple[str, bytes]]:
        """What lies in the export under which name."""
        for asset in self.assets:
            if asset.content is not None:
                yield self._member(asset, naming), asset.content

    def names(self) -> dict[str, str]:
        """What conversation_asset_file_names.json holds."""
        return {f"{asset.id}.dat": self._name_then(asset, number) for number, asset in enumerate(self.assets)}

    def _name_then(self, asset: Asset, number: int) -> str:
        if asset.is_generated:
            return f"dalle-generations/{self._uuid(asset)}.webp"
        return self._uuid(asset) if number % 5 == 4 else asset.name

    def _member(self, asset: Asset, naming: Naming) -> str:
        if naming == "new":
            return f"{asset.id}.dat"
        if asset.id.startswith("file_"):
            hexadecimal = f"user-1a2b3c4d/{asset.id}-{self._uuid(asset)}" if asset.is_generated else None
            return f"{hexadecimal or asset.id + '-sanitized'}.{asset.kind}"
        return (
            f"dalle-generations/{asset.id}-{self._uuid(asset)}.{asset.kind}"
            if asset.is_generated
            else f"{asset.id}-{asset.name}"
        )

    def _uuid(self, asset: Asset) -> str:
        digits = f"{Random(asset.id).getrandbits(128):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def _new_id(self) -> str:
        if self.random.random() < 0.5:
            return f"file_{self.random.getrandbits(128):032x}"
        return "file-" + "".join(self.random.choices(_LETTERS, k=22))

    def _content(self, kind: Kind) -> bytes:
        noise = self.random.randbytes(self.random.randrange(100, 400))
        if kind == "txt":
            return f"Notes: {noise.hex()}, привет\n".encode()
        if kind == "docx":
            return _document(noise)
        return _FIRST_BYTES[kind] + noise


def _document(noise: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in (("[Content_Types].xml", b"<Types/>"), ("word/document.xml", noise)):
            archive.writestr(zipfile.ZipInfo(name), content)
    return written.getvalue()
