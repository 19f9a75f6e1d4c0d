# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of rendered answers: never older than the file, never larger than allowed."""

from __future__ import annotations

import asyncio
import time

import pytest

from chatgpt_rest import chatgpt_json
from chatgpt_rest.mirror import AccountMirror, ListQuery, Mirror
from chatgpt_rest.mirror.rendered import Rendered, RenderedCache
from chatgpt_rest.model import ListPage
from tests.shapes import conversation, message

LARGE = b"x" * 10_000
FOUR_LARGE = 45_000
"""A size that holds four large answers, and not five."""


def test_the_validator_stands_for_the_bytes() -> None:
    """Equal bodies have equal ETags, others others, and all are weak, as a body may be sent compressed."""
    assert Rendered(b"a").etag == Rendered(b"a").etag
    assert Rendered(b"a").etag != Rendered(b"b").etag
    assert Rendered(b"a").etag.startswith('W/"')


def test_what_was_kept_is_found_again() -> None:
    """The very same answer."""
    cache = RenderedCache(size_bytes=FOUR_LARGE)
    kept = cache.put(Rendered(b"x"), "alice", "messages", "c", generation=0)
    assert cache.get("alice", "messages", "c") is kept
    assert cache.get("bob", "messages", "c") is None


def test_the_least_recently_used_goes_first() -> None:
    """The size counts in bytes of bodies."""
    cache = RenderedCache(size_bytes=FOUR_LARGE)
    for name in "abcd":
        cache.put(Rendered(LARGE), "alice", "messages", name, generation=0)
    cache.get("alice", "messages", "a")
    cache.put(Rendered(LARGE), "alice", "messages", "e", generation=0)
    assert [name for name in "abcde" if cache.get("alice", "messages", name)] == ["a", "c", "d", "e"]


def test_an_answer_put_twice_counts_once() -> None:
    """Two readers that rendered the same do not push others out."""
    cache = RenderedCache(size_bytes=FOUR_LARGE)
    cache.put(Rendered(LARGE), "alice", "messages", "a", generation=0)
    for _ in range(9):
        cache.put(Rendered(LARGE), "alice", "messages", "b", generation=0)
    assert cache.get("alice", "messages", "a") is not None


def test_empty_answers_are_not_free() -> None:
    """A client that asks for endless pages of nothing does not fill the memory."""
    cache = RenderedCache(size_bytes=FOUR_LARGE)
    for number in range(1000):
        cache.put(Rendered(b""), "alice", "list", str(number), generation=0)
    assert sum(cache.get("alice", "list", str(number)) is not None for number in range(1000)) < 100


def test_one_huge_answer_does_not_push_all_others_out() -> None:
    """What is larger than a quarter of the cache is answered, not kept."""
    cache = RenderedCache(size_bytes=FOUR_LARGE)
    huge = Rendered(LARGE + LARGE)
    assert cache.put(huge, "alice", "messages", "a", generation=0) is huge
    assert cache.get("alice", "messages", "a") is None


@pytest.mark.parametrize(
    ("dropped", "left"),
    [
        pytest.param(("alice", "c"), ["other", "bob"], id="one conversation"),
        pytest.param(("alice",), ["bob"], id="all of an account"),
        pytest.param(("bob", "c"), ["c", "other", "list"], id="another account's"),
    ],
)
def test_a_change_drops_what_it_made_old(dropped: tuple[str, ...], left: list[str]) -> None:
    """The conversation in each of its views, every list of the account, and nothing of anyone else."""
    cache = RenderedCache(size_bytes=FOUR_LARGE)
    keys = {
        "c": ("alice", "messages", "c"),
        "other": ("alice", "whole", "other"),
        "list": ("alice", "list", "query"),
        "bob": ("bob", "messages", "c"),
    }
    for key in keys.values():
        cache.put(Rendered(b"x"), *key, generation=0)
    cache.drop(*dropped)
    assert [name for name, key in keys.items() if cache.get(*key)] == left


def test_a_change_looks_at_its_own_account_only() -> None:
    """Writers of one account do not wait for the readers of all others to be looked through."""
    cache = RenderedCache(size_bytes=10**9)
    for number in range(20_000):
        cache.put(Rendered(b""), "bob", "messages", str(number), generation=0)
    began = time.process_time()
    for _ in range(2_000):
        cache.drop("alice", "c")
    assert time.process_time() - began < 0.5


def test_what_was_dropped_makes_room() -> None:
    """A change gives back what its answers cost, bodies and all."""
    cache = RenderedCache(size_bytes=FOUR_LARGE)
    for _ in range(3):
        for name in "abcd":
            cache.put(Rendered(LARGE), "alice", "messages", name, generation=cache.generation("alice"))
        assert all(cache.get("alice", "messages", name) for name in "abcd")
        cache.drop("alice")


def test_what_was_read_before_a_change_is_not_kept_after_it() -> None:
    """A slow reader does not put back what a writer has just made old."""
    cache = RenderedCache(size_bytes=FOUR_LARGE)
    generation = cache.generation("alice")
    cache.drop("alice", "c")
    cache.put(Rendered(b"old"), "alice", "messages", "c", generation=generation)
    assert cache.get("alice", "messages", "c") is None


async def test_readers_and_writers_race_and_nobody_sees_old_words_afterwards(alice: AccountMirror) -> None:
    """However they interleave: what is read after a write is what was written."""
    for version in range(10):
        words = f"version {version}"
        reads = [asyncio.create_task(_read(alice)) for _ in range(8)]
        await alice.conversations.save_whole(conversation(message(words), conversation_id="c"))
        reads += [asyncio.create_task(_read(alice)) for _ in range(8)]
        assert words in (await alice.conversations.messages_json("c")).body.decode()
        await asyncio.gather(*reads)
        assert words in (await alice.conversations.messages_json("c")).body.decode()


async def _read(mirror: AccountMirror) -> None:
    if (await mirror.conversations.standing("c")).value == "here":
        await mirror.conversations.messages_json("c")


async def test_a_second_read_is_the_same_answer(alice: AccountMirror) -> None:
    """Nothing is rendered twice while nothing changes."""
    await alice.conversations.save_whole(conversation(message(), conversation_id="c"))
    await alice.listings.take(ListPage((), is_last=True), since=0)
    assert await alice.conversations.messages_json("c") is await alice.conversations.messages_json("c")
    assert await alice.conversations.whole_json("c") is await alice.conversations.whole_json("c")
    assert await alice.conversations.list_json(ListQuery()) is await alice.conversations.list_json(ListQuery())


async def test_an_edit_is_seen_in_every_view(mirror: Mirror, alice: AccountMirror) -> None:
    """Messages, the whole conversation and lists all know at once."""
    await alice.conversations.save_whole(conversation(message(), conversation_id="c"))
    await alice.listings.take(ListPage((), is_last=True), since=0)
    await alice.conversations.whole_json("c")
    await alice.conversations.list_json(ListQuery())
    await mirror.of("alice").conversations.edit("c", title="Another")
    assert b'"Another"' in (await alice.conversations.whole_json("c")).body
    assert b'"Another"' in (await alice.conversations.list_json(ListQuery())).body


async def test_what_cannot_be_kept_is_rendered_each_time(alice: AccountMirror) -> None:
    """An answer is right even where the cache has no room for it."""
    tree = conversation(message("x" * 600_000), conversation_id="c")
    await alice.conversations.save_whole(tree)
    first, second = await alice.conversations.messages_json("c"), await alice.conversations.messages_json("c")
    assert first == second == Rendered(chatgpt_json.dump(chatgpt_json.messages(tree)))
    assert first is not second
