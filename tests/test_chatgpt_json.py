# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading ChatGPT's trees, lists and times, and writing them back without losing a byte."""

from __future__ import annotations

import contextlib
import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest import branches, chatgpt_json, chatgpt_lists
from chatgpt_rest.chatgpt_json import time_us
from chatgpt_rest.clock import SECOND, iso
from chatgpt_rest.model import Completeness, ListedConversation, Project, Shape
from tests.shapes import (
    MAY_2023,
    conversation,
    conversation_json,
    json_values,
    message,
    odd_conversations,
    odd_lists,
    slim_message,
)

MAY_2023_US = 1_685_293_988_233_528
NO_MAPPINGS: tuple[object, ...] = (None, 1, "x", [], {}, {"mapping": []})
NO_TOTALS: tuple[object, ...] = (True, 14.0, -14, "14", None, [], math.inf)
NO_NAMES: tuple[object, ...] = (None, [], {}, {"name": 7})
NO_CURSORS: tuple[object, ...] = (
    *(None, "", "asked", "x" * 2_001, 10**2_000, 0, -1, 1.5, True, [], {}, math.nan),
    *("\ud800", "a\nb", "\x00"),
)


def nested(depth: int) -> Any:
    """A list in a list in a list, so many times."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


# ------------------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param(MAY_2023, MAY_2023_US, id="float"),
        pytest.param(1685293988, 1_685_293_988_000_000, id="integer"),
        pytest.param("1685293988.233528", MAY_2023_US, id="number as text"),
        pytest.param("2023-05-28T17:13:08.233528+00:00", MAY_2023_US, id="ISO with an offset"),
        pytest.param("2023-05-28T17:13:08.233528Z", MAY_2023_US, id="ISO with Z"),
        pytest.param("2023-05-28T17:13:08.233528", MAY_2023_US, id="ISO with no zone means UTC"),
        pytest.param("2023-05-28T19:13:08.233528+02:00", MAY_2023_US, id="ISO of another zone"),
        pytest.param("2023-05-28T17:13:08", 1_685_293_988_000_000, id="ISO with no fraction"),
        pytest.param(0, 0, id="the epoch"),
        pytest.param("9999-12-31T23:59:59", 253_402_300_799 * SECOND, id="the last second of ISO 8601"),
    ],
)
def test_a_time_is_read_in_every_form(written: object, expected: int) -> None:
    """Lists write ISO 8601, details and exports epoch seconds: both come out as the same microseconds."""
    assert time_us(written) == expected


@pytest.mark.parametrize(
    "written",
    [
        *(None, True, False, "", "soon", [], {}, math.nan, math.inf, -math.inf, "nan", "inf", "-inf", "1e999"),
        *(1e300, -1e300, "1e300", -1, -1e-7, 10**400, -(10**400), 1e15, "\ud800", "1" * 5000),
        *("0001-01-01", "0001-01-01T00:00:00+23:59", "1969-12-31T23:59:59.5", "9999-12-31T23:59:59.5-23:59"),
    ],
    ids=lambda written: repr(written)[:30],
)
def test_what_is_no_time_is_none(written: object) -> None:
    """Nothing that stands where a time should raises, and no nonsense becomes one."""
    assert time_us(written) is None


@given(json_values)
def test_any_value_is_a_time_that_can_be_written_or_none(value: object) -> None:
    """Whatever JSON holds, the time read of it has an ISO form."""
    time = time_us(value)
    assert time is None or iso(time)


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001
def test_iso_keeps_the_microsecond(moment: datetime) -> None:
    """A time that was written as ISO 8601 is written the same again."""
    time = time_us(moment.isoformat())
    assert time is not None
    assert iso(time) == moment.isoformat()


# ------------------------------------------------------------------------------------------------------ conversations


def test_a_conversation_is_read_with_its_tree() -> None:
    """Title, times, flags, model, project and every node come out of the full shape."""
    tree = conversation(
        None,
        message("Why?", role="user"),
        message(),
        is_archived=True,
        is_starred=True,
        default_model_slug="gpt-5",
        conversation_template_id="g-p-1",
    )
    assert (tree.id, tree.title, tree.current_node) == ("conversation", "A title", "n2")
    assert (tree.create_time, tree.update_time) == (MAY_2023_US, MAY_2023_US)
    assert (tree.is_archived, tree.is_starred, tree.model, tree.project) == (True, True, "gpt-5", "g-p-1")
    assert [(node.id, node.parent, node.children) for node in tree.nodes.values()] == [
        ("n0", None, ("n1",)),
        ("n1", "n0", ("n2",)),
        ("n2", "n1", ()),
    ]


def test_a_slim_conversation_is_read_with_its_tree() -> None:
    """Without `children`, status or recipient the tree is the same, and its nodes are known to be slim."""
    value = conversation_json(None, slim_message("Why?", role="user"), slim_message())
    for node in value["mapping"].values():
        del node["children"]
    tree = chatgpt_json.conversation(value)
    assert [node.shape for node in tree.nodes.values()] == [Shape.FULL, Shape.SLIM, Shape.SLIM]
    assert [node.children for node in tree.nodes.values()] == [None, None, None]
    assert branches.children(tree.nodes) == {"n0": ["n1"], "n1": ["n2"], "n2": []}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param({"conversation_id": "c", "id": "i"}, "c", id="both"),
        pytest.param({"id": "i"}, "i", id="no conversation_id"),
        pytest.param({"conversation_id": None, "id": "i"}, "i", id="null conversation_id"),
        pytest.param({"conversation_id": "", "id": "i"}, "i", id="empty conversation_id"),
    ],
)
def test_either_id_names_a_conversation(members: dict[str, Any], expected: str) -> None:
    """`id` and `conversation_id` are usually equal, and either may be missing."""
    assert chatgpt_json.conversation({"mapping": {}, **members}).id == expected


def test_the_id_asked_for_names_a_conversation_that_has_none() -> None:
    """Compatible servers leave the id out of an answer about it."""
    assert chatgpt_json.conversation({"mapping": {}}, conversation_id="asked").id == "asked"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *(pytest.param(value, "no mapping", id=repr(value)) for value in NO_MAPPINGS),
        pytest.param({"mapping": {}}, "no id", id="no id"),
        pytest.param({"mapping": {}, "id": "../conversations"}, "its id cannot", id="an id that leads elsewhere"),
        pytest.param({"mapping": {}, "id": "a\n"}, "its id cannot", id="an id with a newline"),
        pytest.param({"mapping": {}, "id": "x" * 129}, "its id cannot", id="an overlong id"),
        pytest.param({"mapping": {}, "id": ["a"]}, "its id cannot", id="a list for an id"),
        pytest.param({"mapping": {}, "id": "a", "x": math.nan}, "NaN|JSON", id="NaN"),
        pytest.param({"mapping": {}, "id": "a", "x": nested(5_000)}, "nested too deep", id="nested too deep"),
    ],
)
def test_what_is_no_conversation_is_refused_with_a_reason(value: object, reason: str) -> None:
    """ValueError tells one bad conversation from the others beside it."""
    with pytest.raises(ValueError, match=reason):
        chatgpt_json.conversation(value)


@pytest.mark.parametrize(("depth", "is_refused"), [(20, False), (1_000, True), (100_000, True)])
def test_what_is_nested_beyond_all_use_is_told_without_recursion(depth: int, *, is_refused: bool) -> None:
    """What could run out of stack when it is read or written later is found out before."""
    assert chatgpt_json.is_too_deep({"a": nested(depth)}) is is_refused


def test_what_cannot_be_written_at_all_is_a_value_error() -> None:
    """Nothing else comes out of writing JSON."""
    with pytest.raises(ValueError, match="nested too deep"):
        chatgpt_json.dump(nested(100_000))


def test_another_conversation_than_the_one_asked_for_is_refused() -> None:
    """Upstream's mix-up does not end up under the wrong id."""
    with pytest.raises(ValueError, match="another conversation"):
        chatgpt_json.conversation({"mapping": {}, "id": "b"}, conversation_id="a")


