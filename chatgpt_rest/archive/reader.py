# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that reads an export: `python -m chatgpt_rest.archive.reader`, told by its standard input what to do.

It is a process of its own because an export is a stranger's file. It has no mirror, no token and no network, and its
memory is bounded. What goes wrong in it is said in a frame; no word of an export ever reaches its standard error.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec

from chatgpt_rest.archive.containers import Member, open_sources
from chatgpt_rest.archive.elements import Damage, Element, elements
from chatgpt_rest.archive.inventory import HeldAsset, Inventory, take_inventory
from chatgpt_rest.archive.parsing import Unreadable, parse
from chatgpt_rest.archive.sidecars import clean_name, placement
from chatgpt_rest.archive.wire import (
    BATCH_BYTES,
    BATCH_NODES,
    AssetBegins,
    AssetBytes,
    AssetEnds,
    Batch,
    Ended,
    ExportFile,
    Frame,
    Go,
    Ignored,
    Opened,
    Refused,
    SetAside,
    Source,
    encode,
)
from chatgpt_rest.archive.zips import Damaged, refusal
from chatgpt_rest.chatgpt_json import is_other_product, printable
from chatgpt_rest.errors import MirrorError
from chatgpt_rest.incoming import Incoming

_MEMORY_BYTES: Final = 512 * 1024 * 1024  # of addresses, not all of them used
_MEMORY_FOR_EACH_BYTE: Final = 16  # of the largest conversation: its text, its parts, its rows, its frame
_LARGEST_ENTRY_BYTES: Final = 1024 * 1024  # of library_files.json; they have a few hundred
_MOST_STRANGERS: Final = 1_000  # in a row that are no conversations: more tell nothing new, and cost time
_MOST_MISSING: Final = 1_000  # named one by one
_LONGEST_TOLD: Final = 300  # characters of an id or a title that is set aside
_NO_MEMORY: Final = "there is not enough memory to read it"


