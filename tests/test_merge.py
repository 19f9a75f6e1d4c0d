# SPDX-License-Identifier: GPL-2.0-or-later
"""The one rule by which two versions of a conversation become one, sentence by sentence and as properties."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.clock import SECOND
from chatgpt_rest.merge import Source, merge, merge_listed, whole_seconds
from chatgpt_rest.model import Completeness, Conversation, ListedConversation, Node, Shape

OLD: Final = 100 * SECOND
NEW: Final = 200 * SECOND
WHOLE: Final = (Source.UPSTREAM, Source.EXPORT)


def node(
    key: str = "n",
    words: bytes | None = b'"words"',
    *,
    parent: str | None = None,
    children: tuple[str, ...] | None = None,
    shape: Shape = Shape.FULL,
    completeness: Completeness = Completeness.COMPLETE,
    create_time: int | None = None,
    is_absent_upstream: bool = False,
) -> Node:
    """A node with a message that can be told from another's."""
    return Node(
        key,
        parent,
        words,
        children=children,
        create_time=create_time,
        shape=shape,
        completeness=completeness,
        is_absent_upstream=is_absent_upstream,
    )


def tree(*nodes: Node, at: int | None = OLD, title: str | None = "title", current: str | None = None) -> Conversation:
    """A conversation of these nodes as it was at a time."""
    return Conversation("c", title, at, at, current, {each.id: each for each in nodes})


# ------------------------------------------------------------------------------------------------------------- nodes


@pytest.mark.parametrize("source", Source)
def test_what_comes_first_is_taken_as_it_is(source: Source) -> None:
    """With nothing here yet there is nothing to merge."""
    theirs = tree(node())
    assert merge(None, theirs, source=source) == theirs


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("at", [OLD - SECOND, OLD, NEW])
def test_nodes_are_united_and_none_is_dropped(source: Source, at: int) -> None:
    """What only one of the two has stays, in the order of the mirror and then of the newcomer."""
    merged = merge(tree(node("a"), node("b")), tree(node("c"), node("b"), at=at), source=source)
    assert list(merged.nodes) == ["a", "b", "c"]


BETTER: Final = (
    pytest.param(node(), node(completeness=Completeness.PARTIAL), id="complete beats partial"),
    pytest.param(node(), node(completeness=Completeness.UNCONFIRMED), id="complete beats unconfirmed"),
    pytest.param(
        node(completeness=Completeness.PARTIAL),
        node(completeness=Completeness.UNCONFIRMED),
        id="partial beats unconfirmed",
    ),
    pytest.param(node(), node(shape=Shape.SLIM), id="full beats slim"),
    pytest.param(node(shape=Shape.SLIM), node(words=None), id="anything beats nothing"),
    pytest.param(
        node(shape=Shape.SLIM),
        node(completeness=Completeness.PARTIAL),
        id="complete and slim beats partial and full",
    ),
)


@pytest.mark.parametrize(("better", "lesser"), BETTER)
@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("at", [OLD, NEW])
def test_the_better_version_stays_whichever_is_newer(better: Node, lesser: Node, source: Source, at: int) -> None:
    """Nothing is overwritten by less."""
    better = replace(better, message=b'"better"')
    assert merge(tree(better), tree(lesser, at=at), source=source).nodes["n"].message == b'"better"'
    assert merge(tree(lesser, at=at), tree(better), source=source).nodes["n"].message == b'"better"'


@pytest.mark.parametrize("source", Source)
def test_of_two_equal_versions_the_newer_source_wins(source: Source) -> None:
    """A regenerated or corrected message replaces the old one, and an old export does not bring that back."""
    old, new = tree(node(words=b'"old"')), tree(node(words=b'"new"'), at=NEW)
    assert merge(old, new, source=source).nodes["n"].message == b'"new"'
    assert merge(new, old, source=source).nodes["n"].message == b'"new"'


def test_of_the_same_second_what_comes_in_is_the_newer() -> None:
    """Lists carry whole seconds and details fractions: half a second between them says nothing."""
    mine, theirs = tree(node(words=b'"mine"'), at=OLD + 900_000), tree(node(words=b'"theirs"'), at=OLD)
    assert merge(mine, theirs, source=Source.UPSTREAM).nodes["n"].message == b'"theirs"'


@pytest.mark.parametrize(("at", "expected"), [(OLD - SECOND, b'"mine"'), (None, b'"mine"'), (NEW, b'"theirs"')])
def test_a_missing_time_is_older_than_all(at: int | None, expected: bytes) -> None:
    """A server that sends no update times overwrites nothing that has one."""
    merged = merge(tree(node(words=b'"mine"')), tree(node(words=b'"theirs"'), at=at), source=Source.UPSTREAM)
    assert merged.nodes["n"].message == expected


