# SPDX-License-Identifier: GPL-2.0-or-later
"""One account's conversations: lists, pages of upstream's list, whole trees, edits, tombstones, and nobody else's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatgpt_rest import chatgpt_json
from chatgpt_rest.clock import SECOND
from chatgpt_rest.errors import NotFetched, NotFound
from chatgpt_rest.mirror import AccountMirror, ListQuery, Mirror, Standing
from chatgpt_rest.model import Conversation, ListedConversation, ListPage
from tests.house import NOON, ManualClock
from tests.rows import rows
from tests.shapes import conversation, conversation_json, message, slim_message


def listed(name: str, *, at: int | None = 0, **members: Any) -> ListedConversation:
    """A row of upstream's list, so many seconds after noon."""
    time = None if at is None else NOON + at * SECOND
    return ListedConversation(name, members.pop("title", name.upper()), time, time, **members)


async def save_page(mirror: AccountMirror, *items: ListedConversation, is_last: bool = True) -> None:
    """Take in the first page of upstream's list."""
    await mirror.listings.take(ListPage(items, is_last=is_last), since=0)


async def names(mirror: AccountMirror, query: ListQuery | None = None) -> list[str]:
    """The ids that a list shows."""
    answer = await mirror.conversations.list_json(query or ListQuery())
    return [entry["id"] for entry in json.loads(answer.body)]


def whole(*path: dict[str, Any] | None, at: int = 0, **members: object) -> Conversation:
    """The conversation `c` as upstream shows it so many seconds after noon."""
    members.setdefault("update_time", NOON / SECOND + at)
    return conversation(*path, conversation_id="c", **members)


async def words(mirror: AccountMirror, conversation_id: str = "c") -> list[str]:
    """The texts that a reader of the conversation sees."""
    answer = await mirror.conversations.messages_json(conversation_id)
    return [entry["message"] for entry in json.loads(answer.body)]


# -------------------------------------------------------------------------------------------------------------- lists


async def test_a_list_that_was_never_read_is_not_empty(alice: AccountMirror) -> None:
    """Nobody is told that there are no conversations before upstream was asked."""
    with pytest.raises(NotFetched):
        await alice.conversations.list_json(ListQuery())
    assert not (await alice.conversations.list_json(ListQuery(), even_if_never_read=True)).is_whole
    assert not await alice.conversations.was_listed()
    await save_page(alice)
    assert await alice.conversations.was_listed()
    assert await names(alice) == []


async def test_the_newest_update_comes_first(alice: AccountMirror) -> None:
    """Equal times go by id; without an update time the time of creation counts, and without any it comes last."""
    created_only = ListedConversation("created", "t", NOON + 5 * SECOND, None)
    await save_page(
        alice, listed("none", at=None), listed("b", at=3), listed("a", at=3), created_only, listed("z", at=9)
    )
    assert await names(alice) == ["z", "created", "a", "b", "none"]


async def test_a_list_can_go_by_creation(alice: AccountMirror) -> None:
    """`order=created` looks at nothing else."""
    early = ListedConversation("early", "t", NOON, NOON + 9 * SECOND)
    late = ListedConversation("late", "t", NOON + SECOND, NOON + SECOND)
    await save_page(alice, early, late)
    assert await names(alice, ListQuery(order="created")) == ["late", "early"]
    assert await names(alice) == ["early", "late"]


