# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults: what goes wrong, for which requests, how often. Turned from Python and over HTTP alike."""

from __future__ import annotations

import asyncio
import math
import types
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, Final, get_args, get_origin, get_type_hints

from . import refusals

STREAM_FAULTS: Final = frozenset(
    {
        "204",  # no content at all
        "delta_encoding",  # the encoding of the 2026 web client, whether or not it was asked for
        "done_only",  # [DONE] and no event before it
        "empty",  # 200, text/event-stream, no byte
        "error_event",  # after `after_events` (2) events of the answer: a null message, an error, [DONE]
        "error_event_only",
        "html_200",
        "huge_line",  # a line of `size_bytes` before the answer
        "internal_server_error_line",  # after `after_events` (2) events of the answer, and then nothing more
        "json_200",
        "missing_ids",  # neither message ids nor conversation ids
        "multi_line_data",  # one event's JSON over many `data:` lines
        "no_done",  # ends with no [DONE], after `after_events` events of the answer where that is given
        "no_space",  # `data:{…}`
        "non_string_parts",  # an object before the text
        "null_author",
        "null_finish_details",
        "null_metadata",
        "only_user_event",
        "raw_separators",  # U+2028, U+2029 and U+0085 raw inside JSON
        "title_event",  # events of title and moderation, without `message`
        "tool_messages_between",
        "trailing_after_done",  # stays open after [DONE] and keeps sending, until the client leaves
    }
)


class BadKnob(ValueError):
    """A knob that does not exist or cannot be turned that way; `field` names it."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.field = name


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with the requests that match. Raises BadKnob for a value that makes no sense.

    A fault counts every request it matches, leaves the first `after` alone, and then applies `times` times (None: for
    ever). With neither an answer (`error`, `status`, `body`) nor a `reset` the request is served truly, only slower,
    shorter or in an odd stream.
    """

    path: str = "*"
    """A glob on the path relative to /backend-api/, without its query; `*` crosses slashes."""
    method: str | None = None
    account: str | None = None
    """A user id: only requests with a valid token of this account."""
    after: int = 0
    times: int | None = None

    error: str | None = None
    """An answer by name, one of `refusals.NAMED`; `status`, `body` and the rest override parts of it."""
    status: int | None = None
    body: Any = None
    """A string is sent as it is, anything else as JSON."""
    content_type: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    hold: bool = False
    """Wait before answering until `release`."""
    delay_seconds: float = 0.0
    reset: bool = False
    """Reset the connection instead of answering."""

    drip_bytes: int | None = None
    """Send the body in pieces of this size …"""
    drip_pause_seconds: float = 0.01
    """… with this pause after each."""
    truncate_after_bytes: int | None = None
    """Close the connection after so many bytes of the body."""
    reset_after_bytes: int | None = None

    stream: str | None = None
    """One of STREAM_FAULTS: what is wrong with the stream of an answer."""
    after_events: int | None = None
    """How many events of the answer (the echo not counted) come before the stream's fault."""
    hold_after_events: int | None = None
    """Wait in the middle of the stream, after so many events of the answer, until `release`."""
    error_text: str = "Something went wrong. If this issue persists please contact us through our help center."
    max_tokens: int = 0
    """How many times the answer is cut by the limit of tokens."""
    size_bytes: int = 32 * 1024 * 1024

    id: int = field(default=0, init=False)
    seen: int = field(default=0, init=False)
    """Requests that matched, those spared by `after` included."""
    applied: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        hints = get_type_hints(Fault)
        for knob in fields(self):
            _check(knob.name, getattr(self, knob.name), hints[knob.name])
        if self.status is not None and not 200 <= self.status <= 599:
            raise BadKnob("status", "must be between 200 and 599")
        if self.error is not None and self.error not in refusals.NAMED:
            raise BadKnob("error", f"must be one of {', '.join(sorted(refusals.NAMED))}")
        if self.stream is not None and self.stream not in STREAM_FAULTS:
            raise BadKnob("stream", f"must be one of {', '.join(sorted(STREAM_FAULTS))}")
        if self.drip_bytes == 0:
            raise BadKnob("drip_bytes", "must be at least 1")
        if self.after_events is None and self.stream in {"error_event", "internal_server_error_line"}:
            self.after_events = 2
        self._held = asyncio.Event()
        self._released = asyncio.Event()

    @classmethod
    def parse(cls, knobs: Any) -> Fault:
        """The fault that this JSON describes; raises BadKnob naming the first field that is wrong."""
        if not isinstance(knobs, dict):
            raise BadKnob("body", "must be a JSON object of knobs")
        known = {knob.name for knob in fields(cls) if knob.init}
        for name in knobs:
            if name not in known:
                raise BadKnob(name, f"unknown; the knobs are {', '.join(sorted(known))}")
        if isinstance(path := knobs.get("path"), str):  # people paste what they saw in the list of requests
            knobs = {**knobs, "path": path.removeprefix("/backend-api/").removeprefix("/")}
        return cls(**knobs)

    def to_json(self) -> dict[str, Any]:
        """Every knob as it stands, with what the fault has seen so far."""
        return {knob.name: getattr(self, knob.name) for knob in fields(self)}

    def refusal(self) -> refusals.Refusal | None:
        """The answer to give instead of the true one, if there is one to give."""
        if self.error is None and self.status is None and self.body is None:
            return None
        named = refusals.NAMED.get(self.error or "")
        status = self.status or (named.status if named else 200)
        body = self.body if self.body is not None else named.text if named else _plain_body(status)
        content_type = self.content_type or (named.content_type if named and self.body is None else None)
        return refusals.Refusal(status, body, content_type=content_type, headers=self.headers)

    def matches(self, method: str, endpoint: str, account: str | None) -> bool:
        return (
            (self.method is None or self.method.upper() == method)
            and (self.account is None or self.account == account)
            and fnmatchcase(endpoint, self.path)
        )

    def take(self) -> bool:
        """Count one matching request; whether the fault applies to it."""
        self.seen += 1
        applies = self.seen > self.after and (self.times is None or self.applied < self.times)
        self.applied += applies
        return applies

    def release(self) -> None:
        """Let go on what is held, now and later."""
        self._released.set()

    async def until_held(self) -> None:
        """Return once a request is being held."""
        await self._held.wait()

    async def wait_for_release(self) -> None:
        self._held.set()
        await self._released.wait()


