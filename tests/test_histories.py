# SPDX-License-Identifier: GPL-2.0-or-later
"""Histories: which conversation a client means, where in it, and that what it asks there lands in its place."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from chatgpt_rest import app
from chatgpt_rest.ask import AskRequest
from chatgpt_rest.clock import DAY, SECOND
from chatgpt_rest.context import ASKING, AUTH, MIRROR_OF_ALL
from chatgpt_rest.histories import NOWHERE, Histories, Place
from chatgpt_rest.mirror import AccountMirror
from chatgpt_rest.model import Question, Turn
from chatgpt_rest.turns import canonical_turns, path_turns
from chatgpt_rest.upstream.simulated import SimulatedChatGPT, answer_to
from tests.house import NOON, House, ManualClock
from tests.incoming import incoming, take
from tests.mirrors import opening
from tests.rows import rows
from tests.shapes import message
from tests.syncing import sync
from tests.talks import Message, any_tree, grown, talk, turns, user

HISTORIES_OF_CHATGPT = Histories(keeps_conversations=True)
BRIEF = Turn("system", "Be brief.")

T = TypeVar("T")


@pytest.fixture
async def alice(tmp_path: Path, clock: ManualClock) -> AsyncIterator[AccountMirror]:
    """Alice's mirror, with nothing in it."""
    async with opening(tmp_path, clock) as mirror:
        await mirror.accounts.accept("alice", b"alice", email=None, expires_at=NOON + DAY)
        yield mirror.of("alice")


async def save(mirror: AccountMirror, *words: str, name: str = "c", at: int = 0) -> None:
    """A conversation as upstream shows it, updated so many seconds after noon."""
    await mirror.conversations.save_whole(talk(*words, name=name, update_time=NOON / SECOND + at))


async def not_hashed(mirror: AccountMirror) -> list[str]:
    """The conversations that the index does not know as they are."""
    found = await mirror.history_hashes.unhashed(messages=100_000, even_local=False, only_new=False)
    return [each.tree.id for each in found]


class HeldThreads(ThreadPoolExecutor):
    """An event loop's threads: what is asked of them begins when they are let."""

    def __init__(self) -> None:
        super().__init__(1)
        self.asked = asyncio.Event()
        self.let = threading.Event()
        self.submit(self.let.wait)
        self.asked.clear()

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self.asked.set()
        return super().submit(work, *args, **kwargs)


async def place(mirror: AccountMirror, *history: Turn) -> Place:
    """Where a history is to go on, with ChatGPT upstream."""
    return await HISTORIES_OF_CHATGPT.place(mirror, history)


# ------------------------------------------------------------------------------------------------------- finding it


async def test_a_known_history_goes_on_where_it_ends(alice: AccountMirror) -> None:
    """With nothing to send along but the prompt."""
    await save(alice, "Why?", "So.", "And?", "Thus.")
    assert await place(alice, *turns("Why?", "So.", "And?", "Thus.")) == Place("c", "n3", 4)
    assert await place(alice, *turns("Why?", "So.")) == Place("c", "n1", 2)


async def test_an_edited_history_goes_on_where_it_was_edited(alice: AccountMirror) -> None:
    """As a branch; the rest of it goes along."""
    await save(alice, "Why?", "So.", "And?", "Thus.")
    assert await place(alice, *turns("Why?", "So.", "Or?", "Thus.")) == Place("c", "n1", 2)


@pytest.mark.parametrize(
    "history",
    [
        [],
        turns("Why?"),
        [BRIEF, *turns("Why?")],
        [BRIEF, *turns("Why?", "So.")],
        turns("Who?", "So."),
        turns("Why?", "No."),
        turns("", ""),
        [Turn("assistant", "So.")],
        [Turn("user", "\ud800"), Turn("assistant", "\udfff\x00"), Turn("\ud800", "")],
    ],
)
async def test_an_unknown_history_is_a_new_conversation(alice: AccountMirror, history: list[Turn]) -> None:
    """So is one with no answer in it: two conversations may begin with the same words."""
    await save(alice, "Why?", "So.")
    assert await place(alice, *history) == NOWHERE


async def test_white_space_makes_no_difference(alice: AccountMirror) -> None:
    """Clients trim what they keep."""
    await save(alice, "Why?\r\nSay. ", "So.\n\nIt goes.\n")
    assert await place(alice, *turns("Why?\nSay.", "So. It goes.")) == Place("c", "n1", 2)


async def test_messages_are_counted_as_the_client_has_them(alice: AccountMirror) -> None:
    """Two answers in a row are one here, and a blank system message is none; both are known."""
    await save(alice, "Why?", "Let me see.\n\nSo.", "And?", "Thus.")
    history = [
        Turn("system", ""),
        Turn("user", "Why?"),
        Turn("assistant", "Let me see."),
        Turn("assistant", "So."),
        Turn("user", "Or?"),
    ]
    assert await place(alice, *history) == Place("c", "n1", 4)