@pytest.mark.parametrize(
    ("limit", "offset", "expected"),
    [(2, 0, ["d", "c"]), (2, 2, ["b", "a"]), (2, 3, ["a"]), (2, 4, []), (0, 0, []), (None, 1, ["c", "b", "a"])],
)
async def test_pages_follow_each_other(
    alice: AccountMirror, limit: int | None, offset: int, expected: list[str]
) -> None:
    """Each page has its part, and all know how many there are."""
    await save_page(alice, *(listed(name, at=at) for at, name in enumerate("abcd")))
    query = ListQuery(limit=limit, offset=offset)
    assert await names(alice, query) == expected
    assert (await alice.conversations.list_json(query)).total == 4


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param(ListQuery(), ["project", "plain"], id="nothing asked for"),
        pytest.param(ListQuery(archived="only"), ["archived"], id="archived only"),
        pytest.param(ListQuery(archived="all"), ["project", "archived", "plain"], id="archived too"),
        pytest.param(ListQuery(deleted="only"), ["deleted"], id="deleted only"),
        pytest.param(ListQuery(deleted="all"), ["project", "deleted", "plain"], id="deleted too"),
        pytest.param(ListQuery(archived="all", deleted="all"), ["project", "archived", "deleted", "plain"], id="all"),
        pytest.param(ListQuery(project="g-p-1"), ["project"], id="a project"),
        pytest.param(ListQuery(project="g-p-2"), [], id="an unknown project"),
    ],
)
async def test_lists_hold_what_they_are_asked_for(alice: AccountMirror, query: ListQuery, expected: list[str]) -> None:
    """Neither archived nor deleted conversations are in a list unless asked for, nor in its total."""
    await save_page(
        alice,
        listed("plain", at=1),
        listed("deleted", at=2),
        listed("archived", at=3, is_archived=True),
        listed("project", at=4, project="g-p-1"),
    )
    await alice.deletions.bury("deleted")
    assert await names(alice, query) == expected
    assert (await alice.conversations.list_json(query)).total == len(expected)


@pytest.mark.parametrize(
    ("pages", "is_whole"),
    [
        pytest.param([True], True, id="the only page"),
        pytest.param([False], False, id="the first of several"),
        pytest.param([True, False], True, id="whole once, whole for good"),
    ],
)
async def test_a_list_is_whole_once_it_was_read_to_its_end(
    alice: AccountMirror, pages: list[bool], *, is_whole: bool
) -> None:
    """Until then a reader can be told that there is more."""
    for is_last in pages:
        await save_page(alice, listed("a"), is_last=is_last)
    assert (await alice.conversations.list_json(ListQuery())).is_whole is is_whole


async def test_the_entry_of_a_conversation_is_its_row_in_the_list(alice: AccountMirror) -> None:
    """The same object, byte for byte."""
    await save_page(alice, listed("a"))
    entry = (await alice.conversations.entry_json("a")).body
    assert (await alice.conversations.list_json(ListQuery())).body == b"[" + entry + b"]"


# ---------------------------------------------------------------------------------------------------------- standing


async def test_what_the_mirror_has_of_a_conversation(alice: AccountMirror) -> None:
    """Unknown, listed, here, deleted: each is told from the others."""
    standing = alice.conversations.standing
    assert await standing("c") is Standing.UNKNOWN
    await save_page(alice, listed("c"))
    assert await standing("c") is Standing.LISTED
    await alice.conversations.save_whole(whole(message()))
    assert await standing("c") is Standing.HERE
    await alice.deletions.bury("c")
    assert await standing("c") is Standing.DELETED
    assert await alice.conversations.needs_no_upstream("c")


@pytest.mark.parametrize("is_listed", [False, True])
async def test_content_that_is_not_here_has_to_be_fetched(alice: AccountMirror, *, is_listed: bool) -> None:
    """A row of the list is not the conversation."""
    if is_listed:
        await save_page(alice, listed("c"))
    for read in (alice.conversations.messages_json, alice.conversations.whole_json):
        with pytest.raises(NotFetched):
            await read("c")


async def test_an_unknown_conversation_has_no_tree_and_no_entry(alice: AccountMirror) -> None:
    """NotFound, for another account's too."""
    with pytest.raises(NotFound):
        await alice.conversations.get("c")
    with pytest.raises(NotFound):
        await alice.conversations.entry_json("c")


# ----------------------------------------------------------------------------------------------------------- content


async def test_a_conversation_is_read_back_as_it_came(alice: AccountMirror) -> None:
    """Every member of conversation, node and message, lone surrogates and odd floats included."""
    value = conversation_json(
        None,
        message("cut emoji \ud83d", metadata={"odd": [0.1 + 0.2, 5e-324, 10**30, "\ud800", "\u2028", "\x00"]}),
        conversation_id="c",
        title="cut title \ud83d",
        safe_urls=["https://example.org/\ud83d"],
        is_archived=False,
    )
    value["mapping"]["n1"]["unknown"] = {"deep": [["\udfff"]]}
    await alice.conversations.save_whole(chatgpt_json.conversation(value))
    came_out = json.loads((await alice.conversations.whole_json("c")).body)
    # In a column of its own a title is text that SQLite can hold; what is raw keeps the half character.
    assert came_out == {**value, "title": "cut title \ufffd"}
    assert await words(alice) == ["cut emoji \ud83d"]


