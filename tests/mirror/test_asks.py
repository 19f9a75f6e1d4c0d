# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks: the prompt is down before it leaves, the answer as it comes, and no crash leaves either of them in doubt."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from chatgpt_rest import chatgpt_json
from chatgpt_rest.clock import DAY, SECOND
from chatgpt_rest.errors import NotFetched, NotFound
from chatgpt_rest.mirror import AccountMirror, AskRecord, AskState, ListQuery, Mirror, Standing
from chatgpt_rest.model import Completeness, Conversation, ListedConversation, ListPage, Node, Question
from tests.house import NOON, ManualClock
from tests.mirrors import opening
from tests.rows import rows
from tests.shapes import conversation, conversation_json, message

DIGEST = b"request"


async def begin(
    mirror: AccountMirror,
    ask_id: str = "ask",
    *,
    conversation_id: str | None = None,
    parent_id: str | None = None,
    title: str | None = None,
    key: bytes | None = None,
) -> None:
    """Write a prompt down; a new conversation begins as the draft `draft`."""
    question = Question(f"prompt of {ask_id}", "Why?", conversation_id, parent_id, "gpt-5")
    await mirror.asks.begin(
        ask_id, question, draft_id="draft", title=title, idempotency_digest=key, request_digest=DIGEST
    )


def answer(
    words: str, *, parent: str = "prompt of ask", at: int = 1, completeness: Completeness = Completeness.COMPLETE
) -> Node:
    """What has come of an answer so many seconds after noon."""
    raw = message(words, id="answer", create_time=NOON / SECOND + at)
    return chatgpt_json.node(raw, parent=parent, completeness=completeness)


def partial(words: str) -> Node:
    """What has come of an answer that goes on."""
    return answer(words, completeness=Completeness.PARTIAL)


async def end(
    mirror: AccountMirror, state: AskState, *nodes: Node, conversation_id: str | None = None, title: str | None = None
) -> AskRecord:
    """Write down how the ask ended."""
    return await mirror.asks.end("ask", state, nodes, conversation_id=conversation_id, title=title)


async def words(mirror: AccountMirror, conversation_id: str) -> list[str]:
    """The texts that a reader of the conversation sees."""
    answer = await mirror.conversations.messages_json(conversation_id)
    return [entry["message"] for entry in json.loads(answer.body)]


async def names(mirror: AccountMirror) -> list[str]:
    """The ids that the list shows."""
    listed = await mirror.conversations.list_json(ListQuery(), even_if_never_read=True)
    return [entry["id"] for entry in json.loads(listed.body)]


def upstreams(*path: str, prompt: str = "prompt of ask", title: str = "New chat") -> Conversation:
    """The conversation `c` as upstream shows it: a prompt and what came of it."""
    value = conversation_json(message("Why?", role="user"), *(message(each) for each in path), conversation_id="c")
    text = json.dumps({**value, "title": title, "update_time": NOON / SECOND + 2})
    return chatgpt_json.conversation(json.loads(text.replace('"n0"', json.dumps(prompt)).replace('"n1"', '"answer"')))


@pytest.fixture
async def here(alice: AccountMirror) -> AccountMirror:
    """Alice's mirror with the conversation `c`, which stands at `n1`."""
    path = (message("Hi.", role="user"), message("Hello."))
    await alice.conversations.save_whole(conversation(*path, conversation_id="c", update_time=NOON / SECOND))
    return alice


# ------------------------------------------------------------------------------------------------------------- begin


async def test_a_prompt_is_readable_before_it_leaves(alice: AccountMirror, mirror: Mirror) -> None:
    """A new conversation is a draft of this mirror's, with its title, model and prompt."""
    await begin(alice, title="Mine")
    assert await alice.conversations.standing("draft") is Standing.LOCAL
    assert await words(alice, "draft") == ["Why?"]
    assert await names(alice) == ["draft"]
    assert rows(mirror.path, "select state, conversation, asked_at from ask") == [("asked", "draft", NOON)]
    tree = await alice.conversations.get("draft")
    assert (tree.title, tree.model, tree.is_title_pending) == ("Mine", "gpt-5", True)


