# SPDX-License-Identifier: GPL-2.0-or-later
"""One conversation of an export: from its raw JSON to rows.

Ordinary ones take the fast way, which cuts the raw JSON into the pieces that the mirror keeps and looks into them for
what the columns need. Whatever surprises it takes the slow way, through Python's own parser and
`chatgpt_json.conversation`, which knows every oddity. Both give the same rows, but for blanks and escapes in raw JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec
from msgspec import UNSET, Raw, UnsetType

from chatgpt_rest import chatgpt_json
from chatgpt_rest.archive.traces import traces
from chatgpt_rest.chatgpt_assets import asset_pointers
from chatgpt_rest.chatgpt_json import is_hidden, is_too_deep, printable
from chatgpt_rest.incoming import Incoming, Marks, NodeRow, Pointer
from chatgpt_rest.model import Completeness, Conversation, Shape

MOST_POINTERS: Final = 10_000
"""Of one conversation. What it points to beyond them stands in its raw JSON and nowhere else."""

_DIGEST_BYTES: Final = 16
_LEVELS_ABOVE: Final = 3  # a message lies in a node in a mapping in a conversation
_FEW_BRACKETS: Final = chatgpt_json.DEEPEST - _LEVELS_ABOVE - 2
_SEPARATOR: Final = re.compile(rb'[ \t\r\n,]*+"([^"\\]*+)"[ \t\r\n]*+:[ \t\r\n]*+')
_END: Final = re.compile(rb"[ \t\r\n]*+\}[ \t\r\n]*+")
_WITH_BLANKS: Final = re.compile(rb'\{"[^"\\]*+": \{"[a-z]++": (?:"[^"\\]*+"|null), "')  # how such a mapping begins


class Unreadable(Exception):
    """This conversation cannot be taken in, with what can still be told of it. `messages` are lost with it. Without a
    `has_mapping` it is JSON, and no conversation at all.
    """

    def __init__(
        self, reason: str, id_: str | None, title: str | None, messages: int, *, has_mapping: bool = True
    ) -> None:
        super().__init__(reason)
        self.has_mapping = has_mapping
        self.reason = reason
        self.id = id_
        self.title = title
        self.messages = messages


class _Surprise(Exception):
    """It is not as ordinary as the fast way needs it."""


_FULL: Final = int(Shape.FULL)
_SLIM: Final = int(Shape.SLIM)
_NO_MESSAGE: Final = Raw(b"null")
_QUOTE: Final = ord('"')
_Number = int | float | None
_Role = Literal["system", "user", "assistant", "tool"]


class _Node(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A node as every export writes it."""

    id: str | UnsetType = UNSET
    message: Raw = _NO_MESSAGE
    parent: str | UnsetType | None = UNSET
    children: list[str] | UnsetType = UNSET