class Faults:
    """The faults that are turned on."""

    def __init__(self) -> None:
        self._faults: dict[int, Fault] = {}
        self._last_id = 0

    def __iter__(self) -> Iterator[Fault]:
        return iter(list(self._faults.values()))

    def add(self, fault: Fault) -> Fault:
        self._last_id += 1
        fault.id = self._last_id
        self._faults[fault.id] = fault
        return fault

    def remove(self, fault_id: int) -> bool:
        """Turn one off, releasing what it holds; False if there is none with this id."""
        fault = self._faults.pop(fault_id, None)
        if fault is not None:
            fault.release()
        return fault is not None

    def clear(self) -> None:
        for fault in self:
            self.remove(fault.id)

    def match(self, method: str, endpoint: str, account: str | None) -> Fault | None:
        """The fault that befalls this request: of those that apply, the newest. All that match count it."""
        matching = [fault for fault in self if fault.matches(method, endpoint, account)]
        applying = [fault for fault in matching if fault.take()]
        return applying[-1] if applying else None


def _check(name: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        wanted = (
            " or ".join(_name(option) for option in get_args(hint))
            if get_origin(hint) is types.UnionType
            else _name(hint)
        )
        raise BadKnob(name, f"must be {wanted}")
    if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
        raise BadKnob(name, "must be a number from 0 up")


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is types.UnionType:
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(isinstance(item, str) for pair in value.items() for item in pair)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _name(hint: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false", types.NoneType: "null"}
    return names.get(hint, "an object of strings")


def _plain_body(status: int) -> str:
    return "" if status == 204 else "Internal Server Error" if status == 500 else f"Simulated {status}"
