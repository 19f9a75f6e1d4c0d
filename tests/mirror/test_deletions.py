# SPDX-License-Identifier: GPL-2.0-or-later
"""Tombstones: what is deleted stays so, comes back when asked for, and is purged down to its last byte."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from chatgpt_rest.clock import DAY, SECOND
from chatgpt_rest.errors import NotFound
from chatgpt_rest.incoming import Pointer
from chatgpt_rest.mirror import AccountMirror, AskState, Buried, ListQuery, Mirror, Standing
from chatgpt_rest.model import ListedConversation, ListPage, Question
from tests.house import NOON, ManualClock
from tests.incoming import incoming, take
from tests.mirrors import opening
from tests.rows import rows
from tests.shapes import conversation, message

LATER: Final = NOON + DAY
CANARY: Final = "canary-b1d5"
SEED: Final = 3  # with which SQLite leaves copies behind that secure_delete does not reach
EVERYTHING: Final = ListQuery(archived="all", deleted="all")


async def save(mirror: AccountMirror, name: str = "c", *words: str, **members: object) -> None:
    """A conversation with these messages, as upstream shows it at noon."""
    members.setdefault("update_time", NOON / SECOND)
    said = [message(each) for each in words or ("Hello.",)]
    await mirror.conversations.save_whole(conversation(*said, conversation_id=name, **members))


async def save_page(mirror: AccountMirror, *names: str, at: int = 0) -> None:
    """Upstream's list, read so many seconds after noon."""
    time = NOON + at * SECOND
    items = tuple(ListedConversation(name, f"Title of {name}", time, time) for name in names)
    await mirror.listings.take(ListPage(items, is_last=True), since=0)


async def entries(mirror: AccountMirror, query: ListQuery = EVERYTHING) -> dict[str, dict[str, Any]]:
    """What a list shows, by id."""
    answer = await mirror.conversations.list_json(query, even_if_never_read=True)
    return {entry["id"]: entry for entry in json.loads(answer.body)}


async def begin_ask(mirror: AccountMirror, name: str, prompt: str) -> None:
    """A prompt in a conversation, on its way."""
    question = Question("prompt", prompt, name, "n0", None)
    await mirror.asks.begin(
        "ask", question, draft_id="draft", title=None, idempotency_digest=b"key", request_digest=b"request"
    )


def bytes_of(mirror: Mirror) -> bytes:
    """Every byte of the database, its log and the assets."""
    files = [*mirror.path.parent.glob("mirror.sqlite*"), *mirror.path.parent.glob("assets/**/*")]
    return b"".join(file.read_bytes() for file in sorted(files) if file.is_file())


async def add_asset(mirror: Mirror, of: AccountMirror, name: str, content: bytes) -> None:
    """An export brings an asset."""
    async with mirror.files.incoming() as file:
        await file.write(content)
        await of.assets.add(name, await file.keep(), name=f"{name}.txt", member=None)


async def show(mirror: AccountMirror, name: str, *assets: str) -> None:
    """A conversation of an export whose message shows these."""
    pointers = [Pointer("n0", asset, f"{asset}.txt") for asset in assets]
    await take(mirror, incoming(message(), name=name, account=mirror.account, pointers=pointers))


# -------------------------------------------------------------------------------------------------------- bringing back


async def test_what_is_deleted_can_be_brought_back(alice: AccountMirror, clock: ManualClock) -> None:
    """The newest deletion first, each with its title, its time and whether its content is here."""
    await save_page(alice, "listed", "here")
    await save(alice, "here")
    await alice.deletions.bury("listed")
    clock.move(seconds=60)
    await alice.deletions.bury("here")
    assert await alice.deletions.buried() == [
        Buried("here", "A title", NOON + 60 * SECOND, has_content=True),
        Buried("listed", "Title of listed", NOON, has_content=False),
    ]


