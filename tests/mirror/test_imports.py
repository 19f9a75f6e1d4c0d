# SPDX-License-Identifier: GPL-2.0-or-later
"""Batches of an export in the mirror: what is new goes in as it came, the rest merges, and nothing becomes less."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from chatgpt_rest.clock import DAY, SECOND
from chatgpt_rest.incoming import Incoming, Marks, Pointer
from chatgpt_rest.mirror import AccountMirror, AskState, Mirror, Standing, Taken
from chatgpt_rest.model import Completeness, ListedConversation, ListPage, Question
from tests.house import NOON
from tests.incoming import incoming, take
from tests.rows import rows
from tests.shapes import conversation, message, slim_message

PICTURE: Final = Pointer("n0", "file-picture", "tea.png", "image/png")


def dated(*path: dict[str, Any], at: int = 0, **members: Any) -> Incoming:
    """A conversation updated so many seconds after noon."""
    return incoming(*path, update_time=NOON / SECOND + at, **members)


async def fetch(mirror: AccountMirror, *path: dict[str, Any], name: str = "c", at: int = 0, **members: object) -> None:
    """Upstream shows it, updated so many seconds after noon."""
    tree = conversation(*path, conversation_id=name, update_time=NOON / SECOND + at, **members)
    await mirror.conversations.save_whole(tree)


async def list_it(mirror: AccountMirror, name: str = "c", *, at: int = 0) -> None:
    """Upstream's list names it, updated so many seconds after noon."""
    item = ListedConversation(name, "As listed", None, NOON + at * SECOND)
    await mirror.listings.take(ListPage((item,), is_last=True), since=0)


async def begin_ask(mirror: AccountMirror, conversation_id: str | None = None, *, prompt: str = "n0") -> None:
    """A prompt is written down; with no conversation in a draft."""
    question = Question(prompt, "Why?", conversation_id, None, None)
    await mirror.asks.begin(
        "ask", question, draft_id="draft", title=None, idempotency_digest=None, request_digest=b"request"
    )


async def lose_ask(mirror: AccountMirror) -> None:
    """Nobody knows whether it got through."""
    await mirror.asks.end("ask", AskState.UNCERTAIN, (), conversation_id=None, title=None)


async def words(mirror: AccountMirror, name: str = "c") -> list[str]:
    """What a reader of the conversation sees."""
    return [each["message"] for each in json.loads((await mirror.conversations.messages_json(name)).body)]


def everything(mirror: Mirror) -> list[list[tuple[Any, ...]]]:
    """Every row that an import could touch."""
    return [rows(mirror.path, f"select * from {table}") for table in ("conversation", "node", "attachment", "ask")]


# ----------------------------------------------------------------------------------------------------------------- new


async def test_a_new_conversation_goes_in_as_it_came(mirror: Mirror, alice: AccountMirror) -> None:
    """Byte for byte, with what its messages point to, and it counts as fetched at its update time."""
    new = dated(message("Tea?", role="user"), message("Tea.", weight=0), pointers=[PICTURE])
    assert await take(alice, new) == [Taken("imported", imported=2, hidden=1)]
    assert rows(mirror.path, "select envelope from conversation") == [(new.envelope,)]
    columns = "account, conversation, id, position, parent, children, extra, message, create_time, shape"
    assert rows(mirror.path, f"select {columns} from node order by position") == new.nodes
    assert rows(mirror.path, "select completeness, is_absent_upstream from node") == [(2, 0), (2, 0)]
    assert rows(mirror.path, "select * from attachment") == [
        ("alice", "c", "n0", "file-picture", "tea.png", "image/png")
    ]
    state = "select has_content, fetched_update_time, met_update_time, fetched_at, listed_at, is_slim, is_stale"
    assert rows(mirror.path, f"{state} from conversation") == [(1, NOON, None, None, None, 0, 0)]
    assert await words(alice) == ["Tea?"]


@pytest.mark.parametrize(("times", "expected"), [((7.5, None), 7_500_000), ((None, None), 0), ((7, 9), 9_000_000)])
async def test_a_conversation_without_an_update_time_counts_from_its_creation(
    mirror: Mirror, alice: AccountMirror, times: tuple[float | None, float | None], expected: int
) -> None:
    """Or from the beginning of time."""
    await take(alice, incoming(message(), create_time=times[0], update_time=times[1]))
    assert rows(mirror.path, "select fetched_update_time from conversation") == [(expected,)]


