# SPDX-License-Identifier: GPL-2.0-or-later
"""One conversation of an export, from its JSON to rows: nothing lost, nothing changed, or set aside with a reason."""

from __future__ import annotations

import contextlib
import json
from hashlib import blake2b
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest import chatgpt_json
from chatgpt_rest.archive.parsing import MOST_POINTERS, Unreadable, parse
from chatgpt_rest.incoming import Incoming, Marks, NodeRow, Pointer
from chatgpt_rest.model import Completeness, Shape
from tests.shapes import conversation_json, message, odd_conversations, slim_message

MAY_2023_US = 1_685_293_988_233_528


def parsed(value: object, **layout: Any) -> Incoming:
    """What comes of a conversation that was written like this."""
    return parse(json.dumps(value, **layout).encode("utf-8", "surrogatepass"), account="account")


def unreadable(raw: bytes) -> Unreadable:
    """Why nothing comes of this."""
    with pytest.raises(Unreadable) as refusal:
        parse(raw, account="account")
    return refusal.value


def surprising(value: dict[str, Any]) -> dict[str, Any]:
    """The same conversation with a node that ChatGPT never wrote, so that it is read the slow way."""
    return {**value, "mapping": {**value["mapping"], "surprise": {"message": None, "unknown": 1}}}


def columns(incoming: Incoming) -> dict[str, Any]:
    """Everything in it, raw JSON as what it says."""
    return {
        **msgspec.structs.asdict(incoming),
        "envelope": {name: repr(json.loads(raw)) for name, raw in chatgpt_json.unpack(incoming.envelope).items()},
        "nodes": [_columns(row) for row in incoming.nodes],
        "digest": None,
    }


def _columns(row: NodeRow) -> tuple[object, ...]:
    *others, extra, message_json, create_time, shape = row
    said = None if message_json is None else repr(json.loads(message_json))
    return (*others, extra and repr(json.loads(extra)), said, create_time, shape)


# --------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("indent", [None, 2])
def test_a_conversation_becomes_rows(indent: int | None) -> None:
    """Its columns, its nodes in their order, and how many messages it has."""
    hidden = message("…", role="system")
    value = conversation_json(None, hidden, message("Why?", role="user"), message(), is_starred=True, gizmo_id="g-1")
    incoming = parsed(value, indent=indent)
    assert (incoming.id, incoming.title, incoming.current_node) == ("conversation", "A title", "n3")
    assert (incoming.create_time, incoming.update_time) == (MAY_2023_US, MAY_2023_US)
    assert (incoming.is_archived, incoming.is_starred, incoming.project, incoming.model) == (False, True, "g-1", None)
    assert (incoming.messages, incoming.hidden, incoming.is_slim) == (3, 1, False)
    assert [row[:6] for row in incoming.nodes] == [
        ("account", "conversation", "n0", 0, None, '["n1"]'),
        ("account", "conversation", "n1", 1, "n0", '["n2"]'),
        ("account", "conversation", "n2", 2, "n1", '["n3"]'),
        ("account", "conversation", "n3", 3, "n2", "[]"),
    ]
    assert [row[8:] for row in incoming.nodes] == [(None, Shape.FULL), *[(MAY_2023_US, Shape.FULL)] * 3]
    assert [row[6] for row in incoming.nodes] == [None] * 4
    assert (incoming.pointers, incoming.marks, incoming.is_deleted_upstream) == ([], [], False)


def test_raw_json_stays_byte_for_byte() -> None:
    """Floats, escapes and spaces of messages and members are what they were, and the digest is that of it all."""
    said = rb'{ "create_time":1.70000000012345678e9,"content" : {"x":"\u00e9\/","n":123456789012345678901234567890}}'
    raw = b'{"id":"c", "odd" : [1.0, 1E5,"\\u0000"],"mapping":{"n":{"message":' + said + b"}}}"
    incoming = parse(raw, account="account")
    assert incoming.nodes[0][7] == said
    assert b'[1.0, 1E5,"\\u0000"]' in incoming.envelope
    assert incoming.digest == blake2b(raw, digest_size=16).digest()


def test_a_slim_conversation_says_so() -> None:
    """One message without what only full exports have is enough."""
    value = conversation_json(None, message("Why?", role="user"), slim_message())
    for node in value["mapping"].values():
        del node["children"]
    incoming = parsed(value)
    assert [row[9] for row in incoming.nodes] == [Shape.FULL, Shape.FULL, Shape.SLIM]
    assert [row[5] for row in incoming.nodes] == [None, None, None]
    assert incoming.is_slim