class _Nothing(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An object without members."""


class _Author(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: _Role
    name: str | None
    metadata: _Nothing


class _Words(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    content_type: Literal["text"]
    parts: list[Raw]


class _PlainMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A message as most of them are: words for everybody, and who said them."""

    id: str
    author: _Author
    content: _Words
    status: str
    weight: _Number
    metadata: Raw
    recipient: Literal["all"]
    end_turn: bool | None = None
    create_time: _Number = None
    update_time: _Number = None
    channel: str | None = None


class _Told(NamedTuple):
    """What the columns need of a message."""

    create_time: int | None
    shape: int
    is_hidden: bool
    pointers: Sequence[tuple[str, str | None, str | None]] = ()


_any: Final = msgspec.json.Decoder()
_plain: Final = msgspec.json.Decoder(_PlainMessage)
_members: Final = msgspec.json.Decoder(dict[str, Raw])
_mapping: Final = msgspec.json.Decoder(dict[str, _Node])
_encode: Final = msgspec.json.Encoder().encode

_TELLING: Final = frozenset(
    {"is_visually_hidden_from_conversation", "is_user_system_message", "attachments", "aggregate_result"}
)
"""What of a message's metadata a column depends on."""
_IS_HIDDEN: Final = {
    (role, is_weightless): is_hidden(
        {
            "author": {"role": role},
            "content": {"content_type": "text", "parts": []},
            "weight": 0 if is_weightless else 1,
            "recipient": "all",
        }
    )
    for role in get_args(_Role)
    for is_weightless in (False, True)
}
"""Of plain messages without any of these, by who said them and whether they have no weight."""


def parse(raw: bytes, *, account: str) -> Incoming:
    """The conversation whose JSON this is. Raises Unreadable where it is none, or could not be kept as it is."""
    try:
        return _fast(raw, account)
    except (_Surprise, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _slow(raw, account)


# ------------------------------------------------------------------------------------------------------- the fast way


def _fast(raw: bytes, account: str) -> Incoming:
    if not raw.isascii():
        raw.decode()  # what is passed over unread must be UTF-8, too
    members = _members.decode(raw)
    if "mapping" not in members or chatgpt_json.DELETED_UPSTREAM in members or _has_doubles(raw, members):
        raise _Surprise
    raw_mapping = members.pop("mapping")
    mapping = _mapping.decode(raw_mapping)
    envelope = _encode(members)
    outline = _outline(envelope)
    _check(mapping, raw_mapping)
    conversation = outline.id
    rows: list[NodeRow] = []
    pointers: list[Pointer] = []
    messages = hidden = slim = 0
    for position, (key, each) in enumerate(mapping.items()):
        parent = None if each.parent is UNSET else each.parent
        children = None if each.children is UNSET else _encode(each.children).decode()
        if each.message is _NO_MESSAGE or (raw_message := bytes(each.message)) == b"null":
            rows.append((account, conversation, key, position, parent, children, None, None, None, _FULL))
            continue
        told = _plainly(raw_message) or _told(_object(raw_message, within=_LEVELS_ABOVE))
        time, shape, is_this_hidden, targets = told
        rows.append((account, conversation, key, position, parent, children, None, raw_message, time, shape))
        messages += 1
        hidden += is_this_hidden
        slim += shape == _SLIM
        for target in targets:
            pointers.append(Pointer(key, *target))  # noqa: PERF401 - nearly always there are none
    counts = _Counts(messages, hidden, is_slim=slim > 0)
    return _incoming(raw, outline, envelope=envelope, rows=rows, pointers=pointers, counts=counts)


def _plainly(raw: bytes) -> _Told | None:
    """What a message of plain words tells, found without making text of them, which would be half of the time. None
    where it is any other. Raises _Surprise where its metadata are too deep.
    """
    try:
        plain = _plain.decode(raw)
    except msgspec.ValidationError:
        return None
    for part in plain.content.parts:
        if memoryview(part)[0] != _QUOTE:
            return None
    metadata = bytes(plain.metadata)
    if metadata != b"{}" and not _TELLING.isdisjoint(_object(metadata, within=_LEVELS_ABOVE + 1)):
        return None
    is_weightless = plain.weight == 0
    return _Told(chatgpt_json.time_us(plain.create_time), _FULL, _IS_HIDDEN[plain.author.role, is_weightless])


def _told(message: Mapping[str, Any]) -> _Told:
    """What any message tells."""
    return _Told(
        chatgpt_json.time_us(message.get("create_time")),
        _FULL if chatgpt_json.shape(message) is Shape.FULL else _SLIM,
        is_hidden(message),
        asset_pointers(message),
    )


def _object(raw: bytes, *, within: int) -> dict[str, Any]:
    value = _any.decode(raw)
    # A look at the brackets, those in its words as well, is quick and nearly always enough.
    if not isinstance(value, dict) or (
        raw.count(b"{") + raw.count(b"[") > _FEW_BRACKETS and is_too_deep(value, within=within)
    ):
        raise _Surprise
    return value


def _outline(envelope: bytes) -> Conversation:
    """What the members beside the mapping say. Raises _Surprise where that is not enough, or too deep."""
    try:
        return chatgpt_json.outline(_any.decode(envelope))
    except ValueError:
        raise _Surprise from None


def _has_doubles(raw: bytes, members: Mapping[str, Raw]) -> bool:
    """Whether the object holds more than these members: of a name that stands in it twice only the last one came."""
    shortest = sum(len(name.encode()) + len(memoryview(value)) + len(b'"":,') for name, value in members.items())
    if len(raw) == shortest + len(b"{}") - len(b","):
        return False
    at = raw.index(b"{") + 1
    for name, value in members.items():
        separator = _SEPARATOR.match(raw, at)
        if separator is None or separator[1] != name.encode():
            return True
        at = separator.end() + len(memoryview(value))
    return _END.fullmatch(raw, at) is None


def _check(mapping: Mapping[str, _Node], raw_mapping: Raw) -> None:
    """Raises _Surprise where what nodes say of themselves would not all come back from their rows."""
    told: dict[str, str] = {}
    for key, each in mapping.items():
        if each.id != key and each.id is not UNSET:
            raise _Surprise
        if each.children is not UNSET:
            for child in each.children:
                told[child] = key
    for key, each in mapping.items():
        if told.get(key) != each.parent and isinstance(each.parent, str):
            parent = mapping.get(each.parent)
            if parent is not None and parent.children is not UNSET:
                raise _Surprise
    if _has_double_nodes(mapping, raw_mapping):
        raise _Surprise


def _has_double_nodes(mapping: Mapping[str, _Node], raw_mapping: Raw) -> bool:
    """Whether there is more than these nodes and what they say: of a node that is there twice, or says something twice,
    only the last came. Told by the length, to which nothing but blanks and escapes could add otherwise.
    """
    tight, blanks = _lengths(mapping)
    length = len(memoryview(raw_mapping))
    if length == tight:
        return False
    if length == tight + blanks and _WITH_BLANKS.match(memoryview(raw_mapping)):
        return False
    without_blanks = msgspec.json.format(bytes(raw_mapping), indent=-1)
    return len(without_blanks) != _lengths(_mapping.decode(without_blanks))[0]


def _lengths(mapping: Mapping[str, _Node]) -> tuple[int, int]:
    """How long its JSON is without blanks, and how many blanks are in it as Python writes it: one after each comma and
    colon. Counted in characters: what is not ASCII makes the JSON longer than this.
    """
    length, blanks = len("{}"), 0
    for key, each in mapping.items():
        members = 0
        length += len('"":{},') + len(key)
        if each.id is not UNSET:
            members += 1
            length += len('"id":"",') + len(each.id)
        if each.message is not _NO_MESSAGE:
            members += 1
            length += len('"message":,') + len(memoryview(each.message))
        if each.parent is not UNSET:
            members += 1
            length += len('"parent":null,') if each.parent is None else len('"parent":"",') + len(each.parent)
        if each.children is not UNSET:
            members += 1
            length += len('"children":[],')
            if each.children:
                commas = len(each.children) - 1
                blanks += commas
                length += sum(map(len, each.children)) + len('""') * len(each.children) + commas
        if members:
            length -= len(",")
            blanks += 2 * members - 1
        blanks += 2
    return (length - len(","), blanks - 1) if mapping else (length, 0)


# ------------------------------------------------------------------------------------------------------- the slow way


class _Doubts:
    """What Python's parser takes, and the mirror could not give back as it came."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def read(self, text: str) -> object:
        """The JSON in a text. Raises ValueError where there is none, and RecursionError."""
        return json.loads(
            text,
            strict=False,
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_float=self._float,
            parse_int=self._int,
        )

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) < len(pairs):
            self.reason = "it has two members of one name in one place"
        return members

    def _constant(self, name: str) -> None:
        self.reason = f"it holds {name}, which is no JSON"

    def _float(self, digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            self.reason = "it holds a number that is too large for any float"
        return value

    def _int(self, digits: str) -> int:
        try:
            return int(digits)
        except ValueError:
            self.reason = f"it holds a number of {len(digits)} digits"
            return 0


def _slow(raw: bytes, account: str) -> Incoming:
    doubts = _Doubts()
    try:
        value = doubts.read(raw.decode())
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8, at its byte {error.start}", *traces(raw)) from None
    except RecursionError:
        raise Unreadable("it is nested too deep", *traces(raw)) from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"it is no JSON: {error.msg.lower()}, at its character {error.pos}", *traces(raw)) from None
    try:
        tree = chatgpt_json.conversation(value)
    except ValueError as error:
        product = chatgpt_json.is_other_product(value)
        raise _unreadable(f"it is of {product}" if product else doubts.reason or str(error), value) from None
    if doubts.reason is not None:
        raise _unreadable(doubts.reason, value)
    if any(printable(key) != key for key in tree.nodes):
        raise _unreadable("the id of a node in it holds half a surrogate pair", value)
    return _from_tree(raw, tree, account)


def _unreadable(reason: str, value: object) -> Unreadable:
    members = value if isinstance(value, dict) else {}
    ids = (members.get("conversation_id"), members.get("id"))
    title, mapping = members.get("title"), members.get("mapping")
    nodes = mapping.values() if isinstance(mapping, dict) else ()
    return Unreadable(
        reason,
        next((each for each in ids if isinstance(each, str) and each), None),
        title if isinstance(title, str) else None,
        sum(1 for node in nodes if isinstance(node, dict) and node.get("message") is not None),
        has_mapping=isinstance(mapping, dict),
    )


def _from_tree(raw: bytes, tree: Conversation, account: str) -> Incoming:
    nodes = list(tree.nodes.values())
    messages = {each.id: json.loads(each.message) for each in nodes if each.message is not None}
    rows: list[NodeRow] = [
        (
            account,
            tree.id,
            each.id,
            position,
            printable(each.parent),
            None if each.children is None else _encode([printable(child) for child in each.children]).decode(),
            chatgpt_json.pack(each.extra) if each.extra else None,
            each.message,
            each.create_time,
            int(each.shape),
        )
        for position, each in enumerate(nodes)
    ]
    pointers = [
        Pointer(key, asset, printable(name), printable(media_type))
        for key, message in messages.items()
        if isinstance(message, dict)
        for asset, name, media_type in asset_pointers(message)
    ]
    marks = [
        Marks(each.id, int(each.completeness), each.is_absent_upstream)
        for each in nodes
        if each.completeness is not Completeness.COMPLETE or each.is_absent_upstream
    ]
    counts = _Counts(
        messages=len(messages),
        hidden=sum(map(is_hidden, messages.values())),
        is_slim=any(each.shape is Shape.SLIM for each in nodes),
    )
    envelope = chatgpt_json.pack(tree.envelope)
    return _incoming(raw, tree, envelope=envelope, rows=rows, pointers=pointers, counts=counts, marks=marks)


class _Counts(NamedTuple):
    messages: int
    hidden: int
    is_slim: bool


def _incoming(
    raw: bytes,
    tree: Conversation,
    *,
    envelope: bytes,
    rows: list[NodeRow],
    pointers: list[Pointer],
    counts: _Counts,
    marks: Sequence[Marks] = (),
) -> Incoming:
    return Incoming(
        id=tree.id,
        title=printable(tree.title),
        create_time=tree.create_time,
        update_time=tree.update_time,
        current_node=printable(tree.current_node),
        envelope=envelope,
        is_archived=tree.is_archived,
        is_starred=tree.is_starred,
        project=printable(tree.project),
        model=printable(tree.model),
        is_slim=counts.is_slim,
        digest=blake2b(raw, digest_size=_DIGEST_BYTES).digest(),
        messages=counts.messages,
        hidden=counts.hidden,
        nodes=rows,
        pointers=pointers[:MOST_POINTERS],
        marks=list(marks),
        is_deleted_upstream=tree.is_deleted_upstream,
    )