def test_members_of_the_wrong_type_are_absent() -> None:
    """A title that is a list, a time that is a word and nodes that are numbers stop nothing."""
    tree = chatgpt_json.conversation(
        {
            "id": "c",
            "title": ["no"],
            "create_time": {"no": 1},
            "current_node": 5,
            "is_archived": "yes",
            "default_model_slug": 4,
            "gizmo_id": {},
            "mapping": {"a": 5, "b": {"parent": {}, "message": "words", "children": ["a", 7, None]}, "c": None},
        }
    )
    assert (tree.title, tree.create_time, tree.current_node, tree.is_archived) == (None, None, None, False)
    assert (tree.model, tree.project) == (None, None)
    assert (tree.nodes["b"].parent, tree.nodes["b"].children) == (None, ("a",))
    assert chatgpt_json.messages(tree) == []


@given(odd_conversations | json_values)
def test_reading_a_conversation_raises_nothing_but_value_error(value: object) -> None:
    """Whatever stands where a conversation should, it is read and shown, or refused with ValueError."""
    with contextlib.suppress(ValueError):
        tree = chatgpt_json.conversation(value)
        chatgpt_json.dump(chatgpt_json.messages(tree))
        json.loads(chatgpt_json.whole(tree))


def test_the_whole_shows_a_tree_that_is_in_order() -> None:
    """What nodes say oddly is kept, and is no part of the answer: a client of the API finds every child and parent."""
    value = conversation_json(None, message(), message())
    odd = {**value, "mapping": {**value["mapping"], "n3": 5}}
    odd["mapping"]["n0"] = {**value["mapping"]["n0"], "id": "other", "children": None}
    odd["mapping"]["n1"] = {**value["mapping"]["n1"], "children": []}
    tree = chatgpt_json.conversation(odd)
    assert [set(node.extra) for node in tree.nodes.values()] == [{"id", "children"}, {"children"}, set(), set()]
    nothing: dict[str, object] = {"id": "n3", "message": None, "parent": None, "children": []}
    assert json.loads(chatgpt_json.whole(tree))["mapping"] == {**value["mapping"], "n3": nothing}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"uuid": "u", "name": "A title", "chat_messages": []}, "Claude"),
        ({"chat_messages": [], "mapping": {}}, None),
        (conversation_json(), None),
        (["chat_messages"], None),
        ("chat_messages", None),
    ],
    ids=["Claude's", "both", "ChatGPT's", "a list", "a text"],
)
def test_another_products_conversation_is_known_by_its_members(value: object, expected: str | None) -> None:
    """So that a person is told what it is, and not only what it lacks."""
    assert chatgpt_json.is_other_product(value) == expected