@pytest.mark.parametrize("is_surprising", [False, True])
def test_pointers_are_told_with_their_node(*, is_surprising: bool) -> None:
    """Whichever way it is read."""
    image = {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_0a"}
    value = conversation_json(
        None,
        message(image, metadata={"attachments": [{"id": "file-B", "name": "b.pdf", "mime_type": "application/pdf"}]}),
    )
    assert parsed(surprising(value) if is_surprising else value).pointers == [
        Pointer("n1", "file_0a"),
        Pointer("n1", "file-B", "b.pdf", "application/pdf"),
    ]


@pytest.mark.parametrize("is_surprising", [False, True], ids=["fast", "slow"])
def test_no_more_pointers_are_told_than_anybody_has(*, is_surprising: bool) -> None:
    """Of a conversation that points to more assets than any real one, the rest is kept and not told of."""
    attached = [{"id": f"file-{number}"} for number in range(MOST_POINTERS + 5)]
    value = conversation_json(None, message(metadata={"attachments": attached}))
    incoming = parsed(surprising(value) if is_surprising else value)
    assert len(incoming.pointers) == MOST_POINTERS
    assert incoming.nodes[1][7] is not None
    assert len(json.loads(incoming.nodes[1][7])["metadata"]["attachments"]) == MOST_POINTERS + 5


def test_what_sqlite_cannot_hold_stays_in_the_raw_json() -> None:
    """Half a surrogate pair becomes U+FFFD in a column, and is what it was where the JSON is kept."""
    value = conversation_json(None, message("\ud800"), title="\ud83d", default_model_slug="\udc00", gizmo_id="\ud800")
    incoming = parsed(value)
    assert (incoming.title, incoming.model, incoming.project) == ("\ufffd", "\ufffd", "\ufffd")
    assert json.loads(incoming.envelope)["title"] == "\ud83d"
    assert json.loads(incoming.nodes[1][7] or b"")["content"]["parts"] == ["\ud800"]


def test_control_characters_that_were_not_escaped_are_kept_escaped() -> None:
    """Stricter readers refuse them, and nothing of them is lost."""
    incoming = parse(b'{"id":"c","title":"a\nb\x00","mapping":{}}', account="account")
    assert incoming.title == "a\nb\x00"
    assert json.loads(incoming.envelope)["title"] == "a\nb\x00"


def test_the_marks_of_our_own_exports_are_read_back() -> None:
    """They become columns again, and no members."""
    value = conversation_json(None, message(), message(), message(), deleted_upstream=True)
    value["mapping"]["n1"]["is_partial"] = True
    value["mapping"]["n2"] |= {"is_partial": True, "is_unconfirmed": True, "is_absent_upstream": True}
    value["mapping"]["n3"]["is_partial"] = "perhaps"
    incoming = parsed(value)
    assert incoming.marks == [Marks("n1", Completeness.PARTIAL, False), Marks("n2", Completeness.UNCONFIRMED, True)]
    assert incoming.is_deleted_upstream
    assert b"deleted_upstream" not in incoming.envelope
    assert [row[6] for row in incoming.nodes] == [None, None, None, b'{"is_partial":"perhaps"}']


@pytest.mark.parametrize(
    ("node", "extra"),
    [
        pytest.param({"id": "x", "message": None}, {"id": "x"}, id="another id than its key"),
        pytest.param({"id": "n", "parent": 7}, {"parent": 7}, id="a parent that is no text"),
        pytest.param({"id": "n", "parent": "\ud800"}, {"parent": "\ud800"}, id="a parent that is half a pair"),
        pytest.param({"id": "n", "children": None}, {"children": None}, id="no list of children"),
        pytest.param({"id": "n", "children": ["m", 7]}, {"children": ["m", 7]}, id="a child that is no text"),
        pytest.param({"id": "n", "children": []}, {"children": []}, id="a child left out"),
        pytest.param({"id": "n", "children": ["m", "gone"]}, None, id="a child that is not there"),
        pytest.param({"id": "n", "parent": ""}, None, id="an empty parent"),
        pytest.param({}, None, id="nothing at all"),
        pytest.param({"other": {"a": [1.5]}}, {"other": {"a": [1.5]}}, id="an unknown member"),
    ],
)
def test_what_a_node_has_no_place_for_is_kept_beside_it(node: dict[str, Any], extra: dict[str, Any] | None) -> None:
    """So that an export can tell it again."""
    incoming = parsed({"id": "c", "mapping": {"n": node, "m": {"id": "m", "parent": "n", "message": None}}})
    kept = incoming.nodes[0][6]
    assert (None if kept is None else json.loads(kept)) == extra


def test_what_is_no_node_is_kept_in_the_envelope() -> None:
    """A number among the nodes is an empty node, and still a number."""
    incoming = parsed({"id": "c", "mapping": {"a": 5, "b": None, "c": {"message": "words"}}})
    assert json.loads(incoming.envelope)["mapping"] == {"a": 5, "b": None}
    assert [(row[2], row[7]) for row in incoming.nodes] == [("a", None), ("b", None), ("c", b'"words"')]
    assert (incoming.messages, incoming.hidden) == (1, 1)


_texts = st.text(max_size=8)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def ordinary_conversations(draw: st.DrawFn) -> dict[str, Any]:
    """Trees as exports hold them, in either shape, with any words and members."""
    keys = draw(st.lists(_texts, unique=True, max_size=5))
    said = st.builds(
        lambda words, role, is_full, members: {**(message if is_full else slim_message)(words, role=role), **members},
        _texts | _values,
        st.sampled_from(["user", "assistant", "tool", "system"]),
        st.booleans(),
        st.dictionaries(st.sampled_from(["metadata", "content", "weight", "create_time", "id"]), _values, max_size=2),
    )
    mapping: dict[str, dict[str, Any]] = {
        key: {"id": key, "message": draw(st.none() | said), "parent": draw(st.sampled_from([None, *keys]))}
        for key in keys
    }
    if draw(st.booleans()):
        for key, node in mapping.items():
            node["children"] = [child for child, other in mapping.items() if other["parent"] == key]
    return {
        **draw(st.dictionaries(_texts, _values, max_size=3)),
        "title": draw(st.none() | _texts),
        "create_time": draw(_values | st.floats(0, 2e9)),
        "update_time": draw(st.floats(0, 2e9)),
        "mapping": mapping,
        "current_node": draw(st.none() | _texts),
        "conversation_id": "c",
        "is_archived": draw(st.booleans() | st.none()),
    }


@given(value=ordinary_conversations() | odd_conversations, is_ascii=st.booleans(), indent=st.sampled_from([None, 1]))
def test_both_ways_to_read_give_the_same_rows(*, value: dict[str, Any], is_ascii: bool, indent: int | None) -> None:
    """What is read the fast way comes out as what the slow way makes of it."""
    if not isinstance(value.get("mapping"), dict) or "surprise" in value["mapping"]:
        return
    layout = {"ensure_ascii": is_ascii, "indent": indent}
    try:
        slow = columns(parsed(surprising(value), **layout))
    except Unreadable as refusal:
        with pytest.raises(Unreadable, match="^" + refusal.reason[:10]):
            parsed(value, **layout)
    else:
        *nodes, surprise = slow["nodes"]
        assert surprise[2] == "surprise"
        assert columns(parsed(value, **layout)) == {**slow, "nodes": nodes}


# ----------------------------------------------------------------------------------------------------- what cannot be


def with_odd(raw: bytes) -> bytes:
    """A conversation with this somewhere in a message."""
    said = b'{"id":"m","content":{"content_type":"text","parts":["x"]},"metadata":{"odd":%s}}' % raw
    return b'{"title":"T","mapping":{"r":{"message":null},"n":{"message":%s}},"conversation_id":"c"}' % said


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (b"NaN", "it holds NaN, which is no JSON"),
        (b"[-Infinity]", "it holds -Infinity, which is no JSON"),
        (b"1e999", "it holds a number that is too large for any float"),
        (b"-" + b"7" * 5_000, "it holds a number of 5001 digits"),
        (b'{"a":1,"a":2,"\\ud800":3}', "it has two members of one name in one place"),
        (b'"\xff"', "it is not UTF-8, at its byte 137"),
        (b'"\xed\xa0\x80"', "it is not UTF-8, at its byte 137"),
        (b"[" * 120 + b"]" * 120, "it is nested too deep"),
        (b"[" * 100_000 + b"]" * 100_000, "it is nested too deep"),
        (b"[1 2]", "it is no JSON: expecting ',' delimiter, at its character 139"),
        (b'"\\x"', "it is no JSON: invalid \\escape, at its character 137"),
    ],
    ids=["NaN", "infinity", "1e999", "digits", "doubles", "UTF-8", "surrogates", "deep", "deeper", "comma", "escape"],
)
def test_what_could_not_be_given_back_is_set_aside_by_name(odd: bytes, reason: str) -> None:
    """With a reason, and with id, title and number of messages, so that a person knows what it is about."""
    refusal = unreadable(with_odd(odd))
    assert refusal.reason == reason
    assert (refusal.id, refusal.title, refusal.messages) == ("c", "T", 1)


