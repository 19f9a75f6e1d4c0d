# SPDX-License-Identifier: GPL-2.0-or-later
"""The conversations of a file as raw JSON, one after the other, out of a stream that may be larger than any memory.

Accepted are an array, `{"conversations": […]}` whatever stands around it, and a single conversation. What is damaged is
told with its place, and reading goes on where the next conversation begins. Time is linear whatever the file holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Final

import msgspec

from chatgpt_rest.archive.scanning import NotJson, Walk
from chatgpt_rest.archive.traces import Traces, traces
from chatgpt_rest.archive.window import Window

# msgspec finds the end of a value in a longer text at two gigabytes a second, and tells it only in the words of its
# refusal: it counts to the next byte after the value that is not blank.
_TRAILING: Final = re.compile(r"JSON is malformed: trailing characters \(byte (\d+)\)")
_TRUNCATED: Final = "Input data was truncated"
# It says the latter, too, where half a surrogate pair stands. A backslash that is escaped itself only costs time here.
_HALF_PAIR: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")

_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = re.compile(rb"[ \t\r\n]*+")
_BETWEEN_ITEMS: Final = re.compile(rb"[ \t\r\n,]*+")
_BETWEEN_LISTS: Final = re.compile(rb"[ \t\r\n,\[\]}]*+")
_BEGINNING: Final = re.compile(
    rb'\{[ \t\r\n]{0,80}"(?:title|id|conversation_id|create_time|update_time|mapping|current_node|default_model_slug'
    rb'|is_archived|is_starred|gizmo_id|gizmo_type|conversation_template_id|moderation_results|plugin_ids|voice)"'
)
_LONGEST_BEGINNING: Final = 128  # bytes
_MOST_ATTEMPTS: Final = 100_000  # a file in which so many beginnings lead nowhere holds no more conversations


@dataclass(frozen=True, slots=True)
class Element:
    """One JSON value, byte for byte, the `index`th of its file, at the byte `offset`."""

    raw: bytes
    offset: int
    index: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in place of an element, with what can still be told of it. With `is_rest` nothing comes after it."""

    offset: int
    index: int
    reason: str
    is_rest: bool
    id: str | None = None
    title: str | None = None
    messages: int = 0


def elements(stream: BinaryIO, *, max_bytes: int) -> Iterator[Element | Damage]:
    """Everything in the file, in its order. An element of more than `max_bytes` is passed over, as a Damage.

    What the stream raises is raised after the elements that came whole before it.
    """
    yield from _File(stream, max_bytes).read()


class _Cut(Exception):
    """The file ends in the middle of a value."""


class _TooLarge(Exception):
    """A value goes on beyond what may be held. The walk over it, if there was one, got as far as `at`."""

    def __init__(self, walk: Walk, at: int) -> None:
        super().__init__(at)
        self.walk = walk
        self.at = at