def test_a_message_outside_a_tree_becomes_a_node() -> None:
    """What a stream shows is kept raw, with its time and shape."""
    node = chatgpt_json.node(message(), parent="p", completeness=Completeness.PARTIAL)
    assert (node.id, node.parent, node.create_time) == ("message", "p", MAY_2023_US)
    assert (node.shape, node.completeness) == (Shape.FULL, Completeness.PARTIAL)
    assert node.message == chatgpt_json.dump(message())


@pytest.mark.parametrize("identifier", [None, 5, ["a"]])
def test_a_message_with_no_id_becomes_no_node(identifier: object) -> None:
    """There is nothing to keep it under."""
    with pytest.raises(ValueError, match="no id"):
        chatgpt_json.node(message(id=identifier), parent=None)


# -------------------------------------------------------------------------------------------------------------- lists


def test_a_page_holds_what_lists_say() -> None:
    """Both forms of time, flags and project are read; what has no usable id is left out."""
    page = chatgpt_lists.list_page(
        {
            "items": [
                {"id": "a", "title": "A", "create_time": MAY_2023, "update_time": "2023-05-28T17:13:08.233528Z"},
                {"id": "b", "title": None, "is_archived": True, "is_starred": True, "gizmo_id": "g-1"},
                *({"id": bad} for bad in ("../c", None, 7, "")),
                *(None, "d", []),
            ],
            "total": 9,
        },
        offset=0,
        limit=100,
    )
    assert page.items == (
        ListedConversation("a", "A", MAY_2023_US, MAY_2023_US),
        ListedConversation("b", None, None, None, is_archived=True, is_starred=True, project="g-1"),
    )