async def test_saving_the_same_twice_changes_no_row(mirror: Mirror, alice: AccountMirror) -> None:
    """A sync that runs again leaves the file as it was."""
    await alice.conversations.save_whole(whole(None, message("a"), slim_message("b")))
    before = rows(mirror.path, "select * from node"), rows(mirror.path, "select * from conversation")
    await alice.conversations.save_whole(whole(None, message("a"), slim_message("b")))
    assert (rows(mirror.path, "select * from node"), rows(mirror.path, "select * from conversation")) == before


async def test_a_node_that_vanished_upstream_stays_in_the_file(mirror: Mirror, alice: AccountMirror) -> None:
    """Marked, and still readable on its own branch."""
    await alice.conversations.save_whole(whole(message("a"), message("b")))
    await alice.conversations.save_whole(whole(message("a"), at=5))
    assert rows(mirror.path, "select id, is_absent_upstream from node order by id") == [("n0", 0), ("n1", 1)]
    assert await words(alice) == ["a"]


async def test_a_slim_version_does_not_replace_a_full_one(alice: AccountMirror) -> None:
    """Not even a newer one: nothing is overwritten by less."""
    await alice.conversations.save_whole(whole(message("full")))
    await alice.conversations.save_whole(whole(slim_message("slim"), at=5))
    assert await words(alice) == ["full"]


async def test_the_fraction_of_a_second_survives_the_next_list(mirror: Mirror, alice: AccountMirror) -> None:
    """Lists carry whole seconds: a conversation that is current stays so."""
    await alice.conversations.save_whole(whole(message(), update_time=NOON / SECOND + 0.233528))
    await save_page(alice, listed("c"))
    query = "select update_time, listed_update_time / 1000000 = fetched_update_time / 1000000 from conversation"
    assert rows(mirror.path, query) == [(NOON + 233_528, 1)]


async def test_a_conversation_that_upstream_lists_again_is_no_longer_missing_there(
    mirror: Mirror, alice: AccountMirror
) -> None:
    """What is in its list is not deleted there."""
    await save_page(alice, listed("c"))
    await alice.backlog.mark_gone("c", "conversation_deleted")
    assert await names(alice) == []
    await save_page(alice, listed("c"))
    assert await names(alice) == ["c"]
    assert rows(mirror.path, "select is_deleted_upstream from conversation") == [(0,)]


# -------------------------------------------------------------------------------------------------------- tombstones


async def test_a_deleted_conversation_is_gone_from_every_view(alice: AccountMirror) -> None:
    """List, entry, messages, whole and tree all say that there is none."""
    await save_page(alice, listed("c"))
    await alice.conversations.save_whole(whole(message()))
    await alice.conversations.messages_json("c")
    await alice.deletions.bury("c")
    assert await names(alice) == []
    reads = (
        alice.conversations.entry_json,
        alice.conversations.messages_json,
        alice.conversations.whole_json,
        alice.conversations.get,
    )
    for read in reads:
        with pytest.raises(NotFound) as caught:
            await read("c")
        assert not isinstance(caught.value, NotFetched)


async def test_neither_list_nor_fetch_brings_a_deleted_conversation_back(mirror: Mirror, alice: AccountMirror) -> None:
    """Its content is as it was when it was deleted."""
    await save_page(alice, listed("c"))
    await alice.conversations.save_whole(whole(message("before")))
    await alice.deletions.bury("c")
    before = rows(mirror.path, "select * from conversation"), rows(mirror.path, "select * from node")
    await save_page(alice, listed("c", at=60, title="back"))
    await alice.conversations.save_whole(whole(message("after"), at=60))
    assert await alice.conversations.standing("c") is Standing.DELETED
    assert (rows(mirror.path, "select * from conversation"), rows(mirror.path, "select * from node")) == before


async def test_a_conversation_can_be_deleted_before_it_is_known(alice: AccountMirror) -> None:
    """The tombstone is there when the list comes."""
    await alice.deletions.bury("c")
    await save_page(alice, listed("c"))
    assert await names(alice) == []


async def test_deleting_twice_keeps_the_first_time(mirror: Mirror, alice: AccountMirror, clock: ManualClock) -> None:
    """The days until it is purged count from there."""
    await alice.deletions.bury("c")
    clock.move(seconds=60)
    await alice.deletions.bury("c")
    await alice.deletions.bury_all()
    assert rows(mirror.path, "select deleted_at from conversation") == [(NOON,)]