async def test_what_our_own_exports_say_of_a_node_is_read_back(alice: AccountMirror) -> None:
    """That its answer broke off, and that upstream stopped showing it."""
    marks = [Marks("n1", Completeness.PARTIAL, is_absent_upstream=False), Marks("n0", 2, is_absent_upstream=True)]
    for name in ("new", "here"):
        if name == "here":
            await list_it(alice, name)
        await take(alice, dated(message(), message("Half an ans"), name=name, marks=marks))
        nodes = (await alice.conversations.get(name)).nodes
        assert [each.completeness for each in nodes.values()] == [Completeness.COMPLETE, Completeness.PARTIAL]
        assert [each.is_absent_upstream for each in nodes.values()] == [True, False]


async def test_a_batch_goes_in_whole_or_not_at_all(mirror: Mirror, alice: AccountMirror) -> None:
    """Rows that claim to be another account's, or another conversation's, are not written, nor what came with them."""
    foreign = incoming(message(), name="d", account="bob")
    stray = incoming(message(), name="e")
    for wrong in (
        foreign,
        Incoming(**{name: getattr(stray, name) for name in Incoming.__struct_fields__} | {"id": "f"}),
    ):
        with pytest.raises(ValueError, match="rows of another conversation"):
            await alice.imports.take([incoming(message()), wrong], dry_run=False)
    assert rows(mirror.path, "select * from conversation") == rows(mirror.path, "select * from node") == []


async def test_two_accounts_have_one_conversation_each(alice: AccountMirror, bob: AccountMirror) -> None:
    """Under the same id, with words of their own."""
    await take(alice, incoming(message("Alice's.")))
    await take(bob, incoming(message("Bob's."), account="bob"))
    assert (await words(alice), await words(bob)) == (["Alice's."], ["Bob's."])


async def test_what_was_rendered_before_is_not_believed(alice: AccountMirror) -> None:
    """Neither the conversation nor a list of which it was no part."""
    await list_it(alice)
    await fetch(alice, message("Tea."))
    assert await words(alice) == ["Tea."]
    await take(alice, dated(message("Tea."), message("More tea."), at=60))
    assert await words(alice) == ["Tea.", "More tea."]


# ---------------------------------------------------------------------------------------------------------------- again


async def test_the_same_again_changes_nothing(mirror: Mirror, alice: AccountMirror) -> None:
    """Not a row, wherever the first came from."""
    await fetch(alice, message("Tea."), name="fetched")
    batch = [dated(message(), pointers=[PICTURE]), dated(message("Tea."), message("More."), name="fetched", at=60)]
    await take(alice, *batch)
    before = everything(mirror)
    assert await take(alice, *batch) == [Taken("unchanged", unchanged=1), Taken("unchanged", unchanged=2)]
    assert everything(mirror) == before


async def test_one_that_stands_in_a_batch_twice_is_taken_twice(alice: AccountMirror) -> None:
    """In order: the second meets the first."""
    first, second = dated(message("Tea.")), dated(message("Tea."), message("More."), at=60)
    expected = [
        Taken("imported", imported=1),
        Taken("enriched", imported=1, unchanged=1),
        Taken("unchanged", unchanged=2),
    ]
    assert await take(alice, first, second, second) == expected
    assert await words(alice) == ["Tea.", "More."]


async def test_a_newer_export_adds_and_enriches(mirror: Mirror, alice: AccountMirror) -> None:
    """New messages are imported, those that it tells more of enriched, the rest unchanged; the title is the newer."""
    await take(alice, dated(message("Tea."), slim_message("Cake."), message("Bread."), title="Before"))
    newer = dated(message("Tea."), message("Cake."), message("Bread."), message("Jam."), title="After", at=60)
    assert await take(alice, newer) == [Taken("enriched", imported=1, enriched=1, unchanged=2)]
    assert await words(alice) == ["Tea.", "Cake.", "Bread.", "Jam."]
    assert rows(mirror.path, "select title, is_slim, fetched_update_time from conversation") == [
        ("After", 0, NOON + 60 * SECOND)
    ]


