# SPDX-License-Identifier: GPL-2.0-or-later
"""Walking conversations' trees: orders, branches, and trees that are broken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest import branches, chatgpt_json
from tests.shapes import conversation, linked, message


def test_children_come_in_the_order_that_their_parent_tells() -> None:
    """Then by time, then as the source had them; an id that nobody has is nobody's child."""
    times = {"late": 3.0, "early": 1.0, "second": 2.0, "none": None, "none_too": None}
    mapping: dict[str, Any] = {
        key: {"parent": "root", "message": message(create_time=time)} for key, time in times.items()
    }
    mapping["root"] = {"parent": None, "message": None, "children": ["second", "ghost"]}
    tree = chatgpt_json.conversation({"id": "c", "mapping": mapping})
    assert branches.children(tree.nodes)["root"] == ["second", "early", "late", "none", "none_too"]


def test_children_are_rebuilt_from_parents() -> None:
    """A `children` list that claims another's child does not get it."""
    tree = chatgpt_json.conversation(
        {
            "id": "c",
            "mapping": {
                "a": {"parent": None, "children": ["b", "c"]},
                "b": {"parent": "a", "children": ["a"]},
                "c": {"parent": "b"},
            },
        }
    )
    assert branches.children(tree.nodes) == {"a": ["b"], "b": ["c"], "c": []}


def test_the_branch_goes_by_parents_and_not_by_time() -> None:
    """A child can carry an earlier time than its parent."""
    tree = conversation(message(create_time=30.0), message(create_time=10.0), message(create_time=20.0))
    assert [node.id for node in branches.branch(tree.nodes, "n2")] == ["n0", "n1", "n2"]


@pytest.mark.parametrize(
    ("parents", "end", "expected"),
    [
        pytest.param({"a": None, "b": "gone", "c": "b"}, "c", ["b", "c"], id="orphan"),
        pytest.param({"a": "c", "b": "a", "c": "b"}, "c", ["a", "b", "c"], id="cycle"),
        pytest.param({"a": "a"}, "a", ["a"], id="its own parent"),
        pytest.param({"a": None, "b": None, "c": "b"}, "c", ["b", "c"], id="several roots"),
        pytest.param({"a": None}, "gone", [], id="no such end"),
        pytest.param({"a": None}, None, [], id="no end"),
    ],
)
def test_a_broken_tree_still_has_branches(parents: dict[str, str | None], end: str | None, expected: list[str]) -> None:
    """Exports of 2023 hold orphans, cycles and several roots."""
    assert [node.id for node in branches.branch(linked(**parents).nodes, end)] == expected


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.none() | st.sampled_from("abcdefghx"), min_size=1))
def test_every_walk_ends_and_meets_no_node_twice(parents: dict[str, str | None]) -> None:
    """Whatever the parents say, a branch and the children cover each node at most once."""
    tree = linked(**parents)
    for end in parents:
        path = [node.id for node in branches.branch(tree.nodes, end)]
        assert path[-1] == end
        assert len(path) == len(set(path))
    brood = [child for kin in branches.children(tree.nodes).values() for child in kin]
    assert len(brood) == len(set(brood))
    assert branches.leaf(tree) in parents


@pytest.mark.parametrize("current", [None, "gone", 5, ["n1"]], ids=repr)
def test_without_a_current_node_the_newest_leaf_ends_the_branch(current: object) -> None:
    """`current_node` may be null, missing or dangling."""
    mapping = {
        "root": {"parent": None},
        "old": {"parent": "root", "message": message(create_time=1.0)},
        "new": {"parent": "root", "message": message(create_time=3.0)},
        "mid": {"parent": "root", "message": message(create_time=2.0)},
    }
    assert branches.leaf(chatgpt_json.conversation({"id": "c", "mapping": mapping, "current_node": current})) == "new"


def test_the_current_node_ends_the_branch_even_in_the_middle_of_the_tree() -> None:
    """A reader who went back to an earlier answer sees that one."""
    tree = conversation(None, message("a"), message("b"), current_node="n1")
    assert [each["message"] for each in chatgpt_json.messages(tree)] == ["a"]


def test_a_tree_that_is_one_cycle_has_an_end_all_the_same() -> None:
    """Where every node is a parent, the newest node stands in for the newest leaf."""
    assert branches.leaf(linked(a="b", b="a")) in {"a", "b"}


def test_an_empty_tree_has_no_end_and_no_messages() -> None:
    """A conversation can be empty."""
    assert branches.leaf(conversation()) is None
    assert chatgpt_json.messages(conversation()) == []