@pytest.mark.parametrize(
    ("items", "members", "is_last"),
    [
        pytest.param(2, {}, True, id="short"),
        pytest.param(3, {"total": 10}, False, id="full, whatever the total"),
        pytest.param(0, {"total": 50}, True, id="empty, whatever the total"),
        pytest.param(2, {"total": 12}, True, id="short, and the total counts this page"),
        pytest.param(2, {"total": 13}, True, id="short, and the total looks one ahead"),
        pytest.param(2, {"total": 14}, False, id="cut, for the total knows of two more"),
        pytest.param(2, {"total": 14, "limit": 100}, False, id="cut by a server that repeats what was asked for"),
        *(pytest.param(2, {"total": bad}, True, id=f"a total of {bad!r}") for bad in NO_TOTALS),
        pytest.param(2, {"limit": 2}, False, id="full for a server with shorter pages"),
        pytest.param(1, {"limit": 2}, True, id="short for a server with shorter pages"),
        pytest.param(3, {"limit": 100}, False, id="a server that repeats its own maximum"),
        pytest.param(2, {"limit": 0}, True, id="a limit of nothing"),
        pytest.param(2, {"limit": True}, True, id="a limit that is a truth"),
        pytest.param(2, {"limit": "many"}, True, id="a limit that is no number"),
    ],
)
def test_the_last_page_is_told_by_its_length(items: int, members: dict[str, Any], *, is_last: bool) -> None:
    """A short page ends the list, unless `total` knows of more than a look-ahead always promises."""
    value = {"items": [{"id": f"c{index}"} for index in range(items)], **members}
    assert chatgpt_lists.list_page(value, offset=10, limit=3).is_last is is_last


def test_items_that_are_left_out_count_for_the_length() -> None:
    """A page with rubbish in it is still a full page."""
    assert not chatgpt_lists.list_page({"items": [None, {"id": "a"}]}, offset=0, limit=2).is_last


@pytest.mark.parametrize(
    ("members", "expected"),
    [({}, True), ({"is_archived": None}, True), ({"is_archived": False}, False), ({"is_archived": True}, True)],
    ids=repr,
)
def test_what_was_asked_for_as_archived_is_archived(members: dict[str, Any], *, expected: bool) -> None:
    """Servers that leave the flag out have answered it by the list that they gave; a flag that is there counts."""
    page = chatgpt_lists.list_page({"items": [{"id": "a", **members}]}, offset=0, limit=1, is_archived=True)
    assert [item.is_archived for item in page.items] == [expected]


def test_a_projects_conversations_belong_to_it() -> None:
    """They do whether they say so, say nothing of it, or name the GPT that they were held with."""
    value = {"items": [{"id": "a", "gizmo_id": "g-p-1"}, {"id": "b"}, {"id": "c", "gizmo_id": "g-2"}, None, {"id": 1}]}
    page = chatgpt_lists.project_list(value, project_id="g-p-1", cursor="0")
    assert [(item.id, item.project) for item in page.items] == [("a", "g-p-1"), ("b", "g-p-1"), ("c", "g-p-1")]