async def test_a_client_that_hung_up_is_known(alice: AccountMirror) -> None:
    """It has the beginning of an answer, that of the first one even."""
    await save(alice, "Why?", "Because it is so.", "And?", "Thus it goes.")
    assert await place(alice, *turns("Why?", "Because")) == Place("c", "n1", 2)
    assert await place(alice, *turns("Why?", "Because", "And?", "Thus it")) == Place("c", "n3", 4)
    assert await place(alice, *turns("Why?", "Because it is so.", "And?", "Thus", "Oh?")) == Place("c", "n3", 4)


async def test_an_answer_is_found_as_soon_as_it_is_here(alice: AccountMirror) -> None:
    """Whatever else an import has brought at the same moment, older than it."""
    for index in range(40):
        await save(alice, *(f"{index} {part}" for part in range(50)), name=f"old{index}", at=-index - 1)
    await save(alice, "Why?", "So.")
    assert await place(alice, *turns("Why?", "So.")) == Place("c", "n1", 2)


async def test_an_import_is_found(alice: AccountMirror) -> None:
    """Its conversations are like any other."""
    await take(alice, incoming(message("Why?", role="user"), message("So.")))
    assert await place(alice, *turns("Why?", "So.")) == Place("c", "n1", 2)


async def test_of_conversations_that_hold_the_same_it_is_the_one_that_ends_there(alice: AccountMirror) -> None:
    """Then the one updated last."""
    await save(alice, "Why?", "So.", name="old")
    await save(alice, "Why?", "So.", name="new", at=1)
    await save(alice, "Why?", "So.", "And?", "Thus.", name="newest", at=2)
    assert (await place(alice, *turns("Why?", "So."))).conversation_id == "new"


async def test_the_longest_beginning_wins(alice: AccountMirror) -> None:
    """Over a newer conversation that holds less of it, and over one that only has the beginning of its answers."""
    await save(alice, "Why?", "So.", "And?", "Thus.", name="long")
    await save(alice, "Why?", "So.", "And?", "No.", name="short", at=1)
    await save(alice, "Why?", "So. It goes.", "And?", "Thus. It goes.", name="whole", at=2)
    assert await place(alice, *turns("Why?", "So.", "And?", "Thus.", "Oh?", "Yes.")) == Place("long", "n3", 4)
    assert await place(alice, *turns("Why?", "So. It")) == Place("whole", "n1", 2)


async def test_who_says_hello_a_thousand_times_is_known(alice: AccountMirror) -> None:
    """An answer that was broken off is looked for among the last conversations that began so."""
    for index in range(20):
        await save(alice, "Hello?", f"Hello number {index}.", name=f"c{index}", at=index)
    assert await place(alice, *turns("Hello?", "Hello number 19")) == Place("c19", "n1", 2)
    assert await place(alice, *turns("Hello?", "Hello number 3.")) == Place("c3", "n1", 2)


async def test_a_stale_hint_does_no_harm(alice: AccountMirror) -> None:
    """The tree itself decides: an answer that upstream has rewritten is another one."""
    await save(alice, "Why?", "So.")
    assert await place(alice, *turns("Why?", "So.")) == Place("c", "n1", 2)
    await save(alice, "Why?", "Thus.", at=1)
    assert await place(alice, *turns("Why?", "So.")) == NOWHERE
    assert await place(alice, *turns("Why?", "Thus.")) == Place("c", "n1", 2)


async def test_what_is_deleted_is_passed_over(alice: AccountMirror) -> None:
    """Here or upstream: another one that holds the same is gone on with, else a new one begins."""
    await save(alice, "Why?", "So.", name="other", at=-1)
    await save(alice, "Why?", "So.")
    await alice.deletions.bury("c")
    assert (await place(alice, *turns("Why?", "So."))).conversation_id == "other"
    await alice.deletions.bury("other")
    await alice.deletions.undelete("other")
    assert await place(alice, *turns("Why?", "So.")) == NOWHERE


async def test_what_lives_here_alone_is_for_an_upstream_that_keeps_nothing(alice: AccountMirror) -> None:
    """ChatGPT cannot go on in what it never had."""
    question = Question("prompt", "Why?", None, None, "gpt-5")
    await alice.asks.begin(
        "ask", question, draft_id="d", title=None, idempotency_digest=None, request_digest=b"request"
    )
    answer = grown(("answer", "prompt", message("So."))).nodes["answer"]
    await alice.asks.grow("ask", [answer], conversation_id="d", title=None)
    history = turns("Why?", "So.")
    assert await place(alice, *history) == NOWHERE
    assert await Histories(keeps_conversations=False).place(alice, history) == Place("d", "answer", 2)