@pytest.mark.parametrize("source", WHOLE)
def test_the_better_version_takes_from_the_other_what_it_lacks(source: Source) -> None:
    """Parent, children, further members and time of the lesser fill the gaps of the better."""
    lesser = replace(
        node("a", words=None, parent="p", children=("x", "y"), create_time=7), extra={"k": b"1", "both": b"1"}
    )
    better = replace(node("a", children=("y", "z")), extra={"both": b"2"})
    merged = merge(tree(lesser), tree(better), source=source).nodes["a"]
    assert (merged.parent, merged.create_time) == ("p", 7)
    assert merged.children == ("y", "z", "x")
    assert merged.extra == {"k": b"1", "both": b"2"}


@pytest.mark.parametrize(
    ("better", "lesser", "expected"),
    [
        ((), ("x",), ("x",)),
        (None, ("x",), ("x",)),
        (("x",), None, ("x",)),
        (("x",), (), ("x",)),
        ((), None, ()),
        (None, (), ()),
        (None, None, None),
    ],
)
def test_an_order_of_children_is_not_lost_to_one_that_says_nothing(
    better: tuple[str, ...] | None, lesser: tuple[str, ...] | None, expected: tuple[str, ...] | None
) -> None:
    """Slim exports have no `children`."""
    merged = merge(tree(node(children=lesser, words=None)), tree(node(children=better)), source=Source.EXPORT)
    assert merged.nodes["n"].children == expected


# ------------------------------------------------------------------------------------------------------ absent marks


def test_a_node_that_upstream_stopped_showing_stays_marked() -> None:
    """It is kept, and known to be only here."""
    merged = merge(tree(node("a"), node("b")), tree(node("b")), source=Source.UPSTREAM)
    assert {key: each.is_absent_upstream for key, each in merged.nodes.items()} == {"a": True, "b": False}


def test_a_node_that_upstream_shows_again_loses_its_mark() -> None:
    """What is there is there."""
    mine = tree(node(is_absent_upstream=True))
    assert not merge(mine, tree(node(), at=NEW), source=Source.UPSTREAM).nodes["n"].is_absent_upstream


@pytest.mark.parametrize("source", WHOLE)
def test_an_older_source_does_not_take_a_mark_away(source: Source) -> None:
    """That a node was there once says nothing of now."""
    mine = tree(node(is_absent_upstream=True), at=NEW)
    assert merge(mine, tree(node()), source=source).nodes["n"].is_absent_upstream


@pytest.mark.parametrize("source", [Source.EXPORT, Source.ASK])
def test_only_upstream_itself_marks_what_is_absent(source: Source) -> None:
    """An export and an answer say nothing of what they do not hold."""
    merged = merge(tree(node("a")), tree(node("b"), at=NEW), source=source)
    assert not merged.nodes["a"].is_absent_upstream


def test_an_older_view_of_upstream_marks_nothing() -> None:
    """What it does not show may have come since."""
    merged = merge(tree(node("a"), at=NEW), tree(node("b")), source=Source.UPSTREAM)
    assert not merged.nodes["a"].is_absent_upstream


@pytest.mark.parametrize(("source", "expected"), [(Source.UPSTREAM, False), (Source.EXPORT, True), (Source.ASK, True)])
def test_a_conversation_is_back_once_upstream_shows_it(source: Source, *, expected: bool) -> None:
    """An export that still has it does not prove that upstream has."""
    mine = replace(tree(node()), is_deleted_upstream=True)
    assert merge(mine, tree(node(), at=NEW), source=source).is_deleted_upstream is expected


# ------------------------------------------------------------------------------------------------- title and flags


@pytest.mark.parametrize("source", WHOLE)
def test_the_newer_source_gives_title_flags_and_current_node(source: Source) -> None:
    """In whichever order the two come in."""
    old = replace(tree(node("a"), node("b"), title="old", current="a"), project="g-p-1", model="m1", is_archived=True)
    new = replace(
        tree(node("a"), node("b"), at=NEW, title="new", current="b"), project="g-p-2", model="m2", is_starred=True
    )
    for merged in (merge(old, new, source=source), merge(new, old, source=source)):
        assert (merged.title, merged.current_node, merged.project, merged.model) == ("new", "b", "g-p-2", "m2")
        assert (merged.is_archived, merged.is_starred) == (False, True)
        assert (merged.create_time, merged.update_time) == (OLD, NEW)


