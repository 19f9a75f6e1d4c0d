# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the conversations of a file, whole or damaged, large or hostile, one after the other."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.archive.elements import Damage, Element, elements
from chatgpt_rest.archive.zips import Damaged
from tests.shapes import conversation_json, json_values, message

PLENTY: Final = 10_000_000
LIMIT: Final = 65_536


class Pieces(io.RawIOBase):
    """A stream that gives these pieces, and then fails if it is told how."""

    def __init__(self, pieces: Iterator[bytes], fault: Damaged | None = None) -> None:
        self._pieces = pieces
        self._fault = fault

    def read(self, size: int = -1, /) -> bytes:
        """The next piece. Raises the fault after the last one."""
        piece = next(self._pieces, b"")
        assert len(piece) <= size
        if not piece and self._fault is not None:
            raise self._fault
        return piece


def read(
    raw: bytes, *, max_bytes: int = PLENTY, sizes: Sequence[int] = (), fault: Damaged | None = None
) -> list[Element | Damage]:
    """What is in a file, read in pieces of these sizes, again and again."""
    return list(elements(stream(raw, sizes, fault), max_bytes=max_bytes))


def stream(raw: bytes, sizes: Sequence[int] = (), fault: Damaged | None = None) -> BinaryIO:
    """A file that comes in pieces."""

    def pieces() -> Iterator[bytes]:
        begin, turn = 0, 0
        while begin < len(raw):
            size = sizes[turn % len(sizes)] if sizes else 1_000_000
            yield raw[begin : begin + size]
            begin, turn = begin + size, turn + 1

    return cast(BinaryIO, Pieces(pieces(), fault))


def repeated(head: bytes, unit: bytes, times: int, tail: bytes = b"") -> BinaryIO:
    """A long file that is in no memory."""

    def pieces() -> Iterator[bytes]:
        yield head
        at_once = max(1, 500_000 // len(unit))
        for done in range(0, times, at_once):
            yield unit * min(at_once, times - done)
        yield tail

    return cast(BinaryIO, Pieces(pieces()))


def values(found: Sequence[Element | Damage]) -> list[Any]:
    """The elements among them, as Python's own parser reads them."""
    return [json.loads(each.raw.decode("utf-8", "surrogatepass")) for each in found if isinstance(each, Element)]


def damages(found: Sequence[Element | Damage]) -> list[Damage]:
    """The rest of them."""
    return [each for each in found if isinstance(each, Damage)]


def talk(number: int) -> dict[str, Any]:
    """A conversation with everything that could lead a reader of brackets and quotes astray."""
    words = 'She said: "{[,:]}\\" and \\ud800 in words 😀'
    return conversation_json(None, message(words, role="user"), message(words), conversation_id=f"c{number}")


# ------------------------------------------------------------------------------------------------------------- shapes


def test_msgspec_still_tells_where_a_value_ends() -> None:
    """The only place that says so is the text of its refusal; a release that words it otherwise is found out here."""
    with pytest.raises(msgspec.DecodeError, match=r"^JSON is malformed: trailing characters \(byte 14\)$"):
        msgspec.json.decode(b'{"a": "b"}\r\n , 2', type=msgspec.Raw)
    with pytest.raises(msgspec.DecodeError, match=r"^Input data was truncated$"):
        msgspec.json.decode(b'{"a": "b', type=msgspec.Raw)


@given(
    given_values=st.lists(json_values, max_size=5),
    is_ascii=st.booleans(),
    layout=st.sampled_from([(None, (",", ":")), (None, (", ", ": ")), (1, (",", ":")), (3, (" ,\r\n\t", "\n:\t"))]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    wrapper=st.sampled_from([b"%s", b'{"conversations":%s}', b' {"a" : [{}] , "conversations" :\n%s, "b":1} ']),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_whatever_a_list_holds_comes_out_of_it(
    *,
    given_values: list[Any],
    is_ascii: bool,
    layout: tuple[int | None, tuple[str, str]],
    sizes: list[int],
    wrapper: bytes,
    bom: bytes,
) -> None:
    """In any layout, cut into any pieces, inside a wrapper or not: the same values, and byte for byte what stands at
    the places that are told.
    """
    indent, separators = layout
    written = json.dumps(given_values, ensure_ascii=is_ascii, indent=indent, separators=separators)
    raw = bom + wrapper % written.encode("utf-8", "surrogatepass")
    found = read(raw, sizes=sizes)
    assert damages(found) == []
    assert repr(values(found)) == repr(given_values)  # NaN is not itself, but looks it
    assert [each.index for each in found] == list(range(len(given_values)))
    assert all(
        raw[each.offset : each.offset + len(each.raw)] == each.raw for each in found if isinstance(each, Element)
    )


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(talk(1)).encode(),
        b"\n" + json.dumps(talk(1), indent=2).encode() + b"\n",
        json.dumps({"conversations": {}, **talk(1)}).encode(),
    ],
    ids=["plain", "laid out", "with a member named so"],
)
def test_a_single_conversation_is_one_element(raw: bytes) -> None:
    """A file may hold one conversation and no list."""
    assert [each.raw for each in read(raw) if isinstance(each, Element)] == [raw.strip()]


@pytest.mark.parametrize("between", [b"", b"\n", b" , "])
def test_one_conversation_after_the_other_needs_no_list(between: bytes) -> None:
    """JSON Lines, and files that somebody put together, are read as well."""
    assert values(read(between.join(json.dumps(talk(number)).encode() for number in range(3)))) == [
        talk(0),
        talk(1),
        talk(2),
    ]


@pytest.mark.parametrize("raw", [b"[]", b" [ ] \n", b'{"conversations": []}'])
def test_an_empty_list_holds_nothing(raw: bytes) -> None:
    """That is no damage."""
    assert read(raw) == []


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\xef\xbb\xbf", "it is empty"),
        (b"<html><body>{}</body></html>", "it is no list of conversations"),
        (b'"conversations"', "it is no list of conversations"),
        (b"\xef\xbb\xbf12", "it is no list of conversations"),
        ("[{}]".encode("utf-16"), "it is no list of conversations"),
        (b"\0" * 3_000_000, "it is no list of conversations"),
    ],
    ids=["nothing", "blanks", "a mark alone", "a page", "a text", "a number", "UTF-16", "zeros"],
)
def test_a_file_that_is_something_else_is_one_damage(raw: bytes, reason: str) -> None:
    """It is told what it is not, once."""
    (damage,) = read(raw)
    assert isinstance(damage, Damage)
    assert (damage.reason, damage.is_rest) == (reason, True)