async def test_ten_thousand_turns_are_placed(alice: AccountMirror) -> None:
    """Of which the first ones are known, or none."""
    texts = [str(index) for index in range(10_000)]
    await save(alice, *texts[:10])
    assert await place(alice, *turns(*texts)) == Place("c", "n9", 10)
    assert await place(alice, *turns(*reversed(texts))) == NOWHERE


async def test_what_has_only_changed_is_placed_and_hashed_later(alice: AccountMirror) -> None:
    """A long conversation is not gone through twice for each prompt in it."""
    await save(alice, "Why?", "So.")
    assert await place(alice, *turns("Why?", "So.")) == Place("c", "n1", 2)
    await save(alice, "Why?", "So.", "And?", "Thus.", at=1)
    assert await place(alice, *turns("Why?", "So.", "And?", "Thus.")) == Place("c", "n3", 4)
    assert await not_hashed(alice) == ["c"]


async def test_what_has_changed_is_found_beside_what_holds_more_for_longer(alice: AccountMirror) -> None:
    """Another one that is known to share more of it must not hide it."""
    history = turns("Why?", "So.", "And?", "Thus.", "Oh?", "Yes.")
    await save(alice, "Why?", "So.")
    await save(alice, "Why?", "So.", "And?", "Thus.", name="other")
    assert (await place(alice, *history)).conversation_id == "other"
    await save(alice, "Why?", "So.", "And?", "Thus.", "Oh?", "Yes.", at=1)
    assert await place(alice, *history) == Place("c", "n5", 6)


async def test_a_request_looks_through_so_many_messages(alice: AccountMirror) -> None:
    """Then what was found until then has to do."""
    await save(alice, "Hello?", "Hello.", "Why?", "Because it is so.")
    history = turns("Hello?", "Hello.", "Why?", "Because")
    assert await place(alice, *history) == Place("c", "n3", 4)
    blank: list[tuple[str, str | None, Message]] = [(f"x{index}", "a", None) for index in range(20_000)]
    nodes = [("u", None, user("Hello?")), ("a", "u", message("Hello.")), *blank]
    await alice.conversations.save_whole(grown(*nodes, name="large", update_time=NOON / SECOND + 1))
    assert await place(alice, *history) == Place("large", "a", 2)


async def test_nobody_waits_while_much_is_hashed(alice: AccountMirror) -> None:
    """Neither the event loop nor who has something to write."""
    texts = [f"{index} {'so it goes ' * 100}" for index in range(200)]
    await save(alice, *texts)
    threads = HeldThreads()
    asyncio.get_running_loop().set_default_executor(threads)
    try:
        async with asyncio.timeout(30):
            placing = asyncio.create_task(place(alice, *turns(*texts)))
            await threads.asked.wait()
            await save(alice, *texts, "And?", "Thus.", at=1)
            assert not placing.done()
            threads.let.set()
            assert await placing == Place("c", "n199", 200)
    finally:
        threads.let.set()
    assert await not_hashed(alice) == ["c"]  # it is known as it was


async def test_the_whole_mirror_is_hashed_step_by_step(tmp_path: Path, clock: ManualClock) -> None:
    """Of every account, until nothing is left."""
    async with opening(tmp_path, clock) as mirror:
        for account in ("alice", "bob"):
            await mirror.accounts.accept(account, account.encode(), email=None, expires_at=NOON + DAY)
            await save(mirror.of(account), "Why?", "So.")
        assert [await HISTORIES_OF_CHATGPT.keep_up(mirror) for _ in range(2)] == [4, 0]


@pytest.mark.parametrize("seed", range(8))
async def test_every_path_of_generated_trees_is_found(alice: AccountMirror, seed: int) -> None:
    """Or an equal one, in whatever conversation; and of an edited one the longest beginning."""
    random = Random(seed)
    trees = {}
    for index in range(12):
        tree = any_tree(random, name=f"c{index}", update_time=NOON / SECOND + index)
        trees[tree.id] = tree
        await alice.conversations.save_whole(tree)
    for tree in trees.values():
        told = path_turns(tree, tree.current_node or "")
        history = [turn for turn, _ in told]
        ends = [number for number, turn in enumerate(history, start=1) if turn.role == "assistant"]
        for end in ends:
            for edit in ([], [Turn("user", "edited"), Turn("assistant", "edited")]):
                found = await place(alice, *history[:end], *edit)
                assert (found.conversation_id is not None, found.known) == (True, end)
                there = path_turns(trees[found.conversation_id or ""], found.parent_id or "")
                assert _words(turn for turn, _ in there) == _words(history[:end])