def test_an_export_of_the_same_second_undoes_no_rename() -> None:
    """A rename moves no update time: what is here stays, and what it lacks comes."""
    mine = replace(tree(node("a"), title="mine", current="a"), is_archived=True)
    theirs = replace(tree(node("a"), node("b"), title="theirs", current="b"), model="m", envelope={"voice": b"1"})
    merged = merge(mine, theirs, source=Source.EXPORT)
    assert (merged.title, merged.is_archived, merged.current_node) == ("mine", True, "a")
    assert (merged.model, merged.envelope, list(merged.nodes)) == ("m", {"voice": b"1"}, ["a", "b"])


@pytest.mark.parametrize(("envelope", "expected"), [({}, True), ({"is_archived": b"false"}, False)])
def test_a_flag_that_a_slim_export_did_not_tell_comes_with_a_full_one(
    envelope: dict[str, bytes], *, expected: bool
) -> None:
    """Of the same second; one that was told stays as it is here."""
    mine = replace(tree(node(shape=Shape.SLIM)), envelope=envelope)
    theirs = replace(tree(node()), is_archived=True)
    assert merge(mine, theirs, source=Source.EXPORT).is_archived is expected


@pytest.mark.parametrize("empty", [None, "", "  \n"], ids=repr)
@pytest.mark.parametrize("source", Source)
def test_a_title_is_not_lost_to_a_blank_one(source: Source, empty: str | None) -> None:
    """A newer source with no title knows less, not better."""
    assert merge(tree(title="kept"), tree(at=NEW, title=empty), source=source).title == "kept"


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("at", [OLD - SECOND, NEW])
def test_a_title_set_here_wins_until_it_is_pushed(source: Source, at: int) -> None:
    """Nobody else's title replaces an edit that upstream has not seen."""
    mine = replace(tree(title="mine"), is_title_pending=True)
    merged = merge(mine, tree(title="theirs", at=at), source=source)
    assert (merged.title, merged.is_title_pending) == ("mine", True)


@pytest.mark.parametrize("at", [None, OLD, NEW])
def test_a_drafts_pending_title_wins_when_it_becomes_a_listed_conversation(at: int | None) -> None:
    """Upstream's list may name a new conversation before its answer does."""
    draft = replace(tree(title="mine", at=None), is_title_pending=True)
    merged = merge(tree(title="New chat", at=at), draft, source=Source.ASK)
    assert (merged.title, merged.is_title_pending) == ("mine", True)


def test_an_ask_changes_no_flags() -> None:
    """What came back of a prompt says nothing of archive and star."""
    mine = replace(tree(), is_archived=True, is_starred=True)
    merged = merge(mine, tree(at=NEW), source=Source.ASK)
    assert (merged.is_archived, merged.is_starred) == (True, True)


def test_a_current_node_that_is_nowhere_does_not_replace_one_that_is_here() -> None:
    """A dangling end would hide the branch."""
    merged = merge(tree(node("a"), current="a"), tree(node("b"), at=NEW, current="gone"), source=Source.EXPORT)
    assert merged.current_node == "a"


def test_envelopes_are_united_and_the_newer_member_wins() -> None:
    """A slim source does not take away what a full one told."""
    old = replace(tree(), envelope={"gizmo_id": b'"g-1"', "voice": b"1"})
    new = replace(tree(at=NEW), envelope={"voice": b"2"})
    for merged in (merge(old, new, source=Source.EXPORT), merge(new, old, source=Source.EXPORT)):
        assert merged.envelope == {"gizmo_id": b'"g-1"', "voice": b"2"}


def test_a_newer_source_that_tells_no_project_or_model_keeps_them() -> None:
    """Absent is less, not none."""
    merged = merge(replace(tree(), project="g-p-1", model="m"), tree(at=NEW), source=Source.UPSTREAM)
    assert (merged.project, merged.model) == ("g-p-1", "m")


# ------------------------------------------------------------------------------------------------------------- lists


def test_what_a_list_says_first_is_taken_as_it_is() -> None:
    """With nothing here yet there is nothing to merge."""
    theirs = ListedConversation("c", "t", OLD, OLD)
    assert merge_listed(None, theirs) == theirs


def test_an_older_list_changes_nothing() -> None:
    """A page that was read before an edit does not undo it."""
    mine = ListedConversation("c", "mine", OLD, NEW)
    assert merge_listed(mine, ListedConversation("c", "theirs", OLD, OLD, is_archived=True)) == mine


def test_a_list_of_the_same_second_keeps_the_fraction() -> None:
    """The detail's microseconds are the better time; everything else is the list's."""
    mine = ListedConversation("c", "mine", OLD, NEW + 233_528, project="g-p-1")
    merged = merge_listed(mine, ListedConversation("c", "theirs", OLD + 5, NEW, is_starred=True))
    assert merged == ListedConversation("c", "theirs", OLD, NEW + 233_528, is_starred=True, project="g-p-1")


