# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations as ChatGPT's own export writes them: everything that came goes out again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from chatgpt_rest import chatgpt_json
from chatgpt_rest.chatgpt_json import printable
from chatgpt_rest.chatgpt_official import official
from chatgpt_rest.clock import SECOND
from chatgpt_rest.merge import Source, merge
from chatgpt_rest.model import Completeness, Conversation, Node, SentMessage
from tests.shapes import MAY_2023, conversation, conversation_json, message, odd_conversations, slim_message


def written(tree: Conversation) -> dict[str, Any]:
    """What is written of it."""
    value: dict[str, Any] = json.loads(official(tree))
    return value


def read(value: object) -> Conversation:
    """What the mirror holds after an import of it."""
    return chatgpt_json.conversation(value)


def holds(less: object, more: object) -> bool:
    """Whether every key and value of the one is in the other, floats to the bit."""
    if isinstance(less, dict) and isinstance(more, dict):
        return all(key in more and holds(value, more[key]) for key, value in less.items())
    if isinstance(less, list) and isinstance(more, list):
        return len(less) == len(more) and all(map(holds, less, more))
    return repr(less) == repr(more)


def unlike(tree: Conversation, again: Conversation) -> list[str]:
    """What differs between them, but for what an export adds."""
    added = {"envelope", "nodes"}
    differing = [name for name in Conversation.__slots__ if name not in added]
    unequal = [name for name in differing if getattr(tree, name) != getattr(again, name)]
    kept = [name for name in Node.__slots__ if name != "children"]
    return unequal + [
        f"{key}.{name}"
        for key, each in tree.nodes.items()
        for name in kept
        if getattr(each, name) != getattr(again.nodes[key], name)
    ]


@given(odd_conversations)
def test_every_key_and_value_comes_back(value: dict[str, Any]) -> None:
    """Whatever was in it, an import of what is written gives the same conversation, and it is written the same."""
    mapping = value.get("mapping")
    # A node whose id no database can hold is set aside before it could ever come here.
    nodes = {k: v for k, v in mapping.items() if k == printable(k)} if isinstance(mapping, dict) else {}
    value = {**value, "conversation_id": "c", "mapping": nodes}
    try:
        tree = read(value)
    except ValueError:  # NaN and infinities
        return
    out = written(tree)
    assert holds(value, out)
    again = read(out)
    assert unlike(tree, again) == []
    assert holds(written(again), out)


def test_messages_are_written_byte_for_byte() -> None:
    """No parser touches them on their way out."""
    raw = b'{"id": "n", "create_time":1.70000000012345678e9 , "x":"\\u00e9"}'
    tree = Conversation("c", None, None, None, None, {"n": Node("n", None, raw)})
    assert raw in official(tree)


def test_a_slim_conversation_goes_out_in_the_full_shape() -> None:
    """With children, both ids and every member that importers look for."""
    value = conversation_json(None, slim_message("Why?", role="user"), slim_message())
    for node in value["mapping"].values():
        del node["children"]
    del value["id"], value["current_node"]
    out = written(read(value))
    assert [node["children"] for node in out["mapping"].values()] == [["n1"], ["n2"], []]
    assert (out["id"], out["conversation_id"], out["current_node"]) == ("conversation", "conversation", None)


def test_children_that_came_since_stand_behind_those_that_were_told() -> None:
    """An answer that was asked for here is one of its prompt's children."""
    tree = conversation(None, message())
    later = Node("later", "n0", chatgpt_json.dump(message()))
    out = written(replace(tree, nodes={**tree.nodes, "later": later}))
    assert out["mapping"]["n0"]["children"] == ["n1", "later"]


@pytest.mark.parametrize(
    "node",
    [
        {"id": "other"},
        {"parent": 7},
        {"parent": "\ud800"},
        {"parent": ""},
        {"children": None},
        {"children": "n1"},
        {"children": []},
        {"children": ["n1", "n1", "gone", 7, "\ud800"]},
        {"message": "words"},
        {"unknown": {"a": [1.5, None]}},
    ],
    ids=repr,
)
def test_what_a_node_says_oddly_it_says_again(node: dict[str, Any]) -> None:
    """Nothing is put right that the mirror does not know better."""
    value = conversation_json(None, message(), message())
    value["mapping"]["n0"] |= node
    assert holds(value, written(read(value)))