def test_projects_are_read_with_their_names() -> None:
    """What has no usable id is left out, and what has no name has none."""
    gizmos: list[object] = [
        {"id": "g-p-1", "display": {"name": "Garden"}},
        *({"id": "g-p-2", "display": display} for display in NO_NAMES),
        *({"id": bad, "display": {"name": "x"}} for bad in (None, 7, "", "../conversations", "g-p-1/x")),
        *(None, [], "g-p-3", {}),
    ]
    wrong: list[object] = [
        None,
        7,
        "g-p-4",
        [],
        {},
        {"gizmo": None},
        {"gizmo": []},
        {"gizmo": {}},
        {"gizmo": {"id": "g-p-5"}},
    ]
    page = chatgpt_lists.project_page({"items": [{"gizmo": {"gizmo": each}} for each in gizmos] + wrong}, cursor="")
    assert page.projects == (Project("g-p-1", "Garden"), *[Project("g-p-2", None)] * 4)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        *((usable, str(usable)) for usable in ("next", "YXQ6NTA=", "a&limit=1#?%2e/../", "ä", "x" * 2_000, 50)),
        *((bad, None) for bad in NO_CURSORS),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_cursor_leads_on_or_ends_the_list(told: object, expected: str | None) -> None:
    """What no server can mean, and the place that was just read, end a list that would else go on without end."""
    value = {"items": [{"id": "a"}], "cursor": told}
    page = chatgpt_lists.project_list(value, project_id="g-p-1", cursor="asked")
    assert (page.cursor, page.is_last) == (expected, expected is None)
    assert chatgpt_lists.project_page(value, cursor="asked").cursor == expected


def test_nothing_follows_an_empty_page() -> None:
    """A server that names a next page for ever does not keep anybody reading."""
    value: dict[str, Any] = {"items": [], "cursor": "next"}
    assert chatgpt_lists.project_page(value, cursor="").cursor is None
    assert chatgpt_lists.project_list(value, project_id="g-p-1", cursor="0").is_last


@pytest.mark.parametrize("value", [None, [], "x", {}, {"items": None}, {"items": {}}], ids=repr)
def test_what_is_no_list_is_refused(value: object) -> None:
    """An error page taken for an empty list would make everything look deleted."""
    with pytest.raises(ValueError, match="no list"):
        chatgpt_lists.list_page(value, offset=0, limit=100)
    with pytest.raises(ValueError, match="no list"):
        chatgpt_lists.project_list(value, project_id="g-p-1", cursor="0")
    with pytest.raises(ValueError, match="no list"):
        chatgpt_lists.project_page(value, cursor="")


@given(odd_lists | json_values)
def test_reading_a_list_raises_nothing_but_value_error(value: object) -> None:
    """Whatever stands where a list should, it is read and shown, or refused with ValueError."""
    with contextlib.suppress(ValueError):
        page = chatgpt_lists.list_page(value, offset=0, limit=3)
        chatgpt_json.dump([chatgpt_json.list_entry(item) for item in page.items])
    with contextlib.suppress(ValueError):
        chatgpt_lists.project_list(value, project_id="g-p-1", cursor="0")
        chatgpt_lists.project_page(value, cursor="")


@pytest.mark.parametrize("title", [None, "", "  ", "\n\u2003"], ids=repr)
def test_a_blank_title_is_shown_as_chatgpt_shows_it(title: str | None) -> None:
    """A conversation with no title, or a blank one, is a new chat."""
    assert chatgpt_json.list_entry(ListedConversation("a", title, None, None))["title"] == "New chat"


@pytest.mark.parametrize(
    ("create_time", "update_time", "expected"),
    [
        (None, None, (None, None)),
        (SECOND, None, ("1970-01-01T00:00:01+00:00", "1970-01-01T00:00:01+00:00")),
        (None, SECOND, ("1970-01-01T00:00:01+00:00", "1970-01-01T00:00:01+00:00")),
        (0, 1_500_000, ("1970-01-01T00:00:00+00:00", "1970-01-01T00:00:01.500000+00:00")),
    ],
)
def test_a_list_entry_has_the_seeds_six_members(
    create_time: int | None, update_time: int | None, expected: tuple[str | None, str | None]
) -> None:
    """Where only one time is known it stands for both, also the very first second there is."""
    entry = chatgpt_json.list_entry(ListedConversation("a", "A", create_time, update_time))
    assert list(entry) == ["id", "title", "create_time", "update_time", "mapping", "current_node"]
    assert (entry["create_time"], entry["update_time"]) == expected
    assert (entry["mapping"], entry["current_node"]) == (None, None)