@pytest.mark.parametrize("empty", [None, "", " "], ids=repr)
def test_a_list_with_a_blank_title_keeps_the_one_that_is_here(empty: str | None) -> None:
    """A newer list with no title knows less, not better."""
    merged = merge_listed(ListedConversation("c", "kept", OLD, OLD), ListedConversation("c", empty, None, NEW))
    assert (merged.title, merged.create_time, merged.update_time) == ("kept", OLD, NEW)


@pytest.mark.parametrize(("time", "expected"), [(None, -1), (0, 0), (SECOND - 1, 0), (SECOND, 1)])
def test_times_are_compared_at_whole_seconds(time: int | None, expected: int) -> None:
    """A missing one is older than the very first second."""
    assert whole_seconds(time) == expected


# --------------------------------------------------------------------------------------------------------- properties

_ids = st.sampled_from("abcd")
_node_versions = st.builds(
    Node,
    id=st.just(""),
    parent=st.none() | _ids,
    message=st.none() | st.sampled_from([b"1", b"2", b"3"]),
    children=st.none() | st.lists(_ids, max_size=3, unique=True).map(tuple),
    extra=st.dictionaries(_ids, st.sampled_from([b"1", b"2"]), max_size=2),
    create_time=st.none() | st.integers(0, 9),
    shape=st.sampled_from(Shape),
    completeness=st.sampled_from(Completeness),
)
_trees = st.builds(
    Conversation,
    id=st.just("c"),
    title=st.none() | st.sampled_from(["", "t", "u"]),
    create_time=st.none() | st.integers(0, 9),
    update_time=st.none() | st.integers(0, 3 * SECOND),
    current_node=st.none() | _ids,
    nodes=st.dictionaries(_ids, _node_versions, max_size=4).map(
        lambda nodes: {key: replace(each, id=key) for key, each in nodes.items()}
    ),
    envelope=st.dictionaries(_ids, st.sampled_from([b"1", b"2"]), max_size=2),
    is_archived=st.booleans(),
    is_starred=st.booleans(),
    project=st.none() | st.sampled_from(["g-p-1", "g-p-2"]),
    model=st.none() | st.sampled_from(["m1", "m2"]),
)
_sources = st.sampled_from(Source)


def _worth(each: Node) -> tuple[bool, int, int]:
    return each.message is not None, each.completeness, each.shape


@given(mine=st.none() | _trees, theirs=_trees, source=_sources)
def test_merging_the_same_thing_twice_changes_nothing(
    mine: Conversation | None, theirs: Conversation, source: Source
) -> None:
    """A sync that was killed and runs again leaves the mirror as it was."""
    once = merge(mine, theirs, source=source)
    assert merge(once, theirs, source=source) == once


@given(st.lists(st.tuples(_trees, _sources), min_size=1, max_size=4))
def test_no_node_is_ever_lost_or_made_less(versions: list[tuple[Conversation, Source]]) -> None:
    """Whatever comes in, in whatever order, each node stays at least as good as it ever was."""
    merged: Conversation | None = None
    for theirs, source in versions:
        merged = merge(merged, theirs, source=source)
        for key, each in theirs.nodes.items():
            assert _worth(merged.nodes[key]) >= _worth(each)
    assert merged is not None
    for theirs, _ in versions:
        for key, each in theirs.nodes.items():
            assert _worth(merged.nodes[key]) >= _worth(each)
            assert merged.nodes[key].extra.keys() >= each.extra.keys()
            assert set(merged.nodes[key].children or ()) >= set(each.children or ())
        assert merged.envelope.keys() >= theirs.envelope.keys()


@given(one=_trees, other=_trees)
def test_two_exports_may_come_in_either_order(one: Conversation, other: Conversation) -> None:
    """Where the update times differ, the order of import changes nothing but the order of nodes."""
    if whole_seconds(one.update_time) == whole_seconds(other.update_time):
        other = replace(other, update_time=(one.update_time or 0) + SECOND)
    assert merge(one, other, source=Source.EXPORT) == merge(other, one, source=Source.EXPORT)


@given(mine=_trees, theirs=_trees, source=_sources)
def test_a_pending_title_survives_everything(mine: Conversation, theirs: Conversation, source: Source) -> None:
    """Only pushing it settles it."""
    merged = merge(replace(mine, is_title_pending=True), theirs, source=source)
    assert (merged.title, merged.is_title_pending) == (mine.title, True)