@pytest.mark.parametrize("members", [{"children": None}, {"children": []}, {"parent": 7}])
def test_odd_words_of_an_older_export_give_way(members: dict[str, Any]) -> None:
    """Once upstream has shown the node as it should be, that is what is written."""
    value = conversation_json(None, message(), message())
    odd = json.loads(json.dumps(value))
    odd["mapping"]["n1"] |= members
    merged = merge(read(odd), read({**value, "update_time": MAY_2023 + 1}), source=Source.UPSTREAM)
    assert written(merged)["mapping"] == value["mapping"]


def test_what_is_no_node_is_written_again_unless_it_became_one() -> None:
    """A number among the nodes stays what it is until something better is known."""
    odd = read({**conversation_json(None), "mapping": {"n0": 5, "n1": None}})
    assert written(odd)["mapping"] == {"n0": 5, "n1": None}
    better = merge(odd, read({**conversation_json(None, message()), "update_time": MAY_2023 + 1}), source=Source.EXPORT)
    assert written(better)["mapping"]["n1"]["message"]["id"] == "n1"


@pytest.mark.parametrize(
    ("changes", "members"),
    [
        ({"title": "Named here"}, {"title": "Named here"}),
        ({"is_archived": True}, {"is_archived": True}),
        ({"is_starred": True}, {"is_starred": True}),
        ({"update_time": 1_700_000_000 * SECOND}, {"update_time": 1_700_000_000.0}),
        ({"create_time": SECOND}, {"create_time": 1.0}),
        ({"current_node": "n0"}, {"current_node": "n0"}),
        ({"project": "g-p-1"}, {"conversation_template_id": "g-p-1"}),
        ({"model": "gpt-5"}, {"default_model_slug": "gpt-5"}),
        ({"id": "another"}, {"conversation_id": "another"}),
        ({"is_deleted_upstream": True}, {"deleted_upstream": True}),
    ],
    ids=repr,
)
def test_what_the_mirror_knows_better_stands_in_its_place(changes: dict[str, Any], members: dict[str, Any]) -> None:
    """What was edited here, or listed since, is what another mirror reads; all else is as it came."""
    value = {**conversation_json(None, message()), "is_archived": None, "is_starred": None, "gizmo_id": "g-1"}
    tree = replace(read(value), **changes)
    out = written(tree)
    assert holds({**value, **members}, out)
    assert unlike(tree, read(out)) == []


@pytest.mark.parametrize(
    "members",
    [
        {"title": None},
        {"title": ["odd"]},
        {"title": "\ud800"},
        {"create_time": "2023-05-28T17:13:08.233528Z", "update_time": None},
        {"update_time": 1_685_293_988},
        {"current_node": "gone"},
        {"current_node": 5},
        {"is_archived": "yes", "is_starred": None},
        {"conversation_template_id": 5, "gizmo_id": "g-1"},
        {"conversation_id": None},
    ],
    ids=repr,
)
def test_what_says_the_same_stays_as_it_came(members: dict[str, Any]) -> None:
    """A time is not rewritten in another form, nor an absent flag as a false one."""
    value = {**conversation_json(None, message()), **members}
    tree = read(value)
    # As it comes out of SQLite, which can hold no half pair.
    tree = replace(tree, title=printable(tree.title))
    assert holds(value, written(tree))


@pytest.mark.parametrize("completeness", Completeness)
@pytest.mark.parametrize("is_absent_upstream", [False, True])
def test_our_own_marks_are_read_back(completeness: Completeness, *, is_absent_upstream: bool) -> None:
    """What broke off is still known to have, in another mirror, and is no member of anything there."""
    tree = conversation(None, message())
    marked = replace(tree.nodes["n1"], completeness=completeness, is_absent_upstream=is_absent_upstream)
    tree = replace(tree, nodes={**tree.nodes, "n1": marked})
    again = read(written(tree))
    assert again == tree
    assert holds({"is_partial": True}, written(tree)["mapping"]["n1"]) == (completeness is not Completeness.COMPLETE)


def test_a_conversation_that_lives_here_only_is_written_whole() -> None:
    """It has no envelope, and a title all the same."""
    node = chatgpt_json.sent_node(SentMessage("p", "user", "Why?"), parent=None, create_time=SECOND)
    tree = Conversation("draft", "Named", SECOND, 2 * SECOND, "p", {"p": node}, model="gpt-5")
    assert unlike(tree, read(written(tree))) == []