async def test_deleting_all_deletes_one_accounts_all(alice: AccountMirror, bob: AccountMirror) -> None:
    """And of nobody else."""
    for mirror in (alice, bob):
        await save_page(mirror, listed("c"), listed("d"))
    await alice.deletions.bury_all()
    assert (await names(alice), await names(bob)) == ([], ["c", "d"])


# ------------------------------------------------------------------------------------------------------------- edits


async def test_a_title_set_here_survives_list_and_fetch_until_it_is_pushed(alice: AccountMirror) -> None:
    """And then upstream's counts again."""
    await save_page(alice, listed("c"))
    await alice.conversations.edit("c", title="mine", is_pending=True)
    await save_page(alice, listed("c", at=60, title="theirs"))
    await alice.conversations.save_whole(whole(message(), at=60, title="theirs"))
    assert (await alice.conversations.get("c")).title == "mine"
    assert await alice.conversations.pending_titles() == [("c", "mine")]
    await alice.conversations.settle_title("c", "mine")
    assert await alice.conversations.pending_titles() == []
    await save_page(alice, listed("c", at=90, title="theirs"))
    assert (await alice.conversations.get("c")).title == "theirs"


async def test_a_title_set_while_another_was_pushed_is_still_to_be_pushed(alice: AccountMirror) -> None:
    """Only the title that upstream has is settled."""
    await save_page(alice, listed("c"))
    await alice.conversations.edit("c", title="second", is_pending=True)
    await alice.conversations.settle_title("c", "first")
    assert await alice.conversations.pending_titles() == [("c", "second")]


async def test_a_title_that_sqlite_cannot_hold_is_held_all_the_same(alice: AccountMirror) -> None:
    """Half an emoji becomes U+FFFD, and settles under the name it was given."""
    await save_page(alice, listed("c"))
    await alice.conversations.edit("c", title="half \ud83d", is_pending=True)
    assert await alice.conversations.pending_titles() == [("c", "half \ufffd")]
    await alice.conversations.settle_title("c", "half \ud83d")
    assert await alice.conversations.pending_titles() == []


async def test_a_deleted_conversation_has_no_title_to_push(alice: AccountMirror) -> None:
    """Nobody is left to be told."""
    await save_page(alice, listed("c"))
    await alice.conversations.edit("c", title="mine", is_pending=True)
    await alice.deletions.bury("c")
    assert await alice.conversations.pending_titles() == []


async def test_archiving_leaves_a_pending_title_alone(alice: AccountMirror) -> None:
    """Each edit changes what it names."""
    await save_page(alice, listed("c"))
    await alice.conversations.edit("c", title="mine", is_pending=True)
    await alice.conversations.edit("c", is_archived=True)
    assert await alice.conversations.pending_titles() == [("c", "mine")]
    assert await names(alice, ListQuery(archived="only")) == ["c"]


# ----------------------------------------------------------------------------------------------------------- accounts


async def test_equal_ids_in_two_accounts_are_two_conversations(alice: AccountMirror, bob: AccountMirror) -> None:
    """Whatever one account does to its own, the other's stays as it is."""
    for mirror, name in ((alice, "alice"), (bob, "bob")):
        await save_page(mirror, listed("c", title=name))
        await mirror.conversations.save_whole(whole(message(f"of {name}"), title=name))
    await alice.conversations.edit("c", title="edited", is_archived=True)
    assert (await words(alice), await words(bob)) == (["of alice"], ["of bob"])
    assert (await bob.conversations.get("c")).title == "bob"
    await alice.deletions.bury("c")
    assert await words(bob) == ["of bob"]
    assert await names(bob) == ["c"]


async def test_an_account_sees_nothing_of_anothers(alice: AccountMirror, bob: AccountMirror) -> None:
    """Not even that it is there."""
    await save_page(alice, listed("c"))
    await save_page(bob)
    await alice.conversations.save_whole(whole(message()))
    assert await bob.conversations.standing("c") is Standing.UNKNOWN
    assert await names(bob, ListQuery(archived="all", deleted="all")) == []
    with pytest.raises(NotFetched):
        await bob.conversations.messages_json("c")
    await bob.conversations.edit("c", title="theirs")
    assert (await alice.conversations.get("c")).title == "A title"