async def test_a_conversation_brought_back_is_read_again(alice: AccountMirror) -> None:
    """Its words are as they were, and its detail says that upstream has it no more."""
    await save(alice, "c", "Remember me.")
    await alice.deletions.bury("c")
    assert await alice.deletions.undelete("c") == [Buried("c", "A title", NOON, has_content=True)]
    assert await alice.conversations.standing("c") is Standing.HERE
    (said,) = json.loads((await alice.conversations.messages_json("c")).body)
    assert said["message"] == "Remember me."
    assert json.loads((await alice.conversations.whole_json("c")).body)["deleted_upstream"] is True
    assert await alice.deletions.buried() == []


async def test_what_was_rendered_before_is_not_believed(alice: AccountMirror) -> None:
    """Neither the list without it nor the one that calls it deleted."""
    await save_page(alice, "c")
    await alice.deletions.bury("c")
    before = (await entries(alice))["c"]
    await alice.deletions.undelete("c")
    after = (await entries(alice))["c"]
    assert (before["deleted_at"], before["deleted_upstream"]) == ("2026-11-18T11:06:40+00:00", False)
    assert (after["deleted_at"], after["deleted_upstream"]) == (None, True)


async def test_a_conversation_brought_back_is_not_looked_for_upstream(mirror: Mirror, alice: AccountMirror) -> None:
    """It is not stale, and the ordinary list leaves it out."""
    await save_page(alice, "c")
    await alice.deletions.bury("c")
    await alice.deletions.undelete("c")
    assert rows(mirror.path, "select is_stale, is_deleted_upstream from conversation") == [(0, 1)]
    assert await entries(alice, ListQuery()) == {}


async def test_a_conversation_brought_back_that_upstream_lists_is_an_ordinary_one(alice: AccountMirror) -> None:
    """Somebody restored it there too."""
    await save_page(alice, "c")
    await alice.deletions.bury("c")
    await alice.deletions.undelete("c")
    await save_page(alice, "c", at=60)
    assert list(await entries(alice, ListQuery())) == ["c"]


async def test_what_lives_here_only_comes_back_as_it_was(mirror: Mirror, alice: AccountMirror) -> None:
    """Upstream never knew it, and so has not deleted it."""
    await save(alice)
    with closing(sqlite3.connect(mirror.path)) as connection, connection:
        connection.execute("update conversation set is_local = 1")
    await alice.deletions.bury("c")
    await alice.deletions.undelete("c")
    assert await alice.conversations.standing("c") is Standing.LOCAL
    assert list(await entries(alice, ListQuery())) == ["c"]


async def test_all_come_back_at_once(alice: AccountMirror, bob: AccountMirror) -> None:
    """All of this account's, and nobody else's."""
    for each in (alice, bob):
        await save_page(each, "c", "d")
        await each.deletions.bury_all()
    assert [each.id for each in await alice.deletions.undelete_all()] == ["c", "d"]
    assert await alice.deletions.buried() == []
    assert len(await bob.deletions.buried()) == 2
    assert await alice.deletions.undelete_all() == []


@pytest.mark.parametrize("name", ["here", "unknown", "of-bob"])
async def test_what_is_not_deleted_cannot_come_back(alice: AccountMirror, bob: AccountMirror, name: str) -> None:
    """Not one that is here, nor an unknown one, nor another account's; and with it none that was named beside it."""
    await save_page(alice, "here", "gone")
    await alice.deletions.bury("gone")
    await bob.deletions.bury("of-bob")
    with pytest.raises(NotFound, match=f"no conversation {name} is deleted here"):
        await alice.deletions.undelete("gone", name)
    assert [each.id for each in await alice.deletions.buried()] == ["gone"]


async def test_what_is_purged_cannot_come_back(mirror: Mirror, alice: AccountMirror) -> None:
    """The error says until when it could have."""
    await save(alice)
    await alice.deletions.bury("c")
    await mirror.purge_deleted(before=LATER)
    with pytest.raises(NotFound, match=r"until 2026-11-18T11:06:40\+00:00; nothing of it is left"):
        await alice.deletions.undelete("c")
    assert await alice.deletions.undelete_all() == []


