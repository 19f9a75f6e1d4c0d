# SPDX-License-Identifier: GPL-2.0-or-later
"""What the process that reads an export says, as frames: four bytes of length, big-endian, and one msgpack value.

It opens with `Opened`, or with `Refused` and nothing else, and waits to be told the account. Then it sends whatever the
export holds and closes with `Ended`; without that it has died, and what came counts as far as it came. The frames pass
unchanged through the control socket where a server has the mirror and a command the files.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from typing import Final, Protocol

import msgspec

from chatgpt_rest.incoming import Incoming

BATCH_BYTES: Final = 2 * 1024 * 1024
"""How much JSON a batch holds, unless it is a single conversation."""
BATCH_NODES: Final = 2_000
ASSET_CHUNK_BYTES: Final = 1024 * 1024
LONGEST_FRAME_BYTES: Final = 512 * 1024 * 1024
"""More is no frame: the largest conversation a configuration allows fits."""

_LENGTH: Final = struct.Struct(">I")


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The sources can be read, and nothing in their directories is refused.

    `account` and `email` are user.json's. `total_bytes` is what there is to read, unpacked: the scale of every
    `done_bytes`. `missing` are shards and parts that a manifest names, or a gap in their numbers implies, and that are
    not there: the first thousand of `missing_total`.
    """

    account: str | None
    email: str | None
    total_bytes: int
    missing: list[str]
    missing_total: int


class Batch(msgspec.Struct, frozen=True, tag=True):
    """Some conversations, to be written in one transaction."""

    conversations: list[Incoming]
    done_bytes: int


class SetAside(msgspec.Struct, frozen=True, tag=True):
    """Something that cannot be taken in; the rest goes on. `kind` is `conversation`, `asset` or `file`.

    `id` is a conversation's or an asset's, where it could still be read. `place` says where it lies, a person can find
    it by that. `messages` is how many are known to be lost with it.
    """

    kind: str
    place: str
    reason: str
    id: str | None = None
    title: str | None = None
    messages: int = 0


class AssetBegins(msgspec.Struct, frozen=True, tag=True):
    """An asset's bytes follow as `AssetBytes`, and then `AssetEnds`, with nothing in between."""

    id: str
    name: str | None
    member: str
    size_bytes: int


class AssetBytes(msgspec.Struct, frozen=True, tag=True):
    content: bytes
    done_bytes: int


class AssetEnds(msgspec.Struct, frozen=True, tag=True):
    """With a `fault` what came is not the whole asset, and must not be kept."""

    fault: str | None = None


class Placement(msgspec.Struct, frozen=True, tag=True):
    """What library_files.json says of an asset: by which message or conversation it came."""

    asset: str
    conversation: str | None
    node: str | None
    name: str | None
    media_type: str | None


class ExportFile(msgspec.Struct, frozen=True, tag=True):
    """Another file of the export, to be kept as it is. `modified_at` is what its archive says (µs, local time)."""

    name: str
    content: bytes
    modified_at: int | None


class Ignored(msgspec.Struct, frozen=True, tag=True):
    """A file that holds nothing to keep: chat.html, reports of the privacy portal, what is none of ChatGPT's."""

    place: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Nothing of this can be imported. Text and code are those of a MirrorError."""

    text: str
    code: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """Everything was read."""

    done_bytes: int


Frame = (
    Opened
    | Batch
    | SetAside
    | AssetBegins
    | AssetBytes
    | AssetEnds
    | Placement
    | ExportFile
    | Ignored
    | Refused
    | Ended
)


class Source(msgspec.Struct, frozen=True):
    """What the reading process is told at its start, as a line of JSON: what to open, and the limits of `[archive]`."""

    paths: list[str]
    work_folder: str
    """Where a ZIP inside a ZIP may be unpacked to: beside the mirror, where there is room."""
    max_entries: int
    max_unpacked_bytes: int
    max_ratio: int
    max_nested: int
    max_conversation_bytes: int
    max_asset_bytes: int


class Go(msgspec.Struct, frozen=True):
    """The second line: the account that everything belongs to."""

    account: str


class Pipe(Protocol):
    """Where frames come from: a pipe, a request's body."""

    async def readexactly(self, n: int) -> bytes:
        """Raises IncompleteReadError where it ends before."""


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Frame]] = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytearray:
    """One frame with its length before it."""
    encoded = bytearray(_LENGTH.size)
    _encoder.encode_into(frame, encoded, _LENGTH.size)
    _LENGTH.pack_into(encoded, 0, len(encoded) - _LENGTH.size)
    return encoded


def framed(body: bytes) -> bytes:
    """A frame that came without its length, as it goes on."""
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Frame:
    """A frame without its length. Raises ValueError where it is none."""
    return _decoder.decode(body)


async def read_frame(pipe: Pipe) -> bytes:
    """The next frame without its length. Raises asyncio.IncompleteReadError at the end, ValueError where it is none."""
    (length,) = _LENGTH.unpack(await pipe.readexactly(_LENGTH.size))
    if length > LONGEST_FRAME_BYTES:
        raise ValueError("this is no frame")
    return await pipe.readexactly(length)


async def frames(pipe: Pipe) -> AsyncIterator[Frame]:
    """Frames one after the other, to the one that ends it. Raises as `read_frame` does."""
    while True:
        frame = decode(await read_frame(pipe))
        yield frame
        if isinstance(frame, Ended | Refused):
            return