@pytest.mark.parametrize("depth", [94, 95, 96, 97])
def test_both_ways_to_read_go_equally_deep(depth: int) -> None:
    """The limit does not depend on what else surprises."""
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]
    value = conversation_json({"id": "n", "author": deep})
    if depth <= 95:
        assert len(parsed(value).nodes) == len(parsed(surprising(value)).nodes) - 1
    else:
        assert unreadable(json.dumps(value).encode()).reason == "it is nested too deep"
        assert unreadable(json.dumps(surprising(value)).encode()).reason == "it is nested too deep"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"mapping":{}}', "it has no id"),
        (b'{"mapping":{},"id":"../x"}', "its id cannot be used here"),
        (b'{"mapping":{},"id":"WEB:3b1f"}', "its id cannot be used here"),
        (b'{"mapping":{},"id":17}', "its id cannot be used here"),
        (b'{"mapping":{},"id":"\\ud800"}', "its id cannot be used here"),
        (b'{"id":"a"}', "it has no mapping"),
        (b'{"id":"a","mapping":[]}', "it has no mapping"),
        (b"[]", "it has no mapping"),
        (b"null", "it has no mapping"),
        (b'{"uuid":"u","name":"n","chat_messages":[]}', "it is of Claude"),
        (b'{"id":"a","mapping":{"\\ud800":{}}}', "the id of a node in it holds half a surrogate pair"),
        (b"", "it is no JSON: expecting value, at its character 0"),
    ],
)
def test_what_is_no_conversation_is_set_aside(raw: bytes, reason: str) -> None:
    """An export's other things are named for what they lack."""
    assert unreadable(raw).reason == reason