# ---------------------------------------------------------------------------------------------------------------- purge


async def test_of_what_is_purged_no_byte_is_left(mirror: Mirror, alice: AccountMirror) -> None:
    """Neither prompt, answer nor title stands anywhere in the database or its log, not even where SQLite had moved them
    from page to page; before, they did.
    """
    chance = Random(SEED)
    paths: dict[str, list[str]] = {}
    for turn in range(150):
        number = chance.randrange(22)
        name, word = (f"gone-{number}", CANARY) if number % 2 else (f"kept-{number}", "harmless")
        path = paths.setdefault(name, [])
        if path and chance.random() < 0.3:
            path[chance.randrange(len(path))] += " and more" * chance.randrange(200)
        path += [f"{word} {'and so on ' * chance.randrange(60)}" for _ in range(chance.randrange(1, 4))]
        await save(alice, name, *path, title=f"{word} {turn}", update_time=NOON / SECOND + turn)
    gone = [name for name in paths if name.startswith("gone")]
    await begin_ask(alice, gone[0], CANARY)
    await alice.asks.end("ask", AskState.UNCERTAIN, (), conversation_id=None, title=None)
    for name in gone:
        await alice.deletions.bury(name)
    assert CANARY.encode() in bytes_of(mirror)
    assert await mirror.purge_deleted(before=LATER) == len(gone) == 11
    assert CANARY.encode() not in bytes_of(mirror)
    assert b"harmless" in bytes_of(mirror)
    assert rows(mirror.path, "select count(*) from ask") == [(0,)]


async def test_of_the_assets_of_what_is_purged_no_byte_is_left(mirror: Mirror, alice: AccountMirror) -> None:
    """Nor of their names; the other files of an export stay."""
    await add_asset(mirror, alice, "file-canary", b"canary-7f0a")
    await show(alice, "c", "file-canary", "file-canary-missing")
    await alice.imports.keep_file("user.json", b"{}", modified_at=None)
    await alice.deletions.bury("c")
    assert await mirror.purge_deleted(before=NOON) == 0
    assert b"canary-7f0a" in bytes_of(mirror)
    assert await mirror.purge_deleted(before=LATER) == 1
    assert b"canary" not in bytes_of(mirror)
    assert await alice.imports.files() == [("user.json", b"{}")]


async def test_of_what_other_files_and_ledgers_say_no_byte_is_left(
    mirror: Mirror, alice: AccountMirror, clock: ManualClock
) -> None:
    """Of a purged conversation; what they say of others stays."""
    await show(alice, "c-gone", "file-a")
    entry = b'{"%s":"c-gone","title":"canary-7f0a"}'
    for name, key in (("shared", b"conversation_id"), ("groups", b"id"), ("library", b"initiating_conversation_id")):
        content = b'[%s,{"id":"c-kept","title":"harmless"}]' % (entry % key)
        await alice.imports.keep_file(f"{name}.json", content, modified_at=None)
    await alice.imports.keep_file("broken.json", b"[" + entry % b"id", modified_at=None)
    await alice.import_jobs.begin("job")
    await alice.deletions.bury("c-gone")
    clock.move(seconds=2 * DAY / SECOND)
    outcome = b'{"set_aside":[%s,{"id":"c-kept","title":"harmless"}]}' % (entry % b"id")
    await alice.import_jobs.finish("job", "done", outcome)
    assert await mirror.purge_deleted(before=NOON) == 0
    assert b"canary-7f0a" in bytes_of(mirror)
    assert await mirror.purge_deleted(before=LATER) == 1
    assert (await alice.import_jobs.get("job")).outcome == b'{"set_aside":[{"id":"c-kept","title":"harmless"}]}'
    assert b"canary" not in bytes_of(mirror)
    kept = b'[{"id":"c-kept","title":"harmless"}]'
    assert await alice.imports.files() == [("groups.json", kept), ("library.json", kept), ("shared.json", kept)]