async def test_a_drafts_title_is_not_pushed(alice: AccountMirror) -> None:
    """Upstream knows no conversation of that id."""
    await begin(alice, title="Mine")
    assert await alice.conversations.pending_titles() == []
    assert await alice.conversations.needs_no_upstream("draft")


async def test_a_prompt_hangs_on_the_message_it_answers(here: AccountMirror) -> None:
    """And the current branch ends with it."""
    await begin(here, conversation_id="c", parent_id="n1")
    assert await words(here, "c") == ["Hi.", "Hello.", "Why?"]
    assert (await here.conversations.get("c")).nodes["prompt of ask"].completeness is Completeness.UNCONFIRMED


async def test_a_prompt_in_the_middle_begins_a_branch(here: AccountMirror) -> None:
    """The branch that was there stays where it is."""
    await begin(here, conversation_id="c", parent_id="n0")
    assert await words(here, "c") == ["Hi.", "Why?"]
    assert set((await here.conversations.get("c")).nodes) == {"n0", "n1", "prompt of ask"}


async def test_an_ask_in_a_conversation_that_is_only_listed_does_not_make_it_whole(alice: AccountMirror) -> None:
    """What was said before is still to be fetched."""
    listed = ListedConversation("c", "C", NOON, NOON)
    await alice.listings.take(ListPage((listed,), is_last=True), since=0)
    await begin(alice, conversation_id="c", parent_id="n9")
    await end(alice, AskState.ANSWERED, answer("Because."), conversation_id="c")
    with pytest.raises(NotFetched):
        await alice.conversations.messages_json("c")


# -------------------------------------------------------------------------------------------------------- grow and end


async def test_a_draft_becomes_what_upstream_calls_it(alice: AccountMirror, mirror: Mirror) -> None:
    """Nothing is left under the draft's id, in no table."""
    await begin(alice)
    await alice.asks.grow("ask", [partial("Beca")], conversation_id="c", title=None)
    assert await words(alice, "c") == ["Why?", "Beca"]
    assert await alice.conversations.standing("draft") is Standing.UNKNOWN
    assert await alice.conversations.standing("c") is Standing.HERE
    for table, column in (("conversation", "id"), ("node", "conversation"), ("ask", "conversation")):
        assert set(rows(mirror.path, f"select {column} from {table}")) == {("c",)}


async def test_a_draft_that_was_deleted_stays_so_under_its_new_name(alice: AccountMirror) -> None:
    """Everything was deleted before upstream had named the conversation: the tombstone goes with what came of it."""
    await begin(alice)
    await alice.deletions.bury_all()
    (buried,) = await alice.deletions.buried()
    await alice.asks.grow("ask", [partial("Beca")], conversation_id="c", title=None)
    record = await end(alice, AskState.ANSWERED, answer("Because."), conversation_id="c", title="New chat")
    assert (record.conversation, record.answer_node) == ("c", "answer")
    assert (await names(alice), await alice.conversations.standing("c")) == ([], Standing.DELETED)
    (still,) = await alice.deletions.buried()
    assert (still.id, still.deleted_at) == ("c", buried.deleted_at)
    assert set((await alice.conversations.get("c", even_if_deleted=True)).nodes) == {"prompt of ask", "answer"}


async def test_the_first_sign_of_an_answer_confirms_the_prompt(here: AccountMirror) -> None:
    """Upstream would not answer what it does not have."""
    await begin(here, conversation_id="c", parent_id="n1")
    await here.asks.grow("ask", [partial("Beca")], conversation_id="c", title=None)
    nodes = (await here.conversations.get("c")).nodes
    assert nodes["prompt of ask"].completeness is Completeness.COMPLETE
    assert nodes["answer"].completeness is Completeness.PARTIAL


async def test_an_answer_grows_until_it_is_whole(here: AccountMirror) -> None:
    """Each reading shows what has come by then, and the end is complete."""
    await begin(here, conversation_id="c", parent_id="n1")
    for text in ("Be", "Becau"):
        await here.asks.grow("ask", [partial(text)], conversation_id="c", title=None)
        assert (await words(here, "c"))[-1] == text
    record = await end(here, AskState.ANSWERED, answer("Because."), conversation_id="c")
    assert (record.state, record.answer_node, record.conversation) == (AskState.ANSWERED, "answer", "c")
    assert await words(here, "c") == ["Hi.", "Hello.", "Why?", "Because."]
    assert (await here.conversations.get("c")).nodes["answer"].completeness is Completeness.COMPLETE