@pytest.mark.parametrize(
    "raw",
    [
        b'{"id":"c","mapping":{"n":{"id":"n","message":{"a":1}},"m":{},"n":{"id":"n","message":{"a":2}}}}',
        b'{"id":"c","mapping":{"n":{"id":"n","message":{"a":1},"message":{"a":2}}}}',
        b'{"id":"c","mapping":{"n":{"parent":"x"},"n":{"parent":"y"}}}',
        b'{"id":"c","mapping":{"n":{"parent":"x","parent":"y"}}}',
        b'{"id": "c", "mapping": {"n": {"id": "n", "parent": null, "parent": "y"}}}',
        b'{"id":"c","mapping":{"n":{"children":["x"],"children":[]}}}',
        b'{"id":"c","mapping":{"n":{"id":"n","id":"n"}}}',
        b'{"id":"c","mapping":{"n":{"message" :{"a":1},"message":{"a":2}}}}',
        b'{"id":"c","mapping":{"n":{"message":{"a":1},"mess\\u0061ge":{"a":2}}}}',
        b'{\n "id": "c",\n "mapping": {\n  "n": {\n   "parent": null,\n   "parent": "y"\n  }\n }\n}',
        (
            b'{"id": "c","mapping": {'
            b'"d": {"id": "d","message": {"id": "m","content": {}},"parent": null,"children": []},'
            b'"b": {"id": "b","message": {"id": "m","content": {}},"children": ["e","q"]},'
            b'"a": {"id": "a","message": null,"id": "a","children": ["q"]}}}'
        ),
        b'{"id":"c","title":"one","mapping":{},"title":"two"}',
        b'{"id":"c","mapping":{"n":{"message":{}}},"mapping":{"m":{"message":{}}}}',
    ],
    ids=[
        "nodes",
        "messages of a node",
        "nodes without message",
        "parents",
        "spaced parents",
        "children",
        "ids",
        "spaced messages",
        "escaped messages",
        "indented parents",
        "as long as the blanks that are not there",
        "members",
        "mappings",
    ],
)
def test_of_two_things_of_one_name_none_is_lost_in_silence(raw: bytes) -> None:
    """Parsers take the last one and say nothing."""
    refusal = unreadable(raw)
    assert (refusal.reason, refusal.id) == ("it has two members of one name in one place", "c")


@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_damaged_byte_is_kept_or_set_aside(position: float, byte: int) -> None:
    """Whatever it makes of a conversation, nothing but Unreadable comes of it, or rows that can be read again."""
    raw = json.dumps(conversation_json(None, message("é\n"), message())).encode()
    at = int(position * len(raw))
    with contextlib.suppress(Unreadable):
        columns(parse(raw[:at] + bytes([byte]) + raw[at + 1 :], account="account"))