async def test_ledgers_of_old_imports_go_with_what_is_purged(mirror: Mirror, alice: AccountMirror) -> None:
    """They name titles, and nobody can tell whose."""
    await alice.import_jobs.begin("job")
    await alice.import_jobs.finish("job", "done", b'{"set_aside":[{"id":null,"title":"canary-7f0a"}]}')
    await mirror.purge_deleted(before=NOON)
    await alice.import_jobs.get("job")
    assert b"canary-7f0a" in bytes_of(mirror)
    await mirror.purge_deleted(before=LATER)
    assert b"canary" not in bytes_of(mirror)
    with pytest.raises(NotFound):
        await alice.import_jobs.get("job")


async def test_an_asset_that_something_else_shows_is_not_purged(
    mirror: Mirror, alice: AccountMirror, bob: AccountMirror
) -> None:
    """Be it one of this account's conversations, deleted though it is, or the same file in another account; and what
    was never shown is nobody's to purge.
    """
    for name in ("file-both", "file-shared", "file-unplaced"):
        await add_asset(mirror, alice, name, name.encode())
    await add_asset(mirror, bob, "file-shared", b"file-shared")
    await show(alice, "gone", "file-both", "file-shared")
    await show(alice, "kept", "file-both")
    await show(bob, "gone", "file-shared")
    await alice.deletions.bury("gone")
    assert await mirror.purge_deleted(before=LATER) == 1
    assert [each.id for each in await alice.assets.all()] == ["file-both", "file-unplaced"]
    for asset in (*await alice.assets.all(), *await bob.assets.all()):
        assert mirror.files.path(asset.digest).read_bytes() == asset.id.encode()


async def test_a_file_that_no_import_has_claimed_goes_with_the_next_purge(mirror: Mirror) -> None:
    """A process died between the file's coming and the row's."""
    async with mirror.files.incoming() as file:
        await file.write(CANARY.encode())
        await file.keep()
    assert await mirror.purge_deleted(before=LATER) == 0
    assert CANARY.encode() not in bytes_of(mirror)


async def test_the_tombstone_stays_bare(mirror: Mirror, alice: AccountMirror, clock: ManualClock) -> None:
    """Account, id and the two times; all else is as in a row that was never anything."""
    await save(alice, is_archived=True, gizmo_id="g-p-1")
    await save_page(alice, "c")
    await alice.deletions.bury("c")
    await alice.deletions.bury("never-known")
    clock.move(seconds=60)
    await mirror.purge_deleted(before=LATER)
    columns = "account, deleted_at, purged_at, title, create_time, update_time, current_node, envelope, project, model,"
    rest = "has_content, is_archived, listed_update_time, fetched_update_time, listed_at, fetched_at"
    bare = ("alice", NOON, NOON + 60 * SECOND, *[None] * 7, 0, 0, *[None] * 4)
    assert rows(mirror.path, f"select {columns} {rest} from conversation") == [bare, bare]
    assert await entries(alice) == {}
    assert (await alice.conversations.list_json(ListQuery(limit=1, deleted="all"))).total == 0


async def test_a_list_that_showed_it_is_not_believed_after_the_purge(mirror: Mirror, alice: AccountMirror) -> None:
    """Its title is in no answer that was rendered before either."""
    await save_page(alice, "c")
    await alice.deletions.bury("c")
    assert list(await entries(alice)) == ["c"]
    await mirror.purge_deleted(before=LATER)
    assert await entries(alice) == {}


async def test_what_was_deleted_lately_keeps_everything(mirror: Mirror, alice: AccountMirror) -> None:
    """Its days are not over: not a row of it changes."""
    await save(alice)
    await alice.deletions.bury("c")
    before = rows(mirror.path, "select * from conversation"), rows(mirror.path, "select * from node")
    assert await mirror.purge_deleted(before=NOON) == 0
    assert (rows(mirror.path, "select * from conversation"), rows(mirror.path, "select * from node")) == before
    assert await mirror.purge_deleted(before=NOON + 1) == 1