async def test_an_answer_makes_its_conversation_the_newest(here: AccountMirror) -> None:
    """The update time is upstream's of the answer; one that it does not tell changes nothing."""
    await begin(here, conversation_id="c", parent_id="n1")
    await end(here, AskState.ANSWERED, answer("Because.", at=60), conversation_id="c")
    assert (await here.conversations.get("c")).update_time == NOON + 60 * SECOND
    assert json.loads((await here.conversations.whole_json("c")).body)["update_time"] == NOON / SECOND + 60


async def test_an_answer_with_no_time_is_as_new_as_this_moment(alice: AccountMirror) -> None:
    """A new conversation has an update time whatever upstream sends."""
    await begin(alice)
    untimed = chatgpt_json.node(message("Because.", id="answer", create_time=None), parent="prompt of ask")
    await end(alice, AskState.ANSWERED, untimed, conversation_id="c")
    assert (await alice.conversations.get("c")).update_time == NOON


async def test_upstreams_title_is_taken_unless_one_was_given(alice: AccountMirror) -> None:
    """A person's own title is kept, to be pushed."""
    await begin(alice)
    await end(alice, AskState.ANSWERED, answer("Because."), conversation_id="c", title="Causes")
    assert (await alice.conversations.get("c")).title == "Causes"
    assert await alice.conversations.pending_titles() == []


@pytest.mark.parametrize("is_listed", [False, True])
async def test_a_title_given_here_waits_to_be_pushed(alice: AccountMirror, *, is_listed: bool) -> None:
    """Also where upstream's list has named the new conversation before its answer did."""
    await begin(alice, title="Mine")
    if is_listed:
        listed = ListedConversation("c", "New chat", NOON, NOON + SECOND)
        await alice.listings.take(ListPage((listed,), is_last=True), since=0)
    await end(alice, AskState.ANSWERED, answer("Because."), conversation_id="c", title="Causes")
    assert await alice.conversations.pending_titles() == [("c", "Mine")]
    assert await words(alice, "c") == ["Why?", "Because."]


async def test_an_ask_is_under_way_until_it_ends(here: AccountMirror, bob: AccountMirror) -> None:
    """In its own conversation and account."""
    assert not await here.asks.is_under_way("c")
    await begin(here, conversation_id="c", parent_id="n1")
    assert await here.asks.is_under_way("c")
    assert not await here.asks.is_under_way("other")
    assert not await bob.asks.is_under_way("c")
    await end(here, AskState.INCOMPLETE, partial("Beca"), conversation_id="c")
    assert not await here.asks.is_under_way("c")


async def test_an_answer_that_names_no_conversation_stays_in_the_draft(alice: AccountMirror) -> None:
    """What came is readable where the prompt is."""
    await begin(alice)
    record = await end(alice, AskState.INCOMPLETE, partial("Beca"))
    assert (record.conversation, record.answer_node) == ("draft", "answer")
    assert await words(alice, "draft") == ["Why?", "Beca"]
    assert await alice.conversations.standing("draft") is Standing.LOCAL


async def test_what_is_asked_in_a_conversation_stays_in_it(here: AccountMirror) -> None:
    """Upstream's answer under another id neither moves nor removes what is here."""
    await begin(here, conversation_id="c", parent_id="n1")
    record = await end(here, AskState.ANSWERED, answer("Because."), conversation_id="other")
    assert record.conversation == "c"
    assert await words(here, "c") == ["Hi.", "Hello.", "Why?", "Because."]
    assert await here.conversations.standing("other") is Standing.UNKNOWN


async def test_an_answer_in_a_conversation_that_was_deleted_meanwhile_stays_deleted(here: AccountMirror) -> None:
    """What had been asked is written down behind the tombstone."""
    await begin(here, conversation_id="c", parent_id="n1")
    await here.deletions.bury("c")
    await end(here, AskState.ANSWERED, answer("Because."), conversation_id="c")
    assert await here.conversations.standing("c") is Standing.DELETED
    assert "answer" in (await here.conversations.get("c", even_if_deleted=True)).nodes