class _File:
    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self._window = Window(stream)
        self._max_bytes = max_bytes
        self._decoder = msgspec.json.Decoder(msgspec.Raw)
        self._index = 0
        self._attempts = 0
        self._told: Traces | None = None

    def read(self) -> Iterator[Element | Damage]:
        window = self._window
        window.fill(len(_BOM))
        if window.cut(0, len(_BOM)) == _BOM:
            window.at = len(_BOM)
        first = self._byte(_BLANK)
        if first is None and window.fault is None:
            yield Damage(0, 0, "it is empty", is_rest=True)
        elif first == b"[":
            yield from self._list()
        elif first == b"{":
            yield from self._object()
        yield from self._what_follows()
        if window.fault is not None:
            raise window.fault

    # ------------------------------------------------------------------------------------------------- what is there

    def _list(self) -> Iterator[Element | Damage]:
        """The items of the list that begins here, and past its end."""
        self._window.at += 1
        while (byte := self._byte(_BETWEEN_ITEMS)) is not None:
            if byte == b"]":
                self._window.at += 1
                return
            yield (item := self._next())
            if isinstance(item, Damage) and item.is_rest:
                return
        if self._window.fault is None:
            yield Damage(self._window.end, self._index, "the file ends before its list does", is_rest=True)

    def _object(self) -> Iterator[Element | Damage]:
        """The object that begins here: as an element, or what the list of conversations in it holds."""
        window = self._window
        window.fill(self._max_bytes)
        window.hold = begun = window.at
        window.at += 1
        is_wrapper = self._goes_to_list()
        window.hold = None
        if not is_wrapper:
            window.at = begun
            yield self._next()
        while is_wrapper:
            yield from self._list()
            is_wrapper = self._goes_to_list()

    def _goes_to_list(self) -> bool:
        """Whether some member of the object, from here on, is a list of conversations; then that is where we are."""
        window = self._window
        try:
            while self._byte(_BETWEEN_ITEMS) == b'"':
                begun, window.at = window.at, self._end()
                name = window.cut(begun, window.at).rstrip()
                if name == b'"mapping"' or self._byte(_BLANK) != b":":
                    return False
                window.at += 1
                if self._byte(_BLANK) == b"[" and name == b'"conversations"':
                    return True
                window.at = self._end()
        except (NotJson, _Cut, _TooLarge):
            pass
        return False

    def _what_follows(self) -> Iterator[Element | Damage]:
        """What no file should have after its list. Some have one list or conversation after the other."""
        while self._byte(_BETWEEN_LISTS) is not None:
            self._window.fill(_LONGEST_BEGINNING)
            if _BEGINNING.match(self._window.data, self._window.at - self._window.begin):
                item: Element | Damage = self._next()
            else:
                item = self._damage(self._window.at, self._window.at)
            if isinstance(item, Damage) and item.is_rest and item.index == 0:
                item = replace(item, reason="it is no list of conversations")
            yield item

    def _next(self) -> Element | Damage:
        """The element that begins here."""
        window, begun = self._window, self._window.at
        try:
            end = self._end()
        except NotJson as fault:
            return self._damage(begun, fault.position)
        except _Cut:
            return self._cut(begun, traces(window.cut(begun, window.end)))
        except _TooLarge as large:
            return self._too_large(begun, large)
        raw = window.cut(begun, end).rstrip(b" \t\r\n")
        window.at = end
        if len(raw) > self._max_bytes:
            return self._report(begun, self._too_large_reason, traces(raw))
        self._index += 1
        return Element(raw, begun, self._index - 1)

    def _byte(self, after: re.Pattern[bytes]) -> bytes | None:
        """The next byte that `after` does not take, with the window moved to it. None at the end of the file."""
        window = self._window
        while (byte := window.byte(after)) is None and not window.is_all:
            self._read_on(Walk(), window.at)
        return byte

    # ------------------------------------------------------------------------------------------ where something ends

    def _end(self) -> int:
        """The place after the value that begins here, and after any blanks. Raises NotJson, _Cut and _TooLarge."""
        window = self._window
        while True:
            said = self._refusal()
            if (trailing := _TRAILING.fullmatch(said)) is not None:
                return window.at + int(trailing[1]) - 1
            begins_at = window.at - window.begin
            # A number that the window cuts reads like a whole one.
            if not said and (window.is_all or window.data[begins_at] in b'{["'):
                return window.end
            if said not in {_TRUNCATED, ""} or _HALF_PAIR.search(window.data, begins_at):
                return self._walked_end()
            if window.is_all:
                raise _Cut
            held = window.end - window.at
            self._read_on(Walk(), window.at)
            window.fill(min(2 * held, self._max_bytes))

    def _refusal(self) -> str:
        """What msgspec says against all that is held from here on being one value; nothing where it is."""
        begins_at = self._window.at - self._window.begin
        try:
            with memoryview(self._window.data) as held, held[begins_at:] as rest:
                self._decoder.decode(rest)
        except (msgspec.DecodeError, RecursionError) as refusal:
            return str(refusal)
        return ""

    def _walked_end(self) -> int:
        window, walk, at = self._window, Walk(), self._window.at
        while True:
            at = self._walk_on(walk, at)
            if walk.is_over:
                return at
            if window.is_all:
                raise _Cut
            self._read_on(walk, at)

    def _walk_on(self, walk: Walk, at: int) -> int:
        window = self._window
        try:
            return window.begin + walk.go(window.data, at - window.begin, is_all=window.is_all)
        except NotJson as fault:
            raise NotJson(window.begin + fault.position) from None

    def _read_on(self, walk: Walk, at: int) -> None:
        """Hold more, unless that is more than may be held."""
        window = self._window
        held_from = window.at if window.hold is None else window.hold
        if window.end - held_from > self._max_bytes:
            raise _TooLarge(walk, at)
        window.more()

    # ------------------------------------------------------------------------------------------------ what is damaged

    def _too_large(self, begun: int, large: _TooLarge) -> Damage:
        """Past a value that is too large to be held."""
        window, walk, told = self._window, large.walk, traces(self._window.cut(begun, self._window.end))
        try:
            window.at = self._walk_on(walk, large.at)
            while not walk.is_over and not window.is_all:
                window.more()
                window.at = self._walk_on(walk, window.at)
        except NotJson as fault:
            return self._damage(begun, fault.position, told)
        return self._report(begun, self._too_large_reason, told) if walk.is_over else self._cut(begun, told)

    def _cut(self, begun: int, told: Traces) -> Damage:
        """The end of the file, in the middle of something."""
        self._window.at = self._window.end
        if self._window.fault is not None:
            raise self._window.fault
        return self._report(begun, "the file ends in the middle of it", told, is_rest=True)

    def _damage(self, begun: int, broken_at: int, told: Traces | None = None) -> Damage:
        """Past what cannot be JSON from `broken_at` on, to where the next conversation begins, if any does."""
        window = self._window
        window.hold, window.at, self._told = (begun if told is None else None), broken_at, told
        is_found = False
        while not is_found and self._attempts < _MOST_ATTEMPTS:
            beginning = _BEGINNING.search(window.data, window.at - window.begin)
            if beginning is not None:
                window.at = window.begin + beginning.start()
                is_found, window.at = self._try()
            elif window.is_all:
                break
            else:
                window.at = max(window.at, window.end - _LONGEST_BEGINNING)
                self._search_on()
        if not is_found:
            window.at, window.is_all = window.end, True
        told = self._told or traces(window.cut(begun, window.at))
        window.hold = None
        goes_on = f"reading goes on at byte {window.at}" if is_found else "no conversation begins after that"
        return self._report(begun, f"it is damaged at byte {broken_at}; {goes_on}", told, is_rest=not is_found)

    def _try(self) -> tuple[bool, int]:
        """Whether what begins here is a whole conversation, and where to go on."""
        window, walk, at = self._window, Walk(), self._window.at
        self._attempts += 1
        while at - window.at <= self._max_bytes:
            try:
                at = self._walk_on(walk, at)
            except NotJson as fault:
                return False, max(fault.position, window.at + 1)
            if walk.is_over:
                is_one = window.data.find(b'"mapping"', window.at - window.begin, at - window.begin) >= 0
                return is_one, window.at if is_one else at
            if window.is_all:
                return False, window.end
            self._search_on()
        return False, at

    def _search_on(self) -> None:
        """Hold more. What was damaged is held as long as it may be, and then only what is told of it."""
        window = self._window
        if window.hold is not None and window.end - window.hold > self._max_bytes:
            self._told = traces(window.cut(window.hold, window.end))
            window.hold = None
        window.more()

    def _report(self, begun: int, reason: str, told: Traces, *, is_rest: bool = False) -> Damage:
        self._index += 1
        return Damage(begun, self._index - 1, reason, is_rest, *told)

    @property
    def _too_large_reason(self) -> str:
        return f"it is larger than [archive] max_conversation_bytes, {self._max_bytes} bytes"