async def test_a_new_title_alone_enriches_a_conversation(alice: AccountMirror) -> None:
    """Though every message is as it was."""
    await take(alice, dated(message(), title="Before"))
    assert await take(alice, dated(message(), title="After", at=60)) == [Taken("enriched", unchanged=1)]


async def test_an_older_export_takes_nothing_back(mirror: Mirror, alice: AccountMirror) -> None:
    """Not a row changes."""
    await take(alice, dated(message("Tea."), message("More."), title="After", at=60))
    before = everything(mirror)
    assert await take(alice, dated(message("Tea."), title="Before")) == [Taken("unchanged", unchanged=1)]
    assert everything(mirror) == before


async def test_a_slim_export_makes_nothing_less(mirror: Mirror, alice: AccountMirror) -> None:
    """What came whole stays whole, however new the slim one is; a message that only it has is slim, until upstream
    shows the conversation.
    """
    await take(alice, dated(message("Tea.", status="in_progress")))
    taken = await take(alice, dated(slim_message("Tea."), at=60))
    assert (taken[0].imported, rows(mirror.path, "select is_slim from conversation")) == (0, [(0,)])
    assert b"in_progress" in rows(mirror.path, "select message from node")[0][0]
    await take(alice, dated(slim_message("Tea."), slim_message("More."), at=120))
    assert rows(mirror.path, "select is_slim from conversation") == [(1,)]
    await fetch(alice, message("Tea."), message("More."), at=120)
    assert rows(mirror.path, "select is_slim from conversation") == [(0,)]


async def test_what_upstream_shows_no_more_does_not_make_a_conversation_slim(
    mirror: Mirror, alice: AccountMirror
) -> None:
    """There is nothing that a request could add to it."""
    await take(alice, dated(message("Tea."), slim_message("Gone."), name="c"))
    await fetch(alice, message("Tea."), at=60)
    await take(alice, dated(message("Tea."), slim_message("Gone."), title="Other", at=30))
    assert rows(mirror.path, "select is_slim from conversation") == [(0,)]


async def test_a_title_set_here_and_not_pushed_yet_stays(alice: AccountMirror) -> None:
    """However new the export is."""
    await take(alice, dated(message(), title="Theirs"))
    await alice.conversations.edit("c", title="Mine", is_pending=True)
    await take(alice, dated(message(), title="Theirs again", at=60))
    assert await alice.conversations.pending_titles() == [("c", "Mine")]


@pytest.mark.parametrize("has_content", [True, False], ids=["new", "known"])
async def test_a_trial_run_tells_the_same_and_does_nothing(
    mirror: Mirror, alice: AccountMirror, *, has_content: bool
) -> None:
    """The next run finds everything as it was."""
    if has_content:
        await fetch(alice, message("Tea."))
    before = everything(mirror)
    new = dated(message("Tea."), message("More."), at=60, pointers=[PICTURE])
    told = await take(alice, new, dry_run=True)
    assert everything(mirror) == before
    assert await take(alice, new) == told


# ------------------------------------------------------------------------------------------------------------- upstream


async def test_what_only_a_list_has_named_is_imported(mirror: Mirror, alice: AccountMirror) -> None:
    """All of it, with the list's word for what is newer there, and it is not fetched."""
    await list_it(alice)
    assert await take(alice, dated(message("Tea."))) == [Taken("imported", imported=1)]
    assert rows(mirror.path, "select has_content, is_stale, listed_update_time from conversation") == [(1, 0, NOON)]


@pytest.mark.parametrize(("listed", "is_stale"), [(0, 0), (60, 1)])
async def test_what_upstream_has_newer_is_fetched(
    mirror: Mirror, alice: AccountMirror, listed: int, is_stale: int
) -> None:
    """Whether its list was read before the import or after it."""
    await list_it(alice, "before", at=listed)
    for name in ("before", "after"):
        await take(alice, dated(message(), name=name))
    await list_it(alice, "after", at=listed)
    assert rows(mirror.path, "select is_stale from conversation") == [(is_stale,), (is_stale,)]


