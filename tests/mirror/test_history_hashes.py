# SPDX-License-Identifier: GPL-2.0-or-later
"""The index of histories: it knows what is here, learns what changes, and forgets what is purged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chatgpt_rest.clock import SECOND
from chatgpt_rest.mirror import AccountMirror, AskState, Hashed, Mirror
from chatgpt_rest.mirror.history_hashes import Unhashed
from chatgpt_rest.model import Conversation, ListedConversation, ListPage, Question
from chatgpt_rest.turns import canonical_turns, history_hashes, tree_hashes
from tests.house import NOON, ManualClock
from tests.incoming import incoming, take
from tests.mirrors import opening
from tests.rows import rows
from tests.shapes import message
from tests.talks import talk, turns

EVERYTHING = 1_000_000


async def save(mirror: AccountMirror, *words: str, name: str = "c", at: int = 0) -> None:
    """A conversation as upstream shows it, updated so many seconds after noon."""
    await mirror.conversations.save_whole(talk(*words, name=name, update_time=NOON / SECOND + at))


def hashed(*missing: Unhashed) -> list[Hashed]:
    """What comes of them, whoever works it out."""
    return [Hashed(each.tree.id, each.version, set(tree_hashes(each.tree))) for each in missing]


async def missing(
    mirror: AccountMirror, *, messages: int = EVERYTHING, even_local: bool = False, only_new: bool = False
) -> list[Unhashed]:
    """What is not in the index as it is now."""
    return await mirror.history_hashes.unhashed(messages=messages, even_local=even_local, only_new=only_new)


async def hash_all(mirror: AccountMirror, *, messages: int = EVERYTHING, even_local: bool = False) -> int:
    """Bring the index up to date; answers how many messages were new to it."""
    found = await missing(mirror, messages=messages, even_local=even_local)
    await mirror.history_hashes.store(hashed(*found))
    return sum(len(each.tree.nodes) for each in found)


def hashes(*words: str) -> list[int]:
    """Of each beginning of a history."""
    return history_hashes([turn for turn, _ in canonical_turns(turns(*words))])


async def found(mirror: AccountMirror, *words: str, even_local: bool = False) -> list[str]:
    """The conversations that the index knows to hold all of this."""
    history = hashes(*words)
    return await mirror.history_hashes.candidates(history[-1], changed=history[-1], even_local=even_local)


async def begin(mirror: AccountMirror, *, conversation_id: str | None = None, parent_id: str | None = None) -> None:
    """A prompt on its way; a new conversation begins as the draft `draft`."""
    question = Question("prompt", "Why?", conversation_id, parent_id, "gpt-5")
    await mirror.asks.begin(
        "ask", question, draft_id="draft", title=None, idempotency_digest=None, request_digest=b"request"
    )


def answered(words: str) -> Conversation:
    """A conversation whose node `n1` is an answer."""
    return talk("Why?", words)


# ------------------------------------------------------------------------------------------------------------ finding


async def test_each_answer_of_a_conversation_is_found(alice: AccountMirror) -> None:
    """By the history up to it, and so is the first prompt; other prompts are not."""
    await save(alice, "Why?", "So.", "And?", "Thus.")
    assert await hash_all(alice) == 4
    beginnings = await alice.history_hashes.known_beginnings(hashes("Why?", "So.", "And?", "Thus.", "Oh?", "Yes."))
    assert beginnings == [3, 1, 0]
    assert await found(alice, "Why?", "So.") == ["c"]


async def test_nothing_is_hashed_twice(alice: AccountMirror) -> None:
    """What is in the index is done with, and the same again from upstream is no change."""
    await save(alice, "Why?", "So.")
    await hash_all(alice)
    await save(alice, "Why?", "So.")
    assert await hash_all(alice) == 0


async def test_what_changed_is_hashed_again(alice: AccountMirror) -> None:
    """Its new end is found, and its old one still."""
    await save(alice, "Why?", "So.")
    await hash_all(alice)
    await save(alice, "Why?", "So.", "And?", "Thus.", at=1)
    assert await hash_all(alice) == 4
    assert await found(alice, "Why?", "So.", "And?", "Thus.") == await found(alice, "Why?", "So.") == ["c"]


async def test_what_changes_meanwhile_is_hashed_again(alice: AccountMirror) -> None:
    """What was hashed is what was read, and nobody who writes waits for it."""
    await save(alice, "Why?", "So.")
    (old,) = await missing(alice)
    await save(alice, "Why?", "So.", "And?", "Thus.", at=1)
    await alice.history_hashes.store(hashed(old))
    (new,) = await missing(alice)
    assert (len(new.tree.nodes), await found(alice, "Why?", "So.")) == (4, ["c"])
    await alice.history_hashes.store(hashed(new))
    assert (await missing(alice), await found(alice, "Why?", "So.", "And?", "Thus.")) == ([], ["c"])


async def test_an_older_version_that_comes_late_takes_nothing_away(alice: AccountMirror) -> None:
    """Two may hash the same at once."""
    await save(alice, "Why?", "So.")
    late = await missing(alice)
    await save(alice, "Why?", "So.", "And?", "Thus.", at=1)
    await hash_all(alice)
    await alice.history_hashes.store(hashed(*late))
    assert await found(alice, "Why?", "So.", "And?", "Thus.") == ["c"]
    await hash_all(alice)
    assert await missing(alice) == []


async def test_what_has_only_changed_can_wait(alice: AccountMirror) -> None:
    """It is found by what it was."""
    await save(alice, "Why?", "So.")
    await hash_all(alice)
    await save(alice, "Why?", "So.", "And?", "Thus.", at=1)
    await save(alice, "Who?", "I.", name="new")
    assert [each.tree.id for each in await missing(alice, only_new=True)] == ["new"]
    assert [each.tree.id for each in await missing(alice)] == ["c", "new"]


async def test_what_has_changed_is_found_by_its_beginning(alice: AccountMirror) -> None:
    """Beside those that are known to hold more: it may hold that by now, and is the one updated last."""
    await save(alice, "Why?", "So.", "And?", "Thus.", name="long")
    for name in ("changed", "same"):
        await save(alice, "Why?", "So.", name=name)
    await hash_all(alice)
    await save(alice, "Why?", "So.", "And?", "Thus.", name="changed", at=1)
    first, *_, last = hashes("Why?", "So.", "And?", "Thus.")
    assert await alice.history_hashes.candidates(last, changed=first, even_local=False) == ["changed", "long"]


async def test_the_newest_come_first_and_a_few_at_a_time(alice: AccountMirror) -> None:
    """A client goes on where the last answer was given."""
    for at, name in enumerate(("old", "new", "newest")):
        await save(alice, "Why?", "So.", name=name, at=at)
    seen = []
    while await hash_all(alice, messages=2):
        seen.append(await found(alice, "Why?", "So."))
    assert seen == [["newest"], ["newest", "new"], ["newest", "new", "old"]]


async def test_an_import_is_hashed(alice: AccountMirror) -> None:
    """What it brings, and what it adds to what is here."""
    await take(alice, incoming(message("Why?", role="user"), message("So.")))
    assert (await hash_all(alice), await found(alice, "Why?", "So.")) == (2, ["c"])
    more = incoming(message("Why?", role="user"), message("So."), message("And?", role="user"), message("Thus."))
    await take(alice, more)
    assert (await hash_all(alice), await found(alice, "Why?", "So.", "And?", "Thus.")) == (4, ["c"])


async def test_an_answer_is_hashed_as_it_grows(alice: AccountMirror) -> None:
    """Each time that somebody asks for it."""
    await save(alice, "Hi.", "Hello.")
    await hash_all(alice)
    await begin(alice, conversation_id="c", parent_id="n1")
    assert await hash_all(alice) == 3
    node = replace(answered("So.").nodes["n1"], id="answer", parent="prompt")
    await alice.asks.end("ask", AskState.ANSWERED, [node], conversation_id="c", title=None)
    assert await hash_all(alice) == 4
    assert await found(alice, "Hi.", "Hello.", "Why?", "So.") == ["c"]


async def test_what_has_no_content_is_not_hashed(alice: AccountMirror) -> None:
    """Lists name conversations that were never fetched."""
    await alice.listings.take(ListPage((ListedConversation("c", "A title", NOON, NOON),), is_last=True), since=0)
    assert await hash_all(alice) == 0


async def test_what_lives_here_alone_is_found_where_that_is_wished(alice: AccountMirror) -> None:
    """And is not even hashed otherwise."""
    await begin(alice)
    assert await hash_all(alice) == 0
    assert await hash_all(alice, even_local=True) == 1
    assert await found(alice, "Why?", even_local=True) == ["draft"]
    assert await found(alice, "Why?") == []


async def test_nobody_finds_what_is_anothers(alice: AccountMirror, bob: AccountMirror) -> None:
    """Neither the conversation nor that there is one."""
    await save(alice, "Why?", "So.")
    await hash_all(alice)
    assert await hash_all(bob) == 0
    assert await bob.history_hashes.known_beginnings(hashes("Why?", "So.")) == []
    assert await found(bob, "Why?", "So.") == []


async def test_of_many_alike_the_last_ones_are_found(alice: AccountMirror) -> None:
    """Who says hello to everybody means one of the last."""
    for index in range(12):
        await save(alice, "Hello?", "Hello.", name=f"c{index}", at=index)
    await hash_all(alice)
    assert await found(alice, "Hello?", "Hello.") == [f"c{index}" for index in range(11, 3, -1)]


async def test_a_mirror_of_before_is_hashed(tmp_path: Path, clock: ManualClock) -> None:
    """What was here when the index was added is as unknown to it as what comes."""
    async with opening(tmp_path, clock) as mirror:
        await save(mirror.of("alice"), "Why?", "So.")
    async with opening(tmp_path, clock) as mirror:
        assert await hash_all(mirror.of("alice")) == 2


# ---------------------------------------------------------------------------------------------------------- forgetting


async def test_what_is_deleted_is_not_found(alice: AccountMirror) -> None:
    """Until it is brought back, and upstream shows it again."""
    await save(alice, "Why?", "So.")
    await hash_all(alice)
    await alice.deletions.bury("c")
    assert await found(alice, "Why?", "So.") == []
    await alice.deletions.undelete("c")
    assert await found(alice, "Why?", "So.") == []  # deleted upstream
    await save(alice, "Why?", "So.")
    assert await found(alice, "Why?", "So.") == ["c"]


async def test_what_is_deleted_is_not_hashed(alice: AccountMirror) -> None:
    """It may be purged before anybody looks for it."""
    await save(alice, "Why?", "So.")
    await alice.deletions.bury("c")
    assert await hash_all(alice) == 0


@pytest.mark.parametrize("is_purged", [False, True])
async def test_what_is_deleted_while_it_is_hashed_leaves_nothing(
    alice: AccountMirror, mirror: Mirror, is_purged: bool
) -> None:
    """Nor does it if it is purged as well; what is brought back is hashed then."""
    await save(alice, "Why?", "So.")
    late = await missing(alice)
    await alice.deletions.bury("c")
    if is_purged:
        await alice.deletions.purge(before=NOON + 1)
    await alice.history_hashes.store(hashed(*late))
    assert rows(mirror.path, "select * from history_hash") == []
    if not is_purged:
        await alice.deletions.undelete("c")
        assert await hash_all(alice) == 2


@pytest.mark.parametrize("grows", [False, True])
async def test_nothing_of_what_is_purged_is_left(alice: AccountMirror, mirror: Mirror, grows: bool) -> None:
    """Not what an older version of it left either, and nothing of the others goes."""
    await save(alice, "Why?", "So.", name="kept")
    await save(alice, "Who?", "I.")
    await hash_all(alice)
    if grows:
        await save(alice, "Who?", "You.", at=1)
    await alice.deletions.bury("c")
    await alice.deletions.purge(before=NOON + 1)
    assert set(rows(mirror.path, "select conversation from history_hash")) == {("kept",)}
    assert await hash_all(alice) == 0


async def test_nothing_of_a_draft_is_left(alice: AccountMirror, mirror: Mirror) -> None:
    """It has become a conversation of upstream's, under another id."""
    await begin(alice)
    await hash_all(alice, even_local=True)
    node = replace(answered("So.").nodes["n1"], id="answer", parent="prompt")
    await alice.asks.end("ask", AskState.ANSWERED, [node], conversation_id="c", title=None)
    await hash_all(alice)
    assert set(rows(mirror.path, "select conversation from history_hash")) == {("c",)}


async def test_nothing_of_a_refused_draft_is_left(alice: AccountMirror, mirror: Mirror) -> None:
    """It never became anything."""
    await begin(alice)
    await hash_all(alice, even_local=True)
    await alice.asks.end("ask", AskState.REFUSED, [], conversation_id=None, title=None)
    assert rows(mirror.path, "select * from history_hash") == []