async def test_an_answer_in_a_conversation_that_was_purged_meanwhile_brings_nothing_back(
    here: AccountMirror, mirror: Mirror
) -> None:
    """The ask ends all the same."""
    await begin(here, conversation_id="c", parent_id="n1")
    with closing(sqlite3.connect(mirror.path)) as connection, connection:
        connection.execute("delete from node")
        connection.execute("delete from conversation")
    record = await end(here, AskState.ANSWERED, answer("Because."), conversation_id="c")
    assert record.state is AskState.ANSWERED
    assert rows(mirror.path, "select count(*) from conversation") == [(0,)]


# ------------------------------------------------------------------------------------------------------------ refused


async def test_a_refused_ask_leaves_nothing_of_a_new_conversation(alice: AccountMirror, mirror: Mirror) -> None:
    """No draft, no prompt; the ask itself stays on record."""
    await begin(alice, title="Mine", key=b"key")
    record = await end(alice, AskState.REFUSED)
    assert record.state is AskState.REFUSED
    assert await names(alice) == []
    assert rows(mirror.path, "select count(*) from conversation") == [(0,)]
    assert rows(mirror.path, "select count(*) from node") == [(0,)]
    assert await alice.asks.find(b"key") is None


async def test_a_refused_ask_leaves_the_conversation_as_it_was(here: AccountMirror, mirror: Mirror) -> None:
    """Byte for byte, its current node included; only that its tree was another one meanwhile still shows."""
    columns = [name for (name,) in rows(mirror.path, "select name from pragma_table_info('conversation')")]
    stays = f"select {', '.join(name for name in columns if name != 'tree_version')} from conversation"
    before = rows(mirror.path, stays), rows(mirror.path, "select * from node")
    await begin(here, conversation_id="c", parent_id="n1")
    await end(here, AskState.REFUSED)
    assert (rows(mirror.path, stays), rows(mirror.path, "select * from node")) == before
    assert await words(here, "c") == ["Hi.", "Hello."]


# ---------------------------------------------------------------------------------------------------------- uncertain


async def test_an_uncertain_ask_keeps_its_prompt(here: AccountMirror, mirror: Mirror) -> None:
    """And the conversation counts as not fetched: upstream may have more."""
    await begin(here, conversation_id="c", parent_id="n1")
    record = await end(here, AskState.UNCERTAIN)
    assert (record.state, record.answer_node) == (AskState.UNCERTAIN, None)
    assert await words(here, "c") == ["Hi.", "Hello.", "Why?"]
    assert rows(mirror.path, "select fetched_update_time from conversation") == [(None,)]


@pytest.mark.parametrize("is_listed", [False, True])
async def test_a_draft_is_adopted_when_its_prompt_turns_up_upstream(
    alice: AccountMirror, mirror: Mirror, *, is_listed: bool
) -> None:
    """The conversation that it became has its title, and the draft is gone from the list."""
    await begin(alice, title="Mine")
    await end(alice, AskState.UNCERTAIN)
    if is_listed:
        listed = ListedConversation("c", "New chat", NOON, NOON + SECOND)
        await alice.listings.take(ListPage((listed,), is_last=True), since=0)
    await alice.conversations.save_whole(upstreams("Because."))
    assert await names(alice) == ["c"]
    assert await words(alice, "c") == ["Why?", "Because."]
    assert await alice.conversations.pending_titles() == [("c", "Mine")]
    assert rows(mirror.path, "select conversation from ask") == [("c",)]


async def test_another_prompt_with_the_same_words_adopts_nothing(alice: AccountMirror) -> None:
    """Only the prompt's own id proves that it arrived."""
    await begin(alice)
    await end(alice, AskState.UNCERTAIN)
    await alice.conversations.save_whole(upstreams("Because.", prompt="another prompt"))
    assert set(await names(alice)) == {"c", "draft"}