def main() -> None:
    """Read what the first line of standard input names. Ends by itself when nobody reads what it writes."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: for the one that started this, which then ends it
    os.nice(5)
    gc.set_threshold(100_000)  # what is made here has no cycles, and a look for some costs a twentieth of the time
    try:
        _read()
    except MirrorError as error:
        _send(Refused(error.text, error.code))
    except Exception as error:  # noqa: BLE001 - this program's own faults: their texts could quote the export
        _complain(error)
        _send(Refused(f"the export could not be read: {type(error).__name__}", "export_refused"))


def _read() -> None:
    first_line = sys.stdin.buffer.readline()
    if not first_line:
        return
    source = msgspec.convert(json.loads(first_line), Source)  # msgspec's own refuses names that are no UTF-8
    _bound_memory(_MEMORY_BYTES + _MEMORY_FOR_EACH_BYTE * source.max_conversation_bytes)
    with open_sources(source) as sources:
        inventory = take_inventory(sources, max_asset_bytes=source.max_asset_bytes)
        for member in inventory.conversations:
            _check_beginning(member, source.max_conversation_bytes)
        missing = inventory.missing
        _send(Opened(inventory.account, inventory.email, inventory.total_bytes, missing[:_MOST_MISSING], len(missing)))
        second_line = sys.stdin.buffer.readline()
        if second_line:
            account = msgspec.json.decode(second_line, type=Go).account
            _Reading(inventory, account, source.max_conversation_bytes).run()


def _bound_memory(size_bytes: int) -> None:
    for limit, wanted in ((resource.RLIMIT_AS, size_bytes), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _check_beginning(member: Member, max_bytes: int) -> None:
    """Refuse what holds something else than conversations of ChatGPT. A file that is damaged is left to the reading
    proper, which takes what it can.
    """
    try:
        start = next(member.blocks(), b"").removeprefix(b"\xef\xbb\xbf").lstrip()
        first = next(_elements(member, max_bytes), None)
        product = is_other_product(msgspec.json.decode(first.raw)) if isinstance(first, Element) else None
    except (Damaged, ValueError, RecursionError, MemoryError):
        return
    if member.is_named and start[:1] not in (b"[", b"{"):
        raise refusal(member.place, "it is neither a ZIP nor JSON; name an export of ChatGPT, as it came or unpacked")
    if product:
        raise refusal(member.place, f"this is an export of {product}; only those of ChatGPT are read here")


class _Reading:
    """From the inventory to frames: conversations first, then what says where assets belong, and the assets last."""

    def __init__(self, inventory: Inventory, account: str, max_conversation_bytes: int) -> None:
        self._inventory = inventory
        self._account = account
        self._max_conversation_bytes = max_conversation_bytes
        self._done_bytes = 0
        self._batch: list[Incoming] = []
        self._batch_bytes = 0
        self._batch_nodes = 0

    def run(self) -> None:
        for aside in self._inventory.set_aside:
            _send(aside)
        for member in self._inventory.ignored:
            _send(Ignored(member.place))
        for member in self._inventory.conversations:
            self._read_conversations(member)
        self._send_batch()
        for member in self._inventory.libraries:
            self._read_library(member)
        for member in self._inventory.kept:
            self._read_file(member)
        for asset in self._inventory.assets:
            self._read_asset(asset)
        _send(Ended(self._done_bytes))

    # ---------------------------------------------------------------------------------------------- conversations

    def _read_conversations(self, member: Member) -> None:
        begun_at = self._done_bytes
        strangers = 0
        try:
            for element in _elements(member, self._max_conversation_bytes):
                self._done_bytes = begun_at + element.offset
                place = _place(member, element)
                if isinstance(element, Damage):
                    _send(_aside(place, element))
                    continue
                fault = self._read_conversation(place, element.raw)
                strangers = strangers + 1 if fault is not None and not fault.has_mapping else 0
                if strangers == _MOST_STRANGERS:
                    reason = f"{strangers} things in a row are none, and what follows is not read"
                    _send(SetAside("file", place, f"it is no list of conversations: {reason}"))
                    break
                if fault is not None:
                    _send(_aside(place, fault))
        except Damaged as damage:
            _send(SetAside("file", member.place, f"{damage}; what could be read of it was"))
        except MemoryError:
            _send(SetAside("file", member.place, "there is not enough memory to read the rest of it"))
        self._done_bytes = begun_at + member.size_bytes

    def _read_conversation(self, place: str, raw: bytes) -> Unreadable | None:
        """Why it cannot be taken in."""
        try:
            incoming = parse(raw, account=self._account)
        except Unreadable as fault:
            return fault
        except MemoryError:
            _send(SetAside("conversation", place, _NO_MEMORY))
            return None
        nodes = len(incoming.nodes)
        if self._batch_bytes + len(raw) > BATCH_BYTES or self._batch_nodes + nodes > BATCH_NODES:
            self._send_batch()
        self._batch.append(incoming)
        self._batch_bytes += len(raw)
        self._batch_nodes += nodes
        if self._batch_bytes >= BATCH_BYTES:  # a large one is not held while the next is read
            self._send_batch()
        return None

    def _send_batch(self) -> None:
        if self._batch:
            _send(Batch(self._batch, self._done_bytes))
        self._batch, self._batch_bytes, self._batch_nodes = [], 0, 0

    # ------------------------------------------------------------------------------------------------- what is beside

    def _read_library(self, member: Member) -> None:
        strangers = 0
        try:
            for element in _elements(member, _LARGEST_ENTRY_BYTES):
                strangers += 1
                if not isinstance(element, Element):
                    _send(SetAside("file", _place(member, element), element.reason))
                elif (placed := placement(element.raw)) is not None:
                    strangers = 0
                    _send(placed)
                if strangers == _MOST_STRANGERS:
                    reason = f"{strangers} things in a row name no file, and what follows is not read"
                    _send(SetAside("file", _place(member, element), reason))
                    break
        except Damaged as damage:
            _send(SetAside("file", member.place, str(damage)))
        self._done_bytes += member.size_bytes

    def _read_file(self, member: Member) -> None:
        self._done_bytes += member.size_bytes
        try:
            content = member.read()
        except Damaged as damage:
            _send(SetAside("file", member.place, str(damage)))
        else:
            _send(ExportFile(clean_name(member.name) or member.place, content, member.modified_at))

    def _read_asset(self, asset: HeldAsset) -> None:
        member, fault = asset.member, None
        begun_at = self._done_bytes
        _send(AssetBegins(asset.id, asset.name, member.place, member.size_bytes))
        try:
            for block in member.blocks():
                self._done_bytes += len(block)
                _send(AssetBytes(block, self._done_bytes))
        except Damaged as damage:
            fault = str(damage)
        _send(AssetEnds(fault))
        self._done_bytes = begun_at + member.size_bytes


def _aside(place: str, fault: Damage | Unreadable) -> SetAside:
    # The rest of a file that names no conversation may be of many, or of none.
    is_file = isinstance(fault, Damage) and fault.is_rest and fault.id is None
    kind = "file" if is_file else "conversation"
    return SetAside(kind, place, fault.reason, _told(fault.id), _told(fault.title), fault.messages)


def _told(text: str | None) -> str | None:
    """An id or a title that is an export's own, of whatever characters and length."""
    return None if text is None else printable(text[:_LONGEST_TOLD])


def _elements(member: Member, max_bytes: int) -> Iterator[Element | Damage]:
    # Reading is all that is asked of the stream.
    return elements(cast(BinaryIO, member.stream()), max_bytes=max_bytes)


def _place(member: Member, element: Element | Damage) -> str:
    return f"{member.place} #{element.index} (byte {element.offset})"


def _send(frame: Frame) -> None:
    sys.stdout.buffer.write(encode(frame))
    sys.stdout.buffer.flush()


def _complain(error: Exception) -> None:
    """Where it happened, innermost last, and nothing of what it was about."""
    places, step = [], error.__traceback__
    while step is not None:
        places.append(f"{Path(step.tb_frame.f_code.co_filename).name}:{step.tb_lineno}")
        step = step.tb_next
    sys.stderr.write(f"{type(error).__name__} at {' '.join(places)}\n")


if __name__ == "__main__":
    main()