def _words(history: Any) -> list[Turn]:
    return [turn for turn, _ in canonical_turns(list(history)) if turn.text]


# -------------------------------------------------------------------------------------------------- going on with it


async def chat(house: House, history: Sequence[Turn], prompt: str) -> list[Turn]:
    """What a client of /v1 does: ask with all of its history. Answers the history that it has then."""
    mirror = house.app[MIRROR_OF_ALL].of(house.chatgpt.alice.user_id)
    request = AskRequest(prompt=prompt, history=tuple(history))
    answer = await house.app[ASKING].ask(mirror, request, lambda: house.app[AUTH].caller_of(mirror.account))
    return [*history, Turn("user", prompt), Turn("assistant", answer["message"])]


@pytest.fixture
async def at_home(house: House) -> House:
    """A house that Alice is known in, with her list read: what is asked from here on are asks."""
    assert (await house.client.get("/conversations")).status == 200
    house.chatgpt.requests.clear()
    return house


async def test_a_client_that_resends_its_history_stays_in_one_conversation(
    at_home: House, chatgpt: SimulatedChatGPT
) -> None:
    """One request for each prompt, with that prompt alone in it, system message or not."""
    history = [BRIEF]
    for prompt in ("One?", "Two?", "Three?"):
        history = await chat(at_home, history, prompt)
    (there,) = chatgpt.alice.conversations
    assert [message["content"]["parts"][0] for message in there.branch()][1:] == [turn.text for turn in history]
    sent = [[each["content"]["parts"][0] for each in json.loads(each.body)["messages"]] for each in chatgpt.requests]
    assert sent == [["Be brief.", "One?"], ["Two?"], ["Three?"]]


async def test_an_edit_is_a_branch_upstream(at_home: House, chatgpt: SimulatedChatGPT) -> None:
    """Below the last answer that was not edited, in one request with what follows the edit."""
    history = await chat(at_home, await chat(at_home, [], "One?"), "Two?")
    fork = chatgpt.alice.conversations[0].branch()[2]["id"]
    await chat(at_home, [*history[:2], Turn("user", "Zwei?"), *history[3:]], "Three?")
    (there,) = chatgpt.alice.conversations
    assert len(there.mapping[fork]["children"]) == 2
    said = [message["content"]["parts"][0] for message in there.branch()][1:]
    assert said == ["One?", answer_to("One?"), "Zwei?", answer_to("Two?"), "Three?", answer_to("Three?")]
    assert chatgpt.received() == 3


async def test_an_unknown_history_is_kept_whole(at_home: House, chatgpt: SimulatedChatGPT) -> None:
    """In a new conversation, in one request; and from then on it is known."""
    told = [BRIEF, *turns("Who?", "I."), Turn("assistant", "Myself.")]
    history = await chat(at_home, await chat(at_home, told, "Why?"), "And?")
    (there,) = chatgpt.alice.conversations
    assert [message["content"]["parts"][0] for message in there.branch()][1:] == [turn.text for turn in history]
    assert chatgpt.received() == 2


async def test_nothing_of_it_is_there_twice_after_a_sync(at_home: House, chatgpt: SimulatedChatGPT) -> None:
    """What was sent has the ids that it was sent with; and the history goes on where it was."""
    history = await chat(at_home, [BRIEF, *turns("Who?", "I.")], "Why?")
    (there,) = chatgpt.alice.conversations
    there.rename("Whys")
    at_home.clock.move(seconds=3_600)
    await sync(at_home)
    assert chatgpt.received("GET", f"conversation/{there.id}") == 1
    read = await at_home.client.get(f"/conversations/{there.id}/messages")
    assert [each["message"] for each in read.json] == [turn.text for turn in history]
    await chat(at_home, history, "And?")
    assert len(chatgpt.alice.conversations) == 1


async def test_a_server_hashes_what_it_holds(house: House) -> None:
    """Of its own accord, and goes on answering meanwhile."""
    mirror = house.mirror.of(house.chatgpt.alice.user_id)
    await house.mirror.accounts.accept(mirror.account, b"alice", email=None, expires_at=NOON + DAY)
    for index in range(30):
        await save(mirror, *(f"{index} {part}" for part in range(50)), name=f"c{index}")
    work = asyncio.create_task(app._keep_histories(house.app))
    try:
        async with asyncio.timeout(60):
            while rows(house, "select 1 from conversation where hashed_version = 0"):
                assert (await house.client.as_(None).get("/healthz")).status == 200
    finally:
        work.cancel()
        await asyncio.wait((work,))
    assert rows(house, "select count(*) from history_hash") == [(30 * 26,)]
