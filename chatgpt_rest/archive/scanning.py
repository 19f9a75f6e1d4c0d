# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a JSON value ends that a strict reader refuses: one with NaN, half a surrogate pair, or 100,000 levels.

The walk goes over strings, brackets and separators, without recursion, in memory of one byte a level. It can pause
where the data ends and go on when there is more.
"""

from __future__ import annotations

import re
from typing import Final

Data = bytes | bytearray

# Possessive throughout: what was matched is never looked at again, so that time is linear and memory constant.
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BETWEEN: Final = rb"[ \t\r\n]*+"
_NUMBER_OR_WORD: Final = rb"[-+.0-9A-Za-z]++"
_TOKEN: Final = re.compile(
    _BETWEEN + rb"(?:(?P<mark>[\[\]{},:])|(?P<string>" + _STRING[:-1] + rb'(?P<quote>"?))'
    rb"|(?P<scalar>" + _NUMBER_OR_WORD + rb")|(?P<end>\Z))",
    re.DOTALL,
)
# What most of any JSON is, passed in one step: names with plain values, and plain values, each with its comma.
_PLAIN_VALUE: Final = rb"(?:" + _STRING + rb"|-?[0-9]++(?:\.[0-9]++)?|true|false|null)" + _BETWEEN + rb","
_PLAIN_MEMBERS: Final = re.compile(
    rb"(?:" + _BETWEEN + _STRING + _BETWEEN + rb":" + _BETWEEN + _PLAIN_VALUE + rb")++", re.DOTALL
)
_PLAIN_VALUES: Final = re.compile(rb"(?:" + _BETWEEN + _PLAIN_VALUE + rb")++", re.DOTALL)
_REST_OF_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.DOTALL)
_BLANK: Final = re.compile(rb"[ \t\r\n]*+")
_SCALAR: Final = re.compile(rb"-?[0-9][-+.0-9eE]*+|-?Infinity|NaN|true|false|null")
_LONGEST_SCALAR: Final = 100_000  # characters: beyond any number that Python reads
_DEEPEST: Final = 200_000  # levels

# What may come next: a value, or the end of an empty list; a name, or the end of an empty object; …
_VALUE, _FIRST, _NAME, _FIRST_NAME, _COLON, _MORE = range(6)


class NotJson(Exception):
    """At `position` stands what no JSON has there, however leniently it is read."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class Walk:
    """The way through one value, from its first byte to its last."""

    def __init__(self) -> None:
        self.is_over = False
        self._open = bytearray()  # the brackets that wait for their other half
        self._next = _VALUE
        self._is_in_string = False

    def go(self, data: Data, at: int, *, is_all: bool) -> int:
        """Go on at `at`, and say how far it went: to the value's end if `is_over`, else to where more data is needed,
        which is the end of a value that is cut where this `is_all`. Raises NotJson.
        """
        if self._is_in_string:
            rest = _REST_OF_STRING.match(data, at)
            if rest is None or not rest[1]:
                return at if rest is None else rest.end()
            at = rest.end()
            self._end_string()
        while not self.is_over:
            at = self._pass_plain(data, at)
            token = _TOKEN.match(data, at)
            if token is None:
                raise NotJson(_after_blank(data, at))
            kind = token.lastgroup
            if kind == "mark":
                self._mark(token["mark"], token.start("mark"))
            elif kind == "string":
                if self._next not in {_VALUE, _FIRST, _NAME, _FIRST_NAME}:
                    raise NotJson(_after_blank(data, at))
                if not token["quote"]:
                    self._is_in_string = True
                    return token.end()
                self._end_string()
            elif kind == "scalar":
                is_expected = self._next in {_VALUE, _FIRST} and len(token["scalar"]) <= _LONGEST_SCALAR
                if is_expected and token.end() == len(data) and not is_all:
                    return at
                if not is_expected or not _SCALAR.fullmatch(token["scalar"]):
                    raise NotJson(token.start("scalar"))
                self._end_value()
            else:
                return token.end()
            at = token.end()
        return at

    def _pass_plain(self, data: Data, at: int) -> int:
        if self._next in {_NAME, _FIRST_NAME}:
            plain, follows = _PLAIN_MEMBERS.match(data, at), _NAME
        elif self._next in {_VALUE, _FIRST} and self._open[-1:] == b"[":
            plain, follows = _PLAIN_VALUES.match(data, at), _VALUE
        else:
            return at
        if plain is None:
            return at
        self._next = follows
        return plain.end()

    def _mark(self, mark: bytes, at: int) -> None:
        within = self._open[-1:]
        if mark in {b"{", b"["} and self._next in {_VALUE, _FIRST} and len(self._open) < _DEEPEST:
            self._open += mark
            self._next = _FIRST_NAME if mark == b"{" else _FIRST
        elif (mark == b"}" and within == b"{" and self._next in {_FIRST_NAME, _MORE}) or (
            mark == b"]" and within == b"[" and self._next in {_FIRST, _MORE}
        ):
            self._open.pop()
            self._end_value()
        elif mark == b"," and self._next == _MORE:
            self._next = _NAME if within == b"{" else _VALUE
        elif mark == b":" and self._next == _COLON:
            self._next = _VALUE
        else:
            raise NotJson(at)

    def _end_string(self) -> None:
        self._is_in_string = False
        if self._next in {_NAME, _FIRST_NAME}:
            self._next = _COLON
        else:
            self._end_value()

    def _end_value(self) -> None:
        self._next = _MORE
        self.is_over = not self._open


def _after_blank(data: Data, at: int) -> int:
    blank = _BLANK.match(data, at)
    return at if blank is None else blank.end()