async def test_what_was_fetched_is_not_written_anew(mirror: Mirror, alice: AccountMirror) -> None:
    """The export says the same in other blanks: that is no news, and the bytes stay."""
    path = message("Tea – «hot»"), message("Cake.")
    await fetch(alice, *path)
    before = rows(mirror.path, "select * from node")
    assert await take(alice, dated(*path)) == [Taken("unchanged", unchanged=2)]
    assert rows(mirror.path, "select * from node") == before


async def test_an_export_older_than_what_was_fetched_makes_nothing_stale(mirror: Mirror, alice: AccountMirror) -> None:
    """The times at which upstream showed it never go back."""
    await alice.conversations.save_whole(
        conversation(message(), conversation_id="c", update_time=NOON / SECOND + 60), listed_update_time=NOON
    )
    await list_it(alice)
    await take(alice, dated(message(), title="Older", at=-60))
    times = "select fetched_update_time, met_update_time, is_stale from conversation"
    assert rows(mirror.path, times) == [(NOON + 60 * SECOND, NOON, 0)]
    await take(alice, dated(message(), title="Newer", at=120))
    assert rows(mirror.path, times) == [(NOON + 120 * SECOND, NOON + 120 * SECOND, 0)]


async def test_where_upstream_may_have_an_answer_the_export_ends_no_doubt(mirror: Mirror, alice: AccountMirror) -> None:
    """A prompt of which nobody knows whether it got through: the conversation is fetched all the same."""
    await fetch(alice, message("Tea."))
    await begin_ask(alice, "c", prompt="prompt")
    await lose_ask(alice)
    await take(alice, dated(message("Tea."), title="Other"))
    assert rows(mirror.path, "select is_stale from conversation") == [(1,)]


@pytest.mark.parametrize(("at", "expected"), [(0, (0, None)), (-60, (3, "upstream_broken"))])
async def test_what_failed_before_is_forgiven_where_it_became_current(
    mirror: Mirror, alice: AccountMirror, at: int, expected: tuple[int, str | None]
) -> None:
    """An export that is older than the list says nothing of what upstream can show."""
    await list_it(alice)
    for _ in range(3):
        await alice.backlog.note_failure("c", "upstream_broken")
    await take(alice, dated(message(), at=at))
    assert rows(mirror.path, "select failures, failure from conversation") == [expected]


async def test_an_export_of_the_same_second_undoes_no_rename(alice: AccountMirror) -> None:
    """A rename moves no update time."""
    await fetch(alice, message("Tea."), title="Old")
    await alice.conversations.edit("c", title="New", is_archived=True)
    await take(alice, dated(message("Tea."), title="Old"))
    tree = await alice.conversations.get("c")
    assert (tree.title, tree.is_archived) == ("New", True)


# -------------------------------------------------------------------------------------------------------------- deleted


async def test_what_was_deleted_here_stays_so(mirror: Mirror, alice: AccountMirror) -> None:
    """But what its messages point to is noted: should it come back, it has its pictures."""
    await fetch(alice, message("Tea."))
    await alice.deletions.bury("c")
    before = everything(mirror)[:2]
    newer = dated(message("Tea."), message("More."), at=60, pointers=[PICTURE])
    assert await take(alice, newer) == [Taken("left_deleted", left_deleted=2)]
    assert everything(mirror)[:2] == before
    assert rows(mirror.path, "select asset from attachment") == [("file-picture",)]
    await alice.deletions.undelete("c")
    assert await take(alice, newer) == [Taken("enriched", imported=1, unchanged=1)]


async def test_of_what_was_purged_nothing_comes_back(mirror: Mirror, alice: AccountMirror) -> None:
    """Not even what it pointed to; whoever has the bytes is told."""
    await fetch(alice, message("Tea."))
    await alice.deletions.bury("c")
    await mirror.purge_deleted(before=NOON + DAY)
    before = everything(mirror)
    (taken,) = await take(alice, dated(message("Tea."), pointers=[PICTURE]))
    assert taken == Taken("left_deleted", left_deleted=1, purged_assets=("file-picture",))
    assert everything(mirror) == before


# --------------------------------------------------------------------------------------------------------------- drafts