async def test_what_is_not_deleted_is_not_purged(mirror: Mirror, alice: AccountMirror) -> None:
    """However old it is, and although upstream may have deleted it."""
    await save(alice)
    await alice.deletions.bury("c")
    await alice.deletions.undelete("c")
    assert await mirror.purge_deleted(before=LATER) == 0
    assert await alice.conversations.standing("c") is Standing.HERE


async def test_every_account_is_purged(mirror: Mirror, alice: AccountMirror, bob: AccountMirror) -> None:
    """Each of its own, also where two have conversations of one id."""
    for each in (alice, bob):
        await save(each)
    await alice.deletions.bury("c")
    assert await mirror.purge_deleted(before=LATER) == 1
    assert await bob.conversations.standing("c") is Standing.HERE
    await bob.deletions.bury("c")
    assert await mirror.purge_deleted(before=LATER) == 1
    assert rows(mirror.path, "select count(*) from node") == [(0,)]


async def test_an_answer_that_is_being_written_holds_up_the_purge(mirror: Mirror, alice: AccountMirror) -> None:
    """The next purge takes it, when who asked has got it."""
    await save(alice)
    await begin_ask(alice, "c", "Still there?")
    await alice.deletions.bury("c")
    assert await mirror.purge_deleted(before=LATER) == 0
    await alice.asks.end("ask", AskState.UNCERTAIN, (), conversation_id=None, title=None)
    assert await mirror.purge_deleted(before=LATER) == 1


async def test_what_is_purged_does_not_come_back(mirror: Mirror, alice: AccountMirror) -> None:
    """Neither where upstream lists it again, nor where it shows it, nor where it is deleted once more."""
    await save(alice)
    await alice.deletions.bury("c")
    await mirror.purge_deleted(before=LATER)
    tombstone = "select title, update_time, envelope, has_content, deleted_at, purged_at from conversation"
    before = rows(mirror.path, tombstone)
    await save_page(alice, "c", at=60)
    await save(alice, "c", "Back!", update_time=NOON / SECOND + 60)
    await alice.deletions.bury("c")
    assert await alice.conversations.standing("c") is Standing.DELETED
    assert rows(mirror.path, tombstone) == before
    assert rows(mirror.path, "select count(*) from node") == [(0,)]
    assert await mirror.purge_deleted(before=LATER) == 0


async def test_a_purge_that_ended_half_way_goes_on(tmp_path: Path, clock: ManualClock) -> None:
    """What was done before is done, a batch is purged whole or not at all, and the next purge does the rest."""
    names = [f"c{number:03}" for number in range(120)]
    async with opening(tmp_path, clock) as mirror:
        await mirror.accounts.accept("alice", b"token", email=None, expires_at=LATER)
        for name in names:
            await save(mirror.of("alice"), name)
        await mirror.of("alice").deletions.bury_all()
        with closing(sqlite3.connect(mirror.path)) as connection, connection:
            when = "before delete on conversation when old.id = 'c070'"
            connection.execute(f"create trigger stop {when} begin select raise(abort, 'no'); end")
        with pytest.raises(sqlite3.IntegrityError):
            await mirror.purge_deleted(before=LATER)
        assert rows(mirror.path, "select count(*) from conversation where purged_at is not null") == [(50,)]
        assert rows(mirror.path, "select count(distinct conversation) from node") == [(70,)]
        with closing(sqlite3.connect(mirror.path)) as connection, connection:
            connection.execute("drop trigger stop")
    async with opening(tmp_path, clock) as mirror:
        assert await mirror.purge_deleted(before=LATER) == 70
        assert await mirror.purge_deleted(before=LATER) == 0
        assert rows(mirror.path, "select count(*), count(purged_at) from conversation") == [(120, 120)]