@pytest.mark.parametrize(
    "odd",
    [
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\udc00\\ud800"}',
        b'{"a": "\\ud83d\\n"}',
        b'{"a": "line\nbreak \x00"}',
        b'{"a": "\\x"}',
        b'{"a": "\xff"}',
        b'{"a": 1e999, "b": 01}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"NaN",
    ],
    ids=lambda odd: odd[:24].decode("latin-1"),
)
@pytest.mark.parametrize("sizes", [(), (1_000, 7)], ids=["at once", "in pieces"])
def test_what_strict_readers_refuse_still_has_an_end(odd: bytes, sizes: Sequence[int]) -> None:
    """Whether it can be kept is another question: it does not take its neighbours with it."""
    found = read(b'[{"b": 1}, ' + odd + b' ,{"b": 2}]', sizes=sizes)
    assert [each.raw for each in found if isinstance(each, Element)] == [b'{"b": 1}', odd, b'{"b": 2}']


# ------------------------------------------------------------------------------------------------------------- damage


@given(
    position=st.floats(0, 1, exclude_max=True),
    # A bracket that opens between two conversations makes a list of lists of what follows, which is good JSON.
    byte=st.sampled_from(b'{}]",:\\ x1\x00\xff') | st.integers(0, 255).filter(lambda byte: byte != ord("[")),
    change=st.sampled_from(["replace", "insert", "remove", "cut"]),
    sizes=st.lists(st.integers(1, 3_000), min_size=1, max_size=3),
    wrapper=st.sampled_from([b"%s", b'{"version": 1, "conversations": %s, "end": true}']),
)
def test_a_damaged_byte_costs_one_conversation_at_the_most(
    *, position: float, byte: int, change: str, sizes: list[int], wrapper: bytes
) -> None:
    """What lies before the damage comes as it is, and what lies behind it as well, but for a file that is cut."""
    raw = wrapper % json.dumps([talk(number) for number in range(4)]).encode()
    whole = [each for each in read(raw) if isinstance(each, Element)]
    at = raw.index(b"[") + int(position * (len(raw) - raw.index(b"[")))
    damaged = {
        "replace": raw[:at] + bytes([byte]) + raw[at + 1 :],
        "insert": raw[:at] + bytes([byte]) + raw[at:],
        "remove": raw[:at] + raw[at + 1 :],
        "cut": raw[:at],
    }[change]
    found = [each.raw for each in read(damaged, sizes=sizes) if isinstance(each, Element)]
    before = [each.raw for each in whole if each.offset + len(each.raw) <= at]
    assert found[: len(before)] == before
    assert change == "cut" or sum(each.raw not in found for each in whole) <= 1


@given(
    raw=st.binary(max_size=60) | st.text('[]{}",:\\ 1ae', max_size=60).map(str.encode), head=st.sampled_from(b"[{ x")
)
def test_no_bytes_are_a_crash_or_without_end(raw: bytes, head: int) -> None:
    """Every place is told once, in order, and one damage at the most is the rest."""
    found = read(bytes([head]) + raw, max_bytes=30, sizes=[1, 5])
    places = [each.offset for each in found]
    assert places == sorted(places)
    assert [each.is_rest for each in damages(found)[:-1]] == [False] * (len(damages(found)) - 1)