async def test_a_draft_is_known_again_by_its_prompt(mirror: Mirror, alice: AccountMirror) -> None:
    """It becomes the conversation that the export holds, its ask points there, and nothing of it is left beside."""
    await begin_ask(alice)
    await lose_ask(alice)
    await take(alice, dated(message("Why?", role="user"), message("Because."), name="theirs"))
    assert await words(alice, "theirs") == ["Why?", "Because."]
    assert rows(mirror.path, "select id, is_local, is_stale from conversation") == [("theirs", 0, 0)]
    assert rows(mirror.path, "select conversation from ask") == [("theirs",)]


async def test_a_deleted_draft_deletes_what_it_became(mirror: Mirror, alice: AccountMirror) -> None:
    """Deleted before anyone knew its id: it stays so under that one."""
    await begin_ask(alice)
    await lose_ask(alice)
    await alice.deletions.bury("draft")
    assert await take(alice, dated(message(), name="theirs")) == [Taken("left_deleted", left_deleted=1)]
    assert await alice.conversations.standing("theirs") is Standing.DELETED
    assert rows(mirror.path, "select count(*) from node where conversation = 'theirs'") == [(0,)]


async def test_a_draft_that_our_own_export_brings_stays_one(mirror: Mirror, alice: AccountMirror) -> None:
    """Under its own id it is itself, and nothing that it became."""
    await begin_ask(alice)
    await lose_ask(alice)
    marks = [Marks("n0", Completeness.UNCONFIRMED, is_absent_upstream=False)]
    await take(alice, dated(message("Why?", role="user"), name="draft", marks=marks))
    assert rows(mirror.path, "select id, is_local from conversation") == [("draft", 1)]
    assert rows(mirror.path, "select id, completeness from node") == [("n0", 0)]


# ---------------------------------------------------------------------------------------------------------- other files


async def test_the_newer_of_two_files_stays(alice: AccountMirror, bob: AccountMirror) -> None:
    """Whichever came first; where nothing tells, the one that came last. Another account has its own."""
    for content, modified_at in ((b"2", 200), (b"1", 100), (b"3", 200)):
        await alice.imports.keep_file("user.json", content, modified_at=modified_at)
    for content, known in ((b"old", 100), (b"new", None)):
        await alice.imports.keep_file("sora.json", content, modified_at=known)
    await bob.imports.keep_file("user.json", b"bob", modified_at=None)
    assert await alice.imports.files() == [("sora.json", b"new"), ("user.json", b"3")]
    assert await bob.imports.files() == [("user.json", b"bob")]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(b'[{"a":1}]', b'[{"a":1}, {"b": 2}]', [("f.json", b'[{"a":1},{"b": 2}]')], id="arrays"),
        pytest.param(b'{"a":1}', b'{"b":2}', [("f (2).json", b'{"b":2}'), ("f.json", b'{"a":1}')], id="objects"),
        pytest.param(b"[1]", b"{", [("f (2).json", b"{"), ("f.json", b"[1]")], id="no JSON"),
    ],
)
async def test_two_parts_files_of_one_name_are_both_kept(
    alice: AccountMirror, first: bytes, second: bytes, expected: list[tuple[str, bytes]]
) -> None:
    """Arrays as one, others side by side; once more they say nothing new."""
    for _ in range(2):
        beside: set[str] = set()
        for content in (first, second):
            name = await alice.imports.keep_file("f.json", content, modified_at=None, beside=beside)
            assert name is not None
            beside.add(name)
        for content in (first, second):
            assert await alice.imports.keep_file("f.json", content, modified_at=None, beside=beside) is None
        assert await alice.imports.files() == expected


async def test_what_names_a_purged_conversation_is_not_kept_again(mirror: Mirror, alice: AccountMirror) -> None:
    """An entry goes, and the rest stays; what cannot be cut goes whole."""
    await take(alice, dated(message("Tea."), name="c-secret"))
    await alice.deletions.bury("c-secret")
    await mirror.purge_deleted(before=NOON + DAY)
    shared = b'[{"conversation_id":"c-secret","title":"T"}, {"conversation_id":"c-other"}]'
    assert await alice.imports.keep_file("shared.json", shared, modified_at=None) == "shared.json"
    assert await alice.imports.keep_file("broken.json", b'[{"id":"c-secret"', modified_at=None) is None
    assert await alice.imports.files() == [("shared.json", b'[{"conversation_id":"c-other"}]')]