async def test_another_accounts_draft_is_not_adopted(alice: AccountMirror, bob: AccountMirror) -> None:
    """Even were the ids the same."""
    await begin(alice)
    await end(alice, AskState.UNCERTAIN)
    await bob.conversations.save_whole(upstreams("Because."))
    assert (await names(alice), await names(bob)) == (["draft"], ["c"])


# -------------------------------------------------------------------------------------------------------- idempotency


async def test_a_key_finds_its_ask_for_a_day(alice: AccountMirror, bob: AccountMirror, clock: ManualClock) -> None:
    """Then the key is free again; it never was anything in another account."""
    await begin(alice, key=b"key")
    found = await alice.asks.find(b"key")
    assert found is not None
    assert (found.id, found.request_digest, found.state) == ("ask", DIGEST, AskState.ASKED)
    assert await bob.asks.find(b"key") is None
    assert await alice.asks.find(b"another") is None
    clock.move(seconds=DAY / SECOND)
    assert await alice.asks.find(b"key") is None
    await begin(alice, "second", key=b"key")
    renewed = await alice.asks.find(b"key")
    assert renewed is not None
    assert renewed.id == "second"


async def test_an_ask_that_was_never_begun_cannot_end(alice: AccountMirror) -> None:
    """NotFound, and nothing is written."""
    with pytest.raises(NotFound):
        await end(alice, AskState.ANSWERED, answer("Because."), conversation_id="c")
    assert await names(alice) == []


# ------------------------------------------------------------------------------------------------------------ crashes


async def test_a_crash_before_any_answer_leaves_the_prompt_uncertain(tmp_path: Path, clock: ManualClock) -> None:
    """It is readable and never sent again by itself."""
    async with opening(tmp_path, clock) as mirror:
        await begin(mirror.of("alice"), key=b"key")
    async with opening(tmp_path, clock) as mirror:
        alice = mirror.of("alice")
        found = await alice.asks.find(b"key")
        assert found is not None
        assert found.state is AskState.UNCERTAIN
        assert await words(alice, "draft") == ["Why?"]


async def test_a_crash_in_mid_answer_leaves_what_had_arrived(tmp_path: Path, clock: ManualClock) -> None:
    """Marked as partial; the ask is incomplete, and the conversation is to be fetched again."""
    async with opening(tmp_path, clock) as mirror:
        await begin(mirror.of("alice"), key=b"key")
        await mirror.of("alice").asks.grow("ask", [partial("Beca")], conversation_id="c", title=None)
    async with opening(tmp_path, clock) as mirror:
        alice = mirror.of("alice")
        found = await alice.asks.find(b"key")
        assert found is not None
        assert (found.state, found.conversation) == (AskState.INCOMPLETE, "c")
        assert await words(alice, "c") == ["Why?", "Beca"]
        assert (await alice.conversations.get("c")).nodes["answer"].completeness is Completeness.PARTIAL
        assert rows(mirror.path, "select fetched_update_time from conversation") == [(None,)]


async def test_what_had_ended_before_a_crash_stays_ended(tmp_path: Path, clock: ManualClock) -> None:
    """Only what was open is closed."""
    async with opening(tmp_path, clock) as mirror:
        await begin(mirror.of("alice"), key=b"key")
        await end(mirror.of("alice"), AskState.ANSWERED, answer("Because."), conversation_id="c")
    async with opening(tmp_path, clock) as mirror:
        found = await mirror.of("alice").asks.find(b"key")
        assert found is not None
        assert found.state is AskState.ANSWERED


async def test_the_whole_answer_replaces_the_partial_one(here: AccountMirror) -> None:
    """The next fetch brings what the crash or the line cost, even where upstream's copy is not newer."""
    await begin(here, conversation_id="c", parent_id="n1")
    await end(here, AskState.INCOMPLETE, partial("Beca"), conversation_id="c")
    value = conversation_json(message("Hi.", role="user"), message("Hello."), conversation_id="c", update_time=1.0)
    value["mapping"]["answer"] = {"parent": "n1", "message": message("Because.", id="answer")}
    await here.conversations.save_whole(chatgpt_json.conversation({**value, "current_node": "answer"}))
    assert (await words(here, "c"))[-1] == "Because."