def test_damage_is_told_with_its_place_and_what_is_known_of_it() -> None:
    """A person can find the conversation by its title, and the damage by its byte."""
    raw = json.dumps([talk(0), {**talk(1), "title": "Lost 😀"}, talk(2)])
    title, end = raw.index('"Lost'), raw.index(', {"title"', raw.index('"Lost')) + 2
    at = raw.index('"current_node"', title)
    damaged = raw[:at] + "x" + raw[at + 1 :]
    found = read(damaged.encode())
    assert values(found) == [talk(0), talk(2)]
    assert found[1] == Damage(
        offset=title - len('{"title": '),
        index=1,
        reason=f"it is damaged at byte {at}; reading goes on at byte {end}",
        is_rest=False,
        id="c1",
        title="Lost 😀",
        messages=2,
    )


def test_a_file_that_was_cut_gives_what_is_whole() -> None:
    """Half a download holds half of the conversations, and says so."""
    raw = json.dumps([talk(0), talk(1)]).encode()
    found = read(raw[:-100], sizes=[97])
    assert values(found) == [talk(0)]
    (damage,) = damages(found)
    assert (damage.reason, damage.is_rest, damage.title) == ("the file ends in the middle of it", True, "A title")


def test_a_list_without_its_end_says_so() -> None:
    """Cut between two conversations, nothing known is lost; more may be."""
    first = json.dumps(talk(0)).encode()
    assert read(b"[" + first + b", ")[1] == Damage(
        len(first) + 3, 1, "the file ends before its list does", is_rest=True
    )


@pytest.mark.parametrize("cut", [0, 100], ids=["after the last", "in the middle of one"])
def test_what_came_whole_before_the_stream_failed_is_given(cut: int) -> None:
    """A damaged archive is told by its own fault and not as a file that ends."""
    raw = json.dumps([talk(0), talk(1)]).encode()[: -cut or None]
    found: list[Element | Damage] = []
    with pytest.raises(Damaged, match="its checksum is wrong"):
        found.extend(elements(stream(raw, [500], Damaged("its checksum is wrong")), max_bytes=PLENTY))
    assert values(found) == [talk(0), talk(1)][: 1 if cut else 2]
    assert damages(found) == []


def test_what_follows_the_list_is_told() -> None:
    """Nothing is passed over in silence."""
    found = read(b'[{"a": 1}] and more')
    assert values(found) == [{"a": 1}]
    assert damages(found)[0].offset == 11


# -------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("is_strict", [True, False])
def test_a_conversation_that_is_too_large_is_passed_over(*, is_strict: bool) -> None:
    """It is told with the setting that would let it in, and what is known of it; its neighbours come."""
    large = {**talk(1), "voice": "x" * LIMIT, "odd": 1 if is_strict else float("nan")}
    found = read(json.dumps([talk(0), large, talk(2)]).encode(), max_bytes=LIMIT, sizes=[10_000])
    assert values(found) == [talk(0), talk(2)]
    (damage,) = damages(found)
    assert damage.reason == "it is larger than [archive] max_conversation_bytes, 65536 bytes"
    assert (damage.index, damage.is_rest, damage.title) == (1, False, "A title")


@pytest.mark.parametrize("extra", [0, 1])
def test_the_limit_is_exact(extra: int) -> None:
    """As many bytes as allowed are taken, one more is not, wherever the pieces end."""
    inside = b'"' + b"x" * (LIMIT - 2 + extra) + b'"'
    assert [isinstance(each, Element) for each in read(b"[" + inside + b", 1]", max_bytes=LIMIT)] == [not extra, True]


def test_a_wrapper_may_be_larger_than_a_conversation() -> None:
    """The limit is for what is taken out of it."""
    wrapped = b'{"conversations": [' + b", ".join([json.dumps(talk(1)).encode()] * 200) + b'], "user": "x"}'
    assert len(wrapped) > 2 * LIMIT
    assert values(read(wrapped, max_bytes=LIMIT, sizes=[5_000])) == [talk(1)] * 200


@pytest.mark.parametrize(
    ("head", "unit", "times"),
    [
        pytest.param(b"[", b"[" + b" " * 99, 210_000, id="brackets"),
        pytest.param(b'["', b"a", 8_000_000, id="a string without end"),
        pytest.param(b'["', b'\\"', 4_000_000, id="quotes that are none"),
        pytest.param(b"[", b"7", 8_000_000, id="digits"),
        pytest.param(b"{", b" ", 8_000_000, id="blanks"),
        pytest.param(b'{"a": 1, "b": ', b"[0],", 1_000_000, id="a list that is none"),
        pytest.param(b"[", b'{"id" ' + b" " * 400, 30_000, id="beginnings that lead nowhere"),
        pytest.param(b"[", b'{"id":' + b" " * 400, 30_000, id="beginnings in beginnings"),
        pytest.param(b'[{"title": x', b'{"title": {}' + b" " * 400, 30_000, id="beginnings behind damage"),
    ],
)
def test_hostile_files_take_neither_memory_nor_long(head: bytes, unit: bytes, times: int) -> None:
    """What is held is bounded by the limit, whatever the file is made of, and the end is reached."""
    tracemalloc.start()
    try:
        found = list(elements(repeated(head, unit, times), max_bytes=LIMIT))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert damages(found)[-1].is_rest
    assert peak < 8_000_000