async def test_a_reader_in_the_way_leaves_the_log_to_the_next_purge(
    mirror: Mirror, alice: AccountMirror, caplog: pytest.LogCaptureFixture
) -> None:
    """It is purged all the same, and the log emptied as soon as nobody reads of before."""
    await save(alice, "c", CANARY)
    await alice.deletions.bury("c")
    await mirror._database._writer.execute("pragma busy_timeout = 20")
    with closing(sqlite3.connect(mirror.path, isolation_level=None)) as reader, caplog.at_level(logging.INFO):
        reader.execute("begin")
        reader.execute("select count(*) from node").fetchall()
        assert await mirror.purge_deleted(before=LATER) == 1
        assert "left it to the next purge" in caplog.text
        assert CANARY.encode() in bytes_of(mirror)
        reader.execute("rollback")
    assert await mirror.purge_deleted(before=LATER) == 0
    assert CANARY.encode() not in bytes_of(mirror)


async def test_what_is_deleted_is_wiped_from_the_start(mirror: Mirror) -> None:
    """SQLite overwrites it with zeros, whatever it was built to do."""
    (wiping,) = await mirror._database._writer.execute_fetchall("pragma secure_delete")
    assert wiping[0] == 1


# --------------------------------------------------------------------------------------------------------------- drafts


async def bury_draft(mirror: AccountMirror) -> None:
    """Delete a conversation that was begun here, of which nobody knows whether its prompt `n0` got through."""
    question = Question("n0", CANARY, None, None, None)
    await mirror.asks.begin(
        "ask", question, draft_id="draft", title=CANARY, idempotency_digest=b"key", request_digest=b"request"
    )
    await mirror.asks.end("ask", AskState.UNCERTAIN, (), conversation_id=None, title=None)
    await mirror.deletions.bury("draft")


@pytest.mark.parametrize("is_purged", [False, True], ids=["deleted", "purged"])
async def test_a_deleted_draft_that_turns_up_upstream_stays_deleted(
    mirror: Mirror, alice: AccountMirror, *, is_purged: bool
) -> None:
    """Its prompt did get through: under upstream's id it is deleted as well, however often that is listed or shown."""
    await bury_draft(alice)
    if is_purged:
        assert await mirror.purge_deleted(before=LATER) == 1
    for seconds in (0, 60):
        await save_page(alice, "theirs", at=seconds)
        await save(alice, "theirs", CANARY, update_time=NOON / SECOND + seconds)
        assert await alice.conversations.standing("theirs") is Standing.DELETED
        assert await entries(alice, ListQuery()) == {}
    assert rows(mirror.path, "select count(*) from node where conversation = 'theirs'") == [(0,)]


async def test_a_purged_draft_keeps_nothing_but_the_id_of_its_prompt(mirror: Mirror, alice: AccountMirror) -> None:
    """By which it is known, should it turn up upstream; the client's key and request are gone."""
    await bury_draft(alice)
    await mirror.purge_deleted(before=LATER)
    asks = rows(mirror.path, "select prompt_node, idempotency_digest, request_digest from ask")
    assert asks == [("n0", None, b"")]
    assert CANARY.encode() not in bytes_of(mirror)


async def test_of_two_drafts_that_became_one_conversation_a_deleted_one_decides(
    mirror: Mirror, alice: AccountMirror
) -> None:
    """And nothing of the other is taken in and lost with it."""
    question = Question("n1", "And why?", None, None, None)
    await alice.asks.begin("other", question, draft_id="kept", title=None, idempotency_digest=None, request_digest=b"")
    await alice.asks.end("other", AskState.UNCERTAIN, (), conversation_id=None, title=None)
    await bury_draft(alice)
    await save(alice, "theirs", "Why?", "And why?")
    assert await alice.conversations.standing("theirs") is Standing.DELETED
    assert await alice.conversations.standing("kept") is Standing.LOCAL
    assert rows(mirror.path, "select id from node where conversation = 'kept'") == [("n1",)]
